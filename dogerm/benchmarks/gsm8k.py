"""GSM8K best-of-N: grade-school problems whose answer is a number."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from dogerm.benchmarks.best_of import candidates, problems
from dogerm.benchmarks.data import Dataset, Settings, gathered, own_id, text
from dogerm.errors import InputError
from dogerm.rows import Row, row_of

# What the reference had every candidate begin with, before the model went on.
PREFIX = " Let's think step by step."
ANNOUNCED = "The answer is"
_NUMBER = re.compile(r"-?[\d,]*\.?\d+")

# How the reference had candidates made, with Llama-2-7B-chat.
SYSTEM = (
    "You are a math problem solver. Please think step by step and demonstrate your "
    "calculation steps. After your reasoning steps, you should generate the answer by "
    "following the format starting with 'The answer is'"
)

# Percent, from the paper's poster.
PUBLISHED = {
    model: {"best-of-16": percent}
    for model, percent in {
        "LLaMA-2 RM": 35.3,
        "LLaMA-2 RM, fine-tuned on Auto-J Math": 35.2,
        "LLaMA-2 RM + MetaMath": 40.7,
        "LLaMA-2 RM + MAmmoTH": 40.5,
        "LLaMA-2 RM + Math & Code": 39.5,
        "Mistral RM": 44.2,
        "Mistral RM + MAmmoTH2-Plus": 46.6,
    }.items()
}

_RULES = {
    "answer": "the first number after the last 'The answer is', else the last number; as floats",
    "pick": "first of the highest reward; N candidates in their order",
}
RULES = {
    "paper": _RULES
    | {
        "prefix": f"every candidate is scored with {PREFIX!r} before it",
        "majority": "of answers as text; no answer can win",
        "pass@n": "one of the first n is right",
    },
    "corrected": _RULES
    | {
        "prefix": "only where the candidates were made with one",
        "majority": "of numbers; no answer is no vote",
        "pass@n": "unbiased, from all N",
    },
}


def read(settings: Settings) -> Dataset:
    """Problems with their candidates, each candidate's answer and whether it is right.

    A plain row has `question` (or `prompt`), `candidates`, and `answer`: a number, or a
    text with the number after "####", as in GSM8K. `prefix` is what the candidates were
    made to begin with, if anything.

    Raises:
        InputError: a row lacks one of them, its answer is no number, or it has fewer
            than N candidates.
    """
    found, source = problems(settings, outputs="answer")

    def problem(data: Mapping[str, Any], where: str, place: int) -> Row:
        question = text(data, ["question", "prompt"], where)
        own = candidates(data, where, settings)
        truth = _truth(data, where)
        made_with = data.get(
            "prefix", PREFIX if source["layout"] == "reference" else ""
        )
        prefix = PREFIX if settings.preset == "paper" else made_with
        answers = [answer(candidate) for candidate in own]
        row = {
            "prompt": question,
            "responses": [prefix + candidate for candidate in own],
            "truth": truth,
            "answers": answers,
            "correct": [a is not None and float(a) == truth for a in answers],
        }
        return row_of(row, where, own_id(data, place), may_be_empty=True)

    return gathered(found, problem, settings, source)


def answer(solution: str) -> str | None:
    """The final number of a solution as text, without thousands commas; None without one.

    Source: Gemma's GSM8K notebook, whose rule the reference took.
    """
    _, announced, rest = solution.rpartition(ANNOUNCED)
    if announced and (found := _NUMBER.search(rest)):
        return found[0].replace(",", "")
    numbers = _NUMBER.findall(solution)
    return numbers[-1].replace(",", "") if numbers else None


def _truth(data: Mapping[str, Any], where: str) -> float:
    key = next(
        (key for key in ("ground_truth", "answer", "truth") if key in data), None
    )
    if key is None:
        raise InputError(f"{where}: answer is missing; the keys are {', '.join(data)}.")
    given = str(data[key]).rpartition("####")[2].strip().replace(",", "")
    try:
        truth = float(given)
        if math.isfinite(truth) and not isinstance(data[key], bool):
            return truth
    except ValueError:
        pass
    raise InputError(
        f"{where}: {key} must be a number, or end with '#### ' and one, "
        f"got {data[key]!r:.80}."
    )
