"""Which λ, mix, method, options and layers? Searched on validation pairs, judged on held-out ones."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from dogerm.benchmarks.paired import Paired
from dogerm.benchmarks.report import Metric, settings
from dogerm.engine import Engine
from dogerm.errors import InputError, RecipeError
from dogerm.family import PARENT
from dogerm.merge import METHODS, check_method
from dogerm.provenance import described
from dogerm.recipe import SHAPES, Recipe
from dogerm.rows import Row, Tokenised
from dogerm.scoring import chat_messages, rewards
from dogerm.sweep import GRID

if TYPE_CHECKING:
    from optuna.trial import Trial

# Three that differ and need no parent: straight, on an arc, and near entries only.
TRIED = ("linear", "slerp", "nearswap")
TRIALS = 60
# Trials at random before what is known guides the next ones.
STARTUP = 10
ASKED_AT_MOST = (
    20  # recipes that cannot be meant (epsilon above density), for each that can
)


@dataclass(frozen=True)
class Judged:
    """A recipe on the validation pairs.

    Args:
        merit: what the search compares, see `merit`.
    """

    recipe: Recipe
    metric: Metric
    merit: float

    def to_json(self) -> dict[str, Any]:
        return self.recipe.to_json() | {
            "metric": asdict(self.metric),
            "merit": self.merit,
        }


@dataclass(frozen=True)
class Suggestion:
    """The recipe that does best on validation pairs, and what it does on held-out ones.

    Args:
        recipe: of all that were judged, the one with most merit.
        linear: plain linear with the family's own shares at its best λ of 0 to 1 by 0.05,
            chosen on the same validation pairs.
        validation, test: accuracy of `base` (the plain reward model), `linear` and
            `suggested`. On validation pairs it is flattered: that is where it was chosen.
        margins: the same three's on every held-out pair, in order.
        against_linear, against_base: the suggestion against each on the held-out pairs.
        judged: everything that was tried, plain linear first.
        shared_prompts: how many held-out pairs have a prompt that validation pairs have
            too, with other responses.
        settings: what the numbers depend on beside weights and rows.
    """

    recipe: Recipe
    linear: Recipe
    validation: Mapping[str, Metric]
    test: Mapping[str, Metric]
    margins: Mapping[str, Sequence[float]]
    against_linear: Paired
    against_base: Paired
    judged: Sequence[Judged]
    shared_prompts: int
    settings: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        """What the held-out pairs say about the suggestion."""
        if self.recipe == self.linear:
            return (
                "Nothing that was tried does better on the validation pairs than plain "
                "linear at its best λ, which is what is suggested."
            )
        advice = {
            "not significant": "These pairs do not tell it from plain linear.",
            "significantly worse": "Keep plain linear.",
        }
        found = f"Against plain linear, held out: {self.against_linear}."
        return " ".join([found, advice.get(self.against_linear.verdict, "")]).strip()

    def to_json(self) -> dict[str, Any]:
        return {
            "suggested": self.recipe.to_json(),
            "linear": self.linear.to_json(),
            "validation": {name: asdict(m) for name, m in self.validation.items()},
            "test": {name: asdict(m) for name, m in self.test.items()},
            "against_linear": self.against_linear.to_json(),
            "against_base": self.against_base.to_json(),
            "verdict": self.verdict,
            "shared_prompts": self.shared_prompts,
            "settings": dict(self.settings),
            "judged": [found.to_json() for found in self.judged],
            "margins": {name: list(found) for name, found in self.margins.items()},
        }


def suggest(
    engine: Engine,
    validation: Tokenised,
    test: Tokenised,
    methods: Sequence[str] = TRIED,
    trials: int = TRIALS,
    seed: int = 0,
    on_trial: Callable[[Judged], None] | None = None,
) -> Suggestion:
    """The best recipe on the validation pairs, judged once on the held-out ones.

    First plain linear on its grid of λ, then `trials` recipes by Optuna's
    tree-structured Parzen estimator. Deterministic for a seed. The held-out pairs are read
    for three recipes only, after the search: base, plain linear, the suggestion.

    Args:
        validation, test: as `check_pairs` allows them.
        methods: names of METHODS to choose from. Seeds of random ones keep their default.
        on_trial: told every recipe as it is judged.

    Raises:
        InputError: as `check_pairs`, or every pair was skipped as too long.
        RecipeError: a method is not known, or needs a parent that is not loaded.
    """
    shared_prompts = check_pairs(validation.rows, test.rows)
    for name, rows in (("validation", validation), ("held-out", test)):
        if not rows.scored:
            raise InputError(f"every {name} pair is too long for this model.")
    plain = engine.family.recipe(0)
    for method in methods:
        check_method(Recipe(0, plain.shares, method), PARENT in engine.sources.lms)
    judge = _Judge(engine, validation, on_trial)
    line = [judge(plain.with_lam(lam)) for lam in GRID]
    linear = _best(line).recipe
    judged = [*line, *_search(judge, line, linear, methods, trials, seed)]
    chosen = _best(judged)
    named = {"base": plain, "linear": linear, "suggested": chosen.recipe}
    held_out = {name: margins(engine, recipe, test) for name, recipe in named.items()}
    return Suggestion(
        chosen.recipe,
        linear,
        {name: judge(recipe).metric for name, recipe in named.items()},
        {name: Metric.of_margins(found) for name, found in held_out.items()},
        held_out,
        Paired.of_margins(held_out["suggested"], held_out["linear"]),
        Paired.of_margins(held_out["suggested"], held_out["base"]),
        judged,
        shared_prompts,
        _described(engine, validation, test, methods, trials, seed),
    )


def check_pairs(validation: Sequence[Row], test: Sequence[Row]) -> int:
    """How many held-out pairs share their prompt, but not their responses, with validation.

    Raises:
        InputError: a row does not say which response is better; or a pair is in both.
    """
    for row in (*validation, *test):
        if not row.is_pair:
            raise InputError(
                f"{row.where}: it does not say which response is better. "
                "Give chosen and rejected."
            )
    seen = {_key(row): row.where for row in validation}
    both = [(row.where, seen[_key(row)]) for row in test if _key(row) in seen]
    if both:
        raise InputError(
            f"{len(both)} of {len(test)} held-out pairs are validation pairs too, the first "
            f"in {both[0][0]} and {both[0][1]}. Keep them apart: a recipe may not be judged "
            "on pairs that it was chosen on."
        )
    prompts = {_prompt(row) for row in validation}
    return sum(_prompt(row) in prompts for row in test)


def margins(engine: Engine, recipe: Recipe, pairs: Tokenised) -> list[float]:
    """Chosen minus rejected reward of every pair that was not skipped."""
    found = rewards(engine, recipe, pairs.scored)
    return [chosen - rejected for chosen, rejected in found]


def merit(margins: Sequence[float]) -> float:
    """The fraction of pairs right; between equals, the one that tells them apart more clearly.

    Accuracy is a step function, which many recipes share. To it is added less than one
    pair's worth of the mean margin over its root mean square, from -1 to 1: it does
    not change when all rewards are scaled, as merging scales them.
    """
    count = len(margins)
    right = sum(margin > 0 for margin in margins)
    size = math.sqrt(sum(margin * margin for margin in margins) / count)
    clear = sum(margins) / count / size if size else 0.0
    return (right + 0.49 * (1 + clear)) / count


class _Judge:
    """Judges recipes on the validation pairs, each of them once."""

    def __init__(
        self,
        engine: Engine,
        pairs: Tokenised,
        on_trial: Callable[[Judged], None] | None,
    ):
        self.engine, self.pairs, self.on_trial = engine, pairs, on_trial
        self._known: dict[Recipe, Judged] = {}

    def __call__(self, recipe: Recipe) -> Judged:
        if recipe not in self._known:
            found = margins(self.engine, recipe, self.pairs)
            judged = Judged(recipe, Metric.of_margins(found), merit(found))
            self._known[recipe] = judged
            if self.on_trial:
                self.on_trial(judged)
        return self._known[recipe]


def _best(judged: Sequence[Judged]) -> Judged:
    """The first of those with most merit: of equals the smaller λ, and linear before others."""
    return max(judged, key=lambda found: found.merit)


def _search(
    judge: _Judge,
    line: Sequence[Judged],
    linear: Recipe,
    methods: Sequence[str],
    trials: int,
    seed: int,
) -> Iterator[Judged]:
    """Recipes that the optimiser asks for, told what is known of plain linear."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    engine = judge.engine
    shapes = shapes_for(engine.fit.anatomy.layers)
    space = _Space(list(engine.family.lms), methods, shapes)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(
            n_startup_trials=STARTUP + len(line), seed=seed
        ),
    )
    if "linear" in methods:
        for found in line:
            study.add_trial(
                optuna.create_trial(
                    params=space.parameters(found.recipe),
                    distributions=space.fixed,
                    value=found.merit,
                )
            )
    for start in space.starts(linear):
        study.enqueue_trial(start)
    done = 0
    for _ in range(ASKED_AT_MOST * trials):
        if done == trials:
            return
        trial = study.ask()
        recipe = space.recipe(trial)
        try:
            check_method(recipe, PARENT in engine.sources.lms)
        except RecipeError:  # of two options that are fine each, but not together
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        found = judge(recipe)
        study.tell(trial, found.merit)
        done += 1
        yield found


class _Space:
    """Recipes as parameters of a search: method, λ, a mix of the LMs, options, layers.

    The mix of D LMs is D - 1 numbers in [0, 1]: what each takes of the rest, so that
    uniform numbers are a uniform mix. λ and shares are rounded to 0.01.
    """

    def __init__(
        self,
        lms: Sequence[str],
        methods: Sequence[str],
        shapes: Sequence[str] = ("constant",),
    ):
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        self.lms, self.methods = list(lms), list(dict.fromkeys(methods))
        self.shapes = list(shapes)
        self.fixed = {
            "method": CategoricalDistribution(self.methods),
            "lam": FloatDistribution(0, 1),
            "layers": CategoricalDistribution(self.shapes),
            **{f"mix {name}": FloatDistribution(0, 1) for name in self.lms[:-1]},
        }

    def recipe(self, trial: Trial) -> Recipe:
        method = trial.suggest_categorical("method", self.methods)
        lam = round(trial.suggest_float("lam", 0, 1), 2)
        rest, shares = 1.0, {}
        for after, name in self._with_rest():
            taken = 1 - (1 - trial.suggest_float(f"mix {name}", 0, 1)) ** (1 / after)
            shares[name] = round(rest * taken, 2)
            rest = round(rest - shares[name], 2)
        shares[self.lms[-1]] = rest
        options = {
            name: self._option(trial, method, name)
            for name, option in METHODS[method].options.items()
            if option.searched
        }
        layers = trial.suggest_categorical("layers", self.shapes)
        return Recipe(lam, shares, method, options, layers)

    def parameters(self, recipe: Recipe) -> dict[str, Any]:
        """What `recipe` would have made this recipe of, leaving out its options."""
        rest, mix = 1.0, {}
        for after, name in self._with_rest():
            share = recipe.shares.get(name, 0.0)
            taken = min(1.0, share / rest) if rest > 1e-9 else 0.0
            mix[f"mix {name}"] = 1 - (1 - taken) ** after
            rest -= share
        own = {"method": recipe.method, "lam": recipe.lam, "layers": recipe.layers}
        return own | mix

    def starts(self, linear: Recipe) -> Iterator[dict[str, Any]]:
        """Where to look first: each method, LM alone and shape over the layers, where linear is best."""
        for method in self.methods:
            if method != "linear":
                options = {
                    f"{method} {name}": option.default
                    for name, option in METHODS[method].options.items()
                    if option.searched
                }
                yield self.parameters(linear) | {"method": method} | options
        if len(self.lms) > 1 and "linear" in self.methods:
            for name in self.lms:
                yield self.parameters(Recipe(linear.lam, {name: 1}))
        if "linear" in self.methods:
            for shape in self.shapes[1:]:
                yield self.parameters(linear) | {"layers": shape}

    def _with_rest(self) -> Iterator[tuple[int, str]]:
        """Every LM but the last, with how many come after it."""
        for index, name in enumerate(self.lms[:-1]):
            yield len(self.lms) - 1 - index, name

    def _option(self, trial: Trial, method: str, name: str) -> float:
        option = METHODS[method].options[name]
        low, high = option.span
        parameter = f"{method} {name}"
        if option.whole:
            return trial.suggest_int(parameter, int(low), int(high))
        value = trial.suggest_float(parameter, low, high, log=option.logarithmic)
        return float(f"{value:.2g}")


def shapes_for(layers: int) -> list[str]:
    """The shapes of λ over depth that differ in a model of so many layers, constant first."""
    least = {"constant": 0, "ramp": 2, "ramp-down": 2, "middle": 3}
    return [shape for shape in SHAPES if layers >= least[shape]]


def _key(row: Row) -> str:
    """The same for the same prompt and the same two responses, whichever is chosen."""
    return json.dumps([_prompt(row), sorted(row.responses)])


def _prompt(row: Row) -> str:
    return json.dumps(chat_messages(row.prompt))


def _described(
    engine: Engine,
    validation: Tokenised,
    test: Tokenised,
    methods: Sequence[str],
    trials: int,
    seed: int,
) -> dict[str, Any]:
    own = settings(engine, test)
    return {
        "family": described(engine.family),
        "methods": list(methods),
        "trials": trials,
        "seed": seed,
        "linear_lams": list(GRID),
        "layers": shapes_for(engine.fit.anatomy.layers),
        "optimiser": f"Optuna {_optuna()}, TPE",
        **own,
        "validation_pairs": len(validation.scored),
        "test_pairs": len(test.scored),
        "skipped": len(validation.skipped) + len(test.skipped),
        "cut": validation.cut + test.cut,
    }


def _optuna() -> str:
    from importlib.metadata import version

    return version("optuna")
