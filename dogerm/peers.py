"""How others make one merged reward model, timed step by step on the same checkpoints.

Measuring peers only: nothing else in dogerm uses them.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dogerm.engine import Engine
from dogerm.errors import PeerError
from dogerm.recipe import Recipe
from dogerm.scoring import Tokens, rewards

PEERS = ("reference", "mergekit")
MERGEKIT = "mergekit==0.1.5"
REFERENCE_SCRIPT = Path(__file__).with_name("reference_peer.py")
MERGEKIT_SCRIPT = Path(__file__).with_name("mergekit_peer.py")
LAM = 0.35
HOW_TO_INSTALL = (
    "It is measured in an environment of its own. Make one with `python3 -m venv "
    f"mergekit-env` and `mergekit-env/bin/pip install {MERGEKIT}`, and pass "
    "--mergekit-python mergekit-env/bin/python."
)


@dataclass(frozen=True)
class Peer:
    """One λ made by another program and by dogerm, in one run, in seconds (medians).

    Args:
        name: one of PEERS.
        version: the program's; None: it is written here, from a description.
        once: what it does before the first λ, by step.
        steps: what it does for every λ, by step, in order.
        ours: the same for dogerm; only what the peer does too.
        largest_difference: between its results and ours.
        compared: what results those are: rewards or weights.
    """

    name: str
    version: str | None
    once: Mapping[str, float]
    steps: Mapping[str, float]
    ours: Mapping[str, float]
    largest_difference: float
    compared: str

    @property
    def ratio(self) -> float:
        """How many times as long as dogerm it takes for one λ."""
        return sum(self.steps.values()) / sum(self.ours.values())

    @property
    def ready(self) -> float:
        """Seconds it takes up to a model that can score, or to merged weights."""
        return sum(s for name, s in self.steps.items() if name != "score")

    @property
    def merge_ratio(self) -> float:
        """How many times as long as dogerm's re-merge that is.

        This is what the way of merging costs, whatever is scored afterwards. `ratio` falls
        towards `score_ratio` the more rows are scored at a λ.
        """
        return self.ready / self.ours["merge"]

    @property
    def score_ratio(self) -> float | None:
        """The same for scoring alone, if it scores: each in the dtype that it scores in."""
        if "score" not in self.steps:
            return None
        return self.steps["score"] / self.ours["score"]


def check(against: Sequence[str], mergekit_python: Path | None) -> None:
    """PeerError unless every peer is known and can be run."""
    for name in against:
        if name not in PEERS:
            raise PeerError(f"there is no {name!r}; use {' or '.join(PEERS)}.")
    if "mergekit" in against:
        mergekit_version(mergekit_python)


def mergekit_version(python: Path | None) -> str:
    """The version of mergekit that an interpreter has.

    Raises:
        PeerError: no interpreter is named, or it is not there or has no mergekit; says
            how to make one.
    """
    if python is None:
        raise PeerError(f"no Python with mergekit is named. {HOW_TO_INSTALL}")
    ask = "from importlib.metadata import version; print(version('mergekit'))"
    try:
        found = subprocess.run(
            [python, "-c", ask], capture_output=True, text=True, check=True
        )
    except OSError as error:
        raise PeerError(
            f"{python} cannot be run: {error.strerror}. {HOW_TO_INSTALL}"
        ) from None
    except subprocess.CalledProcessError:
        raise PeerError(f"{python} has no mergekit. {HOW_TO_INSTALL}") from None
    return found.stdout.strip()


def against_reference(
    engine: Engine, item: Tokens, repeats: int, folder: Path | None = None
) -> Peer:
    """The way of the paper's repository, for every λ, against a re-merge of the live model.

    One program loads both models in float32 on the CPU, merges them (the embedding token
    by token) and saves float32; another loads that as float16 on the engine's device and
    scores. What starting and ending the two takes is their steps "start" and "start
    again". They run with as many threads as this process.

    Args:
        engine: of one or more LMs, of which the first is merged.
        item: the conversations that are scored.
        folder: where it saves to; None: the system's temporary folder.

    Raises:
        PeerError: one of the programs fails, with its last line.
    """
    name, source = next(iter(engine.family.lms.items()))
    recipe = Recipe(LAM, {name: 1.0})
    times, ours = _Times(engine.device), _Times(engine.device)
    settings = {
        "rm": str(engine.family.rm),
        "lm": str(source),
        "lam": LAM,
        "device": str(engine.device),
        "threads": torch.get_num_threads(),
        "sequences": item.sequences,
    }
    _ours(engine, recipe, item, _Times(engine.device))  # maps the files, once
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="dogerm-reference-", dir=folder) as out:
            given = settings | {"out": out}
            _program("merge", "start", given, times)
            theirs = _program("score", "start again", given, times)
        mine = _ours(engine, recipe, item, ours)
    difference = max(abs(a - b) for a, b in zip(theirs, mine, strict=True))
    return Peer(
        "reference", None, {}, times.medians, ours.medians, difference, "rewards"
    )


def _program(
    program: str, start: str, settings: Mapping, times: _Times
) -> list[float] | None:
    """Run one of the reference's programs; its steps' seconds go into times."""
    command = [sys.executable, "-c", REFERENCE_SCRIPT.read_text("utf-8"), program]
    started = time.perf_counter()
    output = _run([*command, json.dumps(settings)], "the reference's way")
    seconds = time.perf_counter() - started
    found = json.loads(output)
    times.add(start, seconds - sum(found["times"].values()))
    for step, taken in found["times"].items():
        times.add(step, taken)
    return found["rewards"]


def _run(command: Sequence[str | Path], name: str) -> str:
    """The last line that a program prints.

    Raises:
        PeerError: it fails, with the last line of its errors.
    """
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    if found.returncode:
        lines = found.stderr.strip().splitlines() or ["no message"]
        raise PeerError(f"{name} failed in {command[0]}: {lines[-1]}")
    return found.stdout.splitlines()[-1]


def _ours(engine: Engine, recipe: Recipe, item: Tokens, times: _Times) -> list[float]:
    engine.apply(recipe.with_lam(0))
    with times("merge"):
        engine.apply(recipe)
    with times("score"):
        return rewards(engine, recipe, [item])[0]


def against_mergekit(
    engine: Engine, python: Path | None, repeats: int, folder: Path | None = None
) -> Peer:
    """mergekit's merge of two dictionaries in memory, in its own interpreter, against a re-merge.

    Its call is merge_state_dicts with the method linear, without normalising, computed
    in float32 and given as float16; the model that would hold the result is not part
    of the time. It runs with as many threads as this process.

    Raises:
        PeerError: as `mergekit_version`; or it fails, with its last line.
    """
    version = mergekit_version(python)
    name, source = next(iter(engine.family.lms.items()))
    recipe = Recipe(LAM, {name: 1.0})
    with tempfile.TemporaryDirectory(prefix="dogerm-mergekit-", dir=folder) as root:
        out = Path(root) / "merged.safetensors"
        settings = {
            "models": {"rm": engine.family.rm, "lm": source},
            "lam": LAM,
            "repeats": repeats,
            "device": str(engine.device),
            "threads": torch.get_num_threads(),
            "out": str(out),
        }
        # As a program text: run as a file it would find our mergekit beside it.
        text = MERGEKIT_SCRIPT.read_text("utf-8")
        times = json.loads(_run([python, "-c", text, json.dumps(settings)], "mergekit"))
        ours = _Times(engine.device)
        for _ in range(repeats + 1):  # the first is the warm-up
            engine.apply(recipe.with_lam(0))
            with ours("merge"):
                engine.apply(recipe)
        difference = _largest_difference(engine, load_file(out))
    return Peer(
        "mergekit",
        version,
        {"load": times["load"]},
        {"merge": statistics.median(times["merge"])},
        {"merge": statistics.median(ours.all["merge"][1:])},
        difference,
        "weights",
    )


def _largest_difference(engine: Engine, merged: Mapping[str, Tensor]) -> float:
    live = dict(engine.model.named_parameters())
    return max(
        (live[name].float().cpu() - weight.float()).abs().max().item()
        for name, weight in merged.items()
    )


@dataclass
class _Times:
    """Seconds of steps by name, each run waited for."""

    device: torch.device
    all: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        finish(self.device)
        started = time.perf_counter()
        yield
        finish(self.device)
        self.add(step, time.perf_counter() - started)

    def add(self, step: str, seconds: float) -> None:
        self.all.setdefault(step, []).append(seconds)

    @property
    def medians(self) -> dict[str, float]:
        return {step: statistics.median(own) for step, own in self.all.items()}


def finish(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def alternating(
    actions: Sequence[Callable[[], object]],
    device: torch.device,
    repeats: int,
    warm: bool = False,
) -> list[float]:
    """Median seconds of each action; they take turns, so that all see the same machine.

    The first round is a warm-up that does not count, unless they are warm.
    """
    times = _Times(device)
    skipped = 0 if warm else 1
    for _ in range(repeats + skipped):
        for number, action in enumerate(actions):
            with times(str(number)):
                action()
    return [statistics.median(own[skipped:]) for own in times.all.values()]
