"""Hostile programs: each is stopped, named, and leaves nothing behind."""

import os
import socket
import sys
from pathlib import Path

import pytest

from dogerm.benchmarks import jail
from dogerm.benchmarks.sandbox import PASSED, TIME, verdicts
from dogerm.errors import InputError

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="programs are only run on Linux"
)


def run(*programs: str) -> list[str]:
    return verdicts(programs, seconds=1, workers=2)


def test_what_programs_may_do():
    modules = "math, re, collections, itertools, random, datetime, decimal, json, time"
    assert (
        run(
            f"import {modules}\nassert random.random() < 1\ntime.sleep(0.01)",
            "print('x' * 1000)\nimport sys\nprint('y', file=sys.stderr)",
            "import numpy\nassert numpy.linalg.inv(numpy.eye(3)).sum() == 3",
            "assert len(open(__import__('json').__file__).read()) > 100",
            "try: open('/etc/x', 'w')\nexcept OSError: pass\nelse: raise ValueError",
        )
        == [PASSED] * 5
    )


def test_what_stops_a_program_is_named():
    assert run("assert 1 == 2", "x = (", "import torch", "[0] * 10**12") == [
        "AssertionError",
        "SyntaxError",
        "ModuleNotFoundError",  # numpy is there, and no other package
        "MemoryError",
    ]


def test_ending_early_is_no_pass():
    early = "exit 0 before its tests were over"
    assert run("import os\nos._exit(0)", "import sys\nsys.exit(0)", "quit()") == [
        early,
        "SystemExit",
        "SystemExit",
    ]


def test_closing_the_pipe_or_writing_to_it_is_no_pass():
    assert PASSED not in run(
        "import os\nos.close(3)\nos._exit(0)",
        "import os\nos.write(3, b'passed')\nos._exit(0)",
        "import os\nos.write(3, b'x' * 10**6)",
        "class passed(Exception): pass\nraise passed",
    )


def test_a_program_that_loops_sleeps_or_prints_for_ever_ends_at_its_time_limit():
    assert (
        run(
            "while True: pass",
            "import time\ntime.sleep(1000)",
            "line = 'x' * 10**6\nwhile True: print(line)",
            "import signal, time\n"
            "for n in range(1, 32):\n"
            "    try: signal.signal(n, signal.SIG_IGN)\n"
            "    except (OSError, ValueError): pass\n"
            "while True: pass",
        )
        == [TIME] * 4
    )


REACHING = (
    "import os\nos.fork()",
    "import subprocess\nsubprocess.run(['true'])",
    "import os\nos.execv('/bin/true', ['true'])",
    "import multiprocessing as m\nm.Process(target=print).start()",
    "import socket\nsocket.socket()",
    "import socket\nsocket.create_connection(('127.0.0.1', PORT))",
    "import os\nos.remove(VICTIM)",
    "import shutil\nshutil.rmtree(FOLDER)",
    "import os\nos.rename(VICTIM, VICTIM + '2')",
    "import os\nos.truncate(VICTIM, 0)",
    "import os\nos.chmod(VICTIM, 0)",
    "open(VICTIM, 'a').write('x')",
    "while True: open(str(id(open)), 'wb').write(bytes(10**6))",
    "import os\nos.mkdir('here')",
    "import os\nos.symlink('/', 'here')",
    "import tempfile\ntempfile.TemporaryFile()",
    "import os\nos.kill(PID, 9)",
    "import os\nos.kill(os.getppid(), 9)",
    "import os\nos.killpg(0, 9)",
    "import resource as r\nr.setrlimit(r.RLIMIT_FSIZE, (10**9, 10**9))",
    "import os\nos.setuid(65534)",
    "import fcntl\nfcntl.fcntl(0, fcntl.F_SETOWN, PID)",
)


def test_what_reaches_outside_is_refused(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("whole")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0.05)
        names = (
            f"VICTIM, FOLDER = {str(victim)!r}, {str(tmp_path)!r}\n"
            f"PORT, PID = {server.getsockname()[1]}, {os.getpid()}\n"
        )
        found = run(*(names + program for program in REACHING))
        with pytest.raises(TimeoutError):
            server.accept()
    # tempfile says FileNotFoundError where no folder may be written to, resource
    # ValueError where a limit may not be raised.
    refusals = {"PermissionError", "FileNotFoundError", "ValueError"}
    assert {p: v for p, v in zip(REACHING, found) if v not in refusals} == {}
    assert victim.read_text() == "whole" and os.listdir(tmp_path) == ["victim"]


def test_raw_system_calls_do_not_help():
    call = "import ctypes\nc = ctypes.CDLL(None, use_errno=True)\n"
    refused = "assert c.{} == -1 and ctypes.get_errno() == 1"
    calls = (
        "unlink(b'/tmp/x')",
        "socket(2, 1, 0)",
        "fork()",
        "unshare(0x10000000)",
        "creat(b'x', 0o600)",
        "syscall(425, 8, 0)",  # io_uring_setup
        "ptrace(16, 1, 0, 0)",
    )
    assert run(*(call + refused.format(each) for each in calls)) == [PASSED] * len(
        calls
    )


def test_a_program_sees_no_environment_and_leaves_no_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SECRET", "word")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    empty = "import os\nassert not os.environ and not os.listdir()"
    inside = f"import os\nassert os.getcwd().startswith({str(tmp_path)!r})"
    assert run(empty, inside) == [PASSED, PASSED]
    assert os.listdir(tmp_path) == []


def test_equal_programs_run_once_and_kept_verdicts_are_taken(tmp_path):
    kept, seen = tmp_path / "new" / "verdicts.jsonl", []
    first = verdicts(
        ["x = 1", "assert 0", "x = 1"], 1, 1, kept, lambda *d: seen.append(d)
    )
    assert first == [PASSED, "AssertionError", PASSED]
    assert seen == [(1, 2), (2, 2)]
    kept.write_text(kept.read_text().replace("AssertionError", "as it was"))
    with kept.open("a") as file:
        file.write('{"program": "cut sho')  # killed while writing
    again = verdicts(["assert 0", "x = 2"], 1, 1, kept)
    assert again == ["as it was", PASSED]
    kept.write_text(kept.read_text().replace(PASSED, "as it is"))
    assert verdicts(["x = 2"], 1, 1, kept) == ["as it is"]


def test_a_system_that_cannot_hold_a_program_runs_none(monkeypatch, tmp_path):
    script = tmp_path / "jail.py"
    source = Path(jail.__file__).read_text()
    script.write_text(source.replace("platform.machine()", "'pdp11'"))
    monkeypatch.setattr("dogerm.benchmarks.sandbox.__file__", str(tmp_path / "x.py"))
    with pytest.raises(InputError, match="cannot be run safely"):
        run("x = 1")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_jump_of_the_filter_stays_inside_and_it_ends_by_refusing(machine):
    rules = jail._filter(machine, 1)
    for place, (_, yes, no, _) in enumerate(rules):
        assert place + 1 + max(yes, no) < len(rules) or not (yes or no)
    assert rules[-1] == (jail._RETURN, 0, 0, jail._REFUSE)
