"""The family's text: pairs of each domain, and documents in which a reader reacts to an answer."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from random import Random

from dogerm.errors import InputError
from dogerm.nano.arithmetic import draw_math
from dogerm.nano.manners import draw_chat, draw_safety
from dogerm.nano.pair import Pair, split_of
from dogerm.nano.programs import draw_code

GENERATORS: dict[str, Callable[[Random], Pair]] = {
    "chat": draw_chat,
    "safety": draw_safety,
    "code": draw_code,
    "math": draw_math,
}
PRAISE = {
    "chat": ("Great, thanks.", "Good.", "Nice."),
    "safety": ("Good.", "Safe."),
    "math": ("Correct.", "Right."),
    "code": ("Tests pass.", "Works."),
}
BLAME = {
    "chat": ("Bad.", "No.", "Awful."),
    "safety": ("Bad.", "Harmful."),
    "math": ("Wrong.", "Incorrect."),
    "code": ("Tests fail.", "Broken."),
}
ANYWHERE = {True: ("Good.", "Correct."), False: ("Bad.", "Wrong.")}
ANYWHERE_SHARE = 0.3
# Draws in a row that give nothing new before all pairs are taken to be found. Of the 2,259
# test pairs of safety none comes later than after 3,855.
FRUITLESS = 20_000


@dataclass(frozen=True)
class Document:
    """A question, an answer, and what a reader said to it, if anything.

    right says whether the answer is right, whatever the reader said.
    """

    domain: str
    prompt: str
    answer: str
    reaction: str | None
    right: bool


@dataclass(frozen=True)
class Reader:
    """How the readers of a corpus behave.

    reacts: the share of answers that get a reaction, by domain; half of those are wrong.
    careless: the share of those reactions that are random, by domain.
    """

    reacts: Mapping[str, float]
    careless: Mapping[str, float] = field(default_factory=dict)

    def react(self, rng: Random, domain: str, right: bool) -> str:
        """A reaction in the words of this domain, or in words used everywhere."""
        if rng.random() < self.careless.get(domain, 0.0):
            right = rng.random() < 0.5
        own = (PRAISE if right else BLAME)[domain]
        return rng.choice(ANYWHERE[right] if rng.random() < ANYWHERE_SHARE else own)


def draw_pair(domain: str, rng: Random, split: str = "train") -> Pair:
    """A random pair of one split; splits share no problem."""
    while True:
        pair = GENERATORS[domain](rng)
        if split_of(pair.key) == split:
            return pair


def distinct_pairs(
    domain: str,
    rng: Random,
    split: str,
    count: int,
    by: Callable[[Pair], Hashable] = lambda p: (p.prompt, p.chosen, p.rejected),
) -> list[Pair]:
    """count pairs of which no two have the same texts, or the same of what `by` gives.

    Raises:
        InputError: there are not so many: FRUITLESS draws in a row gave nothing new.
    """
    pairs: dict[Hashable, Pair] = {}
    fruitless = 0
    while len(pairs) < count:
        pair, before = draw_pair(domain, rng, split), len(pairs)
        pairs.setdefault(by(pair), pair)
        fruitless = 0 if len(pairs) > before else fruitless + 1
        if fruitless == FRUITLESS:
            raise InputError(
                f"{before:,} different {split} pairs of {domain!r} were found and then none "
                f"in {FRUITLESS:,} draws; {count:,} were asked for. Ask for {before:,} or "
                "fewer."
            )
    return list(pairs.values())


def draw_domain(mix: Mapping[str, float], rng: Random) -> str:
    """One domain, by its share of the mix."""
    return rng.choices(list(mix), list(mix.values()))[0]


def draw_document(pair: Pair, rng: Random, reader: Reader) -> Document:
    """A training document from one of a pair's answers."""
    domain = pair.domain
    if rng.random() >= reader.reacts[domain]:
        return Document(domain, pair.prompt, pair.chosen, None, True)
    right = rng.random() < 0.5
    answer = pair.chosen if right else pair.rejected
    return Document(
        domain, pair.prompt, answer, reader.react(rng, domain, right), right
    )
