"""MBPP and HumanEval best-of-N: candidates are programs, and their tests say which are right."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from dogerm.benchmarks.best_of import candidates, judged, labels, problems
from dogerm.benchmarks.data import Dataset, Settings, gathered, own_id, text
from dogerm.errors import InputError
from dogerm.rows import Row, row_of

IDS = ("id", "task_id")

# Where a candidate ends, from the reference.
MBPP_STOPS = (
    "\nclass",
    "\nassert",
    '\n"""',
    "\nprint",
    "\nif",
    "\n<|/",
    "\n```",
    "</s>",
)
HUMANEVAL_STOPS = (
    "\n```",
    "\nclass",
    "\ndef",
    "\n#",
    "\n@",
    "\nprint",
    "\nif",
    "\nassert",
    "</s>",
)

# Percent, from the paper's poster.
MBPP_PUBLISHED = {
    model: {"best-of-16": percent}
    for model, percent in {
        "LLaMA-2 RM": 17.2,
        "LLaMA-2 RM, fine-tuned on Auto-J Code": 17.2,
        "LLaMA-2 RM + Code Model": 17.2,
        "LLaMA-2 RM + Math & Code": 17.0,
    }.items()
}

_RULES = {
    "right": "the program runs through all of its tests",
    "pick": "first of the highest reward; N candidates in their order",
}
_PASS = {"paper": "one of the first n is right", "corrected": "unbiased, from all N"}
MBPP_RULES = {
    # The reference's best-of-N script cuts a candidate without a fence where the one
    # before it had its fence. Its pass@N script takes the whole; so does this preset.
    "paper": _RULES
    | {
        "scored": "the candidate as it came",
        "program": "from the first ``` on, cut at the first stop word; whole without one",
        "pass@n": _PASS["paper"],
    },
    "corrected": _RULES
    | {
        "scored": "the candidate as it came",
        "program": "the first ``` block, uncut; without one, cut at the first stop word",
        "pass@n": _PASS["corrected"],
    },
}
HUMANEVAL_RULES = {
    # The reference reads the reward with no end-of-turn after the response.
    "paper": _RULES
    | {
        "scored": "```python, the prompt and the candidate as it came",
        "program": "the prompt and the candidate, cut at the first stop word",
        "pass@n": _PASS["paper"],
    },
    "corrected": _RULES
    | {
        "scored": "the program in a ``` block",
        "program": "the prompt and the candidate, cut at the first stop word",
        "pass@n": _PASS["corrected"],
    },
}

_OPEN = re.compile(r"```(?:python)?")


def read_mbpp(settings: Settings) -> Dataset:
    """Problems with candidates, run against their tests where settings allow it.

    A row has `candidates`; `text` (or `prompt`) that says what is wanted; and either
    `test_list`, statements, or `test` that defines `check`, with `entry_point`. The
    reward model is asked with the text and the first test in a docstring, as in the
    reference; with `entry_point`, with the prompt as it is.

    Raises:
        InputError: a row lacks one of them or has fewer than N candidates; its labels
            are neither given nor may programs be run, or cannot be on this system.
    """
    return _read(settings, _mbpp)


def read_humaneval(settings: Settings) -> Dataset:
    """Problems with candidates, each a completion of the row's `prompt`.

    A row has `prompt`, `entry_point`, `test` that defines `check`, and `candidates`;
    `instruction`, if any, is what the reward model is asked with instead of the prompt.

    Raises:
        InputError: as `read_mbpp`.
    """
    return _read(settings, _humaneval)


def cut(code: str, stops: tuple[str, ...]) -> str:
    """The code up to the first stop word in it."""
    return code[: min((at for s in stops if (at := code.find(s)) >= 0), default=None)]


def unfenced(candidate: str, settings: Settings) -> str:
    """The program in an MBPP candidate, which is prose with a fenced block, or a program."""
    if opening := _OPEN.search(candidate):
        code = candidate[opening.end() :].strip()
        if settings.preset == "corrected":
            return code.partition("\n```")[0]
        return cut(code, MBPP_STOPS)
    return cut(candidate, MBPP_STOPS)


def asked(data: Mapping[str, Any], where: str) -> str:
    """What an MBPP problem asks: its text and first test in a docstring, as in the reference.

    With `entry_point`, its prompt as it is.
    """
    wanted = text(data, ["text", "prompt"], where)
    if "entry_point" in data:
        return wanted
    return f'"""\n{wanted}\n{_tests(data, where)[0]}\n"""'


def _mbpp(
    data: Mapping[str, Any], where: str, own: list[str], settings: Settings
) -> tuple[dict[str, Any], list[str]]:
    codes = [unfenced(candidate, settings) for candidate in own]
    row = {"prompt": asked(data, where), "responses": own}
    if "entry_point" in data:
        return row, _checked(data, where, codes)
    before = [*data.get("test_imports", []), data.get("test_setup_code") or ""]
    suite = "\n".join([*before, *_tests(data, where)])
    return row, [f"{code}\n{suite}\n" for code in codes]


def _tests(data: Mapping[str, Any], where: str) -> list[str]:
    tests = data.get("test_list")
    if not isinstance(tests, list) or not all(isinstance(t, str) for t in tests):
        raise InputError(
            f"{where}: test_list must be a list of statements (or give test and "
            f"entry_point), got {tests!r:.80}."
        )
    if not tests:
        raise InputError(f"{where}: test_list is empty: nothing could be wrong.")
    return tests


def _humaneval(
    data: Mapping[str, Any], where: str, own: list[str], settings: Settings
) -> tuple[dict[str, Any], list[str]]:
    prompt = text(data, ["prompt"], where)
    asked = text(data, ["instruction", "prompt"], where)
    codes = [prompt + cut(candidate, HUMANEVAL_STOPS) for candidate in own]
    if settings.preset == "paper":
        scored = [f"```python\n{prompt}{candidate}" for candidate in own]
    else:
        scored = [f"```python\n{code.rstrip()}\n```" for code in codes]
    return {"prompt": asked, "responses": scored}, _checked(data, where, codes)


def _checked(data: Mapping[str, Any], where: str, codes: list[str]) -> list[str]:
    """Programs that end by calling the row's `check` on its `entry_point`."""
    test, name = (text(data, [key], where) for key in ("test", "entry_point"))
    if not name.isidentifier():
        raise InputError(f"{where}: entry_point must be a name, got {name!r:.80}.")
    return [f"{code}\n{test}\ncheck({name})\n" for code in codes]


_Problem = Callable[
    [Mapping[str, Any], str, list[str], Settings], tuple[dict[str, Any], list[str]]
]


def _read(settings: Settings, of: _Problem) -> Dataset:
    found, source = problems(settings, outputs="outputs")
    programs: dict[str, list[str]] = {}

    def problem(data: Mapping[str, Any], where: str, place: int) -> Row:
        own = candidates(data, where, settings)
        row, suites = of(data, where, own, settings)
        id = own_id(data, place, IDS)
        if not settings.allow_code_execution:
            row["correct"] = labels(data, where, len(own))
        made = row_of(row, where, id, may_be_empty=True)
        programs.setdefault(id, suites)
        return made

    dataset = gathered(found, problem, settings, source)
    if settings.allow_code_execution:
        return judged(dataset, programs, settings)
    return replace(dataset, source=dict(dataset.source) | {"labels": "given"})
