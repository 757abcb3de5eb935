"""How long visitors wait while someone's file of pairs is scored: python tests/measure_visitors.py

Prints, for the embedded family: from a visitor's λ to exact numbers, alone, and while someone
else's 10,000 pairs are scored at eleven λs, one visitor at a time and ten at once; how fast
that file goes meanwhile. Its owner leaves when the visitors are done.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
from calling import client, endpoint, heard

ROOT = Path(__file__).resolve().parent.parent
PORT = 7879
URL = f"http://127.0.0.1:{PORT}/"
PAIRS = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
ALONE, SECONDS = 15, 40  # visits alone, and how long they go on beside the file
PROMPT, ANSWERS = "Solve 8*x+3=11.", ["8*x=8\nAnswer: 1", "8*x=14\nAnswer: 2", "3", "4"]


def rows() -> list[dict[str, str]]:
    sys.path.insert(0, str(ROOT))
    from dogerm.nano.pairs import held_out, write_lines

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pairs.jsonl"
        write_lines(file, held_out(200))
        some = [json.loads(line) for line in file.read_text().splitlines()]
    keys = ("prompt", "chosen", "rejected", "domain")
    return [{key: some[i % len(some)][key] for key in keys} for i in range(PAIRS)]


def seconds_of(lam: float, event: int) -> float:
    """From a visitor's λ to exact numbers of the base RM and DogeRM."""
    started = time.perf_counter()
    *_, last = heard(URL, event, [PROMPT, ANSWERS, lam, {"math": 1}, "linear", None])
    assert last["success"], last
    return time.perf_counter() - started


def reached(message: dict, before: int) -> int:
    """Rewards so far; after the first message Gradio sends what has changed."""
    (data,) = message["output"]["data"]
    if isinstance(data, dict):
        return data.get("done", before)
    return next((new for _, path, new in data if path == ["done"]), before)


def told(what: str, seconds: list[float]) -> None:
    seconds = sorted(seconds)
    print(
        f"{what}: median {1e3 * statistics.median(seconds):.0f} ms, "
        f"slowest {1e3 * seconds[-1]:.0f} ms of {len(seconds)}"
    )


def main() -> None:
    given = [rows(), {"math": 1, "code": 1}, None, "linear", None]
    environment = os.environ | {"GRADIO_SERVER_PORT": str(PORT)}
    program = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment)
    try:
        while True:
            try:
                client().get(URL)
                break
            except httpx.TransportError:
                time.sleep(0.2)
        print(f"load average before: {os.getloadavg()[0]:.1f}")
        score, pairs = endpoint(URL, "score"), endpoint(URL, "pairs")
        lams = [0.1 + 0.8 * (run * 0.381 % 1) for run in range(ALONE)]
        told("alone", [seconds_of(lam, score) for lam in lams])
        progress: list[tuple[float, int]] = []  # when, and how many rewards
        enough = threading.Event()

        def file_of_pairs() -> None:
            with closing(heard(URL, pairs, given)) as messages:
                for message in messages:
                    if message["msg"] == "process_generating":
                        done = reached(message, progress[-1][1] if progress else 0)
                        progress.append((time.perf_counter(), done))
                    if enough.is_set():
                        return

        started = time.perf_counter()
        one: list[tuple[float, float]] = []  # when, and for how long
        ten: list[tuple[float, float]] = []

        def visit(lam: float) -> tuple[float, float]:
            return time.perf_counter(), seconds_of(lam, score)

        with ThreadPoolExecutor(11) as visitors:
            job = visitors.submit(file_of_pairs)
            while not job.done() and time.perf_counter() - started < SECONDS:
                one += [visit(lam) for lam in lams[:3]]
                ten += visitors.map(visit, lams[:10])
            enough.set()
            job.result()
        first, (last, done) = progress[0][0], progress[-1]
        for phase, begin, end in (("read", started, first), ("scored", first, last)):
            for who, visits in (("one visitor", one), ("ten at once", ten)):
                found = [taken for at, taken in visits if begin <= at < end]
                if found:
                    told(f"while {PAIRS:,} pairs are {phase}, {who}", found)
        rate = done / (last - first)
        print(
            f"the file beside them: read in {first - started:.1f} s, then {rate:.0f} "
            f"rewards/s; it is told how far it is every "
            f"{(last - first) / len(progress):.2f} s"
        )
        print(f"load average after: {os.getloadavg()[0]:.1f}")
    finally:
        program.terminate()


if __name__ == "__main__":
    main()
