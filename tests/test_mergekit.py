"""mergekit's YAML, written and read, and a recipe's other forms."""

import json
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from conftest import save_lm
from safetensors.torch import load_file
from test_cli import one_line, run  # noqa: F401
from test_formats import architecture  # noqa: F401

from dogerm.checkpoint import Checkpoint, anatomy_of
from dogerm.engine import Engine
from dogerm.errors import RecipeError
from dogerm.family import Family
from dogerm.merge import METHODS
from dogerm.mergekit import FORMS, from_yaml, to_yaml
from dogerm.recipe import Recipe
from dogerm.written import as_command, as_python

WHOLE = {name for name, form in FORMS.items() if form.weights == "whole"}


@pytest.fixture(scope="module")
def family(folders, tmp_path_factory):
    """LMs named as their folders are, so that a file says their names too."""
    parent = save_lm(tmp_path_factory.mktemp("parent") / "base", 42)
    lms = {name: folders[name] for name in ("plain", "padded")}
    return Family.of(folders["rm"], lms, name="tiny", parent=str(parent))


def read(text: str, rm: str, lines: str = ""):
    anatomy = anatomy_of(Checkpoint(rm, "rm", weights=False))
    return from_yaml(text + lines, lambda source: source == str(rm), lambda _: anatomy)


def recipe_for(method: str, **reach) -> Recipe:
    form = FORMS[method]
    shares = {"plain": 1} if form.one_lm else {"plain": 2, "padded": 1}
    options = {k: v.default for k, v in METHODS[method].options.items() if k != "seed"}
    if method in WHOLE:
        shares = dict.fromkeys(shares, 1)
        lam = len(shares) / (len(shares) + 1) if method == "karcher" else 1
        return Recipe(round(lam, 12), shares, method, options)
    return Recipe(0.35, shares, method, options, **reach)


def test_every_method_has_a_form():
    assert set(FORMS) == set(METHODS)


@pytest.mark.parametrize("method", sorted(FORMS))
def test_what_is_written_is_read_back(family, method):
    recipe = recipe_for(method)
    found = read(to_yaml(family, recipe, "float16"), family.rm)
    assert found.recipe == recipe
    assert (found.family.rm, dict(found.family.lms)) == (
        family.rm,
        {name: family.lms[name] for name in recipe.shares},
    )
    assert found.family.parent == (
        family.parent if METHODS[method].needs_parent else None
    )
    assert found.dtype == "float16"


@pytest.mark.parametrize("method", sorted(set(FORMS) - WHOLE))
@pytest.mark.parametrize(
    "reach",
    [
        {"layers": "ramp"},
        {"layers": [1, 0.25]},
        {"parts": {"attention": 0.5, "norms": 0}},
        {"layers": [0.5, 1], "parts": {"mlp": 0.25, "embeddings": 0}},
        {"layers": "ramp-down", "parts": {"norms": 0.5}},
    ],
)
def test_layers_and_parts_are_read_back(family, method, reach):
    recipe = recipe_for(method, **reach)
    assert read(to_yaml(family, recipe), family.rm).recipe == recipe


@pytest.mark.parametrize("parts", [{}, {"attention": 0.5, "norms": 0}, {"mlp": 0}])
def test_parts_are_read_back_from_every_architecture(architecture, parts):  # noqa: F811
    rm, lm = architecture
    family = Family.of(rm, {"lm": lm})
    recipe = Recipe(0.4, {"lm": 1}, layers=[0.5, 1], parts=parts)
    assert read(to_yaml(family, recipe), str(rm)).recipe == recipe


def test_the_yaml_says_what_mergekit_says(family):
    recipe = Recipe(0.4, {"plain": 3, "padded": 1}, layers="middle")
    data = yaml.safe_load(to_yaml(family, recipe))
    assert data["merge_method"] == "linear" and "base_model" not in data
    assert data["parameters"] == {"normalize": False}
    weights = {m["model"]: m["parameters"]["weight"] for m in data["models"]}
    assert weights == {
        family.rm: [1.0, 0.6, 1.0],
        family.lms["padded"]: [0.0, 0.1, 0.0],
        family.lms["plain"]: [0.0, 0.3, 0.0],
    }
    ties = yaml.safe_load(to_yaml(family, Recipe(0.4, {"plain": 1}, "dare_linear")))
    assert ties["base_model"] == family.parent
    assert [m["parameters"] for m in ties["models"]] == [
        {"weight": 1.0, "density": 1.0},
        {"weight": 0.4, "density": 0.5},
    ]


LINEAR = """
merge_method: linear
models:
  - {{model: {rm}, parameters: {{weight: 3}}}}
  - {{model: {plain}, parameters: {{weight: 1}}}}
"""
TIES = """
merge_method: ties
base_model: {parent}
models:
  - model: {parent}
  - {{model: {rm}, parameters: {{weight: 1, density: 0.5}}}}
  - model: {plain}
    parameters:
      weight: [0, 0.5, 1]
      density: 0.5
parameters: {{int8_mask: true}}
dtype: bfloat16
tokenizer_source: union
"""


def filled(text, family):
    return text.format(rm=family.rm, parent=family.parent, **family.lms)


def test_files_as_others_write_them(family):
    found = read(filled(LINEAR, family), family.rm)
    assert found.recipe == Recipe(0.25, {"plain": 1}) and found.dtype is None
    found = read(filled(TIES, family), family.rm)
    # λ is w/(1 + w): 0 in the first layer, where w is 0, and 1/2 in the last.
    wanted = Recipe(0.5, {"plain": 1}, "ties", {"density": 0.5}, layers="ramp")
    assert found.recipe == wanted and found.dtype == "bfloat16"
    [note] = found.notes
    assert "model.norm.weight is merged with λ = 0.5" in note and "λ = 0," in note


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("merge_method: linear", "merge_method: passthrough"), "'passthrough' has no"),
        (
            ("models:", "slices: [1]\nmodels:"),
            "slices is not read: layers are not taken",
        ),
        (
            ("models:", "tokenizer_source: base\nmodels:"),
            "tokenizer_source is not read",
        ),
        (
            ("models:", "tokenizer: {{source: union, tokens: 3}}\nmodels:"),
            "tokenizer is",
        ),
        (("models:", "chat_template: auto\nmodels:"), "chat_template is not read"),
        (("models:", "colour: red\nmodels:"), "'colour' is not read"),
        (("weight: 3", "weight: -3"), "must not be negative"),
        (("weight: 3", "weight: heavy"), "weight must be a number, got 'heavy'"),
        (("weight: 3", "mass: 3"), "linear has no setting 'mass'"),
        (("{{weight: 3}}", "{{}}"), "weight is missing for"),
        (
            ("models:", "parameters: {{normalize: false}}\nmodels:"),
            "sum to 4, not to 1",
        ),
        (("weight: 3", "weight: [true, 1]"), "must be numbers over the layers"),
        (("weight: 3", "weight: [{{filter: q_proj, value: 1}}, 3]"), "got .*filter"),
        (
            ("weight: 3", "weight: [{{filter: q_proj, value: 1}}, {{value: 3}}]"),
            "differ from the rest in a way that layers and parts",
        ),
        (("{rm}", "{padded}"), "none is"),
        (("{plain}", "{plain}+lora"), r"without a \+LORA"),
        (("{plain}", "{rm}"), "named twice"),
        (("merge_method: linear", "merge_method: [linear"), "this is not YAML"),
    ],
)
def test_what_has_no_counterpart_is_one_sentence(family, change, words):
    text = filled(LINEAR.replace(*change), family)
    with pytest.raises(RecipeError, match=words):
        read(text, family.rm)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("base_model: {parent}\n", ""), "ties needs base_model"),
        (("base_model: {parent}", "base_model: {rm}"), "must be the pretrained model"),
        (
            ("int8_mask: true", "normalize: false"),
            "normalize must be true .* got false",
        ),
        (("int8_mask: true", "lambda: 0.5"), "lambda must be 1 for ties, got 0.5"),
        (("merge_method: ties", "merge_method: dare_ties"), "normalize .*by default"),
        (
            ("density: 0.5}", "density: 0.7}"),
            r"density has several values \(0.5, 0.7\)",
        ),
        (("density: 0.5}", "density: 0.5, gamma: 0.1}"), "ties has no setting 'gamma'"),
        (("weight: 1, density", "weight: 0, density"), "sum to 0, not to 1"),
    ],
)
def test_settings_with_another_meaning_are_refused(family, change, words):
    with pytest.raises(RecipeError, match=words):
        read(filled(TIES.replace(*change), family), family.rm)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Recipe(0.5, {"plain": 1, "padded": 1}, "slerp"), "slerp takes one LM"),
        (Recipe(0.5, {"plain": 1}, "nearswap"), "can say λ = 1 with"),
        (Recipe(1, {"plain": 2, "padded": 1}, "sce"), "with equal shares"),
        (Recipe(1, {"plain": 1}, "model_stock", layers="ramp"), "layers and parts"),
    ],
)
def test_what_mergekit_cannot_say_is_refused(family, recipe, words):
    with pytest.raises(RecipeError, match=words):
        to_yaml(family, recipe)


def test_a_file_merges_as_its_recipe_does(run, family, tmp_path):  # noqa: F811
    file, out = tmp_path / "mine.yaml", tmp_path / "out"
    recipe = Recipe(0.4, {"plain": 1}, "ties", {"density": 0.6}, parts={"mlp": 0.5})
    file.write_text(to_yaml(family, recipe, "float32"))
    result = run("merge", "--mergekit", file, "--out", out)
    assert result.exit_code == 0, result.output
    lms = {"plain": family.lms["plain"]}
    engine = Engine.load(
        Family.of(family.rm, lms, parent=family.parent), "cpu", "float32"
    )
    engine.apply(recipe)
    for name, tensor in load_file(out / "model.safetensors").items():
        assert torch.equal(tensor, engine.model.get_parameter(name)), name
    both = run("merge", "--mergekit", file, "--lam=0.5", "--out", tmp_path / "other")
    assert both.exit_code == 2
    file.write_text(file.read_text() + "chat_template: auto\n")
    sentence = one_line(run("merge", "--mergekit", file, "--out", tmp_path / "other"))
    assert "mine.yaml" in sentence and "chat_template" in sentence
    gone = run(
        "merge", "--mergekit", tmp_path / "gone.yaml", "--out", tmp_path / "other"
    )
    assert "gone.yaml" in one_line(gone)
    assert not (tmp_path / "other").exists()


def test_a_recipe_is_written_in_every_form(run, family):  # noqa: F811
    recipe = Recipe(
        0.35,
        {"plain": 2, "padded": 1},
        "ties",
        {"density": 0.6},
        [0.5, 1],
        {"mlp": 0.5},
    )
    words = shlex.split(as_command(family, recipe))
    assert words[:4] == ["python", "-m", "dogerm", "merge"]
    options = words[4 : words.index("--out")]
    for form in ("json", "mergekit", "python", "cli"):
        result = run("recipe", *options, f"--as={form}")
        assert result.exit_code == 0, result.output
        if form == "json":
            assert Recipe.from_json(json.loads(result.stdout)) == recipe
        elif form == "mergekit":
            assert read(result.stdout, family.rm).recipe == recipe
        elif form == "cli":
            assert shlex.split(result.stdout) == words
        else:
            names: dict = {}
            exec(result.stdout.split("engine =")[0], names)  # noqa: S102
            assert names["recipe"] == recipe
            assert dict(names["family"].lms) == dict(family.lms)


def test_a_shipped_family_goes_by_its_name():
    nano = Family.load("nano")
    assert "--family nano --lam" in as_command(nano, nano.recipe())
    assert "Family.load('nano')" in as_python(nano, nano.recipe())
    assert Path(nano.rm).name == "rm"
