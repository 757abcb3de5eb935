"""A configuration of mergekit's as a family and a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml

from dogerm.anatomy import Anatomy
from dogerm.errors import RecipeError
from dogerm.family import Family
from dogerm.merge import check_method
from dogerm.mergekit.forms import CLOSE, FORMS, Form
from dogerm.recipe import SHAPES, Recipe

# What mergekit takes for a setting that a file leaves out.
DEFAULTS: Mapping[str, Any] = {
    "lambda": 1.0,
    "density": 1.0,
    "gamma": 0.01,
    "epsilon": 0.15,
    "select_topk": 1.0,
    "normalize_weights": True,
    "nuslerp_flatten": True,
    "nuslerp_row_wise": False,
    "filter_wise": False,
}
NORMALISES = {"linear", "ties", "della"}  # unless told otherwise
RESCALES = {"dare_linear", "dare_ties", "della_linear", "della"}
# Settings of mergekit's own arithmetic, which say nothing about the merge that is meant.
OWN = ("int8_mask", "eps", "tol", "max_iter")
REFUSED = {
    "slices": "layers are not taken apart here; give `models` with weights instead.",
    "modules": "one model is merged here, not its modules apart; give `models` instead.",
    "chat_template": "the reward model's own is kept; set `template` in a family file.",
    "tokenizer": "the vocabulary is always the union, the reward model's rows first.",
    "tokenizer_source": "the vocabulary is always the union, the reward model's rows first.",
}
KEYS = ("merge_method", "models", "base_model", "parameters", "dtype", "out_dtype")


@dataclass(frozen=True)
class Config:
    """What a file of mergekit's asks for.

    Args:
        family: its models, the LMs named by the last part of their path.
        dtype: in which the result is to be written, if it says so.
        notes: sentences on what is merged here in a slightly other way.
    """

    family: Family
    recipe: Recipe
    dtype: str | None
    notes: tuple[str, ...] = ()


def from_yaml(
    text: str,
    is_reward_model: Callable[[str], bool],
    anatomy_of: Callable[[str], Anatomy],
) -> Config:
    """What a configuration of mergekit's asks for, as a family and a recipe.

    Args:
        is_reward_model: whether the checkpoint of that path or id is one.
        anatomy_of: where the parameters of the reward model sit, on which filters and
            lists over the layers are tried out.

    Raises:
        RecipeError: not YAML; a method, key or setting that has no counterpart here, or
            has another meaning. Says which.
    """
    data = _loaded(text)
    method, form = _method_of(data)
    sources, base = _models(data), data.get("base_model")
    rm, lms, parent = _roles(method, form, list(sources), base, is_reward_model)
    anatomy = anatomy_of(rm)
    reader = _Reader(method, data.get("parameters") or {}, sources, anatomy)
    reader.check(form)
    named = _named(lms)
    if form.weights == "whole":
        equal = len(lms) / (len(lms) + 1) if method == "karcher" else 1.0
        lams, weights = dict.fromkeys(anatomy.places, equal), dict.fromkeys(lms, 1.0)
    elif form.weights == "arc":
        lams, weights = reader.each(None, "t"), dict.fromkeys(lms, 1.0)
        if base != rm:
            lams = {name: 1 - t for name, t in lams.items()}
    else:
        lams, weights = reader.weighed(form, rm, lms)
    lam, layers, parts = _factored(lams, anatomy)
    shares = {named[source]: weight for source, weight in weights.items()}
    options = reader.options(form, rm, lms)
    recipe = Recipe(lam, shares, method, options, layers, parts)
    check_method(recipe, parent=parent is not None)
    anatomy.check(recipe)
    family = Family.of(rm, {named[source]: source for source in lms}, parent=parent)
    notes = _differences(recipe, lams, anatomy)
    return Config(family, recipe, data.get("out_dtype") or data.get("dtype"), notes)


def _loaded(text: str) -> dict[str, Any]:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(
            f"this is not YAML: {' '.join(str(error).split())}."
        ) from None
    if not isinstance(data, dict):
        raise RecipeError(
            "this is no configuration of mergekit's: it has no merge_method."
        )
    union = (data.get("tokenizer_source"), data.get("tokenizer"))
    if union in (("union", None), (None, {"source": "union"})):
        data = {
            k: v for k, v in data.items() if k not in ("tokenizer_source", "tokenizer")
        }
    for key, value in data.items():
        if key in REFUSED and value is not None:
            raise RecipeError(f"{key} is not read: {REFUSED[key]}")
        if key not in KEYS and key not in REFUSED:
            raise RecipeError(f"{key!r} is not read; known are {', '.join(KEYS)}.")
    return data


def _method_of(data: Mapping[str, Any]) -> tuple[str, Form]:
    method = data.get("merge_method")
    if method not in FORMS:
        raise RecipeError(
            f"merge_method {method!r} has no counterpart here. Known: {', '.join(FORMS)}."
        )
    return method, FORMS[method]


def _models(data: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The settings of each model by its path or id, in the file's order."""
    found: dict[str, Mapping[str, Any]] = {}
    for entry in data.get("models") or ():
        known = isinstance(entry, dict) and set(entry) <= {"model", "parameters"}
        source = entry.get("model") if known else None
        if not isinstance(source, str) or "+" in source:
            raise RecipeError(
                f"a model is {{model: PATH or ID, parameters: …}}, without a +LORA; got {entry!r:.80}."
            )
        if source in found:
            raise RecipeError(f"the model {source} is named twice.")
        found[source] = entry.get("parameters") or {}
    if not found:
        raise RecipeError("the file names no models.")
    return found


def _roles(
    method: str,
    form: Form,
    sources: list[str],
    base: str | None,
    is_reward_model: Callable[[str], bool],
) -> tuple[str, list[str], str | None]:
    """The reward model, the LMs and the parent among the models of a file."""
    everyone = list(dict.fromkeys([*sources, *([base] if base else [])]))
    rms = [source for source in everyone if is_reward_model(source)]
    if len(rms) != 1:
        raise RecipeError(
            f"one of the models must be a reward model (a sequence classifier); of "
            f"{', '.join(everyone)} {'none is' if not rms else ' and '.join(rms) + ' are'}."
        )
    [rm] = rms
    parent = base if form.base == "parent" else None
    if form.base and not base:
        raise RecipeError(f"mergekit's {method} needs base_model.")
    if form.base is None and base and base not in sources:
        raise RecipeError(
            f"{method} is read without base_model: here it works on weights."
        )
    if parent == rm:
        raise RecipeError(
            f"base_model of {method} must be the pretrained model that all were "
            f"fine-tuned from, but {rm} is the reward model."
        )
    lms = [source for source in everyone if source not in (rm, parent)]
    if not lms or (form.one_lm and len(lms) > 1):
        wanted = "one LM" if form.one_lm else "at least one LM"
        raise RecipeError(f"{method} needs {wanted} beside {rm}, got {len(lms)}.")
    return rm, lms, parent


def _named(lms: Sequence[str]) -> dict[str, str]:
    """A name for each LM: the last part of its path, numbered when it comes again."""
    names: dict[str, str] = {}
    for source in lms:
        stem = PurePosixPath(source.split("@")[0]).name or "lm"
        taken = [*names.values(), "rm"]
        again = (f"{stem}-{number}" for number in range(2, len(lms) + 3))
        names[source] = next(n for n in (stem, *again) if n not in taken)
    return names


@dataclass(frozen=True)
class _Reader:
    """Settings of a file, as mergekit would evaluate them for each parameter."""

    method: str
    shared: Mapping[str, Any]
    sources: Mapping[str, Mapping[str, Any]]
    anatomy: Anatomy

    def check(self, form: Form) -> None:
        """RecipeError for a setting that we do not have, or have fixed otherwise."""
        weights = {"arc": {"t"}, "whole": set()}.get(form.weights, {"weight"})
        known = weights | set(form.options.values()) | set(form.fixed) | set(OWN)
        known |= {"linear": {"normalize"}, "nuslerp": {"nuslerp_flatten"}}.get(
            self.method, set()
        )
        for settings in (self.shared, *self.sources.values()):
            for key in settings:
                if key not in known:
                    raise RecipeError(f"{self.method} has no setting {key!r} here.")
        for key, wanted in form.fixed.items():
            found = self.single([None], key)
            if found != wanted:
                raise RecipeError(
                    f"{key} must be {_shown(wanted)} for {self.method}, got {_shown(found)} "
                    f"({'as set' if key in self.shared else 'by default'}): "
                    "the merge here has no other."
                )

    def weighed(
        self, form: Form, rm: str, lms: Sequence[str]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """λ of every parameter, and the LMs' weights, which must not differ among them."""
        own = self.each(rm, "weight")
        theirs = {source: self.each(source, "weight") for source in lms}
        free = self.method != "linear" or self.single([None], "normalize")
        lams: dict[str, float] = {}
        shares: dict[str, float] = {}
        for name, weight in own.items():
            given = {source: weights[name] for source, weights in theirs.items()}
            moved = sum(given.values())
            if min(weight, *given.values()) < 0:
                raise RecipeError(f"the weights of {name} must not be negative.")
            if form.weights == "added":
                if abs(weight - 1) > CLOSE or moved > 1 + CLOSE:
                    raise RecipeError(
                        f"for {self.method} the reward model's weight must be 1 and the "
                        f"LMs' at most 1 together, got {weight:g} and {moved:g} for {name}."
                    )
                total = 1.0
            else:
                total = weight + moved
                if total <= 0 or not (free or abs(total - 1) < CLOSE):
                    raise RecipeError(
                        f"the weights of {name} sum to {total:g}, not to 1; "
                        "set normalize: true, or make them."
                    )
            lams[name] = min(1.0, moved / total)
            if moved > CLOSE:
                these = {source: part / moved for source, part in given.items()}
                shares = shares or these
                if any(abs(these[s] - shares[s]) > 1e-6 for s in shares):
                    raise RecipeError(
                        f"the LMs' weights of {name} stand in another ratio than those "
                        "of other parameters; here the shares are the same everywhere."
                    )
        return lams, shares or dict.fromkeys(lms, 1.0)

    def options(self, form: Form, rm: str, lms: Sequence[str]) -> dict[str, Any]:
        """The method's own options, one value for all models that they hold for."""
        if self.method == "nuslerp":
            return {"rows": int(not self.single([None], "nuslerp_flatten"))}
        added = form.weights == "added"
        whom = [None] if form.weights == "whole" else [*lms, *([] if added else [rm])]
        if added and "density" in form.options and self.single([rm], "density") != 1:
            raise RecipeError(
                f"for {self.method} the reward model's density must be 1: its own task "
                "vector stays whole here."
            )
        return {ours: self.single(whom, key) for ours, key in form.options.items()}

    def single(self, whom: Iterable[str | None], key: str) -> Any:
        """The one value of a setting, for these models and all parameters."""
        values = {v for source in whom for v in self.each(source, key).values()}
        if len(values) > 1:
            raise RecipeError(
                f"{key} has several values ({', '.join(map(_shown, sorted(values)))}); here "
                "it is the same for all models and layers."
            )
        return values.pop()

    def each(self, source: str | None, key: str) -> dict[str, Any]:
        """A setting's value for every parameter; `source` is None for one of the whole merge."""
        scopes = (
            [self.shared]
            if source is None
            else [self.sources.get(source, {}), self.shared]
        )
        layers = max(1, self.anatomy.layers - 1)
        found = {}
        for name, place in self.anatomy.places.items():
            t = place.layer / layers if place.inside else 0.0
            values = (_evaluated(s[key], name, t, key) for s in scopes if key in s)
            value = next((v for v in values if v is not None), self._default(key))
            if value is None:
                raise RecipeError(
                    f"{key} is missing{f' for {source}' if source else ''}."
                )
            found[name] = value
        return found

    def _default(self, key: str) -> Any:
        if key == "normalize":
            return self.method in NORMALISES
        if key == "rescale":
            return self.method in RESCALES
        return DEFAULTS.get(key)


def _evaluated(setting: Any, name: str, t: float, key: str) -> Any:
    """A setting's value for the parameter at t, from 0, the first layer, to 1, the last."""
    if isinstance(setting, dict):
        setting = [setting]
    if not isinstance(setting, list):
        return _scalar(setting, key)
    if setting and all(isinstance(part, dict) for part in setting):
        for part in setting:
            wanted = part.get("filter")
            if wanted in (None, "*") or str(wanted) in name:
                return _evaluated(part.get("value"), name, t, key)
        return None
    values = [_scalar(value, key) for value in setting]
    if not values or any(isinstance(value, bool) for value in values):
        raise RecipeError(
            f"{key} must be numbers over the layers, got {setting!r:.80}."
        )
    place = t * (len(values) - 1)
    before = int(place)
    after = min(len(values) - 1, before + 1)
    return values[before] + (place - before) * (values[after] - values[before])


def _scalar(value: Any, key: str) -> bool | float:
    if isinstance(value, bool):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        raise RecipeError(f"{key} must be a number, got {value!r:.80}.") from None


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


def _factored(
    lams: Mapping[str, float], anatomy: Anatomy
) -> tuple[float, str | tuple[float, ...], dict[str, float]]:
    """λ, numbers over depth and numbers by part, whose products are λ of every parameter.

    As near as the largest λ of a layer, its part and its layer tell; whether they are
    `_differences` says.
    """
    places = anatomy.places
    inside = {name: lam for name, lam in lams.items() if places[name].inside}
    top = max(inside, key=inside.__getitem__, default=None)
    if top is None or inside[top] == 0:
        elsewhere = max(lams.values())
        parts = dict.fromkeys(("attention", "mlp", "norms"), 0.0) if elsewhere else {}
        return elsewhere, "constant", parts
    most, best = inside[top], places[top]
    of_part = {
        places[n].layer: lam for n, lam in inside.items() if places[n].part == best.part
    }
    of_layer = {
        places[n].part: lam
        for n, lam in inside.items()
        if places[n].layer == best.layer
    }
    depth = [of_part.get(layer, 0.0) / most for layer in range(anatomy.layers)]
    parts = {part: lam / most for part, lam in of_layer.items() if part}
    for name, lam in lams.items():
        if places[name].part == "embeddings" and depth[0]:
            parts["embeddings"] = lam / (most * depth[0])
    whole = max(parts.values(), default=1.0)
    parts = {part: round(factor / whole, 12) for part, factor in parts.items()}
    return round(most * whole, 12), _layers(depth), parts


def _layers(depth: Sequence[float]) -> str | tuple[float, ...]:
    """The name of the shape that these numbers are, or the numbers."""
    for name, shape in SHAPES.items():
        plain = (shape(layer / max(1, len(depth) - 1)) for layer in range(len(depth)))
        if all(abs(a - b) < CLOSE for a, b in zip(plain, depth)):
            return name
    return tuple(round(factor, 12) for factor in depth)


def _differences(
    recipe: Recipe, lams: Mapping[str, float], anatomy: Anatomy
) -> tuple[str, ...]:
    """A note on a final norm with another λ than the file has; RecipeError for any other parameter."""
    notes = []
    for name, wanted in lams.items():
        place, found = anatomy.places[name], anatomy.local(recipe, name).lam
        if abs(found - wanted) < CLOSE:
            continue
        if place.inside or place.part != "norms":
            raise RecipeError(
                f"the weights of {name} differ from the rest in a way that layers and "
                "parts (attention, mlp, norms, embeddings) cannot say."
            )
        notes.append(
            f"{name} is merged with λ = {found:g}, that of the last layer; mergekit takes "
            f"λ = {wanted:g}, that of the first."
        )
    return tuple(notes)
