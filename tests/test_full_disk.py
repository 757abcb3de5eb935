"""A disk that fills up during a benchmark: said in a line, nothing is broken, --resume goes on."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import source
from typer.testing import CliRunner

from dogerm.benchmarks.run import STORE
from dogerm.cli import app
from dogerm.store import Store

ROWS = 40
FILES = ("report.json", "report.csv", "report.parquet", "report.html", "rows.jsonl")
# Bytes that are left for: nothing; the store's beginning; some rewards; all of them, and
# then a part of the reports.
ROOM = {"nothing": "4k", "no tables": "40k", "some rewards": "90k", "reports": "1m"}


@contextmanager
def disk(folder: Path, size: str):
    """A small file system; yields what gives it another size."""
    folder.mkdir()
    if not shutil.which("mount") or _mount(folder, f"size={size}").returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        yield lambda more: _mount(folder, f"remount,size={more}").check_returncode()
    finally:
        subprocess.run(["umount", folder], check=True)


def _mount(folder: Path, options: str):
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
    return subprocess.run(command, check=False, capture_output=True)


@pytest.fixture(scope="module")
def bench(folders, tmp_path_factory):
    root = tmp_path_factory.mktemp("full")
    data = root / "pairs.jsonl"
    pair = {"chosen": "It is so.", "rejected": "I do not think so."}
    rows = [pair | {"prompt": f"Is it {i}?"} for i in range(ROWS)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(out, *more):
        grid = ["--lam=0:1:0.5", "--share=math=1", "--batch-tokens=64"]
        command = ["bench", "pairs", f"--data={data}", *source(folders), *grid, *more]
        return CliRunner().invoke(app, [*command, "--device=cpu", f"--out={out}"])

    run.whole = root / "whole"
    assert run(run.whole).exit_code == 0
    return run


@pytest.mark.parametrize("room", ROOM)
def test_a_benchmark_goes_on_when_there_is_room_again(bench, tmp_path, room):
    folder = tmp_path / "disk"
    with disk(folder, ROOM[room]) as resize:
        out = folder / "run"
        full = bench(out)
        assert full.exit_code == 1 and full.stderr.count("\n") == 1, full.output
        assert "is full" in full.stderr or "no space left" in full.stderr
        assert str(out) in full.stderr and "ake room" in full.stderr
        assert not list(out.glob(".*.partial"))
        resize("64m")
        found = _rewards(out)
        wanted = _rewards(bench.whole)
        assert found.items() <= wanted.items()
        assert (found == wanted) == (room == "reports")
        assert bool(found) == (room in ("some rewards", "reports"))
        assert bench(out, "--resume").exit_code == 0
        for name in FILES:
            assert (out / name).read_bytes() == (bench.whole / name).read_bytes()


def _rewards(folder: Path) -> dict:
    if not (folder / STORE).exists():
        return {}
    with Store(folder / STORE) as store:
        return store.read() if store.begun else {}


def test_pairs_that_do_not_fit_leave_the_file_as_it_was(tmp_path):
    with disk(tmp_path / "disk", "32k"):
        out = tmp_path / "disk" / "pairs.jsonl"
        out.write_text("before")
        command = ["nano", "pairs", "--domain=math", "--n=200", f"--out={out}"]
        full = CliRunner().invoke(app, command)
        assert full.exit_code == 1 and full.stderr.count("\n") == 1, full.output
        assert str(out) in full.stderr and "no space left" in full.stderr
        assert [file.name for file in out.parent.iterdir()] == ["pairs.jsonl"]
        assert out.read_text() == "before"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_standard_output_is_one_line():
    command = [sys.executable, "-m", "dogerm", "recipe", "--as", "json"]
    with open("/dev/full", "w") as full:
        found = subprocess.run(
            command, check=False, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert found.returncode == 1 and found.stderr.count("\n") == 1, found.stderr
    assert "no space left" in found.stderr
