"""What a store says: the report, and the same as tables and a page for people and other programs."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dogerm.benchmarks.benchmark import BENCHMARKS, Benchmark, headline
from dogerm.benchmarks.data import Rewards, Settings
from dogerm.benchmarks.report import Measured, Report
from dogerm.benchmarks.run import STORE
from dogerm.benchmarks.statistics import Choice, choose
from dogerm.errors import InputError, StoreError
from dogerm.store import Job, Store, replacing


@dataclass(frozen=True)
class Results:
    """Everything a store holds, and what the benchmark makes of it.

    Args:
        job: rows, recipes and what the rewards depend on.
        rewards: for each recipe that every row has been scored under, the rows' rewards;
            None for a row that was skipped.
        unfinished: places of the other recipes.
        report: of the finished ones.
    """

    benchmark: Benchmark
    settings: Settings
    job: Job
    rewards: Mapping[int, Rewards]
    unfinished: Sequence[int]
    report: Report

    @classmethod
    def of(cls, folder: Path) -> Results:
        """Of the store in a folder; nothing else is read.

        Raises:
            StoreError: there is none, it is in use or damaged, or no recipe is finished.
        """
        path = folder / STORE
        if not path.is_file():
            raise StoreError(f"{folder} holds no results: there is no {STORE} in it.")
        with Store(path) as store:
            if not store.begun:
                raise StoreError(f"{path} is empty: its run was stopped at once.")
            job, found = store.job, store.read()
        wanted = [row for row in range(len(job.rows)) if row not in job.skipped]
        finished = [
            recipe
            for recipe in range(len(job.recipes))
            if all((recipe, row) in found for row in wanted)
        ]
        if not finished:
            raise StoreError(
                f"{folder}: {len(found)} of {len(wanted) * len(job.recipes)} rows are "
                "scored, but no recipe is finished. Run it again with --resume."
            )
        rewards = {
            recipe: [found.get((recipe, row)) for row in range(len(job.rows))]
            for recipe in finished
        }
        unfinished = [r for r in range(len(job.recipes)) if r not in rewards]
        about = job.provenance
        benchmark = BENCHMARKS[about["benchmark"]]
        settings = _settings(about["settings"])
        points = [
            Measured(job.recipes[recipe], benchmark.metrics(job.rows, own, settings))
            for recipe, own in rewards.items()
        ]
        named = _report_settings(job, [str(job.recipes[r]) for r in unfinished])
        report = Report(benchmark.name, about["family"]["source"], named, points)
        return cls(benchmark, settings, job, rewards, unfinished, report)

    @property
    def headline(self) -> list[str]:
        """What a table has room for."""
        return headline(self.report)

    @cached_property
    def choices(self) -> list[Choice]:
        """For each headline group that rewards decide and that was measured, the best recipe.

        Chosen on the validation rows; without any, the oracle. Its `recipe` is a place
        in report.recipes.
        """
        counted = {name for row in self.job.rows for name in self.benchmark.groups(row)}
        found = []
        for group in self.headline:
            if group in counted:
                try:
                    rewards = list(self.rewards.values())
                    rows = self.job.rows
                    found.append(
                        choose(self.benchmark, rows, rewards, self.settings, group)
                    )
                except InputError:  # none of its rows was judged: nothing to choose by
                    continue
        return found

    def write(self, folder: Path) -> list[Path]:
        """report.json, .csv, .parquet and .html, rows.jsonl and .parquet, choices.json."""
        from dogerm.benchmarks.page import page

        with replacing(folder / "report.json") as file:
            json.dump(self.report.to_json(), file, ensure_ascii=False, indent=1)
            file.write("\n")
        with replacing(folder / "choices.json") as file:
            json.dump(self.choices_json(), file, ensure_ascii=False, indent=1)
            file.write("\n")
        with replacing(folder / "rows.jsonl") as file:
            for row in self._rows():
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        metrics, rewards = self._metrics_table(), self._rewards_table()
        with replacing(folder / "report.csv") as file:
            table = csv.DictWriter(file, metrics[0], lineterminator="\n")
            table.writeheader()
            table.writerows(metrics)
        _write_parquet(folder / "report.parquet", metrics)
        _write_parquet(folder / "rows.parquet", rewards)
        with replacing(folder / "report.html") as file:
            file.write(page(self))
        names = ("json", "csv", "parquet", "html")
        files = [f"report.{name}" for name in names] + ["rows.jsonl", "rows.parquet"]
        files.append("choices.json")
        return [folder / name for name in files]

    def choices_json(self) -> list[dict[str, Any]]:
        """The choices, each with its recipe written out."""
        recipes = self.report.recipes
        return [
            choice.to_json() | {"recipe": recipes[choice.recipe].recipe.to_json()}
            for choice in self.choices
        ]

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Each row with its keys, and "rewards": a list for every finished recipe."""
        for place, row in enumerate(self.job.rows):
            skipped = self.job.skipped.get(place)
            own = [found[place] for found in self.rewards.values()]
            data = {"id": row.id} | dict(row.data)
            yield (
                data
                | {"rewards": None if skipped else own}
                | ({"skipped": skipped} if skipped else {})
            )

    def _metrics_table(self) -> list[dict[str, Any]]:
        """A line per recipe and group."""
        return [
            _recipe_columns(point) | {"group": group} | asdict(metric)
            for point in self.report.recipes
            for group, metric in point.metrics.items()
        ]

    def _rewards_table(self) -> list[dict[str, Any]]:
        """A line per recipe and row: its rewards, and whether it was right."""
        table = []
        for point, own in zip(self.report.recipes, self.rewards.values(), strict=True):
            right = self.benchmark.outcomes(self.job.rows, own, self.settings)
            columns = _recipe_columns(point)
            for row, rewards, outcome in zip(self.job.rows, own, right, strict=True):
                about = {"id": row.id, "rewards": rewards, "right": outcome}
                table.append(columns | about)
        return table


def _settings(data: Mapping[str, Any]) -> Settings:
    lists = {
        key: tuple(value) for key, value in data.items() if isinstance(value, list)
    }
    return Settings(**data | lists)


def _report_settings(job: Job, unfinished: Sequence[str]) -> dict[str, Any]:
    """What the numbers depend on beside the family and the recipes."""
    about = dict(job.provenance)
    own = about.pop("settings")
    named = own | {
        key: value for key, value in about.items() if key not in ("benchmark", "family")
    }
    named["skipped"] = len(job.skipped)
    return named | ({"unfinished": list(unfinished)} if unfinished else {})


def _recipe_columns(point: Measured) -> dict[str, Any]:
    own = point.recipe.to_json()
    lam, shares, method = own.pop("lam"), own.pop("shares"), own.pop("method")
    return {
        "lam": lam,
        "shares": json.dumps(shares, ensure_ascii=False),
        "method": method,
        "more": json.dumps(own, ensure_ascii=False),
    }


def _write_parquet(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    with replacing(path, binary=True) as file:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(table)), file)
