"""Every merge method against a float64 reading of its formula, its identities and its limits."""

import json
import math
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save_lm
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner

from dogerm import methods
from dogerm.cli import app
from dogerm.engine import Engine
from dogerm.errors import RecipeError
from dogerm.export import export
from dogerm.family import Family
from dogerm.merge import METHODS, check_method, merge_parameter, options_of
from dogerm.recipe import Recipe
from dogerm.scoring import score
from dogerm.ui.options import shown, widgets
from dogerm.ui.studio import Studio

LAM, SHARES = 0.4, {"a": 0.75, "b": 0.25}
SHAPE = (12, 40)
# Methods whose masks are random: their formula is checked with the mask they drew.
RANDOM = {"dare_linear", "dare_ties", "della_linear", "della"}


@pytest.fixture(scope="module")
def models():
    """float64 arrays: parent, and an RM and two LMs a little way from it."""
    draw = np.random.default_rng(0)
    parent = draw.normal(size=SHAPE)
    rm, a, b = (parent + 0.3 * draw.normal(size=SHAPE) for _ in range(3))
    return {"parent": parent, "rm": rm, "a": a, "b": b}


def merged(
    models, method, lam=LAM, shares=None, name="w", dtype=torch.float32, **options
):
    recipe = Recipe(lam, shares or SHARES, method, options)
    tensors = {key: torch.tensor(value, dtype=dtype) for key, value in models.items()}
    out = torch.full_like(tensors["rm"], math.nan)
    lms = [tensors[key] for key in recipe.shares]
    merge_parameter(out, tensors["rm"], lms, recipe, tensors["parent"], name)
    return out.double().numpy()


def arc(a, b, t):
    cos = (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)
    angle = math.acos(cos)
    return (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)


def trimmed(delta, density):
    cut = np.sort(np.abs(delta).ravel())[-int(density * delta.size)]
    return np.where(np.abs(delta) >= cut, delta, 0)


def banded(delta, density, gamma):
    sizes = np.sort(np.abs(delta).ravel())[::-1]
    top = int(gamma * delta.size)
    high, low = sizes[top], sizes[top + int(density * delta.size) - 1]
    return np.where((np.abs(delta) <= high) & (np.abs(delta) >= low), delta, 0)


def elected(parent, deltas, weights):
    total = sum(w * d for w, d in zip(weights, deltas))
    sign = np.where(total >= 0, 1, -1)
    top = sum(w * d * (np.sign(d) == sign) for w, d in zip(weights, deltas))
    bottom = sum(w * (np.sign(d) == sign) for w, d in zip(weights, deltas))
    return parent + np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def plain(models, method):
    """The formula as its paper has it, with λ and shares as our docstrings say."""
    p, rm, a, b = (models[key] for key in ("parent", "rm", "a", "b"))
    mix = 0.75 * a + 0.25 * b
    deltas, weights = [rm - p, a - p, b - p], [1 - LAM, LAM * 0.75, LAM * 0.25]
    lms = [(0.75, a - p), (0.25, b - p)]
    match method:
        case "linear":
            return (1 - LAM) * rm + LAM * mix
        case "task_arithmetic":
            return rm + LAM * (mix - p)
        case "slerp":
            return arc(rm, mix, LAM)
        case "nuslerp":
            return p + arc(rm - p, mix - p, LAM)
        case "ties":
            return elected(p, [trimmed(d, 0.5) for d in deltas], weights)
        case "breadcrumbs":
            return rm + LAM * sum(s * banded(d, 0.9, 0.01) for s, d in lms)
        case "breadcrumbs_ties":
            return elected(p, [banded(d, 0.9, 0.01) for d in deltas], weights)
        case "sce":
            energy = [(d**2).mean() * k for d, k in zip(deltas, (1, 1.5, 0.5))]
            shares = [e / sum(energy) for e in energy]
            sign = np.where(sum(deltas) >= 0, 1, -1)
            top = sum(w * d * (np.sign(d) == sign) for w, d in zip(shares, deltas))
            bottom = sum(w * (np.sign(d) == sign) for w, d in zip(shares, deltas))
            return (1 - LAM) * rm + LAM * (p + top / bottom)
        case "model_stock":
            pairs = [(0, 1), (0, 2), (1, 2)]
            cos = np.mean(
                [
                    (deltas[i] * deltas[j]).sum()
                    / np.linalg.norm(deltas[i])
                    / np.linalg.norm(deltas[j])
                    for i, j in pairs
                ]
            )
            t = 3 * max(cos, 0) / (1 + 2 * max(cos, 0))
            mean = (rm + 2 * mix) / 3
            return (1 - LAM) * rm + LAM * (t * mean + (1 - t) * p)
        case "nearswap":
            d = mix - rm
            return rm + LAM * d * np.minimum(1, 1e-3 / np.abs(d))
        case "arcee_fusion":
            soft = lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)
            q, r = soft(rm), soft(mix)
            importance = np.abs(mix - rm) * (r * np.log(r / q)).sum(-1, keepdims=True)
            order = np.sort(importance.ravel())
            q1, q2, q3 = (order[int(f * (order.size - 1))] for f in (0.25, 0.5, 0.75))
            return rm + LAM * (mix - rm) * (importance >= q2 + 1.5 * (q3 - q1))
        case "multislerp" | "karcher":
            vectors = [rm.ravel(), a.ravel(), b.ravel()]
            lengths = [np.linalg.norm(v) for v in vectors]
            units = [v / n for v, n in zip(vectors, lengths)]
            point = sum(w * u for w, u in zip(weights, units))
            point /= np.linalg.norm(point)
            for _ in range(1 if method == "multislerp" else 200):
                if method == "multislerp":
                    step = sum(
                        w * (u - (u @ point) * point) for w, u in zip(weights, units)
                    )
                else:
                    step = 0
                    for w, u in zip(weights, units):
                        angle = math.acos(min(1, u @ point))
                        if angle > 1e-9:
                            away = u - (u @ point) * point
                            step = step + w * angle * away / np.linalg.norm(away)
                size = np.linalg.norm(step)
                if size > 1e-12:
                    point = point * math.cos(size) + step / size * math.sin(size)
            length = sum(w * n for w, n in zip(weights, lengths))
            return (length * point).reshape(SHAPE)
    raise AssertionError(method)


@pytest.fixture(params=["whole", "in blocks"])
def block(request, monkeypatch):
    """A parameter of these tests is one block, or many."""
    if request.param == "in blocks":
        monkeypatch.setattr(methods, "BLOCK", 50)


@pytest.mark.parametrize("method", sorted(set(METHODS) - RANDOM))
def test_a_method_is_its_formula(models, method, block):
    # float32 against float64 on values up to 4, after a few dozen operations.
    np.testing.assert_allclose(merged(models, method), plain(models, method), atol=5e-6)


@pytest.mark.parametrize(
    ("method", "options"),
    [(name, {}) for name in sorted(RANDOM)]
    + [("nuslerp", {"rows": 1}), ("sce", {"density": 0.3})],
)
def test_blocks_change_nothing(models, method, options, monkeypatch):
    whole = merged(models, method, **options)
    monkeypatch.setattr(methods, "BLOCK", 50)
    np.testing.assert_allclose(merged(models, method, **options), whole, atol=1e-6)


def test_sce_keeps_the_part_of_largest_variance(models):
    p, rm, a, b = (models[key] for key in ("parent", "rm", "a", "b"))
    deltas = np.stack([rm - p, a - p, b - p])
    variance = deltas.var(0)
    few = np.sort(variance.ravel())[-int(0.3 * variance.size)]
    dropped = variance < few
    found = merged(models, "sce", lam=1.0, density=0.3)
    np.testing.assert_allclose(found[dropped], p[dropped], atol=1e-6)
    assert (np.abs(found - p)[~dropped] > 1e-6).mean() > 0.95


@pytest.mark.parametrize("size", [1, 7, 300])
def test_ranks_are_those_of_sorted_values(size, monkeypatch):
    draw = np.random.default_rng(size)
    values = np.abs(draw.normal(size=(2, size))).astype(np.float32)
    values[0, : size // 3] = 0  # many of one size
    values[1, size // 2 :] = values[1, 0]
    monkeypatch.setattr(methods, "BLOCK", 50)
    x = methods.Inputs(torch.tensor(values[0]), [torch.tensor(values[1])], [1.0], 1.0)
    ranks = sorted({0, size // 2, size - 1})
    found = methods._at_ranks(x, lambda part: [part.rm, part.lms[0]], ranks)
    assert found == np.sort(values, axis=1)[:, ranks].tolist()


@pytest.mark.parametrize("method", ["dare_linear", "della_linear"])
def test_random_masks_keep_the_density_and_the_mean(models, method):
    delta = models["a"] - models["parent"]
    alone = {key: models[key] for key in ("parent", "rm", "a")}
    total = np.zeros(SHAPE)
    kept = 0
    for seed in range(300):
        found = merged(alone, method, 1.0, {"a": 1}, density=0.6, seed=seed)
        update = found - models["rm"]
        total += update / 300
        kept += (np.abs(update) > 1e-7).mean() / 300
    assert kept == pytest.approx(0.6, abs=0.01)
    # The mean of 300 draws: an entry's error is at most |δ|·sqrt((1-p)/p/300), p >= 0.45.
    assert np.abs(total - delta).mean() < 0.04 * np.abs(delta).mean()


@pytest.mark.parametrize(("method", "rest"), [("dare_ties", "ties"), ("della", "ties")])
def test_a_random_method_with_election_is_ties_on_what_it_kept(models, method, rest):
    found = merged(models, method, density=0.6)
    x = methods.Inputs(
        torch.tensor(models["rm"]).float(),
        [torch.tensor(models[key]).float() for key in "ab"],
        [0.75, 0.25],
        LAM,
        torch.tensor(models["parent"]).float(),
        "w",
    )
    sparse = []
    for index, delta in enumerate(x.task_vectors):
        random = x.generator(index - 1, 0)
        if method == "dare_ties":
            sparse.append(methods._drop(delta, 0.6, random))
        else:
            sparse.append(methods._drop_small(delta, 0.6, 0.15, random))
    deltas = [d.double().numpy() for d in sparse]
    wanted = elected(models["parent"], deltas, x.weights)
    np.testing.assert_allclose(found, wanted, atol=5e-6)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_lambda_zero_is_the_reward_model_bit_for_bit(models, method):
    found = merged(models, method, lam=0)
    assert (found == models["rm"].astype(np.float32)).all()


def test_at_density_one_sparse_methods_are_their_dense_ones(models):
    dense = merged(models, "task_arithmetic")
    for method in ("dare_linear", "della_linear", "breadcrumbs"):
        assert (merged(models, method, density=1.0) == dense).all()
    ties = merged(models, "ties", density=1.0)
    for method in ("dare_ties", "della", "breadcrumbs_ties"):
        assert (merged(models, method, density=1.0) == ties).all()


def test_ties_at_density_one_with_agreeing_signs_is_the_weighted_mean(models):
    delta = np.abs(models["a"] - models["parent"])
    agreeing = {
        "parent": models["parent"],
        "rm": models["parent"] + delta,
        "a": models["parent"] + 2 * delta,
        "b": models["parent"] + 3 * delta,
    }
    found = merged(agreeing, "ties", density=1.0)
    np.testing.assert_allclose(found, merged(agreeing, "linear"), atol=5e-6)


# These add the LM's task vector to the reward model's: more than either.
ADDITIVE = {"task_arithmetic", "dare_linear", "della_linear", "breadcrumbs"}


@pytest.mark.parametrize("method", sorted(set(METHODS) - ADDITIVE))
def test_equal_models_merge_to_themselves_where_there_is_nothing_to_prune(
    models, method
):
    rm = models["rm"]
    same = {"parent": models["parent"], "rm": rm, "a": rm, "b": rm}
    options = {"density": 1.0} if "density" in METHODS[method].options else {}
    np.testing.assert_allclose(merged(same, method, **options), rm, atol=1e-5)


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("case", ["zero", "huge", "parallel", "opposite", "one entry"])
def test_degenerate_tensors_give_finite_numbers(models, method, case):
    p, rm, a, b = (models[key].copy() for key in ("parent", "rm", "a", "b"))
    if case == "zero":
        p, rm, a, b = (np.zeros(SHAPE) for _ in range(4))
    elif case == "huge":
        p, rm, a, b = (1e15 * x for x in (p, rm, a, b))
    elif case == "parallel":
        p, a, b = np.zeros(SHAPE), 2 * rm, 3 * rm
    elif case == "opposite":
        p, a, b = np.zeros(SHAPE), -rm, -rm
    else:
        p, rm, a, b = (x[:1, 0] for x in (p, rm, a, b))
    for lam in (0.5, 1.0):
        found = merged({"parent": p, "rm": rm, "a": a, "b": b}, method, lam)
        assert np.isfinite(found).all()


@pytest.mark.parametrize("method", sorted(RANDOM))
def test_random_methods_depend_on_seed_and_name_alone(models, method):
    first = merged(models, method)
    assert (merged(models, method) == first).all()
    assert (merged(models, method, seed=1) != first).any()
    assert (merged(models, method, name="other") != first).any()
    torch.manual_seed(99)  # the world's own random numbers play no part
    assert (merged(models, method) == first).all()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_sixteen_bit_results_are_the_float32_ones_rounded(models, method):
    stored = {k: v.astype(np.float16).astype(np.float64) for k, v in models.items()}
    wide, narrow = merged(stored, method), merged(stored, method, dtype=torch.float16)
    # Half a unit in the last place of values up to 4; twice that for linear's two roundings.
    assert np.abs(wide - narrow).max() <= 2 * 2**-10


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("ties", {"density": 0}, "density .* above 0 to 1, got 0"),
        ("ties", {"density": 1.5}, "density .* above 0 to 1, got 1.5"),
        ("ties", {"density": "much"}, "density .* must be a number"),
        ("ties", {"density": math.nan}, "density .* must be a number"),
        ("ties", {"gamma": 0.1}, "'ties' has no option 'gamma'. It has density."),
        ("linear", {"density": 0.5}, "'linear' has no option 'density'. It has none."),
        ("dare_ties", {"seed": 1.5}, "seed .* must be a whole number"),
        (
            "della",
            {"density": 0.1, "epsilon": 0.2},
            "density - epsilon must be above 0",
        ),
        ("stir", {}, "no merge method 'stir'. Known: linear, task_arithmetic"),
    ],
)
def test_what_a_method_cannot_take_is_refused_with_the_range(method, options, words):
    with pytest.raises(RecipeError, match=words):
        check_method(Recipe(0.5, {"a": 1}, method, options), parent=True)


def test_a_method_without_its_parent_says_how_to_name_it(engine):
    with pytest.raises(RecipeError, match="--parent"):
        engine.apply(Recipe(0.5, {"math": 1}, "ties"))


@pytest.fixture(scope="module")
def with_parent(folders, tmp_path_factory):
    parent = save_lm(tmp_path_factory.mktemp("parent") / "base", 42)
    lms = {"math": folders["plain"], "code": folders["padded"]}
    return Family.of(folders["rm"], lms, name="tiny", parent=str(parent))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_live_and_exported_merges_are_the_same_bits(with_parent, tmp_path, method):
    """Held and mapped sources, an LM with a token of its own, every parameter."""
    from safetensors.torch import load_file

    recipe = Recipe(0.35, {"math": 2, "code": 1}, method)
    engine = Engine.load(with_parent, device="cpu", dtype="float16")
    engine.apply(recipe)
    export(with_parent, recipe, tmp_path / "out", "float16")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    for name, parameter in engine.model.named_parameters():
        assert torch.equal(stored[name], parameter), name
    assert torch.equal(stored["score.weight"], engine.sources.rm.read("score.weight"))


REACH = {"layers": [0.5, 1], "parts": {"attention": 0.5, "norms": 0}}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_layers_and_parts_scale_how_far_every_method_moves(
    with_parent, tmp_path, method
):
    """Each parameter is what the plain recipe makes of it at λ times its factor; exported too."""
    from safetensors.torch import load_file

    recipe = Recipe(0.8, {"math": 2, "code": 1}, method, **REACH)
    engine = Engine.load(with_parent, device="cpu", dtype="float16")
    live = dict(engine.model.named_parameters())
    wanted = {}
    for lam in (0.0, 0.2, 0.4, 0.8):
        engine.apply(Recipe(lam, recipe.shares, method))
        wanted[lam] = {name: p.clone() for name, p in live.items()}
    lams = {
        "model.embed_tokens.weight": 0.4,
        "model.layers.0.self_attn.k_proj.weight": 0.2,
        "model.layers.0.mlp.up_proj.weight": 0.4,
        "model.layers.1.self_attn.o_proj.weight": 0.4,
        "model.layers.1.mlp.down_proj.weight": 0.8,
        "model.layers.1.input_layernorm.weight": 0.0,
        "model.norm.weight": 0.0,
    }
    engine.apply(recipe)
    for name, lam in lams.items():
        assert torch.equal(live[name], wanted[lam][name]), name
    export(with_parent, recipe, tmp_path / "out", "float16")
    for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items():
        assert torch.equal(tensor, live[name]), name
    engine.apply(recipe.with_lam(0))
    for name, parameter in live.items():
        assert torch.equal(parameter, wanted[0.0][name]), name


@pytest.mark.parametrize("held", ["int8", "nf4"])
def test_layers_merge_in_few_bits_too(with_parent, held):
    pytest.importorskip("bitsandbytes")
    recipe = Recipe(0.8, {"math": 1}, **REACH)
    whole = Engine.load(with_parent, device="cpu", dtype="float32")
    small = Engine.load(with_parent, "cpu", "float32", held)
    groups = [("Name a prime.", ["7", "Nine is one"])]
    wanted, found = (score(one, recipe, groups)[0] for one in (whole, small))
    assert found == pytest.approx(wanted, abs=0.02)
    assert wanted != pytest.approx(score(whole, Recipe(0.8, {"math": 1}), groups)[0])


@pytest.mark.parametrize("layers", ["0,1,1", "middle"])
def test_layers_that_do_not_fit_the_model_touch_nothing(with_parent, tmp_path, layers):
    engine = Engine.load(with_parent, device="cpu", dtype="float32")
    before = engine.recipe
    wrong = Recipe(0.5, {"math": 1}, layers=layers)
    with pytest.raises(RecipeError, match="2 layers"):
        engine.apply(wrong)
    assert engine.recipe == before
    with pytest.raises(RecipeError, match="2 layers"):
        export(with_parent, wrong, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_parts_of_a_model_that_does_not_say_what_attends_are_refused(
    folders, monkeypatch
):
    from transformers import LlamaModel

    monkeypatch.setattr(LlamaModel, "_can_record_outputs", {})
    engine = Engine.load(Family.of(folders["rm"], {"math": folders["plain"]}))
    engine.apply(Recipe(0.5, {"math": 1}, layers="ramp"))
    with pytest.raises(RecipeError, match="q_proj.weight of a llama model is none of"):
        engine.apply(Recipe(0.5, {"math": 1}, parts={"mlp": 0.5}))


@pytest.mark.parametrize("held", ["int8", "nf4"])
@pytest.mark.parametrize("method", ["ties", "slerp", "dare_linear"])
def test_a_method_merges_in_few_bits_too(with_parent, method, held):
    pytest.importorskip("bitsandbytes")
    recipe = Recipe(0.35, {"math": 1}, method)
    whole = Engine.load(with_parent, device="cpu", dtype="float32")
    small = Engine.load(with_parent, "cpu", "float32", held)
    groups = [("Name a prime.", ["7", "Nine is one"])]
    wanted, found = (score(one, recipe, groups)[0] for one in (whole, small))
    assert found == pytest.approx(wanted, abs=0.02) and found != wanted


def test_every_option_has_a_default_in_its_range():
    for name, method in METHODS.items():
        assert options_of(Recipe(0.5, {"a": 1}, name)) == {
            key: option.default for key, option in method.options.items()
        }


def test_a_method_is_added_as_the_readme_shows(engine, folders, tmp_path, monkeypatch):
    """The README's own lines, run as they stand: live, exported, on the page, on the command line."""
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    (code,) = [block for block in blocks if "METHODS[" in block]
    (name,) = re.findall(r'METHODS\["(\w+)"\]', code)
    monkeypatch.setitem(METHODS, name, None)  # taken out again afterwards
    script = tmp_path / "my_methods.py"
    script.write_text(code, encoding="utf-8")
    runpy.run_path(str(script))
    recipe = Recipe(0.6, {"math": 1}, name, {"reach": 0.3})
    linear = Recipe(0.6 * 0.3, {"math": 1})
    group = [("Name a prime.", ["7", "Nine is one"])]
    wanted = score(engine, linear, group)[0]
    assert score(engine, recipe, group)[0] == pytest.approx(wanted, abs=1e-5)
    with pytest.raises(RecipeError, match="option reach .* from 0 to 1, got 2"):
        score(engine, Recipe(0.6, {"math": 1}, name, {"reach": 2}), group)
    export(engine.family, recipe, tmp_path / "out", "float32")
    written = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", dtype=torch.float32
    )
    live = dict(engine.model.named_parameters())
    with engine.using(recipe):
        for parameter, tensor in written.named_parameters():
            assert torch.equal(tensor, live[parameter]), parameter
    assert name in Studio(engine, "tiny").methods()
    assert widgets()["reach"].maximum == 1
    assert [w.visible for w in shown(name, {"reach": widgets()["reach"]})] == [True]
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Name a prime.", "responses": ["7", "Nine is one"]}')
    sources = [f"--rm={folders['rm']}", f"--lm=math={folders['plain']}"]
    options = [f"--method={name}", "--set=reach=0.3", "--lam=0.6", "--dtype=float32"]
    said = CliRunner().invoke(app, ["score", str(rows), *sources, *options])
    assert json.loads(said.stdout)["merged"] == pytest.approx(wanted, abs=1e-5)
