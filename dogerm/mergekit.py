"""mergekit's YAML for the methods that both programs have: recipes written and read.

Data only; mergekit itself is never imported. Its conventions, as of 0.1.5: a setting is a
number, a list of numbers that are interpolated over the layers (the first counts for what
is outside them), or a list of such values with filters, of which the first that is part
of the parameter's name counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

import yaml

from dogerm.anatomy import Anatomy
from dogerm.errors import RecipeError
from dogerm.family import Family
from dogerm.merge import METHODS, check_method, options_of
from dogerm.recipe import SHAPES, Recipe

CLOSE = 1e-9  # numbers that a file means to be equal
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


@dataclass(frozen=True)
class Form:
    """How a method's λ and shares stand in mergekit's YAML.

    Args:
        weights: mean, RM 1-λ and LM λ·s; added, RM 1 and LM λ·s; arc, one LM and t = λ;
            whole, no weights, so that only one λ can be said.
        base: what base_model is: the parent, the reward model, or no one.
        options: mergekit's names of the method's own options.
        fixed: settings whose values make it the method that we have.
        one_lm: whether it takes a single LM.
    """

    weights: Literal["mean", "added", "arc", "whole"]
    base: Literal["parent", "rm"] | None
    options: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    one_lm: bool = False


def _ties(*options: str, **fixed: Any) -> Form:
    named = {name: name for name in options}
    return Form("mean", "parent", named, {"normalize": True, "lambda": 1, **fixed})


def _added(*options: str, **fixed: Any) -> Form:
    named = {name: name for name in options}
    return Form("added", "parent", named, {"normalize": False, "lambda": 1, **fixed})


FORMS: Mapping[str, Form] = {
    "linear": Form("mean", None),
    "task_arithmetic": _added(),
    "slerp": Form("arc", "rm", one_lm=True),
    "nuslerp": Form("mean", "parent", fixed={"nuslerp_row_wise": False}, one_lm=True),
    "multislerp": Form("mean", None, fixed={"normalize_weights": True}),
    "karcher": Form("whole", None),
    "ties": _ties("density", rescale=False),
    "dare_linear": _added("density", rescale=True),
    "dare_ties": _ties("density", rescale=True),
    "della_linear": _added("density", "epsilon", rescale=True),
    "della": _ties("density", "epsilon", rescale=True),
    "breadcrumbs": _added("density", "gamma", rescale=False),
    "breadcrumbs_ties": _ties("density", "gamma", rescale=False),
    "sce": Form("whole", "parent", {"density": "select_topk"}),
    "model_stock": Form("whole", "parent", fixed={"filter_wise": False}),
    "nearswap": Form("whole", "rm", {"t": "t"}, one_lm=True),
    "arcee_fusion": Form("whole", "rm", one_lm=True),
}
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
