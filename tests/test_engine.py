"""What holds the project together: merges are exact, leave no trace, and never mix."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import llama_config, save_lm, save_rm
from safetensors.torch import load_file, save_file
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForSequenceClassification, LlamaForCausalLM

from dogerm.checkpoint import Checkpoint
from dogerm.compatibility import compare
from dogerm.engine import Engine
from dogerm.errors import CheckpointError, CheckpointMismatch, RecipeError
from dogerm.family import Family
from dogerm.recipe import Recipe

HEAD = "score.weight"
EMBEDDING = "model.embed_tokens.weight"
HIDDEN = "model.layers.1.mlp.up_proj.weight"


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()


def live(engine: Engine) -> dict[str, bytes]:
    return {name: bits(p) for name, p in engine.model.named_parameters()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_lambda_zero_is_the_reward_model_bit_for_bit(family, folders, dtype):
    engine = Engine.load(family, device="cpu", dtype=dtype)
    engine.apply(Recipe(0.7, {"math": 1, "code": 1}))
    engine.apply(Recipe(0, {"math": 1}))
    original = weights(folders["rm"])
    for name, parameter in engine.model.named_parameters():
        stored = original[name].to(parameter.dtype)
        assert bits(parameter[: len(stored)]) == bits(stored), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_applying_a_second_recipe_forgets_the_first(family, dtype):
    engine = Engine.load(family, device="cpu", dtype=dtype)
    second = Recipe(0.35, {"math": 2, "code": 1})
    engine.apply(second)
    fresh = live(engine)
    engine.apply(Recipe(0.9, {"code": 1}))
    assert live(engine) != fresh
    engine.apply(second)
    assert live(engine) == fresh


@pytest.mark.parametrize("lam", [0.05, 0.35, 0.5, 0.85, 1.0])
def test_engine_agrees_with_a_plain_dictionary_merge(engine, folders, lam):
    engine.apply(Recipe(lam, {"math": 0.6, "code": 0.4}))
    rm, math, code = (weights(folders[n]) for n in ("rm", "plain", "padded"))
    rows = len(rm[EMBEDDING])
    for name, parameter in engine.model.named_parameters():
        if name == HEAD:
            assert torch.equal(parameter, rm[HEAD].float())
            continue
        wanted = (1 - lam) * rm[name].double() + lam * (
            0.6 * math[name].double() + 0.4 * code[name][: len(rm[name])].double()
        )
        torch.testing.assert_close(
            parameter[: len(wanted)].double(), wanted, atol=1e-7, rtol=1e-6
        )
    # The row of [PAD], which only `code` has, is that LM's own at every λ.
    live_table = engine.model.get_input_embeddings().weight
    assert torch.equal(live_table[rows:], code[EMBEDDING][rows:].float())


@pytest.mark.parametrize(
    ("dtype", "unit"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)]
)
def test_sixteen_bit_merges_are_within_rounding_of_float64(
    family, folders, dtype, unit
):
    engine = Engine.load(family, device="cpu", dtype=str(dtype).removeprefix("torch."))
    engine.apply(Recipe(0.6, {"math": 0.5, "code": 0.5}))
    rm, math, code = (weights(folders[n]) for n in ("rm", "plain", "padded"))
    for name, parameter in engine.model.named_parameters():
        if name in (HEAD, EMBEDDING):
            continue
        parts = [w[name].to(dtype).double() for w in (rm, math, code)]
        wanted = 0.4 * parts[0] + 0.3 * parts[1] + 0.3 * parts[2]
        # Half a unit in the last place of the result, and of the mix, which counts 0.6.
        bound = 1.6 * unit * torch.stack(parts).abs().amax(0) + 1e-7
        assert ((parameter.double() - wanted).abs() <= bound).all(), name


def test_shared_tokens_merge_by_string_whatever_their_ids(folders):
    family = Family.of(folders["rm"], {"math": folders["moved"]}, name="moved")
    engine = Engine.load(family, device="cpu", dtype="float32")
    engine.apply(Recipe(1, {"math": 1}))
    rm, lm = weights(folders["rm"])[EMBEDDING], weights(folders["moved"])[EMBEDDING]
    ours = engine.sources.rm.tokenizer.get_vocab()
    theirs = engine.sources.lms["math"].tokenizer.get_vocab()
    assert ours["a"] != theirs["a"]
    table = engine.model.get_input_embeddings().weight
    for token, row in ours.items():
        assert torch.equal(table[row], lm[theirs[token]].float()), token
    assert len(table) == len(rm)


def test_float32_tables_are_aligned_without_touching_each_other(tmp_path):
    """Wide enough already, they must be copied before an LM's rows are written into them."""
    wide = torch.float32
    folders = {
        "rm": save_rm(tmp_path / "rm", dtype=wide),
        "math": save_lm(tmp_path / "math", 1, dtype=wide),
        "code": save_lm(tmp_path / "code", 2, extra=["[PAD]"], dtype=wide),
    }
    lms = {name: folders[name] for name in ("math", "code")}
    engine = Engine.load(Family.of(folders["rm"], lms), device="cpu", dtype="float32")
    rm, math = (weights(folders[name])[EMBEDDING] for name in ("rm", "math"))
    for lam in (0, 0.4):
        engine.apply(Recipe(lam, {"math": 1}))
        table = engine.model.get_input_embeddings().weight[: len(rm)]
        torch.testing.assert_close(table.data, rm + lam * (math - rm))


def test_a_token_only_the_reward_model_has_keeps_its_row(folders, tmp_path):
    from conftest import byte_tokenizer
    from transformers import LlamaForSequenceClassification

    tokenizer = byte_tokenizer(extra=["<own>"])
    config = llama_config(len(tokenizer), num_labels=1)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    engine = Engine.load(
        Family.of(tmp_path, {"math": folders["plain"]}), device="cpu", dtype="float32"
    )
    engine.apply(Recipe(0.8, {"math": 1}))
    row = engine.model.get_input_embeddings().weight[-1]
    assert torch.equal(row, weights(tmp_path)[EMBEDDING][-1])


def test_two_threads_with_two_recipes_each_get_their_own_rewards(engine):
    from dogerm.scoring import score

    group = [("Two plus two?", ["4", "5, I think"])]
    recipes = [Recipe(lam, {"math": 1}) for lam in (0.2, 0.9)]
    wanted = [score(engine, recipe, group) for recipe in recipes]
    wrong = []

    def visit(index: int) -> None:
        for _ in range(15):
            if score(engine, recipes[index], group) != wanted[index]:
                wrong.append(index)

    threads = [threading.Thread(target=visit, args=(i % 2,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and wanted[0] != wanted[1]


def test_nothing_is_touched_by_a_recipe_that_cannot_be_meant(engine):
    engine.apply(Recipe(0.4, {"math": 1}))
    before = live(engine)
    with pytest.raises(RecipeError, match="no domain LM 'law'"):
        engine.apply(Recipe(0.4, {"law": 1}))
    with pytest.raises(RecipeError, match="no merge method 'stir'"):
        engine.apply(Recipe(0.4, {"math": 1}, "stir"))
    assert live(engine) == before


def test_a_merge_cut_short_does_not_pass_for_a_finished_one(engine, monkeypatch):
    recipe = Recipe(0.15, {"math": 1})
    fetch, calls = engine.sources.fetch, []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError("the disk went away")
        return fetch(*arguments)

    monkeypatch.setattr(engine.sources, "fetch", failing)
    with pytest.raises(OSError, match="went away"):
        engine.apply(recipe)
    assert engine.recipe is None
    monkeypatch.undo()
    engine.apply(recipe)
    fresh = live(engine)
    engine.apply(Recipe(0, {"math": 1}))
    engine.apply(recipe)
    assert live(engine) == fresh


def test_the_report_names_what_was_kept_and_appended(engine):
    report = engine.apply(Recipe(0.3, {"math": 1}))
    assert report.kept == (HEAD,)
    assert report.appended == ("[PAD]",)
    assert len(report.merged) == len(dict(engine.model.named_parameters())) - 1
    assert engine.fit.left_out["math"] == ("lm_head.weight",)


def test_shape_mismatch_names_the_parameter_and_both_shapes(folders, tmp_path):
    config = llama_config(262)
    config.intermediate_size = 96
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointMismatch) as caught:
        Engine.load(Family.of(folders["rm"], {"math": tmp_path}))
    for part in ("gate_proj.weight", "(64, 32)", "(96, 32)", "'math'"):
        assert part in str(caught.value)


def test_another_architecture_is_refused_by_name(folders, tmp_path):
    from transformers import MistralConfig, MistralForCausalLM

    settings = llama_config(262).to_dict()
    for key in ("model_type", "architectures"):
        settings.pop(key, None)
    MistralForCausalLM(MistralConfig(**settings)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointMismatch, match=r"llama model but 'math' is mistral"):
        Engine.load(Family.of(folders["rm"], {"math": tmp_path}))


def test_an_unexpected_tensor_is_an_error_that_names_it(folders, tmp_path):
    from safetensors.torch import save_file

    folder = save_lm(tmp_path / "lm", 5)
    stored = weights(folder) | {"model.extra.weight": torch.zeros(3)}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointMismatch, match=r"model\.extra\.weight \(3,\)"):
        Engine.load(Family.of(folders["rm"], {"math": folder}))


def test_a_classifier_is_not_a_reward_model(folders, tmp_path):
    with pytest.raises(CheckpointMismatch, match="2 labels"):
        folder = save_rm(tmp_path / "rm")
        config = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=2, ignore_mismatched_sizes=True
        )
        config.save_pretrained(folder)
        Engine.load(Family.of(folder, {"math": folders["plain"]}))


@pytest.mark.parametrize("damage", ["missing", "truncated", "no config", "not json"])
def test_a_damaged_folder_is_one_sentence_that_names_the_file(
    folders, tmp_path, damage
):
    folder = save_lm(tmp_path / "lm", 6)
    file = folder / "model.safetensors"
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:-1000])
    elif damage == "no config":
        file = folder / "config.json"
        file.unlink()
    else:
        file = folder / "config.json"
        file.write_text("{")
    with pytest.raises(CheckpointError) as caught:
        Engine.load(Family.of(folders["rm"], {"math": folder}))
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_said(folders, tmp_path):
    with pytest.raises(CheckpointError, match="there is no folder"):
        Engine.load(Family.of(folders["rm"], {"math": tmp_path / "nowhere"}))
    with pytest.raises(CheckpointError, match="neither a folder here nor"):
        Engine.load(Family.of(folders["rm"], {"math": "nobody/nothing"}))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_gpu_merges_as_the_cpu_does(family, dtype):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here")
    recipe = Recipe(0.35, {"math": 2, "code": 1})
    engines = [Engine.load(family, device, dtype) for device in ("cpu", "cuda")]
    for engine in engines:
        engine.apply(recipe)
    cpu, gpu = (dict(engine.model.named_parameters()) for engine in engines)
    for name, parameter in cpu.items():
        # One unit in the last place: the two may order float32 operations differently.
        torch.testing.assert_close(
            gpu[name].cpu(),
            parameter,
            rtol=2 * torch.finfo(parameter.dtype).eps,
            atol=1e-6,
        )


def test_families_compared_in_several_threads_leave_torch_as_it_was(family):
    """transformers sets torch's default dtype while it builds a float16 model."""

    def look(_: int) -> None:
        rm = Checkpoint(family.rm, "the reward model")
        lms = {name: Checkpoint(path, name) for name, path in family.lms.items()}
        compare(rm, lms)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(look, range(16)))
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("keep", ["device", "mapped"])
@pytest.mark.parametrize("streams", [False, True])
def test_a_value_that_is_no_number_never_becomes_live(
    folders, tmp_path, monkeypatch, keep, streams
):
    monkeypatch.setattr(Engine, "_streams", property(lambda engine: streams))
    lm = save_lm(tmp_path / "lm", 5, extra=["[OWN]"])
    tensors = weights(lm)
    tensors[EMBEDDING][200, 4:6] = torch.tensor([float("-inf"), float("nan")])
    save_file(tensors, lm / "model.safetensors", metadata={"format": "pt"})
    bad = Family.of(folders["rm"], {"good": folders["plain"], "bad": lm})
    engine = Engine.load(bad, "cpu", "float32", keep=keep)
    wanted = {}
    for recipe in (Recipe(0, {"good": 1}), Recipe(0.4, {"good": 1})):
        engine.apply(recipe)
        wanted[recipe] = live(engine)
    for _ in range(2):
        with pytest.raises(CheckpointError) as caught:
            engine.apply(Recipe(0.01, {"good": 1, "bad": 0.01}))
        for part in ("bad: ", EMBEDDING, str(lm / "model.safetensors"), "2 values"):
            assert part in str(caught.value)
        for recipe, whole in wanted.items():
            engine.apply(recipe)
            assert live(engine) == whole


def test_weights_whose_sum_overflows_are_numbers_all_the_same(folders, tmp_path):
    lm = save_lm(tmp_path / "lm", 5)
    tensors = weights(lm)
    tensors[HIDDEN].fill_(6e4)
    save_file(tensors, lm / "model.safetensors", metadata={"format": "pt"})
    engine = Engine.load(Family.of(folders["rm"], {"large": lm}), "cpu", keep="mapped")
    engine.apply(Recipe(1, {"large": 1}))
    assert engine.model.get_parameter(HIDDEN).eq(6e4).all()


def test_weights_are_looked_through_once(family):
    engine = Engine.load(family, "cpu", "float32")

    def looks(recipe: Recipe) -> int:
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            engine.apply(recipe)
        return sum(event.name == "aten::aminmax" for event in seen.events())

    assert looks(Recipe(0.3, {"math": 1})) == len(engine.fit.merged)
    assert looks(Recipe(0.3, {"math": 1, "code": 1})) == len(engine.fit.merged)
    for lam in (0, 0.5, 1):
        assert looks(Recipe(lam, {"math": 1, "code": 2})) == 0
