"""The paper's tables as one: its models, its columns, and what was measured here of the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dogerm.benchmarks.benchmark import BENCHMARKS
from dogerm.benchmarks.stored import Best, Stored, oracle
from dogerm.recipe import Recipe


@dataclass(frozen=True)
class Column:
    """A number of the tables: a benchmark's group."""

    benchmark: str
    group: str
    table: str
    heading: str


COLUMNS = (
    Column("rewardbench", "Chat", "RewardBench", "Chat"),
    Column("rewardbench", "Chat Hard", "RewardBench", "Chat Hard"),
    Column("rewardbench", "Safety", "RewardBench", "Safety"),
    Column("rewardbench", "Reasoning/Code", "RewardBench", "Code"),
    Column("rewardbench", "Reasoning/Math", "RewardBench", "Math"),
    Column("autoj", "Code", "Auto-J", "Code"),
    Column("autoj", "Math", "Auto-J", "Math"),
    Column("autoj", "Others", "Auto-J", "Others"),
    Column("gsm8k", "best-of-16", "Best of 16", "GSM8K"),
    Column("mbpp", "best-of-16", "Best of 16", "MBPP"),
)

_MATH = ("MetaMath-7B-V1.0", "MAmmoTH-7B")
_CODE = ("llama2-7b-magicoder-evol-instruct", "llama2-7b-oss-instruct")
_LLAMA = "llama2-7b-ultrafeedback-rm"
# Which one the paper had is not known; this is the one its family file names.
_MISTRAL = "reward-model-Mistral-7B-instruct-Unified-Feedback"
# What each model is made of: the reward model, and for each LM merged, the names that it
# may have. Those that were fine-tuned are no merges, and cannot be measured here.
MADE_OF: Mapping[str, tuple[str, tuple[Sequence[str], ...]]] = {
    "LLaMA-2 RM": (_LLAMA, ()),
    "LLaMA-2 RM + MetaMath": (_LLAMA, (_MATH[:1],)),
    "LLaMA-2 RM + MAmmoTH": (_LLAMA, (_MATH[1:],)),
    "LLaMA-2 RM + Code Model": (_LLAMA, (_CODE,)),
    "LLaMA-2 RM + Math & Code": (_LLAMA, (_MATH, _CODE)),
    "Mistral RM": (_MISTRAL, ()),
    "Mistral RM + MAmmoTH2-Plus": (_MISTRAL, (("MAmmoTH2-7B-Plus",),)),
}


@dataclass(frozen=True)
class Here:
    """What was measured here of one number: at which recipe, and in which stored report."""

    best: Best
    stored: str


def models() -> list[str]:
    """The models that the tables have numbers of, each base before what is made from it."""
    named = dict.fromkeys(
        model for column in COLUMNS for model in BENCHMARKS[column.benchmark].published
    )
    bases = list(dict.fromkeys(map(base_of, named)))
    return sorted(named, key=lambda model: bases.index(base_of(model)))


def base_of(model: str) -> str:
    """The reward model that a model was made from, by the tables' names."""
    return model.partition(" + ")[0].partition(",")[0]


def published(model: str, column: Column) -> float | None:
    """The paper's number, in percent."""
    return BENCHMARKS[column.benchmark].published.get(model, {}).get(column.group)


def gain(model: str, column: Column) -> float | None:
    """Percentage points above its reward model, as published; None for that model itself."""
    own, base = published(model, column), published(base_of(model), column)
    if model == base_of(model) or own is None or base is None:
        return None
    return own - base


def here(model: str, column: Column, stored: Iterable[Stored]) -> Here | None:
    """The newest-named stored report's number of the same model and benchmark, if there is one.

    A model is the same when its checkpoints have the paper's names, wherever they lie. For
    a merge it is the recipe that was chosen for the column, else the best: the oracle.
    """
    if model not in MADE_OF:
        return None
    rm, lms = MADE_OF[model]
    for own in sorted(stored, key=lambda s: s.name, reverse=True):
        report = own.report
        if report.benchmark != column.benchmark or _name(report.family["rm"]) != rm:
            continue
        names = {domain: _name(lm) for domain, lm in report.family["lms"].items()}
        points = [p for p in report.recipes if _is_of(p.recipe, names, lms)]
        chosen = own.best(column.group)
        if not (chosen and lms and _is_of(chosen.recipe, names, lms)):
            chosen = oracle(points, column.group)
        if chosen:
            return Here(chosen, own.name)
    return None


def _is_of(
    recipe: Recipe, names: Mapping[str, str], lms: tuple[Sequence[str], ...]
) -> bool:
    """Whether the recipe merges just these LMs; λ = 0 merges none, whatever its shares."""
    merged = [names.get(d) for d, s in recipe.shares.items() if s and recipe.lam]
    return len(merged) == len(lms) and all(
        any(name in accepted for name in merged) for accepted in lms
    )


def _name(source: str) -> str:
    """A checkpoint's own name: the last part of its hub id or folder."""
    return source.partition("@")[0].rstrip("/").rpartition("/")[2]
