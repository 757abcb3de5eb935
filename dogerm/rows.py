"""Rows of a file: prompts with responses, or preference pairs; slips named by line."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from dogerm.engine import Engine
from dogerm.errors import InputError, TooLong
from dogerm.scoring import (
    Prompt,
    Tokens,
    WhenTooLong,
    chat_messages,
    check_text,
    letter,
    tokenise,
)

_MARK = b"\xef\xbb\xbf"  # a byte order mark, from some editors

WANTED = "A row needs prompt with chosen and rejected, or with responses."

Found = TypeVar("Found")


@dataclass(frozen=True)
class Row:
    """One line of the file.

    Args:
        where: for errors, e.g. "line 7 of pairs.jsonl".
        data: the line as it was, every key in its place.
        prompt: an instruction, or chat messages.
        responses: at least two; of a pair, the chosen one first.
        is_pair: whether the first response is known to be better than the second.
        id: unique among a benchmark's rows; empty elsewhere.
        may_be_empty: whether an empty response is scored rather than refused.
    """

    where: str
    data: Mapping[str, Any]
    prompt: Prompt
    responses: tuple[str, ...]
    is_pair: bool
    id: str = ""
    may_be_empty: bool = False


@dataclass(frozen=True)
class Tokenised:
    """Rows made ready for scoring once, to be scored under any number of recipes.

    Args:
        rows: all of them, in the file's order.
        items: their tokens; None for a row that was skipped.
        skipped: why, by the row's place in `rows`.
        too_long: what was asked for.
        cut: how many conversations lost their beginning.
    """

    rows: Sequence[Row]
    items: Sequence[Tokens | None]
    skipped: Mapping[int, str]
    too_long: WhenTooLong
    cut: int

    @property
    def scored(self) -> list[Tokens]:
        """The tokens of the rows that were not skipped."""
        return [item for item in self.items if item is not None]

    @property
    def responses(self) -> int:
        """How many rewards one recipe takes."""
        return sum(len(item.sequences) for item in self.scored)

    def spread(self, rewards: Sequence[Found]) -> list[Found | None]:
        """What was found of `scored`, back in the rows' places; None for a skipped row."""
        rest = iter(rewards)
        return [None if item is None else next(rest) for item in self.items]


def read_rows(source: str | Path) -> list[Row]:
    """The rows of a file, or of standard input for "-".

    Raises:
        InputError: as `read_objects`; or a row is not `{"prompt", "responses"}` or
            `{"prompt", "chosen", "rejected"}` with text in all of them. Names its line.
    """
    return [row_of(data, where) for where, data in read_objects(source)]


def read_objects(source: str | Path) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a JSON Lines, CSV or Parquet file, each with where it stands.

    The name's ending says which: .csv, .parquet, and JSON Lines for anything else,
    standard input ("-") among it. Blank lines are passed over.

    Raises:
        InputError: the file cannot be read, holds nothing or is not of its kind.
    """
    name = "standard input" if str(source) == "-" else Path(source).name
    kind = Path(name).suffix.lower()
    data = _bytes(source)
    if kind == ".parquet":
        found = _parquet(data, name)
    elif kind == ".csv":
        found = _csv(data.removeprefix(_MARK), name)
    else:
        found = [
            (where := f"line {number} of {name}", _object(line, where))
            for number, line in enumerate(data.removeprefix(_MARK).split(b"\n"), 1)
            if line.strip()
        ]
    if not found:
        raise InputError(f"{name} has no rows. Each line should be a JSON object.")
    return found


def row_of(
    data: Mapping[str, Any], where: str, id: str = "", may_be_empty: bool = False
) -> Row:
    """The row that an object with `prompt` and `responses`, or a pair, stands for.

    Raises:
        InputError: it is neither; names `where` it stands.
    """
    if "prompt" not in data:
        raise InputError(f"{where}: prompt is missing{_had(data)}. {WANTED}")
    is_pair = "chosen" in data or "rejected" in data
    if is_pair and "responses" in data:
        raise InputError(
            f"{where}: there are responses and chosen or rejected as well. "
            "Keep one or the other."
        )
    try:
        chat_messages(data["prompt"])
        of = _pair if is_pair else _responses
        responses = of(data, may_be_empty)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return Row(where, data, data["prompt"], responses, is_pair, id, may_be_empty)


def check_pairs(rows: Sequence[Row]) -> None:
    """InputError for a row that is no preference pair."""
    for row in rows:
        if not row.is_pair:
            raise InputError(
                f"{row.where}: a pair needs chosen and rejected; this row has "
                f"{', '.join(row.data)}."
            )


def tokenise_rows(
    engine: Engine, rows: Sequence[Row], too_long: WhenTooLong = "error"
) -> Tokenised:
    """Token ids of every row.

    Raises:
        TooLong, InputError: as `tokenise`, with the line's number in front.
    """
    items: list[Tokens | None] = []
    skipped: dict[int, str] = {}
    for index, row in enumerate(rows):
        try:
            items.append(
                tokenise(engine, row.prompt, row.responses, too_long, row.may_be_empty)
            )
        except TooLong as error:
            if too_long == "error":
                remedy = "Or pass --too-long skip or --too-long cut."
                raise TooLong(f"{row.where}: {error} {remedy}") from None
            items.append(None)
            skipped[index] = str(error)
        except InputError as error:
            raise InputError(f"{row.where}: {error}") from None
    cut = sum(tokens > 0 for item in items if item for tokens in item.cut)
    return Tokenised(rows, items, skipped, too_long, cut)


def _bytes(source: str | Path) -> bytes:
    if str(source) == "-":
        data = sys.stdin.buffer.read()
    else:
        try:
            data = Path(source).read_bytes()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise InputError(f"{source} cannot be read: {reason}.") from None
    return data


def _csv(data: bytes, name: str) -> list[tuple[str, dict[str, Any]]]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"line {line} of {name} is not valid UTF-8. Save the file as UTF-8."
        ) from None
    found = []
    try:
        table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        names = Counter(table.fieldnames or ())
        if twice := [column for column, count in names.items() if count > 1]:
            raise InputError(f"{name} has two columns named {twice[0]}.")
        begin = 2  # line 1 holds the names of the columns
        for fields in table:
            where = f"line {begin} of {name}"
            begin = table.line_num + 1
            if None in fields or None in fields.values():
                columns = ", ".join(table.fieldnames)
                raise InputError(
                    f"{where}: the number of fields differs from that of the columns "
                    f"({columns}). Put quotes around a text with commas or line ends."
                )
            found.append((where, fields))
    except csv.Error as error:
        raise InputError(f"{name} is not valid CSV: {error}.") from None
    return found


def _parquet(data: bytes, name: str) -> list[tuple[str, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(data)).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{name} is not a Parquet file: {error}.") from None
    found = [(f"row {number} of {name}", row) for number, row in enumerate(table, 1)]
    for where, row in found:
        for key, value in row.items():
            _check_value(value, f"{where}: {key}")
    return found


def _check_value(value: Any, who: str) -> None:
    """InputError for what JSON, in which every row is kept and written, has no form for."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (TypeError, ValueError, RecursionError):
        raise InputError(
            f"{who} holds {value!r:.60}, which JSON has no form for. Leave that column "
            "out, or make it text."
        ) from None


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        data = json.loads(line.decode("utf-8"), parse_constant=_no_constant)
        if not isinstance(data, dict):
            raise InputError(
                f"{where}: this should be a JSON object in braces, "
                f"got {line.decode().strip()!r:.80}."
            )
        # What cannot be written back as it came (a number beyond all floats, half a
        # character) is said now, not after the scoring.
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: byte {error.start + 1} is not valid UTF-8. "
            "Save the file as UTF-8."
        ) from None
    except UnicodeEncodeError:
        raise InputError(
            f"{where}: an escape such as \\ud800 in it is half a character."
        ) from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}: not valid JSON at character {error.pos + 1}: {error.msg}."
        ) from None
    except RecursionError:
        raise InputError(f"{where}: too many brackets inside each other.") from None
    except ValueError as error:
        raise InputError(f"{where}: {error}.") from None
    return data


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number that JSON knows")


def _pair(data: Mapping[str, Any], may_be_empty: bool) -> tuple[str, ...]:
    for key in ("chosen", "rejected"):
        if key not in data:
            raise InputError(f"{key} is missing{_had(data)}. {WANTED}")
        check_text(data[key], key, may_be_empty)
    return data["chosen"], data["rejected"]


def _responses(data: Mapping[str, Any], may_be_empty: bool) -> tuple[str, ...]:
    if "responses" not in data:
        raise InputError(f"responses, or chosen and rejected, are missing{_had(data)}.")
    responses = data["responses"]
    if not isinstance(responses, list):
        raise InputError(f"responses must be a list of texts, got {responses!r:.80}.")
    for index, response in enumerate(responses):
        check_text(response, f"response {letter(index)}", may_be_empty)
    if len(responses) < 2:
        raise InputError(
            f"a comparison needs two responses, got {len(responses)}. "
            "Only differences between rewards mean something."
        )
    return tuple(responses)


def _had(data: Mapping[str, Any]) -> str:
    return f"; the keys are {', '.join(data)}" if data else "; the object is empty"
