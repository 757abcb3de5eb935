"""Where a benchmark's rows come from: a local file or a hub set, checked row by row."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from dogerm.errors import InputError
from dogerm.rows import Row, read_objects

Rewards = Sequence[Sequence[float] | None]  # a row each; None for one that was skipped
Objects = list[tuple[str, dict[str, Any]]]  # where each stands, and what it holds


@dataclass(frozen=True)
class Settings:
    """How a benchmark is to be run, beside the family and the recipes.

    Args:
        data: the rows, a JSON Lines, CSV or Parquet file; None: the benchmark's hub set.
        revision: of the hub set; None: its newest.
        preset: "paper" does as the reference implementation, quirks included;
            "corrected" does what it meant. `Benchmark.rules` says how they differ.
        bad_rows: "stop" at a row that cannot be used, or "skip" and report it.
        xstest: whose weights RewardBench's two XSTest subsets have: upstream's, or those
            of DogeRM's copy, which swaps them; None: "dogerm" in the preset "paper".
        ns: sizes of best-of-N, ascending; the last is the whole.
        allow_code_execution: run the candidates' programs (in a sandbox).
        seconds: of CPU time that a program gets.
        workers: programs run at a time; None: one per core.
        verdicts: a file where the programs' verdicts are kept, for a run that is resumed.
        on_progress: called with the number of programs judged and of all.
        validation: share of the rows that λ is chosen on, 0 to below 1.
        seed: of the split and of every bootstrap.
    """

    data: Path | None = None
    revision: str | None = None
    preset: Literal["paper", "corrected"] = "paper"
    bad_rows: Literal["stop", "skip"] = "stop"
    xstest: Literal["upstream", "dogerm"] | None = None
    ns: tuple[int, ...] = (1, 2, 4, 8, 16)
    allow_code_execution: bool = False
    seconds: int = 3
    workers: int | None = None
    verdicts: Path | None = None
    on_progress: Callable[[int, int], None] | None = None
    validation: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if (
            not self.ns
            or any(n < 1 for n in self.ns)
            or list(self.ns) != sorted(set(self.ns))
        ):
            raise InputError(
                f"the sizes of best-of-N must be ascending whole numbers from 1, "
                f"got {self.ns}."
            )
        if not 0 <= self.validation < 1:
            raise InputError(
                f"the validation share must be from 0 to below 1, got {self.validation}."
            )

    @property
    def xstest_weights(self) -> str:
        """Whose weights the XSTest subsets have."""
        return self.xstest or ("dogerm" if self.preset == "paper" else "upstream")

    def to_json(self) -> dict[str, Any]:
        """What the numbers depend on: where files lie on this machine is no part of it."""
        data = {key.name: getattr(self, key.name) for key in fields(self)}
        for key in ("data", "revision", "workers", "verdicts", "on_progress"):
            del data[key]
        return data | {"ns": list(self.ns), "xstest": self.xstest_weights}


@dataclass(frozen=True)
class Dataset:
    """A benchmark's rows, and what is to be said of them in a report.

    Args:
        rows: in the file's order, each with an id that is unique among them.
        source: file name and SHA-256, or the hub set with its revision; and more, such
            as who ran the programs.
        left_out: what is not among the rows, and why, by where it stands.
    """

    rows: Sequence[Row]
    source: Mapping[str, Any]
    left_out: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The source, and how many were left out for each reason."""
        reasons: dict[str, int] = {}
        for reason in self.left_out.values():
            reasons[reason] = reasons.get(reason, 0) + 1
        return dict(self.source) | {"rows": len(self.rows), "left_out": reasons}


class LeftOut(Exception):
    """A row that a benchmark's own rules leave out; its text is the reason."""


def objects(
    settings: Settings, repository: str | None, files: str | None = None
) -> tuple[Objects, dict[str, Any]]:
    """The objects of settings.data, or of the hub set's Parquet files; and their source.

    Args:
        files: a pattern of the hub set's files, e.g. "data/filtered-*.parquet".

    Raises:
        InputError: the file cannot be read, or the hub set cannot be had.
    """
    if settings.data is not None:
        found = read_objects(settings.data)
        return found, {
            "file": settings.data.name,
            "sha256": hashlib.sha256(settings.data.read_bytes()).hexdigest(),
        }
    if repository is None:
        raise InputError("this benchmark has no hub set. Pass its rows: --data FILE.")
    folder, paths = _from_hub(repository, settings.revision, files)
    return [row for path in paths for row in read_objects(path)], {
        "hub": repository,
        "revision": folder.name,
    }


def gathered(
    found: Objects,
    make: Callable[[dict[str, Any], str, int], Row],
    settings: Settings,
    source: Mapping[str, Any],
) -> Dataset:
    """The rows made of the objects, with ids that are unique.

    Args:
        make: a row of an object, where it stands and its place from 0. Raises LeftOut
            for one that the benchmark's rules leave out, InputError for a bad one.

    Raises:
        InputError: a row is bad and settings say to stop; an id comes twice; no row is left.
    """
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    seen: dict[str, str] = {}
    for place, (where, data) in enumerate(found):
        try:
            row = make(data, where, place)
            if row.id in seen:
                raise InputError(
                    f"{where}: the id {row.id!r} was already used at {seen[row.id]}. "
                    "Every row needs an id of its own."
                )
        except LeftOut as reason:
            left_out[where] = str(reason)
        except InputError as error:
            if settings.bad_rows == "stop":
                raise InputError(
                    f"{error} Or pass --bad-rows skip to leave such rows out and count them."
                ) from None
            left_out[where] = str(error).removeprefix(f"{where}: ")
        else:
            seen[row.id] = where
            rows.append(row)
    if not rows:
        reasons = "; ".join(dict.fromkeys(left_out.values()))
        raise InputError(f"no row is left to score: {reasons}")
    return Dataset(rows, source, left_out)


def text(data: Mapping[str, Any], keys: Iterable[str], where: str) -> str:
    """The text under the first of the keys that is there.

    Raises:
        InputError: none of them is, or it is no text. Names the row.
    """
    keys = list(keys)
    for key in keys:
        if key in data:
            if not isinstance(data[key], str):
                raise InputError(f"{where}: {key} must be text, got {data[key]!r:.80}.")
            return data[key]
    raise InputError(
        f"{where}: {' or '.join(keys)} is missing; the keys are {', '.join(data)}."
    )


def own_id(data: Mapping[str, Any], place: int, keys: Iterable[str] = ("id",)) -> str:
    """The object's own id as text; its place, from 0, when it has none."""
    return next(
        (str(data[key]) for key in keys if data.get(key) is not None), str(place)
    )


def _from_hub(
    repository: str, revision: str | None, files: str | None
) -> tuple[Path, list[Path]]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError

    try:
        folder = Path(
            snapshot_download(
                repository, repo_type="dataset", revision=revision, allow_patterns=files
            )
        )
    except (HTTPError, HFValidationError, OSError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            f"the data set {repository} could not be had from the hub: {reason} "
            "Download it where there is a network, and pass --data FILE."
        ) from None
    paths = sorted(folder.glob(files))
    if not paths:
        raise InputError(
            f"the data set {repository} has no {files} at this revision. "
            "Pass another --revision, or its rows: --data FILE."
        )
    return folder, paths
