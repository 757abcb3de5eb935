"""Results on disk: whole or not there at all, and never lost once written, whatever happens."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Self

from dogerm.errors import StoreError
from dogerm.provenance import differences
from dogerm.recipe import Recipe
from dogerm.rows import Row

FORMAT = 1  # of the tables below
_OURS = 0x444F4745  # SQLite's application id of our files
_TABLES = """
CREATE TABLE run (provenance TEXT NOT NULL);
CREATE TABLE recipe (place INTEGER PRIMARY KEY, recipe TEXT NOT NULL);
CREATE TABLE row (place INTEGER PRIMARY KEY, row TEXT NOT NULL, skipped TEXT);
CREATE TABLE reward (
    recipe INTEGER NOT NULL REFERENCES recipe,
    row INTEGER NOT NULL REFERENCES row,
    rewards TEXT NOT NULL,
    PRIMARY KEY (recipe, row)
) WITHOUT ROWID;
"""

# What a disk says that takes no more: full, over a quota or a limit, failing.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

Place = tuple[int, int]  # of a recipe and a row


@dataclass(frozen=True)
class Job:
    """What a store is for: rows to be scored under recipes, and all that the rewards depend on.

    Args:
        provenance: nested tables of plain values. Where two runs differ in them, other
            than in `source` (where the same thing was found), their rewards do not mix.
        skipped: why a row is not scored, by its place in `rows`.
    """

    provenance: Mapping[str, Any]
    recipes: Sequence[Recipe]
    rows: Sequence[Row]
    skipped: Mapping[int, str]


class Store:
    """The rewards of one job, in one SQLite file. What was added survives a kill or a power cut.

    The file is locked while it is open. Write-ahead logging without shared memory,
    which the lock allows, also works on a cluster's network disk.

    Raises:
        StoreError: another process has it open; it is no store, or one of another
            format; the disk is full or fails.
    """

    def __init__(self, path: Path):
        self.path = path
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            # One thread at a time uses it, though not the same all along: the page's
            # server takes each step of a run in whichever is free.
            self._db = sqlite3.connect(
                path, timeout=0, isolation_level=None, check_same_thread=False
            )
            try:
                self._check_format()  # first: another program's file is not touched
                self._lock()
            except BaseException:
                self._db.close()
                raise

    @property
    def begun(self) -> bool:
        """Whether it is of a job yet: not so if the process that made it was killed at once."""
        return self._pragma("user_version") != 0

    def begin(self, job: Job, resume: bool = False) -> None:
        """Make it the job's store; when resuming, also one that is the same job's already.

        Raises:
            StoreError: it has been begun and resume is false, or it is another job's.
                Says what differs.
        """
        self.check_resumed(resume)
        if self.begun:
            self._check(job)
        else:
            self._write(job)

    def check_resumed(self, resume: bool) -> None:
        """StoreError if it has been begun and is not to be resumed."""
        if self.begun and not resume:
            raise StoreError(
                f"{self.path} is there already, with {self.count} results. Pass --resume "
                "to go on with it, or give another --out."
            )

    @property
    def job(self) -> Job:
        with self._errors():
            (provenance,) = self._db.execute("SELECT provenance FROM run").fetchone()
            recipes = self._db.execute("SELECT recipe FROM recipe ORDER BY place")
            rows = self._db.execute(
                "SELECT place, row, skipped FROM row ORDER BY place"
            ).fetchall()
            return Job(
                json.loads(provenance),
                [Recipe.from_json(json.loads(recipe)) for (recipe,) in recipes],
                [_row(json.loads(row)) for _, row, _ in rows],
                {place: why for place, _, why in rows if why is not None},
            )

    @property
    def count(self) -> int:
        """How many rows have been scored, once for every recipe."""
        with self._errors():
            return self._db.execute("SELECT count(*) FROM reward").fetchone()[0]

    def done(self) -> set[Place]:
        """What has been scored."""
        with self._errors():
            return set(self._db.execute("SELECT recipe, row FROM reward"))

    def add(self, rewards: Mapping[Place, Sequence[float]]) -> None:
        """Write these rewards, all or none. When it returns they are on the disk for good."""
        values = [(*place, json.dumps(own)) for place, own in rewards.items()]
        with self._transaction():
            self._db.executemany("INSERT INTO reward VALUES (?, ?, ?)", values)

    def read(self) -> dict[Place, list[float]]:
        """Every reward, by recipe and row."""
        with self._errors():
            found = self._db.execute("SELECT recipe, row, rewards FROM reward")
            return {(recipe, row): json.loads(own) for recipe, row, own in found}

    def absorb(self, other: Store) -> None:
        """Take over what another store of the same job has and this one has not."""
        self._check(other.job)
        done = self.done()
        self.add({at: own for at, own in other.read().items() if at not in done})

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _lock(self) -> None:
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # on the disk when committed
        self._db.execute("BEGIN EXCLUSIVE")
        self._db.execute("COMMIT")

    def _check_format(self) -> None:
        found = self._pragma("user_version")
        tables = self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if not tables and not found:
            return
        if self._pragma("application_id") != _OURS:
            raise StoreError(f"{self.path} is another program's database. Move it.")
        if found != FORMAT:
            raise StoreError(
                f"{self.path} was written by another version of dogerm (its format is "
                f"{found}, this version's {FORMAT}). Use that version, or another --out."
            )

    def _pragma(self, name: str) -> int:
        with self._errors():
            return self._db.execute(f"PRAGMA {name}").fetchone()[0]

    def _write(self, job: Job) -> None:
        with self._transaction():
            for statement in _TABLES.split(";"):
                self._db.execute(statement)
            self._db.execute("INSERT INTO run VALUES (?)", (_json(job.provenance),))
            recipes = [_json(recipe.to_json()) for recipe in job.recipes]
            self._db.executemany("INSERT INTO recipe VALUES (?, ?)", enumerate(recipes))
            rows = [
                (place, _json(asdict(row)), job.skipped.get(place))
                for place, row in enumerate(job.rows)
            ]
            self._db.executemany("INSERT INTO row VALUES (?, ?, ?)", rows)
            self._db.execute(f"PRAGMA application_id = {_OURS}")
            self._db.execute(f"PRAGMA user_version = {FORMAT}")

    def _check(self, job: Job) -> None:
        if found := differences(_compared(self.job), _compared(job)):
            more = f" ({len(found) - 3} more)" if len(found) > 3 else ""
            raise StoreError(
                f"{self.path} is of another run: {'; '.join(found[:3])}{more}. "
                "Run it as it was begun, or give another --out."
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise  # a row scored twice is our own mistake
        except sqlite3.DatabaseError as error:
            raise StoreError(_said(error, self.path)) from None


def _compared(job: Job) -> dict[str, Any]:
    recipes = {
        f"recipe {number}": str(recipe)
        for number, recipe in enumerate(job.recipes, start=1)
    }
    return {**job.provenance, "number of recipes": len(recipes), **recipes}


def _row(data: dict[str, Any]) -> Row:
    return Row(**data | {"responses": tuple(data["responses"])})


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _said(error: sqlite3.DatabaseError, path: Path) -> str:
    code = getattr(error, "sqlite_errorname", "") or ""
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"another process is using {path}. Wait until it is done, or stop it."
    if code.startswith("SQLITE_FULL"):
        return (
            f"the disk of {path} is full. Results up to here are safe: make room, "
            "and go on with --resume."
        )
    if code.startswith("SQLITE_NOTADB"):
        return f"{path} is not a store of results. Move it, or give another --out."
    if code.startswith("SQLITE_CORRUPT"):
        return f"{path} is damaged ({error}). Restore a copy, or give another --out."
    return f"{path} cannot be used: {error}."


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Writing to an open file: a full or failing disk, which says no name, gets the file's."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _DISK:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


@contextmanager
def replacing(path: str | Path, binary: bool = False) -> Iterator[IO[Any]]:
    """A UTF-8 text file, or one of bytes, that takes the path's place when the block ends without an error.

    It grows beside the path, so that a full or read-only disk is met at once and
    readers see the old file or the new one. A pipe or a device is written directly.
    """
    target = Path(os.path.realpath(path))
    mode, encoding = ("wb", None) if binary else ("w", "utf-8")
    if target.exists() and not target.is_file() and not target.is_dir():
        with naming(path), target.open(mode, encoding=encoding) as file:
            yield file
        return
    if target.is_dir():
        raise IsADirectoryError(21, "is a directory", str(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with naming(path), partial.open(mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
