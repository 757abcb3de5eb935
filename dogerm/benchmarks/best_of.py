"""Best-of-N: of a problem's N candidates the one of highest reward is picked. Is it right?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import comb
from pathlib import Path
from typing import Any

from dogerm.benchmarks.data import Dataset, Objects, Rewards, Settings, objects
from dogerm.benchmarks.report import Metric
from dogerm.benchmarks.sandbox import MEMORY, PASSED, verdicts
from dogerm.errors import InputError
from dogerm.rows import Row

# Keys under which a plain row, or the reference's, holds its candidates and their labels.
CANDIDATES = ("candidates", "samples", "outputs", "responses")
LABELS = ("passed", "correct", "is_correct")


def problems(settings: Settings, outputs: str) -> tuple[Objects, dict[str, Any]]:
    """Each problem of a candidate file, where it stands, and the file's source.

    Two layouts: JSON Lines, a problem a line with `candidates` (or `samples`, or
    `outputs`); and the reference's .json, an object of problems, each an object of
    lists that repeat the problem once per candidate. The latter come out as the former,
    with `layout` in the source.

    Args:
        outputs: the key of the candidates in the reference's layout.

    Raises:
        InputError: no file was named, or it is neither.
    """
    if settings.data is None:
        raise InputError(
            "best-of-N needs candidates: pass --data FILE, a problem a line with "
            "its candidates, or make one with --generate MODEL."
        )
    if settings.data.suffix.lower() != ".json":
        found, source = objects(settings, None)
        return found, source | {"layout": "plain"}
    data, source = _json(settings.data)
    found = [
        (
            where := f"problem {key} of {settings.data.name}",
            _turned(own, where, outputs),
        )
        for key, own in data.items()
    ]
    return found, source | {"layout": "reference"}


def candidates(data: Mapping[str, Any], where: str, settings: Settings) -> list[str]:
    """The first N candidates of a problem, N the largest of settings.ns.

    Raises:
        InputError: there are fewer, or one is no text.
    """
    key = next((key for key in CANDIDATES if key in data), None)
    if key is None:
        raise InputError(
            f"{where}: {' or '.join(CANDIDATES)} is missing; the keys are {', '.join(data)}."
        )
    found, n = data[key], settings.ns[-1]
    if not isinstance(found, list) or not all(isinstance(c, str) for c in found):
        raise InputError(f"{where}: {key} must be a list of texts, got {found!r:.80}.")
    if len(found) < n:
        raise InputError(
            f"{where}: {len(found)} candidates, but best-of-{n} needs {n}. "
            "Pass smaller --ns, or make more candidates."
        )
    return found[:n]


def labels(data: Mapping[str, Any], where: str, n: int) -> list[bool]:
    """Which of the first n candidates are right, as the file says.

    Raises:
        InputError: it does not say, or not of so many.
    """
    key = next((key for key in LABELS if key in data), None)
    if key is None:
        raise InputError(
            f"{where}: nothing says which candidates are right. Pass "
            "--allow-code-execution to run them against the tests, or give `passed`, "
            "a list of true and false."
        )
    found = data[key]
    if not isinstance(found, list) or not all(isinstance(f, bool) for f in found):
        raise InputError(
            f"{where}: {key} must be a list of true and false, got {found!r:.80}."
        )
    if len(found) < n:
        raise InputError(f"{where}: {key} has {len(found)} of the {n} candidates.")
    return found[:n]


def judged(
    dataset: Dataset, programs: Mapping[str, list[str]], settings: Settings
) -> Dataset:
    """The dataset with `verdicts` and `correct` of each row's candidates, by running them.

    Args:
        programs: by row id, one per candidate: the candidate with its tests.
    """
    every = [program for row in dataset.rows for program in programs[row.id]]
    found = iter(
        verdicts(
            every,
            settings.seconds,
            settings.workers,
            settings.verdicts,
            settings.on_progress,
        )
    )
    rows = []
    for row in dataset.rows:
        own = [next(found) for _ in programs[row.id]]
        labels = {"correct": [v == PASSED for v in own], "verdicts": own}
        rows.append(replace(row, data=dict(row.data) | labels))
    source = dict(dataset.source) | {
        "labels": "executed",
        "sandbox": {"cpu_seconds": settings.seconds, "memory_bytes": MEMORY},
    }
    return replace(dataset, rows=rows, source=source)


def metrics(
    rows: Sequence[Row], rewards: Rewards, settings: Settings
) -> dict[str, Metric]:
    """best-of-n and pass@n for each n, majority@n where there are answers to count,
    and at the whole N majority, random (a pick at random, in expectation) and oracle (a
    right candidate whenever there is one).

    Candidates are taken in their order. Ties of best-of-n are problems where a right and
    a wrong candidate share the highest reward, so that their order decides.
    """
    judged = [
        (row, own) for row, own in zip(rows, rewards, strict=True) if own is not None
    ]
    right = [row.data["correct"] for row, _ in judged]
    found = {}
    for n in settings.ns:
        best = [_best(own[:n], labels[:n]) for (_, own), labels in zip(judged, right)]
        wins, ties = sum(won for won, _ in best), sum(tied for _, tied in best)
        found[f"best-of-{n}"] = Metric.of(wins, ties, len(judged))
    for n in settings.ns:
        passes = sum(_passes(labels, n, settings) for labels in right)
        found[f"pass@{n}"] = Metric.of(passes, 0, len(judged))
    if all("answers" in row.data for row in rows):
        for n in settings.ns:
            found[f"majority@{n}"] = _majority([row for row, _ in judged], n, settings)
        found["majority"] = found[f"majority@{settings.ns[-1]}"]
    n = settings.ns[-1]
    random = sum(sum(labels[:n]) / n for labels in right)
    oracle = sum(any(labels[:n]) for labels in right)
    found["random"] = Metric.of(random, 0, len(judged))
    found["oracle"] = Metric.of(oracle, 0, len(judged))
    return found


def outcomes(
    rows: Sequence[Row], rewards: Rewards, settings: Settings
) -> list[float | None]:
    """Per problem, whether the candidate picked of all N is right; None if skipped."""
    n = settings.ns[-1]
    return [
        None if own is None else float(_best(own[:n], row.data["correct"][:n])[0])
        for row, own in zip(rows, rewards, strict=True)
    ]


def groups(row: Row) -> tuple[str, ...]:
    """The metric that a problem's outcome counts in."""
    return (f"best-of-{len(row.data['correct'])}",)


def _best(rewards: Sequence[float], right: Sequence[bool]) -> tuple[bool, bool]:
    """Whether the first candidate of highest reward is right, and whether order decided."""
    top = [label for reward, label in zip(rewards, right) if reward == max(rewards)]
    return top[0], len(set(top)) > 1


def _passes(right: Sequence[bool], n: int, settings: Settings) -> float:
    """Whether one of the first n is right; "corrected": one of n drawn from all of them.

    Source of the latter: Chen et al., arXiv:2107.03374, equation 1.
    """
    if settings.preset == "paper":
        return float(any(right[:n]))
    wrong = len(right) - sum(right)
    return 1 - comb(wrong, n) / comb(len(right), n)


def _majority(rows: Sequence[Row], n: int, settings: Settings) -> Metric:
    """Whether the answer that most of the first n give is right; the first of equals.

    "paper" compares answers as text and lets "no answer" be elected; "corrected" compares
    numbers, and who gives no answer does not vote. Ties are problems with several firsts.
    """
    wins = ties = 0
    for row in rows:
        votes: dict[Any, list[bool]] = {}
        for answer, label in zip(row.data["answers"][:n], row.data["correct"]):
            if settings.preset == "corrected":
                if answer is None:
                    continue
                answer = float(answer)
            votes.setdefault(answer, []).append(label)
        most = max(map(len, votes.values()), default=0)
        first = [own for own in votes.values() if len(own) == most]
        wins += bool(first) and first[0][0]
        ties += len(first) > 1
    return Metric.of(wins, ties, len(rows))


def _json(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        raw = path.read_bytes()
        data = json.loads(raw)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{path} cannot be read: {reason}.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path.name} is not valid JSON: {error}.") from None
    if not isinstance(data, dict) or not data:
        raise InputError(
            f"{path.name} should be an object of problems, as the reference writes it. "
            "For a problem a line, name the file .jsonl."
        )
    return data, {"file": path.name, "sha256": hashlib.sha256(raw).hexdigest()}


def _turned(data: Any, where: str, outputs: str) -> dict[str, Any]:
    """One of the reference's problems, its lists of equal values made values."""
    lists = isinstance(data, dict) and all(isinstance(v, list) for v in data.values())
    if not lists or outputs not in data:
        raise InputError(
            f"{where}: this should be an object of lists with {outputs!r} among them."
        )
    n = len(data[outputs])
    for key, values in data.items():
        if len(values) != n or key != outputs and any(v != values[0] for v in values):
            raise InputError(
                f"{where}: {key} should repeat one value for each of the {n} candidates."
            )
    once = {key: values[0] for key, values in data.items() if key != outputs and values}
    return once | {"candidates": data[outputs]}
