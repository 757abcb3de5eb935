"""The options that commands share, and the family, recipe and engine that they mean."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dogerm.cli.terminal import quieten, say, stderr_console

if TYPE_CHECKING:
    from dogerm.anatomy import Anatomy
    from dogerm.compatibility import Compatibility
    from dogerm.engine import Engine
    from dogerm.family import Family
    from dogerm.quantised import Quantised
    from dogerm.recipe import Recipe

# Source: which models.
FamilyName = Annotated[
    str | None,
    typer.Option(
        "--family",
        metavar="NAME|FILE.toml",
        help="A family by name or TOML file.",
        show_default="nano",
    ),
]
Rm = Annotated[
    str | None,
    typer.Option(
        "--rm", metavar="PATH|ID", help="Reward model: a folder or hub id, with --lm."
    ),
]
Lms = Annotated[
    list[str] | None,
    typer.Option(
        "--lm", metavar="NAME=PATH|ID", help="A domain LM; once for each domain."
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda[:N][,cuda:M…]",
        help="Where it runs; over several GPUs, if one is not enough or they are named.",
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="float32|bfloat16|float16",
        help="Precision of the weights.",
        show_default="by device",
    ),
]
In8bit = Annotated[
    bool, typer.Option("--load-in-8bit", help="Hold the live weights in 8 bits.")
]
In4bit = Annotated[
    bool,
    typer.Option("--load-in-4bit", help="Hold them in 4 bits (NF4), smaller still."),
]

# Recipe: which merge.
Lam = Annotated[
    float | None,
    typer.Option(
        "--lam",
        help="λ, the LMs' part: 0 is the plain reward model.",
        show_default="the family's",
    ),
]
Shares = Annotated[
    list[str] | None,
    typer.Option(
        "--share",
        metavar="NAME=NUMBER",
        help="A domain's part of λ; they are normalised.",
        show_default="the family's",
    ),
]
MethodName = Annotated[str, typer.Option("--method", help="How weights are merged.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting of the method."),
]
Layers = Annotated[
    str,
    typer.Option(
        "--layers",
        metavar="SHAPE|A,B,…",
        help="What λ is multiplied with over depth: constant, ramp, ramp-down, middle, "
        "or a number from 0 to 1 for each layer.",
    ),
]
Parts = Annotated[
    list[str] | None,
    typer.Option(
        "--part",
        metavar="NAME=NUMBER",
        help="What λ is multiplied with in attention, mlp, norms or embeddings.",
        show_default="1",
    ),
]
Parent = Annotated[
    str | None,
    typer.Option(
        "--parent",
        metavar="PATH|ID",
        help="The pretrained model all come from, for methods that need it.",
    ),
]

Input = Annotated[
    str,
    typer.Argument(
        metavar="INPUT.jsonl|-",
        help='Rows {"prompt", "responses"} or {"prompt", "chosen", "rejected"}.',
    ),
]
TooLong = Annotated[
    Literal["error", "skip", "cut"],
    typer.Option(
        "--too-long", help="What to do with a conversation over the model's limit."
    ),
]


def family_of(
    name: str | None,
    rm: str | None,
    lms: Sequence[str] | None,
    parent: str | None = None,
) -> Family:
    from dogerm.family import Family

    if lms and not rm:
        raise typer.BadParameter("--lm goes with --rm.")
    if rm and name:
        raise typer.BadParameter("name a --family, or --rm with --lm, not both.")
    family = Family.of(rm, _named(lms, "--lm")) if rm else Family.load(name or "nano")
    return replace(family, parent=parent) if parent else family


def quantised_of(load_in_8bit: bool, load_in_4bit: bool) -> Quantised | None:
    if load_in_8bit and load_in_4bit:
        raise typer.BadParameter(
            "ask for --load-in-8bit or for --load-in-4bit, not both."
        )
    return "int8" if load_in_8bit else "nf4" if load_in_4bit else None


def recipe_of(
    family: Family,
    lam: float | None,
    shares: Sequence[str] | None,
    method: str,
    settings: Sequence[str] | None,
    layers: str = "constant",
    parts: Sequence[str] | None = None,
) -> Recipe:
    """The recipe asked for, checked before any model is loaded."""
    from dogerm.merge import check_method

    options = {n: _value(text) for n, text in _named(settings, "--set").items()}
    numbers = numbers_by_name(shares, "--share")
    factors = numbers_by_name(parts, "--part")
    recipe = family.recipe(lam, numbers, method, options, layers, factors)
    check_method(recipe, parent=family.parent is not None)
    if recipe.reach:
        anatomy_of(family).check(recipe)
    return recipe


def anatomy_of(family: Family) -> Anatomy:
    """Layers and parts of the family's reward model, from its configuration alone."""
    from dogerm import checkpoint

    rm = checkpoint.Checkpoint(family.rm, "the reward model", weights=False)
    return checkpoint.anatomy_of(rm)


def read_mergekit(file: str) -> tuple[Family, Recipe, str | None]:
    """The models and the recipe of a configuration of mergekit's, and the dtype it names."""
    from dogerm.checkpoint import Checkpoint, anatomy_of
    from dogerm.errors import RecipeError
    from dogerm.mergekit import from_yaml

    opened: dict[str, Checkpoint] = {}

    def checkpoint(source: str) -> Checkpoint:
        if source not in opened:
            opened[source] = Checkpoint(source, source, weights=False)
        return opened[source]

    try:
        found = from_yaml(
            Path(file).read_text(encoding="utf-8"),
            lambda source: checkpoint(source).is_reward_model,
            lambda rm: anatomy_of(checkpoint(rm)),
        )
    except (RecipeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{file}: {error}") from None
    for note in found.notes:
        say(note)
    return found.family, found.recipe, found.dtype


def engine_of(
    family: Family,
    device: str,
    dtype: str | None,
    quantised: Quantised | None,
    method: str,
) -> Engine:
    from dogerm.agreement import agreement_words
    from dogerm.engine import Engine
    from dogerm.merge import METHODS

    quieten()
    parent = METHODS[method].needs_parent
    console = stderr_console()
    with console.status(f"Loading {family.name} …"):
        engine = Engine.load(family, device, dtype, quantised, parent)
    warn(engine.fit)
    if quantised:
        with console.status(f"Comparing {quantised} with {engine.plan.dtype}, once …"):
            agrees = agreement_words(engine)
        say(f"{agrees}.")
    return engine


def warn(fit: Compatibility) -> None:
    """What is amiss between the models that is no error, a line each on standard error."""
    for warning in fit.warnings:
        say(f"Warning: {warning}")


def _named(items: Sequence[str] | None, option: str) -> dict[str, str]:
    """NAME=VALUE options by name."""
    named: dict[str, str] = {}
    for item in items or ():
        name, _, value = item.partition("=")
        if not (name and value):
            raise typer.BadParameter(f"{option} is NAME=VALUE, got {item!r}.")
        if name in named:
            raise typer.BadParameter(f"{option} names {name} twice.")
        named[name] = value
    return named


def numbers_by_name(items: Sequence[str] | None, option: str) -> dict[str, float]:
    """NAME=NUMBER options by name."""
    try:
        return {name: float(text) for name, text in _named(items, option).items()}
    except ValueError as error:
        raise typer.BadParameter(f"{option}: {error}.") from None


def _value(text: str) -> Any:
    """A method's setting: a number, true or false where it reads as one, else text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
