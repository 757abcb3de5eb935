"""`dogerm merge` of two 7B checkpoints against a file copy: python tests/measure_merge_7b.py

Makes a reward model and an LM of random bfloat16 weights in the shapes of Llama-2-7B, the
LM with one token more, as MetaMath-7B. Copies the reward model's files, then merges the
two in a process of its own, each with cold files, and writes peak memory and times as JSON.
Takes 40 GB of disk, which it gives back, and some minutes.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
from safetensors import safe_open

from dogerm.export import SHARD_BYTES
from dogerm.plan import size_text
from dogerm.speed import machine
from dogerm.store import replacing
from dogerm.synthetic import config_at, llama_7b, write_checkpoint

LAM = 0.35
# The disk's room for the two sources and the merge, in parts of the reward model's size.
ROOM = 3.2


def main() -> None:
    options = parsed()
    config = config_at(options.config) if options.config else llama_7b()
    with tempfile.TemporaryDirectory(prefix="dogerm-7b-", dir=options.folder) as root:
        rm, lm, out = (Path(root) / name for name in ("rm", "lm", "out"))
        print("Writing the two checkpoints …", flush=True)
        write_checkpoint(rm, config, 0, True, torch.bfloat16, options.shard_bytes)
        require_room(rm)
        config.vocab_size += 1
        write_checkpoint(lm, config, 1, False, torch.bfloat16, options.shard_bytes)
        print("Copying the reward model …", flush=True)
        copied = nbytes(rm)
        copy_seconds = copy(rm, Path(root) / "copy")
        print("Merging …", flush=True)
        cold(rm, lm)
        seconds, peak, anonymous = merge(rm, lm, out)
        moved = nbytes(rm) + nbytes(lm) + nbytes(out)
        difference = check(rm, lm, out)
        found = {
            "machine": machine(torch.device("cpu")),
            "commit": commit(),
            "recipe": {"lam": LAM, "shares": {"math": 1.0}, "method": "linear"},
            "seeds": [0, 1],
            "dtype": "bfloat16",
            "parameters": nbytes(out) // 2,
            "shard_bytes": options.shard_bytes,
            "merge": {
                "seconds": seconds,
                "nbytes": moved,
                "peak_bytes": peak,
                "peak_bytes_without_mapped_files": anonymous,
                "largest_parameter_bytes": largest(out),
            },
            "copy": {"seconds": copy_seconds, "nbytes": 2 * copied},
            "ratio": (seconds / moved) / (copy_seconds / (2 * copied)),
            "largest_difference": difference,
        }
    with replacing(options.out) as file:
        json.dump(found, file, indent=1)
        file.write("\n")
    print(
        f"merge: {seconds:.1f} s for {size_text(moved)} read and written, at most "
        f"{size_text(peak)} of memory ({size_text(anonymous)} without mapped files); "
        f"copy: {copy_seconds:.1f} s for {size_text(2 * copied)}. "
        f"A byte takes {found['ratio']:.2f} times as long as in the copy."
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, help="where 40 GB are free; default: temporary files"
    )
    parser.add_argument(
        "--config", type=Path, help="other shapes: a folder with a config.json"
    )
    parser.add_argument("--shard-bytes", type=int, default=SHARD_BYTES)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "assets" / "results" / "merge-7b-cpu.json"
    )
    return parser.parse_args()


def require_room(rm: Path) -> None:
    """Exits, before the second checkpoint is written, where the rest has no room."""
    free, needed = shutil.disk_usage(rm).free, int((ROOM - 1) * nbytes(rm))
    if free < needed:
        sys.exit(
            f"{size_text(needed)} more are needed in {rm.parent}, {size_text(free)} are "
            "free. Name another place with --folder."
        )


def weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def nbytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in weights(folder))


def largest(folder: Path) -> int:
    sizes = []
    for file in weights(folder):
        with safe_open(file, "pt") as opened:
            shapes = (opened.get_slice(name).get_shape() for name in opened.keys())  # noqa: SIM118
            sizes += [2 * torch.Size(shape).numel() for shape in shapes]
    return max(sizes)


def cold(*folders: Path) -> None:
    """Have the files' pages written and dropped, so that reading them reads the disk."""
    os.sync()
    for file in (file for folder in folders for file in weights(folder)):
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def copy(source: Path, target: Path) -> float:
    """Seconds until a copy of the weight files, which is deleted again, is on the disk."""
    cold(source)
    target.mkdir()
    started = time.perf_counter()
    for file in weights(source):
        with (
            file.open("rb") as reading,
            (target / file.name).open("wb", buffering=0) as writing,
        ):
            shutil.copyfileobj(reading, writing, 1 << 24)
            os.fsync(writing)
    seconds = time.perf_counter() - started
    shutil.rmtree(target)
    return seconds


def merge(rm: Path, lm: Path, out: Path) -> tuple[float, int, int]:
    """Seconds, peak resident bytes and the same without mapped files, of `dogerm merge`."""
    command = [
        sys.executable,
        "-m",
        "dogerm",
        "merge",
        "--rm",
        rm,
        "--lm",
        f"math={lm}",
    ]
    command += ["--lam", str(LAM), "--out", out]
    started = time.perf_counter()
    program = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    peak = anonymous = 0
    while program.poll() is None:
        peak = max(peak, memory(program.pid, "VmHWM"))
        anonymous = max(anonymous, memory(program.pid, "RssAnon"))
        time.sleep(0.02)
    if program.returncode:
        sys.exit("dogerm merge failed.")
    return time.perf_counter() - started, peak, anonymous


def memory(pid: int, key: str) -> int:
    """Bytes that the kernel tells of a process; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith(key)), 0)


def check(rm: Path, lm: Path, out: Path) -> float:
    """Largest difference of some tensors to their merge in float64; exits where it is not rounding."""
    places = [where(folder) for folder in (rm, lm, out)]
    shared = sorted(places[0].keys() & places[1].keys())
    worst = 0.0
    for name in (shared[0], shared[len(shared) // 2], shared[-1]):
        ours, theirs, merged = (read(place[name], name) for place in places)
        rows = len(ours)  # of the embedding: the LM's own token follows
        wanted = torch.lerp(ours.double(), theirs[:rows].double(), LAM)
        worst = max(worst, (merged[:rows].double() - wanted).abs().max().item())
        if not torch.equal(merged[rows:], theirs[rows:]):
            sys.exit(f"{name} has other rows than the LM's after the reward model's.")
    if worst > 2**-9:  # half a unit in the last place of bfloat16 values up to 1
        sys.exit(f"the merge differs from one in float64 by {worst}.")
    return worst


def where(folder: Path) -> dict[str, Path]:
    files = {}
    for file in weights(folder):
        with safe_open(file, "pt") as opened:
            files |= dict.fromkeys(opened.keys(), file)
    return files


def read(file: Path, name: str) -> torch.Tensor:
    with safe_open(file, "pt") as opened:
        return opened.get_tensor(name)


def commit() -> str | None:
    found = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    return found.stdout.strip() or None


if __name__ == "__main__":
    main()
