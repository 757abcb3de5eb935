"""Scoring a benchmark's rows under many recipes: each batch is safe on disk before the next begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dogerm import provenance
from dogerm.benchmarks.group import Group
from dogerm.engine import Engine
from dogerm.errors import DogermError, StoreError
from dogerm.recipe import Recipe
from dogerm.rows import Tokenised
from dogerm.scoring import rewards, together
from dogerm.store import Job, Place, Store

if TYPE_CHECKING:
    from dogerm.benchmarks.benchmark import Benchmark
    from dogerm.benchmarks.data import Dataset, Settings

STORE = "rewards.sqlite"


@dataclass(frozen=True)
class Progress:
    """Rows scored so far, by an earlier run too, of all; each counts once for every recipe.

    One of several processes counts its own part.
    """

    done: int
    total: int


@dataclass(frozen=True)
class _Batch:
    """Rows that are scored together under one recipe, and written together."""

    recipe: int
    rows: tuple[int, ...]
    tokens: int

    @property
    def places(self) -> list[Place]:
        return [(self.recipe, row) for row in self.rows]


def run(
    engine: Engine,
    tokens: Tokenised,
    recipes: Sequence[Recipe],
    folder: Path,
    about: Mapping[str, Any],
    resume: bool = False,
    batch_tokens: int | None = None,
    group: Group | None = None,
) -> Iterator[Progress]:
    """Score every row under every recipe into the folder's store; says how far it is after each batch.

    Whoever stops, stops: what has been yielded is on disk, and `resume` goes on with the
    rest. Rows fall into the same batches every time, so rewards are the same to the last
    bit with and without a stop, and with any number of processes.

    Args:
        about: as `depends_on` gives it.
        batch_tokens: padded tokens of a forward pass; None: as the store was begun, or
            what there is memory for.
        group: processes that all call this with the same arguments and share the work,
            rows and recipes alike. Each writes a store of its own; in the end the first
            one's has everything.

    Raises:
        StoreError: the store is in use, is another run's, or was not to be resumed; or
            the processes do not see the same models and rows.
    """
    group = group or Group({})
    with _opened(folder, group) as store:
        asked = batch_tokens or _begun_with(store) or engine.plan.batch_tokens
        batch_tokens = group.gather(asked)[0]
        job = Job(
            _provenance(engine, tokens, about, batch_tokens),
            recipes,
            tokens.rows,
            tokens.skipped,
        )
        _begin(store, job, resume, group)
        done = set().union(*group.gather(store.done()))
        own = _part(_batches(tokens, len(recipes), batch_tokens), done, group)
        so_far = sum(place in done for batch in own for place in batch.places)
        total = sum(len(batch.rows) for batch in own)
        yield Progress(so_far, total)
        for batch in own:
            new = [place for place in batch.places if place not in done]
            if new:
                items = [tokens.items[row] for row in batch.rows]
                recipe = recipes[batch.recipe]
                found = rewards(engine, recipe, items, batch_tokens=batch_tokens)
                by_place = dict(zip(batch.places, found, strict=True))
                store.add({place: by_place[place] for place in new})
                so_far += len(new)
                yield Progress(so_far, total)
        _bring_together(store, group)


def depends_on(
    benchmark: Benchmark, settings: Settings, dataset: Dataset
) -> dict[str, Any]:
    """What a benchmark's rewards depend on beside the engine and the rows' text, for `run`."""
    return {
        "benchmark": benchmark.name,
        "settings": settings.to_json(),
        "rules": dict(benchmark.rules[settings.preset]),
        "dataset": {
            "source": dict(dataset.source),
            "left_out": dataset.to_json()["left_out"],
        },
    }


def check_folder(folder: Path, resume: bool) -> None:
    """StoreError if a run in the folder would be refused: sooner than after loading models."""
    file = _file(folder, 0)
    if file.is_file():
        with Store(file) as store:
            store.check_resumed(resume)


def _provenance(
    engine: Engine, tokens: Tokenised, about: Mapping[str, Any], batch_tokens: int
) -> dict[str, Any]:
    return {
        **about,
        "family": {"source": provenance.described(engine.family)},
        "rows": {"number": len(tokens.rows), "sha256": provenance.of_rows(tokens.rows)},
        "too_long": tokens.too_long,
        "cut": tokens.cut,
        "batch_tokens": batch_tokens,
        **provenance.of_engine(engine),
    }


def _batches(tokens: Tokenised, recipes: int, batch_tokens: int) -> list[_Batch]:
    """All there is to score: recipe by recipe, so that each is merged once."""
    places = [row for row, item in enumerate(tokens.items) if item is not None]
    lists = [
        tuple(places[index] for index in indices)
        for indices in together(tokens.scored, batch_tokens)
    ]
    sizes = [sum(_size(tokens, row) for row in rows) for rows in lists]
    return [
        _Batch(recipe, rows, size)
        for recipe in range(recipes)
        for rows, size in zip(lists, sizes)
    ]


def _size(tokens: Tokenised, row: int) -> int:
    """Tokens that a row takes the model to read."""
    item = tokens.items[row]
    return item.shared + sum(len(text) - item.shared for text in item.sequences)


def _part(batches: Sequence[_Batch], done: set[Place], group: Group) -> list[_Batch]:
    """This process's part of what is left: a stretch of as many tokens as the others'.

    Neighbours in the list share a recipe, so a process merges few of them. Alone, it is
    everything, with what is done already.
    """
    if group.size == 1:
        return list(batches)
    left = [batch for batch in batches if not done.issuperset(batch.places)]
    total = sum(batch.tokens for batch in left)
    own, before = [], 0
    for batch in left:
        middle = before + batch.tokens / 2
        if int(middle * group.size / total) == group.rank:
            own.append(batch)
        before += batch.tokens
    return own


@contextmanager
def _opened(folder: Path, group: Group) -> Iterator[Store]:
    """This process's store. A failure of any process is raised in all, so that none waits."""
    store, failure = None, None
    try:
        store = Store(_file(folder, group.rank))
    except (DogermError, OSError) as error:
        failure = error
    try:
        group.raise_any(failure)
        yield store
    finally:
        if store:
            store.close()


def _begin(store: Store, job: Job, resume: bool, group: Group) -> None:
    failure = None
    try:
        if other := provenance.differences(
            group.gather(job.provenance)[0], job.provenance
        ):
            raise StoreError(
                f"process {group.rank} does not see what the first one sees: {other[0]}."
            )
        store.begin(job, resume or group.rank > 0)
        if group.local_rank == 0:
            _absorb(store, group)
    except DogermError as error:
        failure = error
    group.raise_any(failure)


def _absorb(store: Store, group: Group) -> None:
    """Take over what an earlier run of more processes has left on this machine."""
    for file in sorted(store.path.parent.glob(_file(Path(), "*").name)):
        if int(file.stem.rpartition("-")[2]) >= group.size:
            with Store(file) as left:
                if left.begun:
                    store.absorb(left)
            file.unlink()


def _bring_together(store: Store, group: Group) -> None:
    """Everything into the first process's store; the others' go when it is safe there."""
    if group.size == 1:
        return
    done = group.gather(store.done())[0]
    own = {place: found for place, found in store.read().items() if place not in done}
    for found in group.collect(own)[1:]:
        store.add({place: found[place] for place in found.keys() - done})
        done |= found.keys()
    group.gather(None)
    if group.rank > 0:
        store.close()
        store.path.unlink()


def _begun_with(store: Store) -> int | None:
    return store.job.provenance["batch_tokens"] if store.begun else None


def _file(folder: Path, rank: int | str) -> Path:
    return folder / (STORE if rank == 0 else f"rewards.part-{rank}.sqlite")
