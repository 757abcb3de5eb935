"""Requests for tiny Python functions, with code that is right or wrong in one known way."""

from collections.abc import Callable
from random import Random

from dogerm.nano.pair import Pair

FUNCTIONS = ("f", "g", "calc", "run", "work", "solve")
VARIABLES = ("x", "y", "n", "a", "b", "v")
LISTS = ("xs", "items", "nums", "data")
THEN = {
    "+": "adds {}",
    "-": "subtracts {}",
    "*": "multiplies by {}",
    "//": "divides by {}",
}
APPLIED = {"+": "plus {}", "-": "minus {}", "*": "times {}", "//": "divided by {}"}
COMPARED = {
    ">": "greater than {}",
    "<": "less than {}",
    ">=": "at least {}",
    "<=": "at most {}",
}
NUMBERS = tuple(range(-3, 48))
NUMBER_LISTS = ([], list(range(48)), list(range(-5, 60, 3)))


def draw_code(rng: Random) -> Pair:
    """A code pair: two operations, a loop, a filter or a condition."""
    return rng.choice((_two_operations, _loop, _filter, _condition))(rng)


def behaviour(source: str) -> list[str]:
    """What the one function in source returns, or how it fails, on a fixed set of inputs."""
    names: dict = {}
    exec(source, {}, names)  # noqa: S102, only ever code written by this module
    function = next(iter(names.values()))
    takes_list = function.__code__.co_varnames[0] in LISTS
    return [
        _outcome(function, value) for value in (NUMBER_LISTS if takes_list else NUMBERS)
    ]


def _outcome(function: Callable, value: int | list[int]) -> str:
    try:
        return repr(function(value))
    except Exception as error:  # noqa: BLE001, any failure is an outcome
        return type(error).__name__


def _pair(
    rng: Random, key: str, prompt: str, chosen: str, flawed: dict[str, list[str]]
) -> Pair:
    """A pair whose rejected code really behaves differently.

    flawed lists the ways to be wrong by flaw. Some of them do nothing in some
    programs (a sum from 1 instead of 0), so the code is run to find out.
    """
    expected = behaviour(chosen)
    while True:
        flaw = rng.choice(list(flawed))
        rejected = rng.choice(flawed[flaw])
        if rejected != chosen and behaviour(rejected) != expected:
            return Pair("code", key, prompt, chosen, rejected, flaw)


def _near(number: int) -> list[int]:
    return [n for n in (number - 2, number - 1, number + 1, number + 2) if n >= 1]


def _others(table: dict[str, str], used: str) -> list[str]:
    return [symbol for symbol in table if symbol != used]


def _two_operations(rng: Random) -> Pair:
    name, value = rng.choice(FUNCTIONS), rng.choice(VARIABLES)
    first, second = rng.sample(list(THEN), 2)
    k, m = rng.randint(2, 19), rng.randint(2, 19)
    prompt = (
        f"Write a function {name} that takes {value},"
        f" {THEN[first].format(k)} and then {THEN[second].format(m)}."
    )

    def code(first: str, k: int, second: str, m: int, used: str = "t") -> str:
        return (
            f"def {name}({value}):\n  t={value}{first}{k}\n  return {used}{second}{m}"
        )

    flawed = {
        "operator": [code(o, k, second, m) for o in _others(THEN, first)]
        + [code(first, k, o, m) for o in _others(THEN, second)],
        "constant": [code(first, n, second, m) for n in _near(k)]
        + [code(first, k, second, n) for n in _near(m)],
        "order": [code(second, m, first, k)],
        "variable": [code(first, k, second, m, used=value)],
    }
    chosen = code(first, k, second, m)
    return _pair(rng, f"two {first}{k} {second}{m}", prompt, chosen, flawed)


def _loop(rng: Random) -> Pair:
    name, end = rng.choice(FUNCTIONS), rng.choice("nmk")
    start, included, operator = rng.randint(0, 30), rng.random() < 0.5, rng.choice("+*")
    noun, neutral = ("sum", 0) if operator == "+" else ("product", 1)
    prompt = (
        f"Write a function {name} that returns the {noun} of the numbers"
        f" from {start} to {end}, {end} {'included' if included else 'excluded'}."
    )
    stops = {True: f"{end}+1", False: end}

    def code(
        initial: int = neutral,
        start: int = start,
        stop: str = stops[included],
        operator: str = operator,
        returned: str = "s",
    ) -> str:
        return (
            f"def {name}({end}):\n  s={initial}\n  for i in range({start},{stop}):\n"
            f"    s=s{operator}i\n  return {returned}"
        )

    flawed = {
        "range end": [code(stop=stops[not included])],
        "range start": [code(start=n) for n in _near(start)],
        "initial value": [code(initial=1 - neutral)],
        "operator": [code(operator="*" if operator == "+" else "+")],
        "returned value": [code(returned=r) for r in ("i", end)],
    }
    return _pair(rng, f"loop {start} {operator} {included}", prompt, code(), flawed)


def _filter(rng: Random) -> Pair:
    name, value, items = rng.choice(FUNCTIONS), rng.choice(VARIABLES), rng.choice(LISTS)
    limit, compare, counts = (
        rng.randint(1, 40),
        rng.choice(list(COMPARED)),
        rng.random() < 0.5,
    )
    verb = "counts" if counts else "returns"
    prompt = (
        f"Write a function {name} that {verb} the items of {items}"
        f" that are {COMPARED[compare].format(limit)}."
    )

    def code(
        compare: str = compare,
        limit: int = limit,
        counts: bool = counts,
        used: str = value,
    ) -> str:
        return (
            f"def {name}({items}):\n  t=[{value} for {value} in {items}"
            f" if {used}{compare}{limit}]\n  return {'len(t)' if counts else 't'}"
        )

    flawed = {
        "comparison": [code(compare=c) for c in _others(COMPARED, compare)],
        "constant": [code(limit=n) for n in _near(limit)],
        "returned value": [code(counts=not counts)],
        "variable": [code(used=items)],
    }
    return _pair(rng, f"filter {compare}{limit} {counts}", prompt, code(), flawed)


def _condition(rng: Random) -> Pair:
    name, value = rng.choice(FUNCTIONS), rng.choice(VARIABLES)
    limit, compare = rng.randint(1, 30), rng.choice(list(COMPARED))
    first, second = rng.sample(list(APPLIED), 2)
    k, m = rng.randint(1, 19), rng.randint(1, 19)
    prompt = (
        f"Write a function {name}({value}): if {value} is {COMPARED[compare].format(limit)}"
        f" return {value} {APPLIED[first].format(k)},"
        f" else return {value} {APPLIED[second].format(m)}."
    )

    def code(compare: str, limit: int, then: str, otherwise: str) -> str:
        return (
            f"def {name}({value}):\n  if {value}{compare}{limit}:\n"
            f"    return {value}{then}\n  return {value}{otherwise}"
        )

    then, otherwise = f"{first}{k}", f"{second}{m}"
    flawed = {
        "swapped": [code(compare, limit, otherwise, then)],
        "comparison": [
            code(c, limit, then, otherwise) for c in _others(COMPARED, compare)
        ],
        "operator": [
            code(compare, limit, f"{o}{k}", otherwise) for o in _others(APPLIED, first)
        ]
        + [code(compare, limit, then, f"{o}{m}") for o in _others(APPLIED, second)],
        "constant": [code(compare, n, then, otherwise) for n in _near(limit)]
        + [code(compare, limit, f"{first}{n}", otherwise) for n in _near(k)]
        + [code(compare, limit, then, f"{second}{n}") for n in _near(m)],
    }
    key = f"condition {compare}{limit} {then} {otherwise}"
    return _pair(rng, key, prompt, code(compare, limit, then, otherwise), flawed)
