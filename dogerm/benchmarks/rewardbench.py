"""RewardBench: 23 subsets of preference pairs, and sections that weigh them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dogerm.benchmarks.data import (
    Dataset,
    Objects,
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

REPOSITORY, FILES = "allenai/reward-bench", "data/filtered-*.parquet"

# Weight of each subset in its section, upstream's: the number of its rows, but for
# math-prm, whose 447 rows weigh as much as the six code subsets together.
SECTIONS: dict[str, dict[str, int]] = {
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 154,
        "xstest-should-respond": 250,
        "donotanswer": 136,
    },
    "Reasoning": {
        "math-prm": 984,
        "hep-cpp": 164,
        "hep-go": 164,
        "hep-java": 164,
        "hep-js": 164,
        "hep-python": 164,
        "hep-rust": 164,
    },
}
MATH = "math-prm"
# Rows of each subset in the published set.
COUNTS = {name: n for own in SECTIONS.values() for name, n in own.items()} | {MATH: 447}
SUBSETS = tuple(subset for section in SECTIONS.values() for subset in section)

# DogeRM's copy of upstream's table has these two the other way round.
SWAPPED = {"xstest-should-refuse": 250, "xstest-should-respond": 154}

# Percent, from the paper's poster.
PUBLISHED = {
    model: dict(
        zip(("Chat", "Chat Hard", "Safety", "Reasoning/Code", "Reasoning/Math"), row)
    )
    for model, row in {
        "LLaMA-2 RM": (95.8, 47.6, 44.6, 78.9, 68.2),
        "LLaMA-2 RM, fine-tuned on Auto-J Math": (94.7, 48.5, 44.4, 79.1, 68.7),
        "LLaMA-2 RM, fine-tuned on Auto-J Code": (94.7, 48.2, 44.3, 78.8, 66.9),
        "LLaMA-2 RM + MetaMath": (95.8, 44.5, 43.5, 85.7, 79.6),
        "LLaMA-2 RM + MAmmoTH": (96.1, 44.7, 43.8, 84.1, 85.2),
        "LLaMA-2 RM + Code Model": (96.1, 45.6, 43.9, 84.3, 71.8),
    }.items()
} | {
    "LLaMA-2 RM + Math & Code": {"Reasoning/Code": 83.0, "Reasoning/Math": 85.2},
    "Mistral RM": {"Reasoning/Code": 93.5, "Reasoning/Math": 55.0},
    "Mistral RM + MAmmoTH2-Plus": {"Reasoning/Code": 92.6, "Reasoning/Math": 85.0},
}

_RULES = {
    "win": "chosen strictly above rejected; a tie is no win",
    "sections": "mean over subsets by upstream's weights, math-prm 984",
}
RULES = {
    "paper": _RULES
    | {
        "too long": "cut at the beginning, for a family of the paper's",
        "xstest weights": "swapped (refuse 250, respond 154)",
    },
    "corrected": _RULES
    | {
        "too long": "refused, unless the family or the run says",
        "xstest weights": "upstream's (refuse 154, respond 250)",
    },
}


def read(settings: Settings) -> Dataset:
    """The rows of the hub set's `filtered` split, or of a file in its layout.

    Raises:
        InputError: a row lacks prompt, chosen, rejected or subset, or its subset is
            none of the 23; an id comes twice within a subset of a file; the hub set has
            not as many rows of each subset as were published.
    """
    found, source = objects(settings, REPOSITORY, FILES)
    seen: dict[str, int] = {}

    def pair(data: Mapping[str, Any], where: str, place: int) -> Row:
        subset = text(data, ["subset"], where)
        if subset not in SUBSETS:
            raise InputError(
                f"{where}: subset {subset!r} is none of RewardBench's: "
                f"{', '.join(SUBSETS)}."
            )
        id = f"{subset}/{own_id(data, place)}"
        if settings.data is None:
            # The published set is not ours to refuse: number an id that comes again.
            seen[id] = seen.get(id, 0) + 1
            id += f"#{seen[id]}" if seen[id] > 1 else ""
        return row_of(data, where, id, may_be_empty=True)

    dataset = gathered(found, pair, settings, source)
    if settings.data is None:
        odd = _odd_counts(found)
        if odd and settings.bad_rows == "stop":
            raise InputError(
                f"{REPOSITORY}: {'; '.join(odd.values())}. Pass the --revision that is "
                "wanted, or --bad-rows skip to go on with these and have it counted."
            )
        return replace(dataset, left_out=dict(dataset.left_out) | odd)
    return dataset


def _odd_counts(found: Objects) -> dict[str, str]:
    """By subset, a sentence where the hub set has more or fewer rows than were published."""
    there = Counter(data.get("subset") for _, data in found)
    return {
        f"subset {name}": f"{name} has {there[name]} rows, not {wanted}"
        for name, wanted in COUNTS.items()
        if there[name] != wanted
    }


def metrics(
    rows: Sequence[Row], rewards: Rewards, settings: Settings
) -> dict[str, Metric]:
    """Every subset, then the sections, Reasoning also as Code and Math, and Overall."""
    margins: dict[str, list[float]] = {subset: [] for subset in SUBSETS}
    for row, own in zip(rows, rewards, strict=True):
        if own is not None:
            margins[row.data["subset"]].append(own[0] - own[1])
    subsets = {name: Metric.of_margins(found) for name, found in margins.items()}
    return subsets | sections(subsets, settings)


def sections(subsets: Mapping[str, Metric], settings: Settings) -> dict[str, Metric]:
    """Section scores from those of the subsets.

    As upstream: the mean over a section's subsets by weight, of those that were
    measured. Overall is the plain mean of the four sections, and is not measured when
    one of them is not.
    """
    weights = {
        name: own | {key: value for key, value in SWAPPED.items() if key in own}
        if settings.xstest_weights == "dogerm"
        else own
        for name, own in SECTIONS.items()
    }
    reasoning = weights["Reasoning"]
    parts = weights | {
        "Reasoning/Code": {name: w for name, w in reasoning.items() if name != MATH},
        "Reasoning/Math": {MATH: reasoning[MATH]},
    }
    found = {
        name: Metric.combined([(w, subsets[subset]) for subset, w in own.items()])
        for name, own in parts.items()
    }
    four = [found[name] for name in SECTIONS]
    whole = all(metric.accuracy is not None for metric in four)
    overall = Metric.combined([(1, m) for m in four] if whole else [])
    return found | {"Overall": overall}


def groups(row: Row) -> tuple[str, ...]:
    """The metrics that a row counts in."""
    subset = row.data["subset"]
    section = next(name for name, own in SECTIONS.items() if subset in own)
    part = "Reasoning/Math" if subset == MATH else "Reasoning/Code"
    parts = (part,) if section == "Reasoning" else ()
    return (subset, section, *parts, "Overall")
