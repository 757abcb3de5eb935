"""Layer scans: every spot alone is merged, its chart and command."""

import json

import pytest
import torch
from conftest import save_lm, save_rm
from test_cli import PAIRS, lines, one_line, run, source  # noqa: F401
from transformers import AutoModelForCausalLM, LlamaForSequenceClassification

from dogerm.charts import layer_profile
from dogerm.engine import Engine
from dogerm.errors import InputError, RecipeError
from dogerm.family import Family
from dogerm.recipe import Recipe
from dogerm.scan import Profile, Scan, Spot, mean, scan, spots, walk
from dogerm.scoring import score, tokenise

PROMPT, ANSWERS = "Name a prime.", ["7", "Nine is one", "eleven!"]
RECIPE = Recipe(0.8, {"math": 1})


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A reward model and an LM that differ in layer 2 of four alone."""
    root = tmp_path_factory.mktemp("deep")
    rm, lm = root / "rm", save_lm(root / "lm", 1)
    save_rm(rm)
    config = LlamaForSequenceClassification.from_pretrained(rm).config
    config.num_hidden_layers = 4
    torch.manual_seed(3)
    model = LlamaForSequenceClassification(config)
    model.save_pretrained(rm)
    other = AutoModelForCausalLM.from_config(config)
    other.model.load_state_dict(model.model.state_dict())
    for parameter in other.model.layers[2].parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    other.save_pretrained(lm)
    family = Family.of(rm, {"math": lm}, name="deep")
    return Engine.load(family, device="cpu", dtype="float32")


def test_spots_are_the_recipe_confined():
    found = spots(Recipe(0.8, {"math": 1}, layers="ramp", parts={"mlp": 0.5}), 3, 2)
    assert [spot.name for spot in found] == ["embeddings", "layers 0–1", "layers 1–2"]
    assert [spot.recipe.layers for spot in found] == ["ramp", (0, 0.5, 0), (0, 0.5, 1)]
    assert dict(found[0].recipe.parts) == {"attention": 0, "mlp": 0, "norms": 0}
    assert dict(found[1].recipe.parts) == {"mlp": 0.5, "embeddings": 0}


@pytest.mark.parametrize("window", [0, 5, -1, 1.5, "2"])
def test_a_window_that_does_not_fit_is_refused_with_the_range(deep, window):
    with pytest.raises(RecipeError, match="from 1 to 4"):
        scan(deep, RECIPE, [], window)


def test_a_scan_finds_the_layer_that_differs(deep):
    """With only layer 2 merged the rewards are the whole merge's, elsewhere the base's."""
    [found] = scan(deep, RECIPE, [tokenise(deep, PROMPT, ANSWERS)])
    base, merged = (
        score(deep, r, [(PROMPT, ANSWERS)])[0] for r in (RECIPE.with_lam(0), RECIPE)
    )
    assert list(found.base) == base and list(found.merged) == merged
    assert max(abs(a - b) for a, b in zip(base, merged)) > 1e-3
    for spot, row in zip(found.spots, found.rewards, strict=True):
        wanted = merged if spot.name == "layer 2" else base
        assert list(row) == pytest.approx(wanted, abs=1e-5), spot.name
    [wide] = scan(deep, RECIPE, [tokenise(deep, PROMPT, ANSWERS)], window=2)
    names = [
        s.name for s, row in zip(wide.spots, wide.rewards) if row == found.rewards[3]
    ]
    assert names == ["layers 1–2", "layers 2–3"]


def test_disjoint_windows_and_the_embeddings_cover_every_parameter(engine):
    """Each parameter moves at exactly one spot."""
    anatomy = engine.fit.anatomy
    for name in engine.fit.merged:
        lams = [anatomy.local(spot.recipe, name).lam for spot in spots(RECIPE, 2)]
        assert sorted(lams) == [0, 0, 0.8], name


def made_up() -> Scan:
    names = ["embeddings", "layer 0", "layer 1"]
    return Scan(
        RECIPE,
        tuple(Spot(name, RECIPE) for name in names),
        base=(1.0, 2.0, 0.0),
        merged=(3.0, 2.5, 0.0),
        rewards=((1.0, 2.0, 0.0), (2.0, 2.0, 0.0), (2.5, 2.0, 0.0)),
    )


def test_flips_are_named_and_a_tie_is_none():
    found = made_up()
    assert found.flips == [None, None, (1, 0)]
    assert found.contest == (0, 1)
    assert found.to_json()["spots"][2] == {
        "name": "layer 1",
        "rewards": [2.5, 2.0, 0.0],
        "flip": {"before": 1, "after": 0},
    }
    profile = found.profile(0, 1)
    assert profile.margins == (-1, 0, 0.5) and profile.flips == (0, 0, 1)
    assert (profile.base, profile.merged) == (-1, 0.5)
    both = mean([profile, found.profile(1, 2)])
    assert both.margins == (0.5, 1, 1.25) and both.flips == (0, 0, 1) and both.rows == 2


def test_the_chart_shows_what_each_spot_changes():
    figure = layer_profile(made_up().profile(0, 1), "A", "B")
    [bars] = figure.data
    tops = [base + height for base, height in zip([bars.base] * 3, bars.y)]
    assert tops == pytest.approx([-1, 0, 0.5])
    assert list(bars.text) == ["", "", "flip"]
    assert len(set(bars.marker.color)) == 2
    assert list(figure.layout.xaxis.ticktext) == ["emb.", "0", "1"]
    words = [note.text for note in figure.layout.annotations]
    assert words == ["base −1.00", "all merged +0.50"]
    assert figure.layout.yaxis.title.text == "margin: A − B"
    several = Profile(("embeddings",), (1.0,), (2,), 0.0, 1.0, 7)
    figure = layer_profile(several, "chosen", "rejected")
    assert figure.data[0].text == ("2",)
    assert "mean margin of 7: chosen − rejected" == figure.layout.yaxis.title.text


def test_scan_writes_rows_report_and_chart(run, source, engine, tmp_path):  # noqa: F811
    file, out = tmp_path / "pairs.jsonl", tmp_path / "out"
    file.write_text(lines(PAIRS[:3]))
    result = run("scan", file, *source, "--lam=0.8", "--share=math=1", f"--out={out}")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (out / "rows.jsonl").open(encoding="utf-8")]
    items = [
        tokenise(engine, r["prompt"], [r["chosen"], r["rejected"]]) for r in PAIRS[:3]
    ]
    for row, wanted in zip(rows, scan(engine, RECIPE, items), strict=True):
        found = row["scan"]
        assert found["base"] == pytest.approx(wanted.base, abs=1e-5)
        assert [s["name"] for s in found["spots"]] == [
            "embeddings",
            "layer 0",
            "layer 1",
        ]
        for spot, rewards in zip(found["spots"], wanted.rewards):
            assert spot["rewards"] == pytest.approx(rewards, abs=1e-5)
    report = json.loads((out / "report.json").read_text())
    assert report["settings"]["spots"][:2] == ["base", "all"]
    assert len(report["recipes"]) == len(report["settings"]["spots"]) == 5
    assert Recipe.from_json(report["recipes"][3]).layers == (1, 0)
    assert "plotly" in (out / "scan.html").read_text(encoding="utf-8").lower()
    assert "Mean margin: base" in result.stderr and "rows." in result.stderr
    wrong = run("scan", file, *source, "--window=3", f"--out={tmp_path / 'none'}")
    assert "from 1 to 2" in one_line(wrong)
    assert not (tmp_path / "none").exists()


def test_a_walk_is_the_scan_of_one_prompt_merge_by_merge(deep):
    steps = list(walk(deep, PROMPT, ANSWERS, RECIPE, window=2))
    (wanted,) = scan(deep, RECIPE, [tokenise(deep, PROMPT, ANSWERS)], window=2)
    total = 2 + 1 + 3  # nothing, everything, the embeddings, three windows
    assert [step[:2] for step in steps] == [(done, total) for done in range(total + 1)]
    assert [found for _, _, found in steps[:-1]] == [None] * total
    assert steps[-1][2] == wanted


def test_a_walk_of_nothing_is_refused(deep):
    with pytest.raises(InputError, match="λ = 0 no layer is merged"):
        next(walk(deep, PROMPT, ANSWERS, RECIPE.with_lam(0)))
    with pytest.raises(InputError, match="two responses, got 1"):
        next(walk(deep, PROMPT, ANSWERS[:1], RECIPE))
