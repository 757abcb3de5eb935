"""The synthetic checkpoints are real ones; what is measured is measured on what it says."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import llama_config
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from typer.testing import CliRunner

from dogerm.charts import speed_bars
from dogerm.cli import app
from dogerm.engine import Engine
from dogerm.errors import CheckpointError, DeviceError
from dogerm.merge import METHODS
from dogerm.speed import _flops, measure
from dogerm.synthetic import config_at, llama_240m, write_checkpoint

ROOT = Path(__file__).parent.parent


def test_synthetic_checkpoints_load_with_plain_transformers(tmp_path):
    config = llama_config(300)
    rm = write_checkpoint(tmp_path / "rm", config, 0, head=True, dtype=torch.bfloat16)
    lm = write_checkpoint(tmp_path / "lm", config, 1, head=False)
    model = AutoModelForSequenceClassification.from_pretrained(rm)
    assert model.config.num_labels == 1 and model.dtype == torch.bfloat16
    assert AutoModelForCausalLM.from_pretrained(lm).dtype == torch.float16
    tokenizer = AutoTokenizer.from_pretrained(rm)
    assert tokenizer("w6 w299").input_ids == [6, 299]
    stored = load_file(lm / "model.safetensors")
    assert stored["lm_head.weight"].float().std() == pytest.approx(0.02, rel=0.1)


def test_the_same_seed_gives_the_same_weights_and_another_others(tmp_path):
    config = llama_config(300)
    first, second, third = (
        (
            write_checkpoint(tmp_path / str(i), config, seed, head=True)
            / "model.safetensors"
        ).read_bytes()
        for i, seed in enumerate((0, 0, 1))
    )
    assert first == second != third


def test_a_checkpoint_in_shards_holds_the_same_weights(tmp_path):
    config = llama_config(300)
    whole = write_checkpoint(tmp_path / "whole", config, 0, head=True)
    split = write_checkpoint(
        tmp_path / "split", config, 0, head=True, shard_bytes=30_000
    )
    assert len(list(split.glob("model-0000?-of-0000?.safetensors"))) > 1
    loaded = [
        AutoModelForSequenceClassification.from_pretrained(folder).state_dict()
        for folder in (whole, split)
    ]
    assert all(torch.equal(loaded[1][n], tensor) for n, tensor in loaded[0].items())


def test_the_model_that_is_merged_has_240_million_parameters():
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(llama_240m())
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(240e6, rel=0.01)


def test_measuring_gives_medians_and_leaves_nothing_behind(family, tmp_path):
    threads = torch.get_num_threads()
    config = llama_config(300)
    config.max_position_embeddings = 1024
    steps = []
    found = measure(
        family,
        "cpu",
        quantised="nf4",
        config=config,
        repeats=3,
        folder=tmp_path,
        on_step=steps.append,
    )
    assert torch.get_num_threads() == threads
    assert list(tmp_path.iterdir()) == [] and len(steps) == 7
    rows = {(row.dtype, row.sources, row.lms): row for row in found.merging}
    assert len(rows) == 18
    for count in (1, 2):
        for place in ("device", "mapped"):
            row = rows["float16", place, count]
            assert row.nbytes == (count + 2) * 2 * found.parameters
            assert row.ratio == row.seconds / row.copy_seconds > 0
            # Linear layers are written as one byte a weight instead of two, or as 9/16.
            for held, each in (("int8", 1), ("nf4", 23 / 16)):
                saved = row.nbytes - rows[held, place, count].nbytes
                assert saved == each * linear_weights(config)
        assert rows["float16", "pinned", count].seconds is None
        assert rows["int8", "pinned", count].ratio is None
    assert found.answers.responses == 16 and found.answers.largest_difference < 1e-5
    assert found.family.name == "tiny" and found.family.curve_points == 21
    assert found.family.dtype == "nf4"
    assert [row.method for row in found.methods] == list(METHODS)
    data = json.loads(json.dumps(found.to_json()))
    assert data["methods"][0]["method"] == "linear"
    assert data["scoring"]["tokens_per_second"] > 0
    assert min(data["answers"].values()) >= 0
    assert data["against"] == []
    assert data["machine"]["versions"]["torch"] == torch.__version__


def test_the_command_prints_a_table_and_writes_its_numbers(
    folders, tmp_path, monkeypatch
):
    monkeypatch.setattr("dogerm.speed.measure", partial(measure, repeats=1))
    config = llama_config(300)
    config.max_position_embeddings = 1024
    config.save_pretrained(tmp_path)
    source = [f"--rm={folders['rm']}", f"--lm=math={folders['plain']}"]
    options = ["--device=cpu", f"--config={tmp_path}", "--against=reference"]
    out = tmp_path / "speed.json"
    command = ["speed", *source, *options, "--json", str(out)]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    data = json.loads(out.read_text(encoding="utf-8"))
    assert "not measured here" in result.stdout
    for value in (
        f"{data['answers']['shared'] / data['answers']['batch']:.2f}",
        *(
            f"1/{data['against'][0][key]:,.1f}"
            for key in ("ratio", "merge_ratio", "score_ratio")
        ),
        f"{data['scoring']['tokens_per_second']:,.0f} tokens/s",
    ):
        assert value in result.stdout


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_gpu_measures_pinned_memory_and_codes_too(family, tmp_path):
    config = llama_config(300)
    config.max_position_embeddings = 1024
    found = measure(family, "cuda", config=config, repeats=3, folder=tmp_path)
    assert all(row.seconds > 0 for row in found.merging) and len(found.merging) == 18
    assert {row.sources for row in found.merging} == {"device", "pinned", "mapped"}
    for row in found.merging:  # from the host: what crosses the link, and no more
        if row.sources != "device":
            assert row.nbytes == (row.lms + 1) * 2 * found.parameters
    assert found.machine["gpu"] and found.answers.largest_difference < 0.05


def test_shapes_come_from_a_config_without_weights(tmp_path):
    llama_config(300).save_pretrained(tmp_path)
    assert config_at(tmp_path).hidden_size == 32
    with pytest.raises(CheckpointError, match="nowhere/config.json is missing"):
        config_at(Path("nowhere"))
    (tmp_path / "config.json").write_text('{"model_type": "no such"}')
    with pytest.raises(CheckpointError, match="config.json cannot be read"):
        config_at(tmp_path)


@pytest.mark.parametrize("place", ["device", "mapped"])
def test_sources_are_kept_where_they_are_asked_to_be(family, place):
    """Held on the device means a copy: the files' mapping is not what is read."""
    engine = Engine.load(family, device="cpu", dtype="float16", keep=place)
    assert engine.plan.place == place
    name = "model.layers.0.mlp.up_proj.weight"
    mapped = engine.sources.rm.read(name).data_ptr()
    assert (engine.sources.read(name)[0].data_ptr() == mapped) == (place == "mapped")


def test_memory_is_pinned_for_a_gpu_only(family):
    with pytest.raises(DeviceError, match="pinned for a GPU"):
        Engine.load(family, device="cpu", keep="pinned")


def linear_weights(config) -> int:
    """Weights of a Llama's linear layers, from its shapes alone."""
    d, ff = config.hidden_size, config.intermediate_size
    kv = d * config.num_key_value_heads // config.num_attention_heads
    return config.num_hidden_layers * (2 * d * d + 2 * d * kv + 3 * d * ff)


def test_operations_are_those_that_torch_counts(family):
    """Of linear layers; attention is counted as its causal half, and by torch as a square."""
    from torch.utils.flop_counter import FlopCounterMode

    engine = Engine.load(family, device="cpu", dtype="float32")
    lengths = [40, 25, 31]
    counted = 0
    for n in lengths:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            engine.model.model(torch.ones(1, n, dtype=torch.int64))
        found = counter.get_flop_counts()["Global"]
        counted += sum(n for name, n in found.items() if "mm" in str(name))
    config = engine.model.config
    attention = sum(2 * n * n * config.hidden_size for n in lengths)
    attention *= config.num_hidden_layers
    assert _flops(engine, lengths) == counted + attention


def test_the_chart_has_a_bar_for_everything_that_was_measured():
    """From numbers that no machine gives: none is computed, none left out."""
    merging = [
        {"lms": 1, "sources": "mapped", "dtype": "float16", "nbytes": 6, "seconds": 0.5}
        | {"copy_seconds": 0.25},
        {"lms": 1, "sources": "pinned", "dtype": "float16", "nbytes": None}
        | {"seconds": None, "copy_seconds": None},
        {"lms": 2, "sources": "mapped", "dtype": "float16", "nbytes": 8, "seconds": 0.7}
        | {"copy_seconds": 0.35},
    ]
    steps = {"load": 1.0, "merge": 2.0, "score": 40.0}
    found = {
        "parameters": 7e6,
        "merging": merging,
        "answers": {"responses": 16, "shared": 3, "batch": 6, "one_by_one": 5},
        "against": [
            {
                "name": "reference",
                "steps": steps,
                "ours": {"merge": 0.01, "score": 40.0},
            }
        ],
    }
    figure = speed_bars(found)
    assert [list(bars.x) for bars in figure.data] == [
        [0.5, 0.25],
        [0.01, 3.0],
        [3, 6, 5],
    ]
    assert list(figure.data[1].text) == ["10 ms", "3.0 s"]
    assert len(speed_bars(found | {"against": []}).data) == 2


PEAK = """
import sys
from pathlib import Path
from dogerm.export import export
from dogerm.family import Family

def memory(key):
    for line in open("/proc/self/status"):
        if line.startswith(key):
            return int(line.split()[1]) * 1024

def write(root):
    family = Family.of(root / "rm", {"math": root / "math", "code": root / "code"})
    export(family, family.recipe(0.5), root / "out")

write(Path(sys.argv[1]))
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
before = memory("VmRSS")
write(Path(sys.argv[2]))
print(memory("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads its memory from /proc")
def test_a_streamed_merge_stays_far_below_the_models_size(tmp_path):
    small, large = llama_config(1000), llama_config(1000)
    large.hidden_size, large.intermediate_size, large.num_hidden_layers = 512, 1376, 10
    large.head_dim = 128
    for size, config in (("small", small), ("large", large)):
        for seed, name in enumerate(("rm", "math", "code")):
            write_checkpoint(tmp_path / size / name, config, seed, head=seed == 0)
    size = (tmp_path / "large/rm/model.safetensors").stat().st_size
    found = subprocess.run(
        [sys.executable, "-c", PEAK, tmp_path / "small", tmp_path / "large"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    grown = int(found.stdout)
    assert grown < size / 3, f"{grown / 1e6:.0f} MB for {size / 1e6:.0f} MB"
    print(grown / 1e6, size / 1e6)
