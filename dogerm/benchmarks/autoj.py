"""Auto-J's pairwise test set: is the response that people preferred given the higher reward?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dogerm.benchmarks.data import (
    Dataset,
    LeftOut,
    Rewards,
    Settings,
    gathered,
    objects,
    own_id,
    text,
)
from dogerm.benchmarks.report import Metric
from dogerm.errors import InputError
from dogerm.rows import Row, row_of

# Which scenarios make a group, as in the reference; the rest are Others.
GROUPS = {
    "Math": ("math_reasoning", "solving_exam_question_with_math"),
    "Code": (
        "code_simplification",
        "code_generation",
        "explaining_code",
        "code_to_code_translation",
        "code_correction_rewriting",
    ),
}
FIRST, SECOND, TIE = 0, 1, 2

# Percent, from the paper's poster. Those fine-tuned on Auto-J have seen these rows.
PUBLISHED = {
    "LLaMA-2 RM": {"Code": 76.2, "Math": 84.4, "Others": 79.2},
    "LLaMA-2 RM, fine-tuned on Auto-J Math": {
        "Code": 76.2,
        "Math": 90.2,
        "Others": 79.2,
    },
    "LLaMA-2 RM, fine-tuned on Auto-J Code": {
        "Code": 89.3,
        "Math": 84.4,
        "Others": 79.4,
    },
    "LLaMA-2 RM + MetaMath": {"Code": 79.8, "Math": 87.5, "Others": 79.3},
    "LLaMA-2 RM + MAmmoTH": {"Code": 79.8, "Math": 87.5, "Others": 79.7},
    "LLaMA-2 RM + Code Model": {"Code": 82.1, "Math": 87.5, "Others": 79.7},
    "LLaMA-2 RM + Math & Code": {"Code": 81.0, "Math": 87.5},
    "Mistral RM": {"Code": 88.1, "Math": 87.5},
    "Mistral RM + MAmmoTH2-Plus": {"Code": 88.1, "Math": 90.6},
}

_RULES = {
    "win": "preferred strictly above the other; a tie is no win",
    "label 2": "left out and counted",
    "empty response": "scored",
}
RULES = {
    # Its tokenizer was asked to truncate with no side named, so it cut the end of a
    # long answer, where the reward is read.
    "paper": _RULES | {"too long": "cut at the end, for a family of the paper's"},
    "corrected": _RULES | {"too long": "refused, unless the family or the run says"},
}


def read(settings: Settings) -> Dataset:
    """The pairs of `testdata_pairwise.jsonl`, the preferred response first; ties left out.

    A response with nothing in it is scored (the file has one), as in the reference.

    Raises:
        InputError: no file was named; a row lacks prompt, "response 1", "response 2",
            label or scenario, or its label is not 0, 1 or 2.
    """
    if settings.data is None:
        raise InputError(
            "Auto-J's test set is a file of its repository: pass "
            "--data testdata_pairwise.jsonl (github.com/GAIR-NLP/auto-j, data/test)."
        )
    found, source = objects(settings, None)
    return gathered(found, _pair, settings, source)


def metrics(
    rows: Sequence[Row], rewards: Rewards, settings: Settings
) -> dict[str, Metric]:
    """Math, Code, Others and Overall: chosen strictly above rejected."""
    margins: dict[str, list[float]] = {name: [] for name in (*GROUPS, "Others")}
    for row, own in zip(rows, rewards, strict=True):
        if own is not None:
            margins[group(row.data["scenario"])].append(own[0] - own[1])
    overall = [margin for found in margins.values() for margin in found]
    return {
        name: Metric.of_margins(found)
        for name, found in (margins | {"Overall": overall}).items()
    }


def group(scenario: str) -> str:
    """Which group a scenario counts in."""
    found = (name for name, scenarios in GROUPS.items() if scenario in scenarios)
    return next(found, "Others")


def groups(row: Row) -> tuple[str, ...]:
    """The metrics that a row counts in."""
    return group(row.data["scenario"]), "Overall"


def _pair(data: Mapping[str, Any], where: str, place: int) -> Row:
    first = text(data, ["response 1"], where)
    second = text(data, ["response 2"], where)
    label = data.get("label")
    text(data, ["scenario"], where)
    if label == TIE:
        raise LeftOut("a tie: people preferred neither (label 2)")
    if label not in (FIRST, SECOND) or isinstance(label, bool):
        raise InputError(
            f"{where}: label must be 0 (the first is better), 1 (the second) or 2 "
            f"(a tie), got {label!r}."
        )
    chosen, rejected = (first, second) if label == FIRST else (second, first)
    pair = {"prompt": text(data, ["prompt"], where)}
    pair |= {"chosen": chosen, "rejected": rejected, "scenario": data["scenario"]}
    return row_of(pair, where, own_id(data, place), may_be_empty=True)
