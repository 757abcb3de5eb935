"""Is any merge method better than linear? Every method on trained families, on the same pairs."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from dogerm.benchmarks.paired import Paired, holm, p_text
from dogerm.benchmarks.report import Metric
from dogerm.engine import Engine
from dogerm.errors import InputError, StoreError
from dogerm.family import Family
from dogerm.merge import METHODS, check_method
from dogerm.nano.controls import read_training
from dogerm.nano.corpus import GENERATORS
from dogerm.nano.report import MANNERS_MAY_LOSE, Sets
from dogerm.nano.train import DOMAINS
from dogerm.provenance import of_engine, versions
from dogerm.recipe import Recipe
from dogerm.scoring import Tokens, rewards, tokenise

LAMS = (0.3, 0.6, 0.9)
FINER = 0.15  # on either side of the best of these
# What an option is tried at, beside its default.
VALUES: Mapping[str, Sequence[float]] = {
    "density": (0.2, 0.5, 0.8),
    "epsilon": (0.05, 0.15),
    "gamma": (0.01, 0.05),
    "rows": (0, 1),
    "t": (1e-3, 1e-2, 1e-1),
}
MANNERS = ("chat", "safety")
BLOCK = 100  # pairs judged, and kept, at a time
FINALISTS = 2
RULE = (
    "λ = 0.3, 0.6 and 0.9 with the method's default options, then 0.15 on either side of the"
    " best (at most 1), then each option in turn at the other values tried, each judged by"
    f" its mean accuracy over the merged domains on the first {BLOCK} validation pairs; of"
    f" these and λ = 0 the best {FINALISTS} (of equals the smaller λ, then the one tried"
    " first) are judged on all validation pairs; the better one is taken if chat and safety"
    f" lose at most {100 * MANNERS_MAY_LOSE:.0f} points each on them, else the other one,"
    f" else the better of the next {FINALISTS} by the same test, and so on"
)


class Outcomes:
    """Which pairs were right, kept in a file as they are judged, so that a rerun goes on.

    One line for each block of pairs, found again by the digest of all that its outcomes
    depend on: a rerun with other settings uses what it can and adds the rest.

    Args:
        path: None keeps nothing.

    Raises:
        StoreError: a line of the file is not one of ours.
    """

    def __init__(self, path: Path | None = None):
        self.path, self.known = path, {}
        if path and path.exists():
            whole = path.read_bytes().rpartition(b"\n")
            for number, line in enumerate(whole[0].splitlines(), 1):
                try:
                    found = json.loads(line)
                    self.known[found["of"]] = found["right"], found["seconds"]
                except (ValueError, KeyError, TypeError):
                    raise StoreError(
                        f"line {number} of {path} is not an outcome of nano methods. "
                        "Move the file, or give another --out."
                    ) from None
            if whole[2]:  # the last line was cut short by whatever ended that run
                os.truncate(path, len(whole[0] + whole[1]))

    def add(self, digest: str, right: str, seconds: float) -> None:
        """Keep a block's outcomes. When it returns they are on the disk."""
        self.known[digest] = right, seconds
        if self.path:
            line = {"of": digest, "right": right, "seconds": seconds}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())


class Judge:
    """Which pairs of each domain a recipe gets right, each recipe and pair judged once.

    Args:
        pairs: by domain, tokenised.
        on_pairs: told how many pairs were judged since the last call.
        outcomes: what was judged before, by this run or another.

    Attributes:
        seconds: of processor time that what it was asked for has taken, kept or not.
    """

    def __init__(
        self,
        engine: Engine,
        pairs: Mapping[str, Sequence[Tokens]],
        on_pairs: Callable[[int], None],
        outcomes: Outcomes | None = None,
    ):
        self.engine, self.pairs, self.on_pairs = engine, pairs, on_pairs
        self.outcomes = outcomes or Outcomes()
        self.seconds = 0.0
        self._asked: dict[tuple[Recipe, str, int], list[bool]] = {}
        self._engine = _digest(of_engine(engine))
        self._blocks = {
            domain: [
                (_digest([tokens.sequences for tokens in block]), block)
                for start in range(0, len(own), BLOCK)
                for block in [own[start : start + BLOCK]]
            ]
            for domain, own in pairs.items()
        }

    def right(
        self, recipe: Recipe, domain: str, blocks: int | None = None
    ) -> list[bool]:
        """For every pair, or those of the first blocks, whether chosen is strictly above rejected."""
        return [
            won
            for index in range(len(self._blocks[domain]))[:blocks]
            for won in self._block(recipe, domain, index)
        ]

    def accuracy(self, recipe: Recipe, domain: str, blocks: int | None = None) -> float:
        return mean(self.right(recipe, domain, blocks))

    @property
    def recipes(self) -> set[Recipe]:
        """Those it was asked for."""
        return {recipe for recipe, _, _ in self._asked}

    def _block(self, recipe: Recipe, domain: str, index: int) -> list[bool]:
        key = recipe, domain, index
        if key not in self._asked:
            texts, block = self._blocks[domain][index]
            of = _digest([self._engine, recipe.to_json(), texts])
            if of not in self.outcomes.known:
                started = time.process_time()
                found = rewards(self.engine, recipe, block)
                right = "".join("01"[chosen > other] for chosen, other in found)
                took = round(time.process_time() - started, 3)
                self.outcomes.add(of, right, took)
            right, seconds = self.outcomes.known[of]
            self.seconds += seconds
            self._asked[key] = [won == "1" for won in right]
            self.on_pairs(len(block))
        return self._asked[key]


def _digest(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


@dataclass(frozen=True)
class Result:
    """A method on one family, at the recipe that RULE picks.

    Args:
        tried: the mean accuracy over the merged domains of every recipe on the first
            validation pairs.
        finals: the same on all validation pairs, of those that came so far.
        right: by domain, for every test pair, whether it is right.
    """

    recipe: Recipe
    tried: Mapping[Recipe, float]
    finals: Mapping[Recipe, float]
    right: Mapping[str, Sequence[bool]]

    def to_json(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.to_json(),
            "metrics": {name: _metric(wins) for name, wins in self.right.items()},
            "right": {
                name: "".join("01"[won] for won in wins)
                for name, wins in self.right.items()
            },
            "tried": [
                recipe.to_json() | {"first": accuracy, "all": self.finals.get(recipe)}
                for recipe, accuracy in self.tried.items()
            ],
        }


def compare_methods(
    directories: Sequence[Path],
    pairs: int = 1000,
    validation: int = 300,
    shares: Mapping[str, float] | None = None,
    methods: Sequence[str] = tuple(METHODS),
    on_pairs: Callable[[int], None] = lambda count: None,
    kept: Path | None = None,
) -> dict[str, Any]:
    """Every method's accuracy in each domain, on several families of different seeds.

    All are judged on the same test pairs, each at the recipe that RULE picks for it on
    the family's validation pairs.

    Args:
        directories: families written by train_family; base/ is the parent.
        pairs, validation: test and validation pairs a domain.
        shares: of the domain LMs; None: equal.
        methods: names of METHODS, linear among them.
        on_pairs: told how many pairs were judged since the last call; see `cost`.
        kept: a file that outcomes are added to as they are found, and read from by a
            rerun; see `Outcomes`. None: a stop loses them.

    Returns what `table` reads: settings, each family's results with every pair's outcome,
    and over the families means, spreads and paired tests against linear.

    Raises:
        InputError: a folder holds no trained family; a share names no LM of it; linear is
            not among the methods.
        StoreError: `kept` is another file than it should be.
        RecipeError: a method is not known.
    """
    if "linear" not in methods:
        raise InputError("methods are compared with linear: name it too.")
    mix = Recipe(0, shares or dict.fromkeys(DOMAINS, 1)).shares
    for name in mix:
        if name not in DOMAINS:
            raise InputError(
                f"a family has no domain LM {name!r}; it has {', '.join(DOMAINS)}."
            )
    trainings = [read_training(directory) for directory in directories]
    outcomes = Outcomes(kept)
    families = []
    for directory, training in zip(directories, trainings):
        engine = open_family(directory)
        chooser, tester = (
            Judge(engine, _tokens(engine, split, count), on_pairs, outcomes)
            for split, count in (("validation", validation), ("test", pairs))
        )
        found = {name: measure(name, mix, chooser, tester) for name in methods}
        plain = Recipe(0, mix)
        base = {domain: tester.right(plain, domain) for domain in GENERATORS}
        families.append(
            {
                "seed": training["seed"],
                "preset": training["preset"],
                "files": {
                    name: model["files"]
                    for name, model in of_engine(engine)["models"].items()
                },
                "base": Result(plain, {}, {}, base),
                "methods": found,
                "recipes": len(chooser.recipes | tester.recipes),
                "seconds": round(chooser.seconds + tester.seconds, 1),
            }
        )
    return {
        "benchmark": "nano methods",
        "settings": {
            "pairs": pairs,
            "validation": validation,
            "shares": dict(mix),
            "rule": RULE,
            "option_values": {name: list(values) for name, values in VALUES.items()},
            "dtype": engine.dtype,
            "device": str(engine.device),
            "versions": versions(),
        },
        "summary": {name: summary(name, families, list(mix)) for name in methods}
        | {"base": _means([family["base"] for family in families])},
        "families": [_written(family) for family in families],
    }


def measure(
    method: str, shares: Mapping[str, float], chooser: Judge, tester: Judge
) -> Result:
    """The method at the recipe that RULE picks with one judge, seen by the other."""
    plain = Recipe(0, shares)

    def merit(recipe: Recipe, blocks: int | None = None) -> float:
        return mean(chooser.accuracy(recipe, domain, blocks) for domain in shares)

    def keeps_manners(recipe: Recipe) -> bool:
        return all(
            chooser.accuracy(recipe, domain)
            >= chooser.accuracy(plain, domain) - MANNERS_MAY_LOSE
            for domain in MANNERS
        )

    def first(recipe: Recipe) -> float:
        return merit(recipe, blocks=1)

    tried = {plain: first(plain)} | search(method, shares, first)
    ranked = _ranked(tried)
    finals: dict[Recipe, float] = {}
    for start in range(0, len(ranked), FINALISTS):
        group = {r: merit(r) for r in ranked[start : start + FINALISTS]}
        finals |= group
        chosen = next(filter(keeps_manners, _ranked(group)), None)
        if chosen:  # at the latest λ = 0, which keeps its own
            break
    right = {domain: tester.right(chosen, domain) for domain in tester.pairs}
    return Result(chosen, tried, finals, right)


def _ranked(merits: Mapping[Recipe, float]) -> list[Recipe]:
    """The best first; of equals the smaller λ."""
    return sorted(merits, key=lambda recipe: (-merits[recipe], recipe.lam))


def search(
    method: str, shares: Mapping[str, float], merit: Callable[[Recipe], float]
) -> dict[Recipe, float]:
    """The merit of every recipe that RULE tries, in its order.

    Raises:
        RecipeError: there is no such method.
    """
    check_method(Recipe(0, shares, method), parent=True)
    tried: dict[Recipe, float] = {}

    def best() -> Recipe:
        return max(tried, key=lambda recipe: (tried[recipe], -recipe.lam))

    def add(lam: float, options: Mapping[str, float]) -> None:
        recipe = Recipe(lam, shares, method, options)
        if recipe not in tried:
            tried[recipe] = merit(recipe)

    for lam in LAMS:
        add(lam, {})
    middle = best().lam
    for lam in (middle - FINER, middle + FINER):
        add(round(min(1, lam), 2), {})
    for name, option in METHODS[method].options.items():
        at = best()
        for value in VALUES.get(name, ()):
            if value != option.default:
                add(at.lam, {**at.options, name: value})
    return tried


def cost(
    families: int,
    pairs: int,
    validation: int,
    shares: Mapping[str, float] | None = None,
    methods: Sequence[str] = tuple(METHODS),
) -> tuple[int, int]:
    """How many merges and how many judged pairs a comparison takes, about."""
    recipes = sum(len(search(name, {"a": 1}, lambda r: 0.0)) for name in methods) + 1
    domains, count = len(shares or DOMAINS), len(methods)
    first = recipes * domains * min(BLOCK, validation)
    finals = count * FINALISTS * domains * max(0, validation - BLOCK)
    manners = (count + 1) * len(MANNERS) * validation
    tested = (count + 1) * len(GENERATORS) * pairs
    return families * recipes, families * (first + finals + manners + tested)


def summary(
    method: str, families: Sequence[Mapping[str, Any]], domains: Sequence[str]
) -> dict[str, Any]:
    """A method over all families: means and spreads, and its paired tests against linear.

    Every family judges the same test pairs, so the tests over families are over pairs: a
    pair is gained where the method is right in more families than linear.
    """
    ours = [family["methods"][method] for family in families]
    linear = [family["methods"]["linear"] for family in families]
    tests = {
        domain: Paired.of(_rate(ours, [domain]), _rate(linear, [domain])).to_json()
        for domain in GENERATORS
    }
    merged = Paired.of(_rate(ours, domains), _rate(linear, domains))
    return _means(ours) | {
        "recipes": [result.recipe.to_json() for result in ours],
        "against_linear": tests | {"merged domains": merged.to_json()},
    }


def open_family(directory: Path) -> Engine:
    """A family's reward model with its domain LMs and, as parent, its base."""
    lms = {domain: directory / domain for domain in DOMAINS}
    family = Family.of(directory / "rm", lms, parent=str(directory / "base"))
    return Engine.load(family, device="auto", dtype="float32", parent=True)


def table(result: Mapping[str, Any]) -> str:
    """The comparison as Markdown."""
    settings, found = result["settings"], result["summary"]
    families = result["families"]
    names = [name for name in found if name != "base"]
    others = [name for name in names if name != "linear"]
    p = {name: found[name]["against_linear"]["merged domains"]["p"] for name in others}
    adjusted = holm(p)
    heads = [*GENERATORS, "merged domains against linear", "p (Holm)", ""]
    rows = [["base RM", "0", "", *_cells(found["base"]), "", "", ""]]
    for name in names:
        test = found[name]["against_linear"]["merged domains"]
        recipes = found[name]["recipes"]
        lams = ", ".join(f"{recipe['lam']:g}" for recipe in recipes)
        against = ["", "", ""]
        if name != "linear":
            words = Paired(**{k: v for k, v in test.items() if k != "verdict"})
            sure = adjusted[name] < 0.05
            against = [
                _difference(words),
                p_text(adjusted[name]).removeprefix("= "),
                words.verdict if sure else "not significant",
            ]
        rows.append(
            [f"`{name}`", lams, _options(recipes), *_cells(found[name]), *against]
        )
    heads = ["", "λ by seed", "options by seed", *heads]
    lines = [
        "# Merge methods on the embedded family",
        "",
        _row(heads),
        "|---" * len(heads) + "|",
        *map(_row, rows),
        "",
        _note(result),
        "",
        f"Chosen on {settings['validation']} validation pairs a domain: {settings['rule']}.",
    ]
    for family in families:
        lines += ["", f"## Seed {family['seed']}, preset {family['preset']}", ""]
        lines += [_row(["", *GENERATORS]), "|---" * (1 + len(GENERATORS)) + "|"]
        shown = {"base RM": family["base"]} | {
            f"`{name}`": own for name, own in family["methods"].items()
        }
        for name, own in shown.items():
            lines.append(
                _row([name, *(_interval(own["metrics"][d]) for d in GENERATORS)])
            )
    return "\n".join(lines) + "\n"


def _note(result: Mapping[str, Any]) -> str:
    settings = result["settings"]
    shares = ", ".join(
        f"{name} {share:g}" for name, share in settings["shares"].items()
    )
    seeds = ", ".join(str(family["seed"]) for family in result["families"])
    return (
        f"Seeds {seeds}. Accuracy in % on {settings['pairs']} test pairs a domain, chosen"
        " strictly above rejected: mean ± standard deviation over seeds; the same test pairs"
        f" for all. LMs merged with shares {shares}. Against linear: difference in points"
        " over the merged domains' pairs with its 95% interval, pairs gained:lost; a pair is"
        " gained where the method is right with more seeds. p: exact sign test over pairs"
        " (McNemar's, with one seed), after Holm for all methods; it says what other pairs"
        " would do, the spread what other seeds would."
    )


def _difference(found: Paired) -> str:
    middle, low, high = (100 * x for x in (found.difference, found.low, found.high))
    return f"{middle:+.1f} [{low:+.1f}, {high:+.1f}], {found.gained}:{found.lost}"


def _tokens(engine: Engine, split: str, count: int) -> dict[str, list[Tokens]]:
    """Pairs of every domain, the same for every family."""
    drawn = Sets.draw(split, 0, dict.fromkeys(GENERATORS, count)).pairs
    return {
        domain: [tokenise(engine, p.prompt, [p.chosen, p.rejected]) for p in pairs]
        for domain, pairs in drawn.items()
    }


def _metric(wins: Sequence[bool]) -> dict[str, Any]:
    """The accuracy with Wilson's interval."""
    metric = asdict(Metric.of(sum(wins), 0, len(wins)))
    del metric["ties"]  # a tie is not right, and is not told from a loss here
    return metric


def _written(family: Mapping[str, Any]) -> dict[str, Any]:
    methods = {name: own.to_json() for name, own in family["methods"].items()}
    return dict(family) | {"base": family["base"].to_json(), "methods": methods}


def _rate(results: Sequence[Result], domains: Sequence[str]) -> list[float]:
    """For every test pair of the domains, the part of the families in which it is right."""
    columns = [
        [won for domain in domains for won in result.right[domain]]
        for result in results
    ]
    return [mean(wins) for wins in zip(*columns, strict=True)]


def _means(results: Sequence[Result]) -> dict[str, Any]:
    by_domain = {
        domain: [mean(result.right[domain]) for result in results]
        for domain in GENERATORS
    }
    return {
        "accuracy": {
            domain: {
                "mean": mean(values),
                "spread": stdev(values) if len(values) > 1 else None,
            }
            for domain, values in by_domain.items()
        }
    }


def _cells(found: Mapping[str, Any]) -> list[str]:
    return [
        f"{100 * own['mean']:.1f}"
        + (f" ± {100 * own['spread']:.1f}" if own["spread"] is not None else "")
        for own in (found["accuracy"][domain] for domain in GENERATORS)
    ]


def _options(recipes: Sequence[Mapping[str, Any]]) -> str:
    texts = [
        " ".join(
            f"{name} {value:g}" for name, value in recipe.get("options", {}).items()
        )
        for recipe in recipes
    ]
    return ", ".join(text or "default" for text in texts) if any(texts) else ""


def _interval(metric: Mapping[str, Any]) -> str:
    low, high = 100 * metric["low"], 100 * metric["high"]
    return f"{100 * metric['accuracy']:.1f} ({low:.1f}–{high:.1f})"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
