"""Story: the idea in six steps, told with the live model; every number is measured when it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from random import Random
from typing import Any

import gradio as gr

from dogerm.benchmarks import paper
from dogerm.engine import Engine
from dogerm.family import ASSETS
from dogerm.nano.corpus import distinct_pairs
from dogerm.nano.pair import Pair
from dogerm.nano.seeds import over_seeds, read_seeds
from dogerm.recipe import Recipe
from dogerm.scoring import score
from dogerm.ui.controls import Controls
from dogerm.ui.playground import ENGINE, QUIET, errors_for_people

DOMAINS = ("math", "code")  # that the story can be told of
PAIRS, PAIRS_OF_LARGE = 40, 12  # held-out pairs that are judged for it
LARGE = 1e8  # parameters
SHOWN = ("chat", "safety", "code", "math")  # columns of the last step's table


def build(controls: Controls) -> None:
    """What the page asks of the server; the telling itself is story.js."""
    studio = controls.studio
    plan = gr.JSON(visible="hidden", elem_id="story-frame")
    begin = gr.Button("Tell the story", visible="hidden", elem_id="story-begin")

    def plan_story() -> dict[str, Any]:
        with errors_for_people():
            return planned(studio.engine)

    made = begin.click(plan_story, None, plan, trigger_mode="once", **QUIET, **ENGINE)
    made.success(None, [plan], None, js="plan => dogerm.story(plan)")


def planned(engine: Engine) -> dict[str, Any]:
    """What the story is told with: a pair that is judged well, one that merging puts right, counts.

    Held-out pairs of the embedded family's generators are scored by the live model under
    λ = 0 and the family's λ. The second pair is the one that turns most clearly; without
    one that turns, the first that the base RM has wrong.
    """
    family = engine.family
    domain = next((name for name in DOMAINS if name in family.lms), DOMAINS[0])
    recipe = family.recipe(None, {domain: 1.0} if domain in family.lms else None)
    if recipe.lam == 0:
        recipe = recipe.with_lam(0.5)
    count = PAIRS if engine.size < LARGE else PAIRS_OF_LARGE
    chat = distinct_pairs("chat", Random("story"), "test", count // 4)
    pairs = distinct_pairs(domain, Random("story"), "test", count)
    base = _margins(engine, recipe.with_lam(0), pairs)
    merged = _margins(engine, recipe, pairs)
    manners = _margins(engine, recipe.with_lam(0), chat)
    clearest = max(range(count), key=lambda i: (min(-base[i], merged[i]), -base[i]))
    first = max(range(len(chat)), key=manners.__getitem__)
    return {
        "family": family.title or family.name,
        "domain": domain,
        "lam": recipe.lam,
        "shares": dict(recipe.shares),
        "chat": _example(chat[first], first),
        "pair": _example(pairs[clearest], clearest),
        "counts": {
            "pairs": count,
            "base": sum(margin > 0 for margin in base),
            "merged": sum(margin > 0 for margin in merged),
        },
        "milliseconds": 1e3 * engine.apply(recipe).seconds,
        "table": _table(engine, domain),
    }


def _margins(engine: Engine, recipe: Recipe, pairs: Sequence[Pair]) -> list[float]:
    groups = [(pair.prompt, (pair.chosen, pair.rejected)) for pair in pairs]
    return [chosen - rejected for chosen, rejected in score(engine, recipe, groups)]


def _example(pair: Pair, place: int) -> dict[str, Any]:
    """A pair as responses, the right one as often the first as the second."""
    right = place % 2
    both = [pair.chosen, pair.rejected]
    responses = both[::-1] if right else both
    return {"prompt": pair.prompt, "responses": responses, "right": right}


def _table(engine: Engine, domain: str) -> dict[str, Any]:
    """What merging gives, measured over seeds for the embedded family, else the paper's."""
    reports = read_seeds()
    if reports and str(engine.family.rm).startswith(str(ASSETS / "nano")):
        lines = {line.name: line for line in over_seeds(reports)}
        base, own = lines["base RM"], lines[f"+ {domain} LM"]
        return {
            "source": "seeds",
            "seeds": len(reports),
            "columns": list(SHOWN),
            "rows": [
                {
                    "name": line.name,
                    "values": [asdict(line.cells[column])["mean"] for column in SHOWN],
                }
                for line in (base, own)
            ],
        }
    columns = [column for column in paper.COLUMNS if column.benchmark == "rewardbench"]
    whole = [
        name
        for name in paper.MADE_OF
        if all(paper.published(name, column) is not None for column in columns)
    ]
    merged = max(whole, key=lambda name: paper.gain(name, columns[-1]) or 0)
    return {
        "source": "paper",
        "seeds": 0,
        "columns": [column.heading for column in columns],
        "rows": [
            {
                "name": name,
                "values": [paper.published(name, column) for column in columns],
            }
            for name in (paper.base_of(merged), merged)
        ],
    }
