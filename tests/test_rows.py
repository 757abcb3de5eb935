"""Rows from CSV and Parquet say the same as from JSON Lines."""

import math
from datetime import datetime
from decimal import Decimal

import pyarrow
import pyarrow.parquet
import pytest

from dogerm.errors import InputError
from dogerm.rows import read_rows

PAIR = {"prompt": 'a "quoted", p', "chosen": "two\nlines", "rejected": "數學"}


def test_a_csv_reads_as_the_same_pairs(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text(
        '\ufeffprompt,chosen,rejected\n"a ""quoted"", p","two\nlines",數學\nq,c,r\n',
        encoding="utf-8",
    )
    first, second = read_rows(path)
    assert first.data == PAIR and first.is_pair
    assert (first.where, second.where) == (
        "line 2 of pairs.csv",
        "line 4 of pairs.csv",
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"prompt,chosen,rejected\na,b\n", "line 2 of bad.csv: the number of fields"),
        (b"prompt,chosen,rejected\na,b,c,d\n", "line 2 of bad.csv"),
        (b'prompt,chosen,rejected\na,b,"c\n', "not valid CSV"),
        (b"prompt,chosen,rejected\na,b,\xff\n", "line 2 of bad.csv is not valid UTF-8"),
        (b"prompt,chosen,rejected\na,,c\n", "line 2 of bad.csv: chosen is empty"),
        (b"prompt,chosen,rejected\n", "has no rows"),
    ],
)
def test_a_bad_csv_names_its_line(tmp_path, text, says):
    path = tmp_path / "bad.csv"
    path.write_bytes(text)
    with pytest.raises(InputError, match=says):
        read_rows(path)


def test_parquet_reads_as_the_same_pairs_and_rubbish_is_named(tmp_path):
    path = tmp_path / "pairs.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([PAIR]), path)
    (row,) = read_rows(path)
    assert row.data == PAIR and row.where == "row 1 of pairs.parquet"
    path.write_bytes(b"rubbish")
    with pytest.raises(InputError, match="pairs.parquet is not a Parquet file"):
        read_rows(path)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("made", datetime(2024, 7, 1)),
        ("weight", math.nan),
        ("price", Decimal("1.5")),
        ("raw", b"\x00"),
    ],
)
def test_a_parquet_value_without_a_form_in_json_is_named(tmp_path, column, value):
    path = tmp_path / "odd.parquet"
    table = pyarrow.Table.from_pylist([PAIR | {column: None}, PAIR | {column: value}])
    pyarrow.parquet.write_table(table, path)
    with pytest.raises(InputError, match=f"row 2 of odd.parquet: {column} holds"):
        read_rows(path)


def test_a_csv_column_that_comes_twice_is_named(tmp_path):
    path = tmp_path / "twice.csv"
    path.write_text("prompt,chosen,rejected,chosen\na,b,c,d\n")
    with pytest.raises(InputError, match="twice.csv has two columns named chosen"):
        read_rows(path)
