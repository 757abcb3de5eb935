"""Programs of unknown origin, judged several at a time without harm."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import TextIO

from dogerm.benchmarks.jail import PASSED, TIME
from dogerm.errors import InputError
from dogerm.store import naming

__all__ = ["PASSED", "TIME", "verdicts"]

MEMORY = 1 << 30  # bytes of address space


def verdicts(
    programs: Sequence[str],
    seconds: int = 3,
    workers: int | None = None,
    kept: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """What becomes of each program: PASSED, TIME, or the name of what stopped it.

    Equal programs are run once. A program that prints, loops, forks, writes, deletes or
    opens sockets harms nothing; `jail` says how it is held.

    Args:
        seconds: of CPU time each.
        workers: run at a time; None: one per core.
        kept: a file of verdicts by program, read first and added to at once, so that
            a run that was stopped judges nothing twice and nothing differently.
        on_progress: called with the number of programs done and of all.

    Raises:
        InputError: this system cannot hold a program.
    """
    keys = [_key(program, seconds) for program in programs]
    found = _kept(kept)
    new = {key: p for key, p in zip(keys, programs) if key not in found}
    if new:
        total, count = len(new), min(workers or os.cpu_count() or 1, len(new))
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(count))
            jails: SimpleQueue[_Jail] = SimpleQueue()
            for _ in range(count):
                jails.put(stack.enter_context(_jail()))
            file = None
            if kept:
                stack.enter_context(naming(kept))
                file = stack.enter_context(_open(kept))

            def judge(program: str) -> str:
                jail = jails.get()
                try:
                    return jail.judge(program, seconds)
                finally:
                    jails.put(jail)

            pending = {pool.submit(judge, p): key for key, p in new.items()}
            stack.callback(lambda: [future.cancel() for future in pending])
            for done, future in enumerate(as_completed(pending), 1):
                key = pending[future]
                found[key] = future.result()
                if file:
                    line = {"program": key, "verdict": found[key]}
                    file.write(json.dumps(line) + "\n")
                    file.flush()
                if on_progress:
                    on_progress(done, total)
    return [found[key] for key in keys]


class _Jail:
    """A running `jail`, which judges one program at a time."""

    def __init__(self, process: subprocess.Popen) -> None:
        self._process = process
        ready = json.loads(self._answer())
        if not ready["ready"]:
            raise InputError(
                f"programs cannot be run safely on this system: {ready['why']}. "
                "It takes Linux with seccomp. Run this in a Linux container, or give "
                'candidates whose labels are known (the key "passed").'
            )

    def judge(self, program: str, seconds: int) -> str:
        request = {"program": program, "seconds": seconds, "memory": MEMORY}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._answer())

    def _answer(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            raise InputError(
                "the process that runs the programs was ended from outside, perhaps "
                "for memory. Run the same command again, with fewer --workers."
            )
        return line


@contextmanager
def _jail() -> Iterator[_Jail]:
    with tempfile.TemporaryDirectory(prefix="dogerm-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", Path(__file__).with_name("jail.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"OPENBLAS_NUM_THREADS": "1"},  # which it clears
            cwd=folder,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for us, not for it
        )
        try:
            yield _Jail(process)
        finally:
            process.kill()
            process.communicate()


def _key(program: str, seconds: int) -> str:
    return hashlib.sha256(f"{seconds}\n{program}".encode()).hexdigest()


def _open(path: Path) -> TextIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a", encoding="utf-8")
    if file.tell() and not path.read_bytes().endswith(b"\n"):
        file.write("\n")  # after a line that a kill cut short
    return file


def _kept(path: Path | None) -> dict[str, str]:
    """Verdicts of an earlier run; a last line that was cut short by a kill is judged again."""
    found = {}
    if path and path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                data = json.loads(line)
            except json.JSONDecodeError:
                continue
            found[data["program"]] = data["verdict"]
    return found
