"""What the embedded family's seeds measured, from their stored reports: curves, and the table over them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from dogerm.benchmarks.report import Measured, Metric, Report
from dogerm.benchmarks.stored import Stored
from dogerm.family import ASSETS
from dogerm.recipe import Recipe

RESULTS = ASSETS / "results"
COLUMNS = ("chat", "safety", "code", "math", "best-of-16", "weighted vote")


@dataclass(frozen=True)
class Cell:
    """A column of one line over seeds, in percent.

    Args:
        spread: standard deviation; None with a single seed.
        gain: over the base RM of the same seeds; None for the base RM itself.
        gain_spread: standard deviation of the gain; None with a single seed.
    """

    mean: float
    spread: float | None = None
    gain: float | None = None
    gain_spread: float | None = None


@dataclass(frozen=True)
class Line:
    """A model of the table: what each seed's was merged by, and its columns."""

    name: str
    trained_on: str
    recipes: Sequence[Mapping]
    cells: Mapping[str, Cell]


def read_seeds(folder: Path = RESULTS) -> list[dict]:
    """The reports of `nano report`, one per seed."""
    files = sorted(folder.glob("nano-seed*.json"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def over_seeds(reports: Sequence[Mapping]) -> list[Line]:
    """Every model of the first report, over the reports that have it."""
    base, lines = reports[0]["rows"][0]["name"], []
    for name in (row["name"] for row in reports[0]["rows"]):
        having = [(_row(report, base), _row(report, name)) for report in reports]
        having = [(plain, own) for plain, own in having if own]
        rows = [own for _, own in having]
        cells = {column: _cell(having, column, name == base) for column in COLUMNS}
        recipes = [row["recipe"] for row in rows]
        lines.append(Line(name, rows[0]["trained_on"], recipes, cells))
    return lines


def curves_of(report: Mapping, family: str = "nano") -> list[Stored]:
    """Accuracy over λ of each merge on validation pairs, and what that chose on test pairs."""
    seed = report["settings"]["seed"]
    found = []
    for name, points in report["curves"].items():
        domains = name.split(" & ")
        measured = [
            Measured(
                Recipe(point["recipe"]["lam"], point["recipe"]["shares"]),
                {group: Metric(**own) for group, own in point["metrics"].items()},
            )
            for point in points
        ]
        chosen = _row(report, f"+ {name} LM" + ("s" if len(domains) > 1 else ""))
        choices = [
            {
                "rule": "validation",
                "group": domain,
                "recipe": {**chosen["recipe"], "method": "linear"},
                "chosen_on": measured[0].metrics[domain].n,
                "metrics": chosen["metrics"],
            }
            for domain in (domains if chosen else ())
        ]
        about = {"name": f"{family}, seed {seed}", "rm": "rm", "lms": {}}
        settings = {**report["settings"], "trained_on": report["trained_on"]}
        own = Report("nano", about, settings, measured)
        found.append(Stored(f"{family} seed {seed}, {name}", own, choices))
    return found


def _row(report: Mapping, name: str) -> Mapping | None:
    return next((row for row in report["rows"] if row["name"] == name), None)


def _cell(having: Sequence[tuple[Mapping, Mapping]], column: str, base: bool) -> Cell:
    def percent(row: Mapping) -> float:
        return 100 * row["metrics"][column]["accuracy"]

    values = [percent(own) for _, own in having]
    gains = [percent(own) - percent(plain) for plain, own in having]
    several = len(values) > 1
    return Cell(
        mean(values),
        stdev(values) if several else None,
        None if base else mean(gains),
        stdev(gains) if several and not base else None,
    )
