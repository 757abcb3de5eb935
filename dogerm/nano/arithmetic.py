"""Math problems in two steps, with answers that are right or wrong in one known way.

Numbers are small on purpose: a model of a few million parameters can learn all
tables that occur, so that it can tell a slip from a right step.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from dogerm.nano.pair import Pair

NAMES = (
    "Tom",
    "Ann",
    "Ben",
    "Eva",
    "Sam",
    "Mia",
    "Leo",
    "Zoe",
    "Max",
    "Ivy",
    "Dan",
    "Amy",
)
THINGS = ("apples", "pens", "books", "coins", "cards", "eggs", "shells", "stamps")
SLIPS = (-10, -3, -2, -1, 1, 2, 3, 10)
# Twice as likely as any other flaw: slips are what a weak student's answers are wrong by,
# so only a model that has learned to see them can pick among its samples.
SLIPPED = ("first step", "first step", "second step", "second step")
OPPOSITE = {"+": "-", "-": "+"}
CALCULATE: dict[str, Callable[[int, int], int]] = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
    "/": lambda x, y: x // y,
}


@dataclass(frozen=True)
class Chain:
    """x (first) y, and the result (second) z; slips are added to what a step should give."""

    x: int
    first: str
    y: int
    second: str
    z: int
    first_slip: int = 0
    second_slip: int = 0

    @property
    def middle(self) -> int:
        return CALCULATE[self.first](self.x, self.y) + self.first_slip

    @property
    def result(self) -> int:
        return CALCULATE[self.second](self.middle, self.z) + self.second_slip

    def lines(self) -> list[str]:
        return [
            f"{self.x}{self.first}{self.y}={self.middle}",
            f"{self.middle}{self.second}{self.z}={self.result}",
        ]


def write_solution(lines: list[str], answer: int) -> str:
    """The answer text: numbered steps, then the number asked for."""
    steps = [f"Step {number}: {line}" for number, line in enumerate(lines, 1)]
    return "\n".join([*steps, f"Answer: {answer}"])


def answer_of(text: str) -> int | None:
    """The number after the last "Answer: ", or None when there is none."""
    _, found, tail = text.rpartition("Answer: ")
    word = tail.split()[0] if tail.split() else ""
    return int(word) if found and word.isdecimal() else None


def draw_math(rng: Random) -> Pair:
    """A math pair: an equation, or a story to add up, to multiply, or to round up."""
    return rng.choice((_equation, _gain_and_loss, _groups, _containers))(rng)


def _equation(rng: Random) -> Pair:
    factor, x, shift = rng.randint(2, 6), rng.randint(1, 9), rng.randint(1, 9)
    sign = rng.choice("+-")
    if factor * x <= shift:
        sign = "+"
    total = CALCULATE[sign](factor * x, shift)
    wording = rng.choice(("Solve {}.", "Find x: {}.", "What is x if {}?"))
    prompt = wording.format(f"{factor}x{sign}{shift}={total}")
    chain = Chain(total, OPPOSITE[sign], shift, "/", factor)
    flaws = (*SLIPPED, "sign")
    return _pair(rng, f"equation {factor} {shift} {sign} {x}", prompt, chain, flaws)


def _gain_and_loss(rng: Random) -> Pair:
    have, gain = rng.randint(2, 25), rng.randint(2, 9)
    loss = rng.randint(1, min(9, have + gain - 1))
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    prompt = rng.choice(
        (
            (
                f"{name} has {have} {things}, gets {gain} more and gives {loss} away."
                f" How many {things} are left?"
            ),
            (
                f"A shop has {have} {things}. It buys {gain} and sells {loss}."
                f" How many {things} now?"
            ),
            (
                f"{name} finds {have} {things} and then {gain} {things}, but loses {loss}."
                f" How many {things} does {name} have?"
            ),
        )
    )
    chain = Chain(have, "+", gain, "-", loss)
    flaws = (*SLIPPED, "sign")
    return _pair(
        rng, f"gain {have} {gain} {loss}", prompt, chain, (*flaws, "operation")
    )


def _groups(rng: Random) -> Pair:
    groups, size, extra = rng.randint(2, 7), rng.randint(2, 7), rng.randint(1, 9)
    sign = rng.choice("+-")
    if groups * size <= extra:
        sign = "+"
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    more = (
        (
            f"{name} has {groups} boxes with {size} {things} each and {extra} more {things}."
            f" How many {things} in all?"
        ),
        (
            f"There are {groups} bags of {size} {things} and {extra} loose {things}."
            f" How many {things} in total?"
        ),
    )
    fewer = (
        (
            f"{name} has {groups} boxes with {size} {things} each and loses {extra}."
            f" How many {things} are left?"
        ),
        (
            f"There are {groups} bags of {size} {things}. {name} takes {extra} {things}."
            f" How many {things} are left?"
        ),
    )
    prompt = rng.choice(more if sign == "+" else fewer)
    chain = Chain(groups, "*", size, sign, extra)
    flaws = (*SLIPPED, "sign")
    key = f"groups {groups} {size} {extra} {sign}"
    return _pair(rng, key, prompt, chain, (*flaws, "operation"))


def _pair(
    rng: Random, key: str, prompt: str, right: Chain, flaws: tuple[str, ...]
) -> Pair:
    """A pair for a two-step problem; the rejected answer never ends in the right number."""
    chosen = write_solution(right.lines(), right.result)
    while True:
        flaw = rng.choice((*flaws, "answer line", "misread"))
        wrong = _spoil(rng, right, flaw)
        answer = wrong.result
        if flaw == "answer line":
            answer = rng.choice((right.x, right.y, right.z, right.middle))
        if answer != right.result and min(wrong.middle, wrong.result) >= 0:
            rejected = write_solution(wrong.lines(), answer)
            return Pair("math", key, prompt, chosen, rejected, flaw, right.result)


def _spoil(rng: Random, right: Chain, flaw: str) -> Chain:
    if flaw == "first step":
        return replace(right, first_slip=rng.choice(SLIPS))
    if flaw == "second step":
        return replace(right, second_slip=rng.choice(SLIPS))
    if flaw == "sign":
        which = "first" if right.first in OPPOSITE and right.second == "/" else "second"
        return replace(right, **{which: OPPOSITE[getattr(right, which)]})
    if flaw == "operation":
        return replace(right, first={"+": "*", "*": "+"}[right.first])
    if flaw == "misread":
        # Misreading keeps a division exact, so that only the copied number is wrong.
        divides = right.second == "/"
        which = rng.choice("xy" if divides else "xyz")
        slip = rng.choice((-right.z, right.z) if divides else (-2, -1, 1, 2))
        return replace(right, **{which: max(1, getattr(right, which) + slip)})
    return right


def _containers(rng: Random) -> Pair:
    """A story whose answer is a quotient rounded up, as in the paper's case study."""
    size, full = rng.randint(3, 8), rng.randint(1, 7)
    rest = rng.randint(1, size - 1)
    count = full * size + rest
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    prompt = rng.choice(
        (
            f"{count} people ride in vans of {size} seats. How many vans are needed?",
            f"{name} packs {count} {things} in boxes of {size}. How many boxes are needed?",
            f"A box holds {size} {things}. How many boxes for {count} {things}?",
        )
    )
    right = full + 1
    chosen = write_solution(
        [f"{count}/{size}={full} rest {rest}", f"{full}+1={right}"], right
    )
    flaw, lines, answer = "", [], right
    while answer == right or answer < 0:
        flaw = rng.choice(("floor", "first step", "second step", "misread"))
        lines, answer = _spoil_containers(rng, flaw, count, size)
    rejected = write_solution(lines, answer)
    return Pair(
        "math", f"containers {count} {size}", prompt, chosen, rejected, flaw, right
    )


def _spoil_containers(
    rng: Random, flaw: str, count: int, size: int
) -> tuple[list[str], int]:
    full, rest = divmod(count, size)
    if flaw == "floor":
        return [f"{count}/{size}={full} rest {rest}", f"{full}+0={full}"], full
    if flaw == "first step":
        full = max(0, full + rng.choice((-2, -1, 1, 2)))
        return [f"{count}/{size}={full} rest {rest}", f"{full}+1={full + 1}"], full + 1
    if flaw == "second step":
        answer = full + 1 + rng.choice(SLIPS)
        return [f"{count}/{size}={full} rest {rest}", f"{full}+1={answer}"], answer
    count = max(1, count + rng.choice((-size, size)))
    full, rest = divmod(count, size)
    return [f"{count}/{size}={full} rest {rest}", f"{full}+1={full + 1}"], full + 1
