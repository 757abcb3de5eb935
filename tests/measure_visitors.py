"""How long visitors wait while someone's file of pairs is scored: python tests/measure_visitors.py

Prints, for the embedded family: from a visitor's λ to exact numbers, alone, and while someone
else's 10,000 pairs are scored at eleven λs, one visitor at a time and ten at once; how fast
that file goes meanwhile. Its owner leaves when the visitors are done.
"""

import itertools
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
ALONE, ROUNDS = 15, 5  # visits alone; rounds of three one by one and ten at once
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
        progress: list[tuple[float, int]] = []
        enough = threading.Event()

        def file_of_pairs() -> None:
            with closing(heard(URL, pairs, given)) as messages:
                for message in messages:
                    if message["msg"] == "process_generating":
                        done = reached(message, progress[-1][1] if progress else 0)
                        progress.append((time.perf_counter(), done))
                    if enough.is_set():
                        return

        started, one, ten = time.perf_counter(), [], []
        with ThreadPoolExecutor(11) as visitors:
            job = visitors.submit(file_of_pairs)
            for run in range(ROUNDS):
                if job.done():
                    break
                one += [seconds_of(lam, score) for lam in lams[3 * run : 3 * run + 3]]
                ten += visitors.map(lambda lam: seconds_of(lam, score), lams[:10])
            enough.set()
            job.result()
        told("meanwhile, one visitor", one)
        told("meanwhile, ten at once", ten)
        if progress:
            first, (last, done) = progress[0][0] - started, progress[-1]
            rate = done / (last - started)
            print(
                f"{PAIRS:,} pairs at 11 λs beside them: first progress after {first:.1f} s, "
                f"{rate:.0f} rewards/s, {22 * PAIRS / rate / 60:.0f} min for all"
            )
            times = [at for at, _ in progress]
            gaps = [after - before for before, after in itertools.pairwise(times)]
            print(f"progress every {statistics.median(gaps):.2f} s (median)")
        print(f"load average after: {os.getloadavg()[0]:.1f}")
    finally:
        program.terminate()


if __name__ == "__main__":
    main()
