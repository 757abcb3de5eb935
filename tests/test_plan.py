"""Where weights would live, for machines this one is not."""

import json

import pytest
import torch
from conftest import byte_tokenizer
from transformers import LlamaConfig

from dogerm.checkpoint import Checkpoint, compare
from dogerm.engine import Sources, merge
from dogerm.errors import DeviceError
from dogerm.plan import MARGIN, MIN_BATCH_TOKENS, Free, make_plan, require
from dogerm.recipe import Recipe

GB = 10**9
CUDA = torch.device("cuda:0")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def seven_billion(tmp_path_factory):
    """A reward model and two LMs that say they are LLaMA-2 7B, with headers and no weights.

    Every tensor is a hole in a sparse file; nothing of it is read.
    """
    root = tmp_path_factory.mktemp("7b")
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=4096,
        num_labels=1,
    )
    shapes = {"model.embed_tokens.weight": (32000, 4096), "model.norm.weight": (4096,)}
    for i in range(32):
        layer = f"model.layers.{i}."
        for name in "qkvo":
            shapes[f"{layer}self_attn.{name}_proj.weight"] = (4096, 4096)
        for name in ("gate", "up"):
            shapes[f"{layer}mlp.{name}_proj.weight"] = (11008, 4096)
        shapes[f"{layer}mlp.down_proj.weight"] = (4096, 11008)
        for name in ("input", "post_attention"):
            shapes[f"{layer}{name}_layernorm.weight"] = (4096,)
    for name, head in (
        ("rm", {"score.weight": (1, 4096)}),
        ("math", {"lm_head.weight": (32000, 4096)}),
        ("code", {"lm_head.weight": (32000, 4096)}),
    ):
        folder = root / name
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        header, offset = {}, 0
        for tensor, shape in (shapes | head).items():
            size = 2 * torch.Size(shape).numel()
            header[tensor] = {
                "dtype": "F16",
                "shape": shape,
                "data_offsets": [offset, offset + size],
            }
            offset += size
        text = json.dumps(header).encode()
        with (folder / "model.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + offset)
    rm = Checkpoint(root / "rm", "the reward model")
    lms = {name: Checkpoint(root / name, name) for name in ("math", "code")}
    return rm, lms, compare(rm, lms)


def plan_for(models, gpu, host, device=CUDA, dtype=torch.float16, in_8bit=False):
    return make_plan(*models, device, dtype, in_8bit, Free(gpu * GB, host * GB))


def test_a_large_gpu_holds_the_sources_a_smaller_one_streams_them(seven_billion):
    large = plan_for(seven_billion, 140, 100)
    assert large.place == "device" and large.fits
    # 6.61 billion merged parameters in 2 bytes, once live and once per model.
    assert large.live == pytest.approx(13.2 * GB, rel=0.01)
    assert large.sources == pytest.approx(3 * 13.2 * GB, rel=0.01)
    assert plan_for(seven_billion, 24, 100).place == "pinned"
    assert plan_for(seven_billion, 24, 30).place == "mapped"


def test_eight_bit_fits_a_small_gpu_and_advice_says_so(seven_billion):
    small = plan_for(seven_billion, 10, 100, in_8bit=True)
    assert small.fits and small.place == "pinned"
    assert small.live == pytest.approx(6.74 * GB, rel=0.01)
    crowded = plan_for(seven_billion, 10, 100)
    assert not crowded.fits
    with pytest.raises(DeviceError) as caught:
        require(crowded)
    for part in ("cuda:0", "float16", "9.50 GB are free", "--load-in-8bit would need"):
        assert part in str(caught.value)
    nothing = plan_for(seven_billion, 4, 4)
    assert nothing.advice == ("Nothing smaller would fit: free some memory.",)


def test_batches_use_what_is_left_within_bounds(seven_billion):
    assert plan_for(seven_billion, 140, 100).batch_tokens == 32768
    tight = plan_for(seven_billion, 24, 100)
    assert MIN_BATCH_TOKENS <= tight.batch_tokens < 32768
    used = tight.needed + (tight.batch_tokens - MIN_BATCH_TOKENS) * tight.token_bytes
    assert used <= 24 * GB * MARGIN


def test_a_cpu_maps_large_sources_and_holds_small_ones(seven_billion, engine):
    assert plan_for(seven_billion, 100, 100, CPU, torch.bfloat16).place == "mapped"
    assert engine.plan.place == "device"


def test_the_expected_merge_time_is_bytes_over_this_machines_rate(engine):
    plan = engine.plan
    assert 0 < plan.merge_seconds() < 1
    assert plan.to_json()["bottleneck"] == "memory of cpu"


def test_what_is_planned_is_what_is_loaded(engine):
    live = sum(p.numel() * p.element_size() for p in engine.model.parameters())
    assert engine.plan.live == live


def test_mapped_and_held_sources_give_the_same_bits(engine):
    recipe = Recipe(0.35, {"math": 2, "code": 1})
    engine.apply(recipe)
    mapped = Sources(engine.sources.rm, engine.sources.lms, engine.fit)
    for name, parameter in engine.model.named_parameters():
        found = torch.empty_like(parameter)
        merge(found, name, mapped.fetch(name, recipe, CPU), recipe)
        assert torch.equal(found, parameter), name


def test_reading_ahead_merges_the_same(engine, monkeypatch):
    """The path of a GPU whose sources are in host memory, run on the CPU."""
    recipe = Recipe(0.65, {"math": 1})
    engine.apply(recipe)
    wanted = [p.clone() for p in engine.model.parameters()]
    engine.apply(Recipe(0, {"math": 1}))
    monkeypatch.setattr(type(engine), "_streams", property(lambda engine: True))
    engine.apply(recipe)
    for found, tensor in zip(engine.model.parameters(), wanted):
        assert torch.equal(found, tensor)
