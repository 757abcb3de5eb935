"""Preference pairs of one's own: how often the chosen response gets the higher reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dogerm.benchmarks.data import (
    Dataset,
    Rewards,
    Settings,
    gathered,
    objects,
    own_id,
)
from dogerm.benchmarks.report import Measured, Metric, Report, settings
from dogerm.engine import Engine
from dogerm.provenance import described
from dogerm.recipe import Recipe
from dogerm.rows import Row, Tokenised, row_of


def read(own: Settings) -> Dataset:
    """The rows of anyone's file: `prompt` with chosen and rejected, or with `responses`.

    Raises:
        InputError: no file was named; a row is neither of the two, or its id comes twice.
    """
    found, source = objects(own, None)
    return gathered(found, _row, own, source)


def report(
    engine: Engine,
    rows: Tokenised,
    recipes: Sequence[Recipe],
    rewards: Sequence[Rewards],
) -> Report:
    """Accuracy under each recipe, by the rows' `domain` and Overall.

    Rows with `responses` say nothing about which is better and count in no metric.

    Args:
        rewards: for each recipe, each row's rewards in the row's own order.
    """
    points = [
        Measured(recipe, metrics(rows.rows, own))
        for recipe, own in zip(recipes, rewards, strict=True)
    ]
    family = described(engine.family)
    return Report("pairs", family, settings(engine, rows), points)


def metrics(rows: Sequence[Row], rewards: Rewards) -> dict[str, Metric]:
    """Accuracy of the pairs by domain, in order of first appearance, then Overall."""
    margins: dict[str, list[float]] = {}
    overall: list[float] = []
    for row, own in zip(rows, rewards, strict=True):
        if not row.is_pair:
            continue
        domain = row.data.get("domain")
        group = [] if domain is None else margins.setdefault(str(domain), [])
        if own is not None:
            chosen, rejected = own
            group.append(chosen - rejected)
            overall.append(chosen - rejected)
    return {
        name: Metric.of_margins(found)
        for name, found in (margins | {"Overall": overall}).items()
    }


def best(report: Report) -> Measured:
    """The recipe with the highest overall accuracy on these pairs; the smallest λ of equals."""
    return max(report.recipes, key=lambda point: point.metrics["Overall"].accuracy or 0)


def outcomes(rows: Sequence[Row], rewards: Rewards) -> list[float | None]:
    """1 where chosen is strictly above rejected, else 0; None where nothing was judged."""
    return [
        float(own[0] > own[1]) if own is not None and row.is_pair else None
        for row, own in zip(rows, rewards, strict=True)
    ]


def groups(row: Row) -> tuple[str, ...]:
    """The metrics that a row counts in: its domain's and Overall; none if it is no pair."""
    if not row.is_pair:
        return ()
    domain = row.data.get("domain")
    return ("Overall",) if domain is None else (str(domain), "Overall")


def _row(data: Mapping[str, Any], where: str, place: int) -> Row:
    return row_of(data, where, own_id(data, place))
