"""A recipe as a configuration of mergekit's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

from dogerm.errors import RecipeError
from dogerm.family import Family
from dogerm.merge import METHODS, check_method, options_of
from dogerm.mergekit.forms import CLOSE, FORMS, Form
from dogerm.recipe import Recipe

# How the parts of a model are recognised in its parameters' names; norms first, as
# attention has some too.
FILTERS = {
    "norms": "norm",
    "attention": "self_attn",
    "mlp": "mlp",
    "embeddings": "embed_tokens",
}
FINAL_NORM = "model.norm"
# Values between those given for the ends, and the middle, of each shape.
ANCHORS = {"ramp": (0, 1), "ramp-down": (1, 0), "middle": (0, 1, 0)}


def to_yaml(family: Family, recipe: Recipe, dtype: str | None = None) -> str:
    """The recipe as a configuration of mergekit's.

    Args:
        dtype: in which the result is to be written; None: mergekit's choice.

    Raises:
        RecipeError: mergekit has no way to say it; says what it could say.
    """
    check_method(recipe, parent=family.parent is not None)
    options = options_of(recipe)
    form = FORMS[recipe.method]
    _check_sayable(recipe, form)
    names = list(recipe.shares)
    models: dict[str, Any] = {family.rm: {}}
    if form.weights in ("mean", "added"):
        own = (lambda x: 1 - x) if form.weights == "mean" else (lambda x: 1.0)
        models[family.rm]["weight"] = _setting(recipe, own)
    for name in names:
        weight = _setting(recipe, lambda x, share=recipe.shares[name]: x * share)
        models[family.lms[name]] = (
            {"weight": weight} if form.weights in ("mean", "added") else {}
        )
    shared: dict[str, Any] = (
        {"t": _setting(recipe, float)} if form.weights == "arc" else {}
    )
    for ours, theirs in form.options.items():
        if form.weights == "whole":
            shared[theirs] = options[ours]
            continue
        for source, parameters in models.items():
            if form.weights == "mean" or source != family.rm:
                parameters[theirs] = options[ours]
            elif ours == "density":  # the reward model's task vector stays whole
                parameters[theirs] = 1.0
    shared |= form.fixed
    if recipe.method == "linear":
        shared["normalize"] = False
    if recipe.method == "nuslerp":
        shared["nuslerp_flatten"] = not options["rows"]
    data: dict[str, Any] = {"merge_method": recipe.method}
    if form.base:
        data["base_model"] = family.rm if form.base == "rm" else family.parent
    data["models"] = [
        {"model": source} | ({"parameters": own} if own else {})
        for source, own in models.items()
    ]
    data |= {"parameters": shared} if shared else {}
    data |= {"dtype": "float32"} | ({"out_dtype": dtype} if dtype else {})
    data["tokenizer_source"] = "union"
    body = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return "".join(f"# {line}\n" for line in _remarks(recipe, form)) + body


class _Dumper(yaml.SafeDumper):
    """Lists of numbers in one line."""

    def represent_sequence(self, tag, sequence, flow_style=None):
        numbers = all(isinstance(item, (int, float)) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=numbers)


def _check_sayable(recipe: Recipe, form: Form) -> None:
    count, method = len(recipe.shares), recipe.method
    if form.one_lm and count > 1:
        raise RecipeError(
            f"mergekit's {method} takes one LM; this recipe has {', '.join(recipe.shares)}."
        )
    if form.weights != "whole":
        return
    wanted = count / (count + 1) if method == "karcher" else 1.0
    equal = max(recipe.shares.values()) - min(recipe.shares.values()) < CLOSE
    if abs(recipe.lam - wanted) > CLOSE or not equal or recipe.reach:
        raise RecipeError(
            f"mergekit's {method} has no weights: of {count} LM{'s' if count > 1 else ''} it "
            f"can say λ = {wanted:g} with equal shares, layers and parts, got {recipe}."
        )


def _remarks(recipe: Recipe, form: Form) -> list[str]:
    said = [
        str(recipe),
        "mergekit merges a reward model with LMs, which are of another class, with",
        "--allow-crimes; copy the reward model's score head into the result.",
    ]
    if "seed" in METHODS[recipe.method].options:
        said.append("Its random masks are mergekit's own: --random-seed, not our seed.")
    nowhere = (
        recipe.lam == 0 or recipe.layers != "constant" or 0 in recipe.parts.values()
    )
    if form.weights == "mean" and form.options and nowhere:
        said.append(
            "Where the LMs' weights are 0 we keep the reward model; mergekit prunes its "
            "task vector there too."
        )
    return said


def _setting(recipe: Recipe, of: Callable[[float], float]) -> Any:
    """`of` of λ as it is in each layer and part: a number, a list over depth, or with filters.

    `of` is a straight line, so mergekit's interpolation between the ends is exact.
    """

    def over_depth(factor: float) -> float | list[float]:
        if recipe.layers == "constant":
            return number(factor)
        anchors = ANCHORS.get(recipe.layers, recipe.layers)
        return [number(factor * anchor) for anchor in anchors]

    def number(factor: float) -> float:
        return round(of(recipe.lam * factor), 15)

    plain = over_depth(1.0)
    if not recipe.parts and (not isinstance(plain, list) or plain[0] == plain[-1]):
        return plain
    # For what is outside the layers mergekit takes a list's first number, also for the
    # final norm.
    norms = over_depth(recipe.parts.get("norms", 1.0))
    last = norms[-1] if isinstance(norms, list) else norms
    found = [{"filter": FINAL_NORM, "value": last}]
    if recipe.parts:
        found.append({"filter": FILTERS["norms"], "value": norms})
    for part, factor in recipe.parts.items():
        if part != "norms":
            found.append({"filter": FILTERS[part], "value": over_depth(factor)})
    return [*found, {"value": plain}]
