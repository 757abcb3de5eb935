"""Where weights would live, for machines this one is not."""

import json
import os
import shutil
from collections import Counter

import pytest
import torch
from conftest import byte_tokenizer
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig

from dogerm import plan as planning
from dogerm import sources, weights
from dogerm.checkpoint import Checkpoint
from dogerm.compatibility import compare
from dogerm.engine import Engine
from dogerm.errors import DeviceError, OutOfMemory
from dogerm.family import Family
from dogerm.inspection import in_words, inspect
from dogerm.live import devices_named
from dogerm.plan import (
    MARGIN,
    MIN_BATCH_TOKENS,
    Free,
    block_of,
    make_plan,
    require,
    seconds_text,
)
from dogerm.quantised import LinearNf4
from dogerm.recipe import Recipe
from dogerm.scoring import score
from dogerm.sources import Sources, merge

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


def plan_for(models, gpu, host, device=CUDA, dtype=torch.float16, held=None):
    free = Free(host * GB, {str(CUDA): gpu * GB})
    return make_plan(*models, [(device,)], dtype, held, free)


def test_a_large_gpu_holds_the_sources_a_smaller_one_streams_them(seven_billion):
    large = plan_for(seven_billion, 140, 100)
    assert large.place == "device" and large.fits
    # 6.61 billion merged parameters in 2 bytes, once live and once per model.
    assert large.live == pytest.approx(13.2 * GB, rel=0.01)
    assert large.sources == pytest.approx(3 * 13.2 * GB, rel=0.01)
    assert plan_for(seven_billion, 24, 100).place == "pinned"
    assert plan_for(seven_billion, 24, 30).place == "mapped"


def test_eight_bit_fits_a_small_gpu_and_advice_says_so(seven_billion):
    small = plan_for(seven_billion, 10, 100, held="int8")
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


def test_four_bits_fit_a_smaller_one_still(seven_billion):
    small = plan_for(seven_billion, 7, 100, held="nf4")
    assert small.fits and small.place == "pinned"
    # 6.48 billion in linear layers, half a byte each and a float32 scale for 64 of them;
    # embeddings and norms in two bytes.
    assert small.live == pytest.approx((6.476 * 0.5625 + 0.131 * 2) * GB, rel=0.01)
    assert not plan_for(seven_billion, 7, 100, held="int8").fits
    advice = plan_for(seven_billion, 7, 7).advice
    # The same on the CPU, from where nothing crosses a link.
    assert [line.partition(" would")[0] for line in advice] == [
        "--load-in-4bit",
        "--device cpu --load-in-4bit",
    ]


def test_advice_on_a_cpu_names_each_setting_once(seven_billion):
    crowded = plan_for(seven_billion, 0, 20, torch.device("cpu"), torch.float32)
    assert not crowded.fits
    assert [line.partition(" would")[0] for line in crowded.advice] == [
        "--dtype bfloat16",
        "--load-in-8bit",
        "--load-in-4bit",
    ]


def test_batches_use_what_is_left_within_bounds(seven_billion):
    assert plan_for(seven_billion, 140, 100).batch_tokens == 32768
    tight = plan_for(seven_billion, 24, 100)
    assert MIN_BATCH_TOKENS <= tight.batch_tokens < 32768
    used = (
        tight.needed
        + (tight.batch_tokens - MIN_BATCH_TOKENS) * tight.parts[0].token_bytes
    )
    assert used <= 24 * GB * MARGIN


def test_a_cpu_maps_large_sources_and_holds_small_ones(seven_billion, engine):
    assert plan_for(seven_billion, 100, 100, CPU, torch.bfloat16).place == "mapped"
    assert engine.plan.place == "device"


def test_the_expected_merge_time_is_bytes_over_this_machines_rate(engine):
    plan = engine.plan
    assert 0 < plan.merge_seconds() < 1
    assert plan.to_json()["bottleneck"] == "memory of cpu"


def spoken(folders, monkeypatch, plan) -> str:
    monkeypatch.setattr("dogerm.inspection.make_plan", lambda *given, **more: plan)
    family = Family.of(folders["rm"], {"math": folders["plain"]})
    return in_words(inspect(family, "cpu"))[1]


def test_a_merge_whose_sources_free_memory_does_not_keep_waits_for_the_disk(
    seven_billion, folders, monkeypatch
):
    plan = plan_for(seven_billion, 0, 50, CPU, torch.bfloat16)
    assert plan.fits and plan.place == "mapped" and plan.bottleneck.startswith("the di")
    # Those files are holes, which no disk holds: nobody can time it.
    assert plan.merge_seconds() is None
    assert plan.to_json()["merge_seconds"] is None
    json.dumps(plan.to_json())
    words = spoken(folders, monkeypatch, plan)
    assert "waits for the disk" in words and words.endswith(": as fast as the disk.")
    asked = []
    monkeypatch.setattr(planning, "_disk_rate", lambda file: asked.append(file) or 5e8)
    assert plan.merge_seconds() == pytest.approx(plan.sources / 5e8)
    assert spoken(folders, monkeypatch, plan).endswith(": about 79.3 s.")
    assert {file.name for file in asked} == {"model.safetensors"}


def test_mapped_sources_that_free_memory_keeps_wait_for_it(seven_billion, monkeypatch):
    monkeypatch.setattr(planning, "_disk_rate", None)  # is not asked
    monkeypatch.setattr(planning, "_copy_rate", lambda device: 5e10)
    # 13.2 GB live and 39.7 GB of sources, in 95% of what is free.
    plan = plan_for(seven_billion, 0, 60, CPU, torch.bfloat16)
    assert "memory of cpu" in plan.bottleneck and "until" in plan.bottleneck
    assert plan.merge_seconds() == pytest.approx(4 * 13.2 * GB / 5e10, rel=0.01)


def test_the_disk_decides_on_a_gpu_too_whose_host_cannot_keep_the_sources(
    seven_billion,
):
    assert "the disk, as" in plan_for(seven_billion, 24, 30).bottleneck
    assert plan_for(seven_billion, 24, 30).merge_seconds() is None
    roomy = Free(100 * GB, {str(CUDA): 24 * GB})
    settings = {"free": roomy, "place": "mapped"}
    plan = make_plan(*seven_billion, [(CUDA,)], torch.float16, **settings)
    assert plan.bottleneck.startswith("the link") and "until" in plan.bottleneck


def test_a_disk_is_timed_on_its_own_file_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "DISK_BYTES", 1 << 20)
    monkeypatch.setattr(planning, "_is_in_memory", lambda *given: False)
    file, hole = tmp_path / "file", tmp_path / "hole"
    file.write_bytes(bytes(range(256)) * 8192)
    os.sync()
    with hole.open("wb") as opened:
        opened.truncate(2 << 20)
    forgotten = []
    forget = os.posix_fadvise

    def forgetting(handle, start, size, advice):
        forgotten.append((os.readlink(f"/proc/self/fd/{handle}"), start, size, advice))
        forget(handle, start, size, advice)

    monkeypatch.setattr(os, "posix_fadvise", forgetting)
    assert planning._disk_rate(file) > 0
    assert forgotten == [(str(file), 0, 1 << 20, os.POSIX_FADV_DONTNEED)]
    assert planning._disk_rate(hole) is None
    assert planning._disk_rate(tmp_path / "nothing") is None
    planning._disk_rate.cache_clear()
    monkeypatch.setattr(planning, "_is_in_memory", lambda *given: True)
    assert planning._disk_rate(file) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0635, "63.5 ms"), (0.9999, "1.0 s"), (6.35, "6.3 s"), (635.04, "635.0 s")],
)
def test_times_read_as_milliseconds_or_seconds(seconds, words):
    assert seconds_text(seconds) == words


def test_what_is_planned_is_what_is_loaded(engine, family):
    live = sum(p.numel() * p.element_size() for p in engine.model.parameters())
    assert engine.plan.live == live
    pytest.importorskip("bitsandbytes")
    small = Engine.load(family, "cpu", "float32", "nf4")
    layers = [m for m in small.model.modules() if isinstance(m, LinearNf4)]
    scales = sum(layer.state.absmax.nbytes for layer in layers)
    assert small.plan.live == scales + sum(p.nbytes for p in small.model.parameters())


def test_mapped_and_held_sources_give_the_same_bits(engine):
    recipe = Recipe(0.35, {"math": 2, "code": 1})
    engine.apply(recipe)
    mapped = Sources(engine.sources.rm, engine.sources.lms, engine.fit)
    for name, parameter in engine.model.named_parameters():
        found = torch.empty_like(parameter)
        merge(found, name, mapped.fetch(name, recipe, CPU))
        assert torch.equal(found, parameter), name


def copied(folders, root):
    """A family of two LMs whose files can be taken away."""
    for name in ("rm", "plain", "padded"):
        shutil.copytree(folders[name], root / name)
    return Family.of(root / "rm", {"math": root / "plain", "code": root / "padded"})


@pytest.mark.parametrize("quantised", [None, "int8", "nf4"])
def test_a_sweep_over_held_sources_reads_no_file(folders, tmp_path, engine, quantised):
    family = copied(folders, tmp_path)
    held = Engine.load(family, "cpu", "float32", quantised, keep="device")
    mapped = Engine.load(family, "cpu", "float32", quantised, keep="mapped")
    groups = [("What is 2 + 2?", ["4", "It is five, I think."])]
    recipes = [Recipe(lam, {"math": 2, "code": 1}) for lam in (0.35, 1, 0, 0.7)]
    wanted = [score(mapped, recipe, groups) for recipe in recipes]
    for checkpoint in (held.sources.rm, *held.sources.lms.values()):
        checkpoint.release()
    for name in ("rm", "plain", "padded"):
        shutil.rmtree(tmp_path / name)
    assert [score(held, recipe, groups) for recipe in recipes] == wanted


def test_a_sweep_over_mapped_sources_opens_each_file_once(
    folders, tmp_path, monkeypatch
):
    opened = Counter()
    plainly = weights.safe_open

    def counting(file, **options):
        opened[file] += 1
        return plainly(file, **options)

    engine = Engine.load(copied(folders, tmp_path), "cpu", keep="mapped")
    monkeypatch.setattr(weights, "safe_open", counting)
    for lam in (0.35, 1, 0, 0.7):
        engine.apply(Recipe(lam, {"math": 2, "code": 1}))
    assert sum(opened.values()) <= 3 and max(opened.values(), default=0) <= 1


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_sweep_makes_no_second_copy_of_the_live_model(family, dtype):
    engine = Engine.load(family, "cpu", dtype, keep="device")
    places = [parameter.data_ptr() for parameter in engine.model.parameters()]
    engine.apply(Recipe(0.5, {"math": 2, "code": 1}))  # looks for NaN, once
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        for lam in (0.35, 1, 0, 0.7):
            engine.apply(Recipe(lam, {"math": 1}))
            engine.apply(Recipe(lam, {"math": 2, "code": 1}))
    allocated = sum(max(0, event.cpu_memory_usage) for event in seen.events())
    assert seen.events()
    assert allocated < engine.plan.live / 100  # of eight merges together
    assert places == [parameter.data_ptr() for parameter in engine.model.parameters()]


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


GPUS = tuple(torch.device("cuda", i) for i in range(3))


def spread(models, gb, host=1, dtype=torch.float16, choices=None, **settings):
    """A plan for GPUs with so many GB free each."""
    free = Free(host * GB, {f"cuda:{i}": n * GB for i, n in enumerate(gb)})
    choices = choices or [GPUS[: len(gb)]]
    return make_plan(*models, choices, dtype, free=free, **settings)


def test_several_gpus_share_a_model_that_is_too_large_for_one(seven_billion):
    assert not spread(seven_billion, [12]).fits
    plan = spread(seven_billion, [12, 8])
    assert plan.fits and plan.device == "cuda:0,cuda:1"
    whole = spread(seven_billion, [100])
    first, second = plan.parts
    assert first.live + second.live == whole.live
    assert first.sources + second.sources == whole.sources
    assert first.live / second.live == pytest.approx(12 / 8, rel=0.2)
    for part in plan.parts:
        assert part.needed(plan.place == "device") <= part.free
    # What both have room for, not the roomier one.
    rests = [(p.free - p.needed(False)) // p.token_bytes for p in plan.parts]
    assert plan.batch_tokens == MIN_BATCH_TOKENS + min(rests)


def test_sources_live_beside_the_parameters_that_they_make(seven_billion):
    plan = spread(seven_billion, [40, 40])
    assert plan.place == "device" and plan.fits
    assert sum(part.sources for part in plan.parts) == plan.sources


def test_layers_stay_whole_and_in_order_over_the_gpus(seven_billion):
    *_, fit = seven_billion
    plan = spread(seven_billion, [10, 10, 10])
    # Layer by layer, whatever order the files name them in.
    layers = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(32)]
    places = [str(plan.device_of(name)) for name in [fit.embedding, *layers]]
    assert places == sorted(places) and set(places) == {str(gpu) for gpu in GPUS}
    for layer in range(32):
        own = [n for n in fit.merged if n.startswith(f"model.layers.{layer}.")]
        assert len(own) == 9 and len({plan.device_of(name) for name in own}) == 1
    # The text is read and the reward made on the first.
    for name in (fit.embedding, "score.weight", "model.rotary_emb.inv_freq"):
        assert plan.device_of(name) == GPUS[0]
    assert block_of("model.layers.12.mlp.up_proj.weight") == "model.layers.12"
    assert block_of("model.norm.weight") == "model.norm"


def test_auto_spreads_only_over_more_gpus_when_one_is_not_enough(
    seven_billion, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    auto = devices_named("auto")
    assert auto == [(gpu,) for gpu in GPUS] + [GPUS]

    def chosen(*gb):
        return spread(seven_billion, gb, choices=auto).device

    assert chosen(24, 24, 24) == "cuda:0"
    assert chosen(4, 24, 24) == "cuda:1"  # the first is busy
    assert chosen(9, 9, 9) == "cuda:0,cuda:1,cuda:2"
    assert devices_named("cuda:2,cuda:0") == [(GPUS[2], GPUS[0])]
    assert devices_named("cuda") == [(GPUS[0],)]
    for names, words in (
        ("cuda:0,cuda", "twice"),
        ("cuda:0,cpu", "mixes"),
        ("cuda:3", "has 3 GPU"),
        ("gpu", "not a device"),
    ):
        with pytest.raises(DeviceError, match=words):
            devices_named(names)


def test_too_little_on_several_gpus_says_so_of_each(seven_billion):
    with pytest.raises(DeviceError) as caught:
        require(spread(seven_billion, [6, 6], host=30))
    for part in ("on cuda:0 in float16", "on cuda:1", "--load-in-8bit would need"):
        assert part in str(caught.value)


TWO = "cpu:0,cpu:1"  # two names of one device: everything but the copies between two


@pytest.mark.parametrize("quantised", [None, "int8", "nf4"])
def test_a_model_over_several_devices_is_the_model_on_one(family, quantised):
    if quantised:
        pytest.importorskip("bitsandbytes")
    recipe = Recipe(0.35, {"math": 2, "code": 1})
    groups = [("What is a prime?", ["Seven", "Nine, or one"]), ("Hi", ["a", "b" * 90])]
    one, two = (
        Engine.load(family, device, "float32", quantised) for device in ("cpu", TWO)
    )
    assert set(two.plan.blocks.values()) == {"cpu:0", "cpu:1"} and not one.plan.blocks
    assert score(two, recipe, groups) == score(one, recipe, groups)
    for name, parameter in one.model.named_parameters():
        assert torch.equal(two.model.get_parameter(name), parameter), name
    assert torch.equal(two.along([1, 9, 8, 7]), one.along([1, 9, 8, 7]))


def test_every_block_gets_its_inputs_on_its_own_device(family, monkeypatch):
    sent = []

    def recorded(value, device, **options):
        sent.append((str(device), options.get("skip_keys")))
        return value

    monkeypatch.setattr("dogerm.live.send_to_device", recorded)
    engine = Engine.load(family, TWO, "float32")
    score(engine, Recipe(0.5, {"math": 1}), [("Hi", ["Hello"])])
    blocks = dict(engine.plan.blocks)
    blocks.pop("score")  # its product is taken apart from the model
    assert [device for device, _ in sent[::2]] == list(blocks.values())
    assert all(skip == {"past_key_values"} for _, skip in sent[1::2])


@pytest.mark.gpu
def test_two_gpus_merge_and_score_as_the_cpu_does(family):
    if torch.cuda.device_count() < 2:
        pytest.skip("no two CUDA GPUs here")
    recipe = Recipe(0.35, {"math": 2, "code": 1})
    groups = [("What is a prime?", ["Seven", "Nine, or one"])]
    cpu = Engine.load(family, "cpu", "float32")
    for keep in ("device", "pinned", "mapped"):
        gpus = Engine.load(family, "cuda:0,cuda:1", "float32", keep=keep)
        assert {p.device.index for p in gpus.model.parameters()} == {0, 1}
        wanted, found = (score(one, recipe, groups)[0] for one in (cpu, gpus))
        assert found == pytest.approx(wanted, abs=1e-4)


SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"
    ),
    RuntimeError("CUDA error: out of memory"),  # pinned host memory
    MemoryError(),
]


@pytest.mark.parametrize("error", SHORTAGES, ids=["gpu", "host", "pinned", "python"])
def test_memory_that_runs_out_while_loading_is_retried_with_mapped_sources(
    family, monkeypatch, caplog, error
):
    held = sources._held

    def short(*arguments):
        raise error

    monkeypatch.setattr(sources, "_held", short)
    engine = Engine.load(family, "cpu", "float32")
    assert engine.plan.place == "mapped"
    assert "cpu ran out of memory; the sources are now mapped" in caplog.text
    recipe, group = Recipe(0.4, {"math": 1}), [("Hi", ["Hello", "Go"])]
    found = score(engine, recipe, group)
    monkeypatch.setattr(sources, "_held", held)
    assert found == score(Engine.load(family, "cpu", "float32"), recipe, group)


@pytest.mark.parametrize(
    ("error", "wanted", "words"),
    [
        (torch.OutOfMemoryError("CUDA"), OutOfMemory, "cpu has too little free memory"),
        (RuntimeError("shape mismatch"), RuntimeError, "shape mismatch"),
    ],
)
def test_what_cannot_be_helped_by_smaller_settings_is_said(
    family, monkeypatch, error, wanted, words
):
    def fails(*arguments, **settings):
        raise error

    monkeypatch.setattr("dogerm.engine.build", fails)
    with pytest.raises(wanted, match=words):
        Engine.load(family, "cpu", "float32")


def test_memory_that_runs_out_inside_the_model_is_retried_smaller_then_said(
    family, monkeypatch
):
    engine, recipe = Engine.load(family, "cpu", "float32"), Recipe(0, {"math": 1})
    backbone = type(engine.model.model)
    forward, groups = backbone.forward, [("p" * n, ["r" * n]) for n in range(40, 60)]
    wanted = score(engine, recipe, groups)

    def small(self, input_ids, **rest):
        if input_ids.numel() > limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, input_ids=input_ids, **rest)

    monkeypatch.setattr(backbone, "forward", small)
    limit = 700
    for row, expected in zip(score(engine, recipe, groups), wanted):
        assert row == pytest.approx(expected, abs=1e-5)
    limit = 10
    with pytest.raises(OutOfMemory, match="too little free memory"):
        score(engine, recipe, groups)
    limit = 10**9
    assert score(engine, recipe, groups) == wanted  # live and right
