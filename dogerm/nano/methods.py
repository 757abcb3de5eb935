"""Is any merge method better than linear? Every method on trained families, on the same pairs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from dogerm.benchmarks.paired import Paired, holm, p_text
from dogerm.benchmarks.report import Metric
from dogerm.engine import Engine
from dogerm.errors import InputError
from dogerm.family import Family
from dogerm.merge import METHODS, check_method
from dogerm.nano.controls import read_training
from dogerm.nano.corpus import GENERATORS
from dogerm.nano.report import MANNERS_MAY_LOSE, Sets
from dogerm.nano.train import DOMAINS
from dogerm.provenance import versions
from dogerm.recipe import Recipe
from dogerm.scoring import Tokens, rewards, tokenise

LAMS = (0.2, 0.4, 0.6, 0.8, 1.0)
FINER = 0.1  # on either side of the best of these
# What an option is tried at, beside its default.
VALUES: Mapping[str, Sequence[float]] = {
    "density": (0.2, 0.5, 0.8),
    "epsilon": (0.05, 0.15),
    "gamma": (0.01, 0.05),
    "rows": (0, 1),
    "t": (1e-3, 1e-2, 1e-1),
}
MANNERS = ("chat", "safety")
RULE = (
    "λ from 0.2 to 1 by 0.2 with the method's default options, then 0.1 on either side of the"
    " best, then each option in turn at the other values tried; of all these and λ = 0 the"
    " recipe with the highest mean validation accuracy over the merged domains (of equals the"
    " smaller λ, then the one tried first), among those where chat and safety lose at"
    f" most {100 * MANNERS_MAY_LOSE:.0f} points each on validation pairs"
)


class Judge:
    """Which pairs of each domain a recipe gets right, each recipe and domain judged once.

    Args:
        pairs: by domain, tokenised.
        on_pairs: told how many pairs were judged since the last call.
    """

    def __init__(
        self,
        engine: Engine,
        pairs: Mapping[str, Sequence[Tokens]],
        on_pairs: Callable[[int], None],
    ):
        self.engine, self.pairs, self.on_pairs = engine, pairs, on_pairs
        self.known: dict[tuple[Recipe, str], list[bool]] = {}

    def right(self, recipe: Recipe, domain: str) -> list[bool]:
        """For every pair, whether chosen is strictly above rejected."""
        if (recipe, domain) not in self.known:
            found = rewards(self.engine, recipe, self.pairs[domain])
            self.known[recipe, domain] = [chosen > other for chosen, other in found]
            self.on_pairs(len(found))
        return self.known[recipe, domain]

    def accuracy(self, recipe: Recipe, domain: str) -> float:
        return mean(self.right(recipe, domain))


@dataclass(frozen=True)
class Result:
    """A method on one family, at the recipe that RULE picks.

    Args:
        tried: the mean validation accuracy of every recipe on the merged domains.
        right: by domain, for every test pair, whether it is right.
    """

    recipe: Recipe
    tried: Mapping[Recipe, float]
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
                recipe.to_json() | {"accuracy": accuracy}
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

    Returns what `table` reads: settings, each family's results with every pair's outcome,
    and over the families means, spreads and paired tests against linear.

    Raises:
        InputError: a folder holds no trained family; a share names no LM of it; linear is
            not among the methods.
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
    families = []
    for directory, training in zip(directories, trainings):
        started = time.perf_counter()
        engine = open_family(directory)
        chooser, tester = (
            Judge(engine, _tokens(engine, split, count), on_pairs)
            for split, count in (("validation", validation), ("test", pairs))
        )
        found = {name: measure(name, mix, chooser, tester) for name in methods}
        plain = Recipe(0, mix)
        base = {domain: tester.right(plain, domain) for domain in GENERATORS}
        judged = [*chooser.known, *tester.known]
        families.append(
            {
                "seed": training["seed"],
                "preset": training["preset"],
                "base": Result(plain, {}, base),
                "methods": found,
                "merges": len({recipe for recipe, _ in judged}),
                "seconds": round(time.perf_counter() - started, 1),
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

    def merit(recipe: Recipe) -> float:
        return mean(chooser.accuracy(recipe, domain) for domain in shares)

    def keeps_manners(recipe: Recipe) -> bool:
        return all(
            chooser.accuracy(recipe, domain)
            >= chooser.accuracy(plain, domain) - MANNERS_MAY_LOSE
            for domain in MANNERS
        )

    tried = search(method, shares, merit) | {plain: merit(plain)}
    ranked = sorted(tried, key=lambda recipe: (-tried[recipe], recipe.lam))
    chosen = next(filter(keeps_manners, ranked))
    right = {domain: tester.right(chosen, domain) for domain in tester.pairs}
    return Result(chosen, tried, right)


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
        if lam <= 1:
            add(round(lam, 2), {})
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
    flat = [len(search(name, {"a": 1}, lambda recipe: 0.0)) for name in methods]
    merges = sum(flat) + 1
    domains = len(shares or DOMAINS)
    chosen = merges * domains + (len(methods) + 1) * len(MANNERS)
    tested = (len(methods) + 1) * len(GENERATORS)
    return families * merges, families * (chosen * validation + tested * pairs)


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
