"""Every format, head and architecture a reward model or an LM may come in."""

import json
import math
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import byte_tokenizer, llama_config, plain_reward, save_lm, save_rm
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)

from dogerm.checkpoint import Checkpoint
from dogerm.engine import LAYER_START, Engine
from dogerm.errors import CheckpointError, CheckpointMismatch
from dogerm.family import Family
from dogerm.live import Codes
from dogerm.quantised import QUANTISATIONS, LinearNf4
from dogerm.recipe import Recipe
from dogerm.scoring import score

GROUP = [("What is a prime?", ["Seven, for one.", "Nine", "I cannot say 🙂"])]
CLOSE = 1e-5
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def to_bin(folder, shards: int):
    """The same weights as pytorch_model*.bin files."""
    stored = weights(folder)
    (folder / "model.safetensors").unlink()
    if shards == 1:
        torch.save(stored, folder / "pytorch_model.bin")
        return folder
    where = {}
    names = sorted(stored)
    for i in range(shards):
        file = f"pytorch_model-{i + 1:05}-of-{shards:05}.bin"
        part = {name: stored[name] for name in names[i::shards]}
        torch.save(part, folder / file)
        where |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": where}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def merged(rm, lm, lam=0.4, **settings):
    engine = Engine.load(
        Family.of(rm, {"math": lm}), device="cpu", dtype="float32", **settings
    )
    engine.apply(Recipe(lam, {"math": 1}))
    return engine


def live(engine) -> dict[str, torch.Tensor]:
    return {name: p.clone() for name, p in engine.model.named_parameters()}


@pytest.fixture
def lm(tmp_path):
    return save_lm(tmp_path / "lm", 7)


@pytest.mark.parametrize("layout", ["bin", "bin shards", "old bin", "shards"])
def test_the_same_weights_in_another_format_merge_the_same(
    folders, lm, tmp_path, layout
):
    wanted = live(merged(folders["rm"], lm))
    if layout == "shards":
        model = AutoModelForCausalLM.from_pretrained(lm)
        (lm / "model.safetensors").unlink()
        model.save_pretrained(lm, max_shard_size="20KB")
        assert len(list(lm.glob("model-*.safetensors"))) > 3
    elif layout == "old bin":
        stored = weights(lm)
        (lm / "model.safetensors").unlink()
        torch.save(
            stored, lm / "pytorch_model.bin", _use_new_zipfile_serialization=False
        )
    else:
        to_bin(lm, shards=3 if "shards" in layout else 1)
    found = live(merged(folders["rm"], lm))
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


def test_bin_shards_are_mapped_not_read(lm):
    to_bin(lm, shards=2)
    checkpoint = Checkpoint(lm, "math")
    checkpoint.read("model.norm.weight")
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("only Linux lists a process's mapped files")
    assert str(lm / "pytorch_model-00001-of-00002.bin") in maps.read_text()
    checkpoint.release()
    assert str(lm) not in maps.read_text()


class Danger:
    """What a malicious pickle does when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (str(self.file), "w"))


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_a_malicious_pickle_is_refused_and_not_executed(folders, lm, tmp_path, kind):
    trace = tmp_path / "executed"
    (lm / "model.safetensors").unlink()
    file = lm / "pytorch_model.bin"
    if kind == "torch":
        torch.save({"model.norm.weight": Danger(trace)}, file)
    else:
        file.write_bytes(pickle.dumps({"model.norm.weight": Danger(trace)}))
    with pytest.raises(
        CheckpointError, match=r"pytorch_model\.bin holds more than tensors"
    ):
        Engine.load(Family.of(folders["rm"], {"math": lm}))
    assert not trace.exists()


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_an_index_that_names_what_is_not_there(folders, lm, kind):
    if kind == "bin":
        to_bin(lm, shards=3)
        lost = lm / "pytorch_model-00002-of-00003.bin"
    else:
        AutoModelForCausalLM.from_pretrained(lm).save_pretrained(
            lm, max_shard_size="20KB"
        )
        (lm / "model.safetensors").unlink(missing_ok=True)
        lost = sorted(lm.glob("model-*.safetensors"))[1]
    kept = lost.read_bytes()
    lost.unlink()
    with pytest.raises(CheckpointError, match="is missing") as caught:
        Engine.load(Family.of(folders["rm"], {"math": lm}))
    assert str(lost) in str(caught.value)
    lost.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(CheckpointError, match="truncated") as caught:
        Engine.load(Family.of(folders["rm"], {"math": lm}))
    assert str(lost) in str(caught.value)
    index = next(lm.glob("*.index.json"))
    listing = json.loads(index.read_text())
    listing["weight_map"]["model.norm.weight"] = lost.name
    lost.write_bytes(kept)
    listing["weight_map"]["no.such.tensor"] = lost.name
    index.write_text(json.dumps(listing))
    with pytest.raises(CheckpointError, match=r"promises .* in .* not there"):
        Engine.load(Family.of(folders["rm"], {"math": lm}))
    listing["weight_map"]["model.norm.weight"] = "../elsewhere.bin"
    index.write_text(json.dumps(listing))
    with pytest.raises(CheckpointError, match="no plain file name"):
        Engine.load(Family.of(folders["rm"], {"math": lm}))


def test_remote_code_is_refused(folders, lm):
    config = json.loads((lm / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (lm / "config.json").write_text(json.dumps(config))
    (lm / "own.py").write_text("raise SystemExit('executed')")
    with pytest.raises(CheckpointError, match=r"auto_map.*never\s+run"):
        Engine.load(Family.of(folders["rm"], {"math": lm}))


def adapter(folder, base, dtype=torch.float32, **settings):
    """A LoRA adapter in PEFT's layout on two projections and the embeddings of a tiny Llama."""
    torch.manual_seed(11)
    folder.mkdir()
    stored = weights(base)
    tensors = {}
    for target in ("layers.0.self_attn.q_proj", "layers.1.mlp.down_proj"):
        out, into = stored[f"model.{target}.weight"].shape
        tensors[f"base_model.model.model.{target}.lora_A.weight"] = torch.randn(4, into)
        tensors[f"base_model.model.model.{target}.lora_B.weight"] = torch.randn(out, 4)
    rows, width = stored["model.embed_tokens.weight"].shape
    name = "base_model.model.model.embed_tokens.lora_embedding_"
    tensors |= {f"{name}A": torch.randn(4, rows), f"{name}B": torch.randn(width, 4)}
    tensors["base_model.model.model.norm.weight"] = torch.full((width,), 0.5)
    tensors = {key: tensor.to(dtype) for key, tensor in tensors.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(base),
        "r": 4,
        "lora_alpha": 8,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    return folder


@pytest.mark.parametrize(
    ("settings", "scales"),
    [
        ({}, (2, 2)),
        ({"use_rslora": True}, (4, 4)),
        ({"alpha_pattern": {"q_proj": 2}}, (0.5, 2)),
    ],
)
def test_a_lora_adapter_merges_as_its_folded_model_does(
    folders, lm, tmp_path, settings, scales
):
    lora = adapter(tmp_path / "lora", lm, **settings)
    stored, parts = weights(lm), load_file(lora / "adapter_model.safetensors")
    prefix = "base_model.model.model."
    q, down = scales
    for target, scale in (
        ("layers.0.self_attn.q_proj", q),
        ("layers.1.mlp.down_proj", down),
    ):
        a, b = (parts[f"{prefix}{target}.lora_{x}.weight"].double() for x in "AB")
        name = f"model.{target}.weight"
        stored[name] = (stored[name].double() + scale * b @ a).to(stored[name].dtype)
    a, b = (parts[f"{prefix}embed_tokens.lora_embedding_{x}"].double() for x in "AB")
    name = "model.embed_tokens.weight"
    stored[name] = (stored[name].double() + down * (b @ a).T).to(stored[name].dtype)
    stored["model.norm.weight"] = parts[prefix + "norm.weight"]
    folded = tmp_path / "folded"
    shutil.copytree(lm, folded)
    save_file(stored, folded / "model.safetensors", metadata={"format": "pt"})
    wanted, found = (live(merged(folders["rm"], source)) for source in (folded, lora))
    for name, tensor in wanted.items():
        # The fold rounds once to float16: one unit of values up to 16 on either side.
        torch.testing.assert_close(found[name], tensor, atol=0.4 * 2**-6, rtol=0)
        close = (found[name] - tensor).abs() < 1e-6
        assert close.float().mean() > 0.99, name


def test_an_adapter_for_another_base_names_the_tensor_and_both_shapes(
    folders, lm, tmp_path
):
    lora = adapter(tmp_path / "lora", lm)
    config = llama_config(262)
    config.intermediate_size = 96
    other = tmp_path / "other"
    AutoModelForCausalLM.from_config(config).save_pretrained(other)
    byte_tokenizer().save_pretrained(other)
    settings = json.loads((lora / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(other)
    (lora / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointMismatch) as caught:
        Engine.load(Family.of(folders["rm"], {"math": lora}))
    for part in ("down_proj.weight", "(32, 64)", "(32, 96)", "another base"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "settings", [{"peft_type": "IA3"}, {"use_dora": True}, {"lora_bias": True}]
)
def test_an_adapter_that_is_not_plain_lora_is_refused(folders, lm, tmp_path, settings):
    lora = adapter(tmp_path / "lora", lm, **settings)
    with pytest.raises(CheckpointError, match="not plain LoRA"):
        Engine.load(Family.of(folders["rm"], {"math": lora}))


@pytest.mark.parametrize("place", ["inside", "beside", "beside, bin"])
def test_a_value_head_is_the_score_head(folders, tmp_path, place):
    """TRL keeps the head among the weights, LLaMA-Factory in a file beside them."""
    folder = save_lm(tmp_path / "rm", 9)
    torch.manual_seed(1)
    head = {
        "v_head.summary.weight": torch.randn(1, 32),
        "v_head.summary.bias": torch.randn(1),
    }
    if place == "inside":
        stored = weights(folder) | head
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    elif place == "beside":
        save_file(head, folder / "value_head.safetensors")
    else:
        torch.save(head, folder / "value_head.bin")
    engine = merged(folder, folders["plain"], 0)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32
    ).model.eval()
    text = engine.tokenizer.apply_chat_template(
        [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
        ],
        tokenize=False,
    )
    ids = engine.tokenizer(
        text, add_special_tokens=False, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        last = model(ids).last_hidden_state[0, -1]
        wanted = last @ head["v_head.summary.weight"][0] + head["v_head.summary.bias"]
    found = score(engine, Recipe(0, {"math": 1}), [("Hi", ["Hello", "Go"])])[0][0]
    assert found == pytest.approx(wanted.item(), abs=CLOSE)
    assert set(engine.fit.kept) == {"score.weight", "score.bias"}
    assert engine.fit.left_out["rm"] == ("lm_head.weight",)


# Gemma 2 and the last two have a sliding window here, shorter than the texts.
ARCHITECTURES = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 16},
    "mistral": {"sliding_window": 16},
    "phi3": {"sliding_window": 16},
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request, tmp_path_factory):
    """A random reward model and LM of one architecture: (rm folder, lm folder)."""
    root = tmp_path_factory.mktemp(request.param)
    tokenizer = byte_tokenizer()
    for name, auto, labels in (
        ("rm", AutoModelForSequenceClassification, {"num_labels": 1}),
        ("lm", AutoModelForCausalLM, {}),
    ):
        config = AutoConfig.for_model(
            request.param,
            vocab_size=len(tokenizer),
            **SIZES,
            **ARCHITECTURES[request.param],
            **labels,
        )
        torch.manual_seed(len(name) + (name == "rm"))
        auto.from_config(config, dtype=torch.float32).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root / "rm", root / "lm"


def test_every_architecture_scores_a_merge_as_transformers_does(
    architecture, monkeypatch
):
    """With grouped-query attention, a sliding window shorter than the text, tied embeddings.

    The responses of one pass, and of several after one shared prompt.
    """
    rm, lm = architecture
    lam = 0.4
    engine = merged(rm, lm, lam)
    model = AutoModelForSequenceClassification.from_pretrained(rm, dtype=torch.float32)
    other = AutoModelForCausalLM.from_pretrained(lm, dtype=torch.float32).state_dict()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in other:
                parameter.copy_((1 - lam) * parameter + lam * other[name])
    model.eval()
    found = score(engine, Recipe(lam, {"math": 1}), GROUP)[0]
    wanted = [
        plain_reward(model, engine.tokenizer, GROUP[0][0], text) for text in GROUP[0][1]
    ]
    assert found == pytest.approx(wanted, abs=CLOSE)
    alone = [
        score(engine, Recipe(lam, {"math": 1}), [(GROUP[0][0], [t])])[0][0]
        for t in GROUP[0][1]
    ]
    assert alone == pytest.approx(wanted, abs=CLOSE)
    monkeypatch.setitem(LAYER_START, "cpu", 0)  # a pass of its own costs little
    apart = score(engine, Recipe(lam, {"math": 1}), GROUP)[0]
    assert apart == pytest.approx(wanted, abs=CLOSE)


def factor_of(name: str, layers: list[float], parts: dict[str, float]) -> float:
    """What λ is multiplied with, read off a parameter's name as these six spell it."""
    number = re.search(r"\.layers\.(\d+)\.", name)
    depth = (
        layers[int(number[1])] if number else layers[-1 if "model.norm" in name else 0]
    )
    for word, part in (
        ("norm", "norms"),
        ("self_attn", "attention"),
        ("mlp", "mlp"),
        ("embed_tokens", "embeddings"),
    ):
        if word in name:
            return depth * parts.get(part, 1)
    raise AssertionError(name)


@pytest.mark.parametrize(
    "parts", [{}, {"attention": 0.5, "norms": 0}, {"mlp": 0.25, "embeddings": 0.75}]
)
def test_every_architecture_scales_lambda_by_layer_and_part(architecture, parts):
    rm, lm = architecture
    layers = [0.5, 1.0]
    engine = merged(rm, lm, 0)
    engine.apply(Recipe(0.4, {"math": 1}, layers=layers, parts=parts))
    ours, theirs = weights(rm), weights(lm)
    for name, parameter in engine.model.named_parameters():
        wanted = ours[name]
        if name in theirs:
            lam = 0.4 * factor_of(name, layers, parts)
            wanted = (1 - lam) * wanted + lam * theirs[name]
            if lam == 0:
                assert torch.equal(parameter, ours[name]), name
        torch.testing.assert_close(parameter, wanted, atol=1e-7, rtol=1e-6)


def test_every_architecture_is_itself_at_lambda_zero(architecture):
    rm, lm = architecture
    engine = merged(rm, lm, 0.9)
    engine.apply(Recipe(0, {"math": 1}))
    stored = AutoModelForSequenceClassification.from_pretrained(rm, dtype=torch.float32)
    for name, parameter in stored.named_parameters():
        assert torch.equal(dict(engine.model.named_parameters())[name], parameter), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_int8_is_the_merge_quantised_never_codes_averaged(folders, dtype):
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.functional import int8_vectorwise_quant

    family = Family.of(
        folders["rm"], {"math": folders["plain"], "code": folders["padded"]}
    )
    recipe = Recipe(0.35, {"math": 2, "code": 1})
    exact = Engine.load(family, device="cpu", dtype="float16")
    small = Engine.load(family, device="cpu", dtype=dtype, quantised="int8")
    for engine in (exact, small):
        engine.apply(Recipe(0.9, {"code": 1}))
        engine.apply(recipe)
    assert small.dtype == "int8"
    layers = 0
    for name, module in small.model.named_modules():
        if type(module).__name__ != "Linear8bitLt":
            continue
        layers += 1
        merged_weight = exact.model.get_parameter(f"{name}.weight")
        codes, scales, _ = int8_vectorwise_quant(merged_weight.data)
        assert module.state.CB.dtype == torch.int8
        # Sources held in float32 are merged in float32: one code of rounding.
        off = 1 if dtype == "float32" else 0
        assert (module.state.CB.int() - codes.int()).abs().max() <= off
        torch.testing.assert_close(module.state.SCB, scales, rtol=off * 1e-3, atol=0)
    assert layers == 14  # seven a layer; neither the embeddings nor the head
    assert small.model.score.weight.dtype == getattr(torch, dtype)
    wanted, found = (score(engine, recipe, GROUP)[0] for engine in (exact, small))
    # Measured on this fixture: at most 0.004 on rewards of size 0.1.
    assert found == pytest.approx(wanted, abs=0.02)


def unpacked(codes, scales, shape) -> torch.Tensor:
    """NF4 as QLoRA defines it: two codes in a byte, the high one first, a scale for 64 weights."""
    from bitsandbytes.functional import get_4bit_type

    pairs = torch.stack([codes.view(-1) >> 4, codes.view(-1) & 15], dim=1).long()
    values = get_4bit_type("nf4", device="cpu")[pairs.view(-1)]
    values = values[: torch.Size(shape).numel()]
    return (values * scales.repeat_interleave(64)[: len(values)]).view(shape)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("lam", [0, 0.35])
def test_nf4_is_the_merge_quantised_never_codes_averaged(
    folders, dtype, lam, monkeypatch
):
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.functional import quantize_4bit

    monkeypatch.setattr("dogerm.quantised.PIECE", 128)  # several, as in large models
    family = Family.of(
        folders["rm"], {"math": folders["plain"], "code": folders["padded"]}
    )
    recipe = Recipe(lam, {"math": 2, "code": 1})
    exact = Engine.load(family, "cpu", "float16")
    small = Engine.load(family, "cpu", dtype, "nf4")
    rounded = Engine.load(family, "cpu", dtype)
    for engine in (exact, small, rounded):
        engine.apply(Recipe(0.9, {"code": 1}))
        engine.apply(recipe)
    assert small.dtype == "nf4"
    layers = 0
    for name, module in small.model.named_modules():
        if not isinstance(module, LinearNf4):
            continue
        layers += 1
        whole = exact.model.get_parameter(f"{name}.weight").data
        codes, state = quantize_4bit(whole, blocksize=64, quant_type="nf4")
        # As in int8, float32 sources are merged in float32: a value near the middle of two
        # codes may take the other.
        near = 0.002 if dtype == "float32" else 0
        assert (module.weight != codes).float().mean() <= near
        torch.testing.assert_close(module.state.absmax, state.absmax, rtol=near, atol=0)
        held = unpacked(module.weight.data, module.state.absmax, whole.shape)
        rounded.model.get_parameter(f"{name}.weight").data.copy_(held)
    assert layers == 14  # seven a layer; neither the embeddings nor the head
    assert small.model.score.weight.dtype == getattr(torch, dtype)
    # The same weights in transformers' own layers give the same rewards.
    wanted, found = (score(engine, recipe, GROUP)[0] for engine in (rounded, small))
    assert found == wanted
    # Measured on this fixture: at most 0.004 on rewards of size 0.2.
    assert found == pytest.approx(score(exact, recipe, GROUP)[0], abs=0.02)


@pytest.mark.parametrize("shape", [(5, 7), (7, 90), (8, 96), (48, 128)])
@pytest.mark.parametrize("bias", [False, True])
def test_an_nf4_layer_reads_its_own_codes_in_any_shape(shape, bias):
    """Rows that are no whole number of blocks, which bitsandbytes' own layer misreads on a CPU."""
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    own = QUANTISATIONS["nf4"]
    plain = torch.nn.Linear(shape[1], shape[0], bias=bias)
    layer, codes, scales = own.layer(plain, torch.device("cpu"), torch.float32)
    if bias:
        layer.bias = plain.bias
    for live, found in zip((codes, scales), own.quantise(plain.weight.data.half())):
        live.copy_(found)
    held = unpacked(codes, scales, shape)
    step = (scales.max() * 0.16).item()  # half the widest gap between two codes
    torch.testing.assert_close(held, plain.weight.data, atol=step, rtol=0)
    x = torch.randn(3, shape[1])
    wanted = torch.nn.functional.linear(x, held, plain.bias)
    torch.testing.assert_close(layer(x), wanted, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("held", ["int8", "nf4"])
def test_codes_are_written_into_the_live_buffers_and_leave_no_trace(folders, held):
    pytest.importorskip("bitsandbytes")
    small = merged(folders["rm"], folders["plain"], quantised=held)
    name = "model.layers.1.mlp.up_proj.weight"
    layer = small.model.get_submodule(name.removesuffix(".weight"))
    codes, scales = small.slots[name].live
    before = codes.clone(), scales.clone()
    first = score(small, Recipe(0.4, {"math": 1}), GROUP)
    small.apply(Recipe(0.9, {"math": 1}))
    assert not torch.equal(codes, before[0])
    small.apply(Recipe(0.4, {"math": 1}))
    assert torch.equal(codes, before[0]) and torch.equal(scales, before[1])
    used = layer.state.SCB if held == "int8" else layer.state.absmax
    assert layer.weight.data.data_ptr() == codes.data_ptr()
    assert used.data_ptr() == scales.data_ptr()
    assert score(small, Recipe(0.4, {"math": 1}), GROUP) == first


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_gpu_holds_the_codes_of_the_cpu(folders, dtype):
    pytest.importorskip("bitsandbytes")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here")
    family = Family.of(folders["rm"], {"math": folders["plain"]})
    recipe = Recipe(0.35, {"math": 1})
    cpu, gpu = (Engine.load(family, at, dtype, "nf4") for at in ("cpu", "cuda"))
    wanted, found = (score(engine, recipe, GROUP)[0] for engine in (cpu, gpu))
    for name, slot in gpu.slots.items():
        if isinstance(slot, Codes):
            # A value in the middle of two codes may take the other.
            off = (slot.live[0].cpu() != cpu.slots[name].live[0]).float().mean()
            assert off <= 0.002, name
    # NF4 itself moves them by 0.004, 16-bit arithmetic by about as much.
    assert found == pytest.approx(wanted, abs=1e-3 if dtype == "float32" else 0.02)


def test_nan_weights_are_named(folders, tmp_path):
    folder = save_lm(tmp_path / "lm", 3)
    stored = weights(folder)
    stored["model.layers.1.mlp.up_proj.weight"][0, :3] = float("nan")
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    engine = Engine.load(Family.of(folders["rm"], {"math": folder}), device="cpu")
    with pytest.raises(CheckpointError) as caught:
        score(engine, Recipe(0.5, {"math": 1}), GROUP)
    for part in ("math", "model.layers.1.mlp.up_proj.weight", "3 "):
        assert part in str(caught.value)
    base = score(engine, Recipe(0, {"math": 1}), GROUP)  # the RM itself is whole
    assert all(map(math.isfinite, base[0]))


def test_a_reward_model_may_come_from_any_seed_of_formats(tmp_path, folders):
    """A reward model in .bin shards in bfloat16 merges with a float32 LM in safetensors."""
    rm = to_bin(save_rm(tmp_path / "rm", dtype=torch.bfloat16), shards=2)
    lm = save_lm(tmp_path / "lm", 4, dtype=torch.float32)
    stored = {}
    for file in rm.glob("*.bin"):
        stored |= torch.load(file, weights_only=True)
    other = weights(lm)
    for name, tensor in live(merged(rm, lm)).items():
        wanted = stored[name].float()
        if name in other:
            wanted = 0.6 * wanted + 0.4 * other[name]
        torch.testing.assert_close(tensor, wanted, atol=1e-7, rtol=1e-6)
