"""Sweeps over λ: the rewards of some responses along a grid, and where their ranking flips."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dogerm.curves import Curve, DomainMap, Flip, top
from dogerm.engine import Engine
from dogerm.errors import InputError
from dogerm.recipe import Recipe, checked_grid
from dogerm.scoring import Prompt, Tokens, rewards, together, tokenise

GRID = tuple(round(i / 20, 2) for i in range(21))  # the paper's: 0 to 1 by 0.05
RESOLUTION = 0.005  # of λ at a flip
# Tokens that others may have to wait for; on a CPU much longer passes gain little.
SHARED_BATCH = {"cpu": 512, "cuda": 8192}
MAX_FLIP_MERGES = 200  # responses of near-equal reward could flip without end


def curve(
    engine: Engine,
    prompt: Prompt,
    responses: Sequence[str],
    shares: Mapping[str, float] | None = None,
    lams: Sequence[float] | None = None,
    method: str = "linear",
    options: Mapping[str, Any] | None = None,
    layers: str | Sequence[float] = "constant",
    parts: Mapping[str, float] | None = None,
) -> Curve:
    """Rewards at every λ of a grid (0 to 1 by 0.05), and every flip to within 0.005.

    A flip between two grid points is found by halving with real merges, and given as
    the middle of the last interval.

    Raises:
        InputError: fewer than two responses, or a text that cannot be scored.
        RecipeError: a grid of fewer than two points, or a recipe that cannot be meant.
    """
    recipe = engine.family.recipe(0, shares, method, options, layers, parts)
    *_, last = grow(engine, prompt, responses, recipe, lams)
    return last


def grow(
    engine: Engine,
    prompt: Prompt,
    responses: Sequence[str],
    recipe: Recipe,
    lams: Sequence[float] | None = None,
) -> Iterator[Curve]:
    """The curve as it grows: yielded after every λ, the last time with its flips.

    For a caller who shows progress, or stops. The engine is free between λs.
    """
    if len(responses) < 2:
        raise InputError(f"a comparison needs two responses, got {len(responses)}.")
    grid = checked_grid(list(GRID if lams is None else lams))
    tokens = tokenise(engine, prompt, responses)

    def at(lam: float) -> tuple[float, ...]:
        return tuple(rewards(engine, recipe.with_lam(lam), [tokens])[0])

    rows: list[tuple[float, ...]] = []
    for lam in grid:
        rows.append(at(lam))
        if len(rows) < len(grid):
            yield Curve(tuple(grid[: len(rows)]), tuple(rows), (), recipe)
    yield Curve(tuple(grid), tuple(rows), tuple(_flips(grid, rows, at)), recipe)


def map_domains(
    engine: Engine,
    prompt: Prompt,
    responses: Sequence[str],
    recipe: Recipe,
    domains: Sequence[str],
    steps: int = 10,
) -> Iterator[tuple[int, int, DomainMap | None]]:
    """Rewards over the mixes of two domains at every λ, or of three at the recipe's λ.

    Yields how many points are done, of how many, and at the end the map. The engine is
    free between points.

    Args:
        recipe: method and options of every point; with three domains its λ too.
        steps: between 0 and 1, along λ and along each share.

    Raises:
        InputError: fewer than two responses, or not two or three domains.
    """
    if len(responses) < 2:
        raise InputError(f"a comparison needs two responses, got {len(responses)}.")
    if len(domains) not in (2, 3):
        raise InputError(f"a map mixes two or three domains, got {len(domains)}.")
    tokens = tokenise(engine, prompt, responses)
    points = tuple(_map_points(recipe.lam, len(domains), steps))
    rows: list[tuple[float, ...]] = []
    plain: tuple[float, ...] | None = None
    for lam, shares in points:
        mix = dict(zip(domains, shares))
        if lam == 0 and plain:  # the mix of nothing: measured once
            rows.append(plain)
            continue
        at = replace(recipe, lam=lam, shares=mix)
        rows.append(tuple(rewards(engine, at, [tokens])[0]))
        plain = plain or (rows[0] if lam == 0 else None)
        yield len(rows), len(points), None
    yield len(rows), len(points), DomainMap(tuple(domains), points, tuple(rows))


def _map_points(
    lam: float, domains: int, steps: int
) -> Iterator[tuple[float, tuple[float, ...]]]:
    grid = [round(i / steps, 6) for i in range(steps + 1)]
    if domains == 2:
        for at in grid:
            for share in grid:
                yield at, (round(1 - share, 6), share)
        return
    for first in range(steps + 1):
        for second in range(steps + 1 - first):
            counts = first, second, steps - first - second
            yield lam, tuple(round(count / steps, 6) for count in counts)


def sweep(
    engine: Engine,
    recipes: Sequence[Recipe],
    items: Sequence[Tokens],
    on_progress: Callable[[int], None] | None = None,
) -> list[list[list[float]]]:
    """Rewards of the same tokenised items under each recipe in turn."""
    return [rewards(engine, recipe, items, on_progress) for recipe in recipes]


def sweep_in_batches(
    engine: Engine, recipes: Sequence[Recipe], items: Sequence[Tokens]
) -> Iterator[tuple[int, list[list[list[float]]] | None]]:
    """As `sweep`, leaving the engine to others after every batch.

    Yields how many rewards there are so far, and the last time all of them.
    """
    lists = together(
        items, min(engine.plan.batch_tokens, SHARED_BATCH[engine.plan.kind])
    )
    table: list[list[list[float]]] = []
    done = 0
    for recipe in recipes:
        found: list[list[float]] = [[] for _ in items]
        for indices in lists:
            scored = rewards(engine, recipe, [items[index] for index in indices])
            for index, own in zip(indices, scored, strict=True):
                found[index] = own
                done += len(own)
            yield done, None
        table.append(found)
    yield done, table


def _flips(
    lams: Sequence[float],
    rows: Sequence[Sequence[float]],
    at: Callable[[float], Sequence[float]],
) -> list[Flip]:
    flips: list[Flip] = []
    leader = top(rows[0])[0]
    merges = 0

    def between(low: float, high: float, high_row: Sequence[float]) -> None:
        nonlocal leader, merges
        if leader in top(high_row):  # a tie is no flip: the leader still leads
            return
        if high - low <= RESOLUTION or merges >= MAX_FLIP_MERGES:
            after = top(high_row)[0]
            flips.append(Flip(round((low + high) / 2, 4), leader, after))
            leader = after
            return
        middle = (low + high) / 2
        merges += 1
        between(low, middle, at(middle))
        between(middle, high, high_row)

    for low, high, row in zip(lams, lams[1:], rows[1:]):
        between(low, high, row)
    return flips
