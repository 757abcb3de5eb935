"""A recipe with its models as one writes it: on the command line, or in Python."""

from __future__ import annotations

import shlex

from dogerm.family import Family, names
from dogerm.recipe import Recipe

PYTHON = """\
from dogerm.engine import Engine
from dogerm.family import Family
from dogerm.recipe import Recipe
from dogerm.scoring import score

family = {family}
recipe = {recipe}
engine = Engine.load(family)
print(score(engine, recipe, [("What is 2 + 2?", ["4", "5"])]))
"""


def as_options(recipe: Recipe) -> str:
    """The recipe's options of any command, e.g. `--lam 0.35 --share math=1 --method linear`."""
    named = [("share", recipe.shares), ("set", recipe.options), ("part", recipe.parts)]
    parts = [f"--lam {recipe.lam:.12g}", f"--method {recipe.method}"]
    for option, values in named:
        parts += [
            shlex.join([f"--{option}", f"{name}={value:.12g}"])
            for name, value in values.items()
        ]
    if recipe.layers != "constant":
        parts.append(f"--layers {recipe.layers_text}")
    return " ".join(parts)


def as_source(family: Family) -> str:
    """The family's options of any command: by its name, or model by model."""
    if is_shipped(family):
        return f"--family {family.name}"
    words = ["--rm", family.rm]
    for name, source in family.lms.items():
        words += ["--lm", f"{name}={source}"]
    return shlex.join([*words, *(["--parent", family.parent] if family.parent else [])])


def as_command(family: Family, recipe: Recipe) -> str:
    """A command that writes the merge as a checkpoint."""
    source, options = as_source(family), as_options(recipe)
    return f"python -m dogerm merge {source} {options} --out merged\n"


def as_python(family: Family, recipe: Recipe) -> str:
    """A program that loads the models and scores with the merge."""
    source = f"Family.load({family.name!r})"
    if not is_shipped(family):
        parent = f", parent={family.parent!r}" if family.parent else ""
        source = f"Family.of({family.rm!r}, {dict(family.lms)!r}{parent})"
    words = [f"{recipe.lam!r}", f"{dict(recipe.shares)!r}"]
    if recipe.method != "linear":
        words.append(f"method={recipe.method!r}")
    if recipe.options:
        words.append(f"options={dict(recipe.options)!r}")
    if recipe.layers != "constant":
        words.append(f"layers={recipe.layers!r}")
    if recipe.parts:
        words.append(f"parts={dict(recipe.parts)!r}")
    return PYTHON.format(family=source, recipe=f"Recipe({', '.join(words)})")


def is_shipped(family: Family) -> bool:
    """Whether the family is one in assets/families, unchanged."""
    return family.name in names() and Family.load(family.name) == family
