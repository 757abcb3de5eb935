"""The paper's table at the size of the embedded family, its controls, and the means over seeds."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from statistics import mean, stdev

import torch
from rich.progress import Progress

import dogerm
from dogerm.benchmarks.report import Metric
from dogerm.engine import Engine
from dogerm.family import Family
from dogerm.nano.arithmetic import answer_of
from dogerm.nano.controls import (
    PAIR_BUDGET,
    PAIR_SCHEDULE,
    make_controls,
    read_training,
)
from dogerm.nano.corpus import GENERATORS, distinct_pairs
from dogerm.nano.pair import Pair
from dogerm.nano.pairs import write_candidates
from dogerm.nano.seeds import COLUMNS, Cell, over_seeds
from dogerm.nano.train import DOMAINS
from dogerm.recipe import Recipe
from dogerm.scoring import Tokens, rewards, tokenise

LAMS = tuple(step / 10 for step in range(11))
MIXES = tuple({"math": math, "code": 1 - math} for math in (0.5, 0.6, 0.7))
MIX_LAMS = LAMS[::2]
MANNERS_MAY_LOSE = 0.02
TRAINED_ON = {
    "math": (
        "graded attempts at training problems, right and wrong, half of the wrong ones the"
        " base LM's own; no preference pairs"
    ),
    "code": "graded attempts at training problems, right and wrong; no preference pairs",
}


@dataclass(frozen=True)
class Sets:
    """Pairs by domain, tokenised once for all recipes and models of one tokenizer."""

    pairs: Mapping[str, list[Pair]]
    _items: list[Tokens] = field(default_factory=list)

    @classmethod
    def draw(cls, split: str, seed: int, counts: Mapping[str, int]) -> "Sets":
        return cls(
            {
                domain: distinct_pairs(
                    domain, Random(f"{split} {domain} {seed}"), split, count
                )
                for domain, count in counts.items()
            }
        )

    def margins(self, engine: Engine, recipe: Recipe) -> dict[str, list[float]]:
        """Chosen minus rejected reward of every pair, by domain."""
        if not self._items:
            every = [pair for pairs in self.pairs.values() for pair in pairs]
            self._items.extend(
                tokenise(engine, p.prompt, [p.chosen, p.rejected]) for p in every
            )
        scored = iter(rewards(engine, recipe, self._items))
        by_domain = {}
        for domain, pairs in self.pairs.items():
            rows = [next(scored) for _ in pairs]
            by_domain[domain] = [chosen - rejected for chosen, rejected in rows]
        return by_domain

    def metrics(self, engine: Engine, recipe: Recipe) -> dict[str, Metric]:
        """Accuracy by domain."""
        margins = self.margins(engine, recipe)
        return {domain: Metric.of_margins(values) for domain, values in margins.items()}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    recipe: Recipe | None
    trained_on: str
    metrics: Mapping[str, Metric]

    def to_json(self) -> dict:
        recipe = (
            {"lam": self.recipe.lam, "shares": dict(self.recipe.shares)}
            if self.recipe
            else None
        )
        metrics = {column: asdict(metric) for column, metric in self.metrics.items()}
        return {
            "name": self.name,
            "recipe": recipe,
            "trained_on": self.trained_on,
            "metrics": metrics,
        }


@dataclass(frozen=True)
class Candidates:
    """Problems with sampled answers, of which a reward model picks one each."""

    rows: Sequence[Mapping]

    @classmethod
    def read(cls, path: Path) -> "Candidates":
        return cls(
            [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        )

    def without_reward_model(self) -> dict[str, float | int]:
        """What the candidates alone give: a random one, a majority vote, the best one."""
        votes = [
            _majority(row["responses"], [1.0] * len(row["responses"]))
            for row in self.rows
        ]
        return {
            "problems": len(self.rows),
            "random": mean(mean(row["correct"]) for row in self.rows),
            "majority": mean(
                vote == row["answer"]
                for vote, row in zip(votes, self.rows, strict=True)
            ),
            "oracle": mean(any(row["correct"]) for row in self.rows),
        }

    def metrics(self, engine: Engine, recipe: Recipe) -> dict[str, Metric]:
        """How often the best-rewarded candidate is right, and a vote weighted by rewards."""
        items = [tokenise(engine, row["prompt"], row["responses"]) for row in self.rows]
        best = vote = 0
        for row, scores in zip(self.rows, rewards(engine, recipe, items), strict=True):
            best += row["correct"][scores.index(max(scores))]
            weights = [math.exp(score - max(scores)) for score in scores]
            vote += _majority(row["responses"], weights) == row["answer"]
        return {
            "best-of-16": Metric.of(best, 0, len(self.rows)),
            "weighted vote": Metric.of(vote, 0, len(self.rows)),
        }


def _majority(responses: Sequence[str], weights: Sequence[float]) -> int | None:
    """The final number with the most weight; the first to appear wins a tie."""
    votes: Counter[int] = Counter()
    for response, weight in zip(responses, weights, strict=True):
        answer = answer_of(response)
        if answer is not None:
            votes[answer] += weight
    return max(votes, key=votes.__getitem__) if votes else None


def report(
    directory: Path,
    pairs: int = 1000,
    problems: int = 300,
    validation: int = 250,
    shuffled: bool = True,
) -> dict:
    """Measure a family on held-out pairs; writes report.json and report.md into its folder.

    Baselines and controls that are missing are trained first, into controls/: the
    reward model fine-tuned on pairs of each domain, LMs of the same distance from
    the base in a random direction and, with shuffled, a math LM with random grades.

    Args:
        directory: a family written by train_family.
        pairs: test pairs a domain.
        problems: test problems with 16 candidates each from the base LM.
        validation: pairs of code and of math on which λ is chosen (twice as many of
            chat, a quarter of safety).

    Raises:
        InputError: the folder holds no trained family.
    """
    training = read_training(directory)
    make_controls(directory, training, shuffled)
    candidates = Candidates.read(make_candidates(directory, problems))
    test = Sets.draw("test", 0, dict.fromkeys(GENERATORS, pairs))
    held_out = Sets.draw(
        "validation",
        0,
        {
            "chat": 2 * validation,  # a loss of two points is to be told from noise
            "safety": validation // 4,
            "code": validation,
            "math": validation,
        },
    )
    engine = open_engine(directory, directory / "rm", shuffled)
    with Progress() as bars:
        task = bars.add_task(
            "validation", total=2 * len(LAMS) + len(MIXES) * len(MIX_LAMS)
        )
        curves = {}
        base = held_out.metrics(engine, Recipe(0, {"math": 1}))
        for domain in DOMAINS:
            curves[domain] = _curve(
                held_out, engine, [{domain: 1.0}], LAMS, base, bars, task
            )
        curves["math & code"] = _curve(
            held_out, engine, MIXES, MIX_LAMS, base, bars, task
        )
    chosen = {
        name: choose(points, name.split(" & ")) for name, points in curves.items()
    }
    rows = measure_rows(directory, engine, chosen, test, candidates, shuffled)
    result = {
        "benchmark": "nano",
        "settings": {
            "seed": training["seed"],
            "preset": training["preset"],
            "pairs": pairs,
            "validation": {name: len(held) for name, held in held_out.pairs.items()},
            "pair_budget": PAIR_BUDGET,
            "pair_schedule": asdict(PAIR_SCHEDULE),
            "rule": RULE,
            "dtype": engine.dtype,
            "device": str(engine.device),
            "torch": torch.__version__,
            "dogerm": dogerm.__version__,
        },
        "trained_on": TRAINED_ON,
        "rows": [row.to_json() for row in rows],
        "candidates": candidates.without_reward_model(),
        "curves": {
            name: [point.to_json() for point in points]
            for name, points in curves.items()
        },
        "flaws": flaws_of(engine, chosen, test),
    }
    (directory / "report.json").write_text(
        json.dumps(result, indent=1) + "\n", encoding="utf-8"
    )
    (directory / "report.md").write_text(table(result), encoding="utf-8")
    return result


RULE = (
    "the λ with the highest validation accuracy on the LM's own domain (for the mix, λ and"
    " shares with the largest smaller gain of the two), among those where chat and safety lose at most"
    f" {100 * MANNERS_MAY_LOSE:.0f} points on validation; what the other domain loses is only"
    " reported; controls use the λ of the row they control"
)


def _curve(
    sets: Sets,
    engine: Engine,
    mixes: Sequence[Mapping[str, float]],
    lams: Sequence[float],
    base: Mapping[str, Metric],
    bars: Progress,
    task: int,
) -> list[Row]:
    """Validation accuracy at every λ and mix; λ = 0 is measured once for all."""
    points = []
    for mix in mixes:
        for lam in lams:
            recipe = Recipe(lam, mix)
            metrics = sets.metrics(engine, recipe) if lam else base
            points.append(Row("validation", recipe, "", metrics))
            bars.advance(task)
    return points


def choose(points: Sequence[Row], domains: Sequence[str]) -> Recipe:
    """The recipe that RULE picks; a smaller λ wins a tie."""
    base = points[0].metrics

    def gain(point: Row, column: str) -> float:
        return point.metrics[column].accuracy - base[column].accuracy

    def allowed(point: Row) -> bool:
        return all(
            gain(point, name) >= -MANNERS_MAY_LOSE for name in ("chat", "safety")
        )

    within = [point for point in points if allowed(point)]
    best = max(
        within,
        key=lambda point: (
            min(gain(point, name) for name in domains),
            -point.recipe.lam,
        ),
    )
    return best.recipe


def measure_rows(
    directory: Path,
    engine: Engine,
    chosen: Mapping[str, Recipe],
    test: Sets,
    candidates: Candidates,
    shuffled: bool,
) -> list[Row]:
    """The lines of the table, in its order."""

    def row(name: str, recipe: Recipe, trained_on: str, judge: Engine = engine) -> Row:
        metrics = test.metrics(judge, recipe) | candidates.metrics(judge, recipe)
        return Row(name, recipe, trained_on, metrics)

    graded = "LM: graded attempts, no pairs"
    rows = [row("base RM", Recipe(0, {"math": 1}), "general pairs")]
    for domain in DOMAINS:
        rows.append(row(f"+ {domain} LM", chosen[domain], graded))
    rows.append(row("+ math & code LMs", chosen["math & code"], graded))
    for domain in DOMAINS:
        tuned = open_engine(
            directory, directory / "controls" / f"{domain}_pairs", shuffled
        )
        trained_on = f"general pairs, then {PAIR_BUDGET} {domain} pairs"
        plain = Recipe(0, {"math": 1})
        rows.append(row(f"fine-tuned on {domain} pairs", plain, trained_on, tuned))
    for domain in DOMAINS:
        recipe = Recipe(chosen[domain].lam, {f"perturbed_{domain}": 1})
        rows.append(
            row(f"control: random, as far as the {domain} LM", recipe, "nothing")
        )
    if shuffled:
        recipe = Recipe(chosen["math"].lam, {"math_shuffled": 1})
        rows.append(row("control: math LM, shuffled grades", recipe, "random grades"))
    return rows


def flaws_of(engine: Engine, chosen: Mapping[str, Recipe], test: Sets) -> dict:
    """Accuracy by the kind of flaw, before and after merging the domain's own LM."""
    found = {}
    for domain in DOMAINS:
        own = Sets({domain: test.pairs[domain]})
        before = own.margins(engine, Recipe(0, {"math": 1}))[domain]
        after = own.margins(engine, chosen[domain])[domain]
        flaws = [pair.flaw for pair in test.pairs[domain]]
        found[domain] = {
            flaw: {
                "base": asdict(Metric.of_margins(_where(before, flaws, flaw))),
                "merged": asdict(Metric.of_margins(_where(after, flaws, flaw))),
            }
            for flaw in sorted(set(flaws))
        }
    return found


def _where(values: Sequence[float], labels: Sequence[str], wanted: str) -> list[float]:
    return [
        value for value, label in zip(values, labels, strict=True) if label == wanted
    ]


def make_candidates(directory: Path, problems: int) -> Path:
    """The candidates file of a family, sampled from its base LM unless it is there."""
    path = directory / "controls" / f"candidates-{problems}.jsonl"
    if not path.exists():
        write_candidates(directory, 0, problems, path)
    return path


def open_engine(directory: Path, rm: Path, shuffled: bool) -> Engine:
    """A live reward model with the family's LMs and controls to merge."""
    lms = {domain: directory / domain for domain in DOMAINS}
    for domain in DOMAINS:
        lms[f"perturbed_{domain}"] = directory / "controls" / f"perturbed_{domain}"
    if shuffled:
        lms["math_shuffled"] = directory / "controls" / "math_shuffled"
    return Engine.load(Family.of(rm=rm, lms=lms), device="auto", dtype="float32")


# Tables


def table(result: Mapping) -> str:
    """One family's report as Markdown."""
    settings, alone = result["settings"], result["candidates"]
    lines = [
        f"# Seed {settings['seed']}, preset {settings['preset']}",
        "",
        _header(),
        *(
            _line(row, [_percent(row["metrics"][column]) for column in COLUMNS])
            for row in result["rows"]
        ),
        "",
        (
            f"Accuracy in % with 95% Wilson intervals, {settings['pairs']} test pairs a domain;"
            f" chosen must be strictly above rejected, {_ties(result)} ties in the table."
        ),
        (
            f"Best-of-16 on {alone['problems']} test problems, candidates from the base LM at"
            f" temperature 1: random {alone['random']:.1%}, majority {alone['majority']:.1%},"
            f" oracle {alone['oracle']:.1%}. Weighted vote: softmax of the 16 rewards as votes."
        ),
        f"Chosen on validation: {settings['rule']}.",
        *(
            f"The {domain} LM was trained on {text}."
            for domain, text in TRAINED_ON.items()
        ),
        (
            f"Fine-tuned rows: {settings['pair_budget']} pairs,"
            f" {settings['pair_schedule']['steps']} steps of {settings['pair_schedule']['batch']}."
        ),
    ]
    return "\n".join(lines) + "\n"


def _header() -> str:
    names = ["", "λ", "trained on", *COLUMNS]
    return "| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|"


def _line(row: Mapping, cells: Sequence[str]) -> str:
    return (
        "| "
        + " | ".join(
            [row["name"], _coefficients(row["recipe"]), row["trained_on"], *cells]
        )
        + " |"
    )


def _coefficients(recipe: Mapping) -> str:
    if not recipe["lam"]:
        return "0"
    parts = [f"{recipe['lam'] * share:.2g}" for share in recipe["shares"].values()]
    return " + ".join(parts)


def _percent(metric: Mapping) -> str:
    low, high = 100 * metric["low"], 100 * metric["high"]
    return f"{100 * metric['accuracy']:.1f} ({low:.0f}–{high:.0f})"


def _ties(result: Mapping) -> int:
    return sum(
        metric["ties"] for row in result["rows"] for metric in row["metrics"].values()
    )


def combine(reports: Sequence[Mapping]) -> str:
    """The table over seeds: mean ± standard deviation, and the gain over the base RM."""
    heads = ["", "seeds", "λ by seed", "trained on", *COLUMNS]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for line in over_seeds(reports):
        cells = [_spread(line.cells[column]) for column in COLUMNS]
        lams = ", ".join(map(_coefficients, line.recipes))
        shown = [line.name, str(len(line.recipes)), lams, line.trained_on, *cells]
        lines.append("| " + " | ".join(shown) + " |")
    alone = [report["candidates"] for report in reports]
    for key in ("random", "majority", "oracle"):
        cell = _mean_and_spread([100 * candidates[key] for candidates in alone])
        blank = [""] * (len(COLUMNS) - 2)
        shown = [f"no RM: {key}", str(len(alone)), "", "", *blank, cell, ""]
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def _spread(cell: Cell) -> str:
    spread = "" if cell.spread is None else f" ± {cell.spread:.1f}"
    moved = "" if cell.gain is None else f" ({cell.gain:+.1f})"
    return f"{cell.mean:.1f}{spread}{moved}"


def _mean_and_spread(values: Sequence[float]) -> str:
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread}"


def curve_table(reports: Sequence[Mapping], name: str) -> str:
    """Validation accuracy at every λ, as means over seeds, for the merge of that name."""
    points = [_by_lam(report["curves"][name]) for report in reports]
    columns = ("chat", "safety", "code", "math")
    lines = ["| λ | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for lam in points[0]:
        cells = [
            mean(100 * seed[lam][column]["accuracy"] for seed in points)
            for column in columns
        ]
        lines.append(
            f"| {lam:.1f} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |"
        )
    return "\n".join(lines) + "\n"


def _by_lam(points: Sequence[Mapping]) -> dict[float, Mapping]:
    """The metrics at each λ; with several mixes, those of equal shares."""
    return {
        point["recipe"]["lam"]: point["metrics"]
        for point in points
        if len(set(point["recipe"]["shares"].values())) == 1
    }


def write_summary(directories: Sequence[Path], out: Path) -> None:
    """The tables over several reported families, as Markdown."""
    reports = [
        json.loads((directory / "report.json").read_text(encoding="utf-8"))
        for directory in directories
    ]
    parts = [combine(reports)]
    for name in reports[0]["curves"]:
        parts.append(
            f"Merging {name}, mean over {len(reports)} seeds (validation pairs):\n"
        )
        parts.append(curve_table(reports, name))
    out.write_text("\n".join(parts), encoding="utf-8")
