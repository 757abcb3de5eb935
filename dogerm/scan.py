"""Layer scans: rewards when only some layers are merged. Where does what flips a pair sit?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dogerm.engine import Engine
from dogerm.errors import InputError, RecipeError
from dogerm.recipe import PARTS, Recipe
from dogerm.scoring import Prompt, Tokens, rewards, tokenise
from dogerm.sweep import sweep, top


@dataclass(frozen=True)
class Spot:
    """A place of the model that alone is merged: some neighbouring layers, or the embeddings."""

    name: str
    recipe: Recipe


@dataclass(frozen=True)
class Scan:
    """Rewards of a prompt's responses with one spot merged at a time.

    Args:
        recipe: what is merged of it at each spot.
        spots: the embeddings, then windows of layers from the first to the last.
        base, merged: rewards with nothing and with everything merged.
        rewards: a row per spot, a reward per response.
    """

    recipe: Recipe
    spots: tuple[Spot, ...]
    base: tuple[float, ...]
    merged: tuple[float, ...]
    rewards: tuple[tuple[float, ...], ...]

    @property
    def table(self) -> tuple[tuple[float, ...], ...]:
        """All rewards: with nothing merged, with everything, then at each spot."""
        return self.base, self.merged, *self.rewards

    @property
    def flips(self) -> list[tuple[int, int] | None]:
        """Per spot, the base's top response and what is on top instead, if it is another."""
        before = top(self.base)[0]
        return [
            None if before in (leaders := top(row)) else (before, leaders[0])
            for row in self.rewards
        ]

    @property
    def contest(self) -> tuple[int, int]:
        """The response that the whole merge prefers, and its rival: the base's first other one."""
        over = top(self.merged)[0]
        rivals = [index for index in range(len(self.base)) if index != over]
        return over, max(rivals, key=self.base.__getitem__)

    def profile(self, over: int, under: int) -> Profile:
        """Margin of one response over another at every spot."""
        margins = [row[over] - row[under] for row in self.rewards]
        base = self.base[over] - self.base[under]
        return Profile(
            names=tuple(spot.name for spot in self.spots),
            margins=tuple(margins),
            flips=tuple(int(margin * base < 0) for margin in margins),
            base=base,
            merged=self.merged[over] - self.merged[under],
            rows=1,
        )

    def to_json(self) -> dict[str, Any]:
        """One entry a spot: its name, rewards, and the flip where there is one."""
        flips = [
            {} if flip is None else {"flip": {"before": flip[0], "after": flip[1]}}
            for flip in self.flips
        ]
        spots = [
            {"name": spot.name, "rewards": list(row)} | flip
            for spot, row, flip in zip(self.spots, self.rewards, flips)
        ]
        return {"base": list(self.base), "merged": list(self.merged), "spots": spots}


@dataclass(frozen=True)
class Profile:
    """Margins over the depth of a model, of one row or the mean of several.

    Args:
        names: of the spots, from the embeddings to the last layer.
        margins: with only that spot merged.
        flips: in how many rows the margin has the other sign than the base's.
        base, merged: the margin with nothing and with everything merged.
        rows: how many the margins are the mean of.
    """

    names: tuple[str, ...]
    margins: tuple[float, ...]
    flips: tuple[int, ...]
    base: float
    merged: float
    rows: int

    @property
    def widest(self) -> int:
        """The spot whose merge alone changes the margin most."""
        changes = [abs(margin - self.base) for margin in self.margins]
        return changes.index(max(changes))


def mean(profiles: Sequence[Profile]) -> Profile:
    """The mean margins of several rows of one scan, their flips counted; at least one row."""
    count = len(profiles)
    return Profile(
        names=profiles[0].names,
        margins=tuple(sum(m) / count for m in zip(*(p.margins for p in profiles))),
        flips=tuple(sum(flips) for flips in zip(*(p.flips for p in profiles))),
        base=sum(p.base for p in profiles) / count,
        merged=sum(p.merged for p in profiles) / count,
        rows=count,
    )


def spots(recipe: Recipe, layers: int, window: int = 1) -> list[Spot]:
    """The recipe confined to the embeddings, then to every window of neighbouring layers.

    What the recipe itself says of layers and parts holds inside. The final norm goes
    with the last layer.

    Raises:
        RecipeError: the window is not a whole number from 1 to the number of layers.
    """
    if not (isinstance(window, int) and 1 <= window <= layers):
        raise RecipeError(
            f"the window must be a whole number of layers from 1 to {layers}, got {window!r}."
        )
    depth = recipe.depth(layers)
    tables = dict(recipe.parts) | {part: 0 for part in PARTS if part != "embeddings"}
    found = [Spot("embeddings", replace(recipe, parts=tables))]
    inside = dict(recipe.parts) | {"embeddings": 0}
    for first in range(layers - window + 1):
        last = first + window - 1
        only = [own if first <= i <= last else 0 for i, own in enumerate(depth)]
        name = f"layer {first}" if window == 1 else f"layers {first}–{last}"
        found.append(Spot(name, replace(recipe, layers=only, parts=inside)))
    return found


def scan(
    engine: Engine,
    recipe: Recipe,
    items: Sequence[Tokens],
    window: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> list[Scan]:
    """What every item's rewards are with one spot of the model merged at a time.

    One merge and one pass over the items for each spot, and for base and whole merge.

    Raises:
        RecipeError: the window or the recipe cannot be meant for this model.
    """
    places, recipes = _places(engine, recipe, window)
    found = sweep(engine, recipes, items, on_progress)
    by_item = (tuple(map(tuple, rows)) for rows in zip(*found))
    return [
        Scan(recipe, places, base, merged, tuple(rest))
        for base, merged, *rest in by_item
    ]


def walk(
    engine: Engine,
    prompt: Prompt,
    responses: Sequence[str],
    recipe: Recipe,
    window: int = 1,
) -> Iterator[tuple[int, int, Scan | None]]:
    """One prompt's scan, leaving the engine to others between merges.

    Yields how many merges are done, of how many, and at the end the scan.

    Raises:
        InputError: fewer than two responses, or λ is 0: nothing is merged then.
        RecipeError: the window or the recipe cannot be meant for this model.
    """
    if len(responses) < 2:
        raise InputError(f"a comparison needs two responses, got {len(responses)}.")
    if recipe.lam == 0:
        raise InputError("at λ = 0 no layer is merged. Set λ above 0.")
    places, recipes = _places(engine, recipe, window)
    tokens = tokenise(engine, prompt, responses)
    rows: list[tuple[float, ...]] = []
    for one in recipes:
        yield len(rows), len(recipes), None
        rows.append(tuple(rewards(engine, one, [tokens])[0]))
    base, merged, *rest = rows
    found = Scan(recipe, places, base, merged, tuple(rest))
    yield len(rows), len(recipes), found


def _places(
    engine: Engine, recipe: Recipe, window: int
) -> tuple[tuple[Spot, ...], list[Recipe]]:
    """The spots, and all recipes of a scan: nothing merged, everything, each spot alone."""
    anatomy = engine.fit.anatomy
    places = tuple(spots(recipe, anatomy.layers, window))
    recipes = [recipe.with_lam(0), recipe, *(spot.recipe for spot in places)]
    for one in recipes:
        anatomy.check(one)
    return places, recipes
