"""The benchmarks: how each reads its rows and what it makes of their rewards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from dogerm.benchmarks import (
    autoj,
    best_of,
    code,
    gsm8k,
    pairs,
    rewardbench,
    rewardbench2,
)
from dogerm.benchmarks.data import Dataset, Rewards, Settings
from dogerm.benchmarks.report import Metric, Report
from dogerm.family import Family, WhenTooLong
from dogerm.rows import Row

Published = Mapping[str, Mapping[str, float]]  # model of the paper -> GROUP -> percent


@dataclass(frozen=True)
class Benchmark:
    """One benchmark. Rewards in, numbers out: everything but `read` is pure.

    Args:
        name: as on the command line.
        summary: a line of help.
        read: its rows, checked one by one.
        metrics: one recipe's metrics by GROUP, in the order they are shown.
        outcomes: per row 1 (right) to 0 (wrong), None where nothing was judged: what
            paired tests, flips and the choice of λ look at.
        groups: in which metrics a row's outcome counts.
        rules: by preset and by subject, what the numbers follow: recorded with them.
        paper_cuts_end: whether the reference cuts a conversation that is too long at its
            end, where the reward is read, rather than at its beginning.
        published: numbers to print beside, by model of the paper.
    """

    name: str
    summary: str
    read: Callable[[Settings], Dataset]
    metrics: Callable[[Sequence[Row], Rewards, Settings], dict[str, Metric]]
    outcomes: Callable[[Sequence[Row], Rewards, Settings], list[float | None]]
    groups: Callable[[Row], tuple[str, ...]]
    rules: Mapping[str, Mapping[str, str]]
    published: Published = field(default_factory=dict)
    paper_cuts_end: bool = False

    def too_long(self, family: Family, preset: str) -> WhenTooLong:
        """What becomes of a conversation over the limit, unless it is asked otherwise.

        Args:
            family: as it is `under` the preset.
        """
        ends = preset == "paper" and self.paper_cuts_end and family.too_long == "cut"
        return "cut-end" if ends else family.too_long


_BOTH = ("paper", "corrected")
_PAIRS = {"win": "chosen strictly above rejected; a tie is no win"}

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            "pairs",
            "Preference pairs of your own (JSON Lines, CSV or Parquet).",
            pairs.read,
            lambda rows, rewards, _: pairs.metrics(rows, rewards),
            lambda rows, rewards, _: pairs.outcomes(rows, rewards),
            pairs.groups,
            dict.fromkeys(_BOTH, _PAIRS),
        ),
        Benchmark(
            "autoj",
            "Auto-J's pairwise test set: Math, Code, Others.",
            autoj.read,
            autoj.metrics,
            lambda rows, rewards, _: pairs.outcomes(rows, rewards),
            autoj.groups,
            autoj.RULES,
            autoj.PUBLISHED,
            paper_cuts_end=True,
        ),
        Benchmark(
            "rewardbench",
            "RewardBench: 23 subsets, sections, Reasoning as Code and Math.",
            rewardbench.read,
            rewardbench.metrics,
            lambda rows, rewards, _: pairs.outcomes(rows, rewards),
            rewardbench.groups,
            rewardbench.RULES,
            rewardbench.PUBLISHED,
        ),
        Benchmark(
            "rewardbench2",
            "RewardBench 2: the right one of four answers, and Ties.",
            rewardbench2.read,
            rewardbench2.metrics,
            lambda rows, rewards, _: rewardbench2.outcomes(rows, rewards),
            rewardbench2.groups,
            rewardbench2.RULES,
        ),
        Benchmark(
            "gsm8k",
            "GSM8K best-of-N: the candidate of highest reward, right or wrong.",
            gsm8k.read,
            best_of.metrics,
            best_of.outcomes,
            best_of.groups,
            gsm8k.RULES,
            gsm8k.PUBLISHED,
        ),
        Benchmark(
            "mbpp",
            "MBPP best-of-N; candidates are run with --allow-code-execution.",
            code.read_mbpp,
            best_of.metrics,
            best_of.outcomes,
            best_of.groups,
            code.MBPP_RULES,
            code.MBPP_PUBLISHED,
        ),
        Benchmark(
            "humaneval",
            "HumanEval best-of-N; candidates are run with --allow-code-execution.",
            code.read_humaneval,
            best_of.metrics,
            best_of.outcomes,
            best_of.groups,
            code.HUMANEVAL_RULES,
        ),
    )
}


def headline(report: Report) -> list[str]:
    """The groups that a table has room for: those the paper has numbers of, and Overall; or
    best-of-n by n.
    """
    groups = list(report.recipes[0].metrics)
    if any(name.startswith("best-of-") for name in groups):
        others = ("majority", "random", "oracle")
        return [name for name in groups if "best-of" in name or name in others]
    benchmark = BENCHMARKS.get(report.benchmark)
    published = {
        name
        for row in (benchmark.published if benchmark else {}).values()
        for name in row
    }
    if not published.intersection(groups):
        return groups[:8] if "Overall" not in groups[8:] else [*groups[:7], "Overall"]
    return [name for name in groups if name in published or name == "Overall"]
