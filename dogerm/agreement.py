"""How far int8 or nf4 rewards are from 16-bit or 32-bit ones, on a family's examples; measured once."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from dogerm.engine import Engine
from dogerm.errors import DeviceError
from dogerm.family import read_examples
from dogerm.provenance import device_name, of_conversation, of_files, versions
from dogerm.scoring import Group, score
from dogerm.store import replacing

_log = logging.getLogger("dogerm")


@dataclass(frozen=True)
class Agreement:
    """Two engines of one family compared, at λ = 0 and at the family's default recipe.

    Args:
        against: dtype of the other engine.
        orders: pairs of responses to one prompt; same: those both rank the same way.
        mean, largest: difference between rewards, each minus the mean of its prompt's
            responses, since only differences between rewards mean something.
    """

    against: str
    orders: int
    same: int
    mean: float
    largest: float

    def __str__(self) -> str:
        return (
            f"ranks {self.same} of {self.orders} pairs of example responses as "
            f"{self.against} does; rewards differ by {self.mean:.3f} on average, "
            f"{self.largest:.3f} at most"
        )


def agreement_words(engine: Engine) -> str:
    """What quantised weights cost, in words, to stand beside the rewards; nothing for another engine.

    Measured once: it is kept in the hub library's folder for other programs' files
    (HF_HOME, or else XDG_CACHE_HOME, moves it), with all that it depends on, and measured
    anew when any of that has changed.
    """
    if not engine.plan.quantised:
        return ""
    groups = [(e.prompt, e.responses) for e in read_examples(engine.family)]
    about = _about(engine, groups)
    file = _file(about)
    found = _kept(file, about)
    if found is None:
        whole = _whole(engine)
        if whole is None:
            return f"{engine.dtype}, not compared: {engine.plan.dtype} does not fit beside it"
        found = agreement(engine, whole, groups)
        _keep(file, about, found)
    return f"{engine.dtype} {found}"


def agreement(engine: Engine, other: Engine, groups: Sequence[Group]) -> Agreement:
    """Compare the rewards of two engines of one family."""
    differences: list[float] = []
    orders = same = 0
    for recipe in (engine.family.recipe(0), engine.family.recipe()):
        tables = (score(one, recipe, groups) for one in (engine, other))
        for ours, theirs in zip(*tables):
            ours, theirs = _centred(ours), _centred(theirs)
            differences += [abs(a - b) for a, b in zip(ours, theirs)]
            for i, j in combinations(range(len(ours)), 2):
                orders += 1
                same += (ours[i] > ours[j]) == (theirs[i] > theirs[j])
    mean = sum(differences) / len(differences)
    return Agreement(other.dtype, orders, same, mean, max(differences))


def _centred(rewards: Sequence[float]) -> list[float]:
    mean = sum(rewards) / len(rewards)
    return [reward - mean for reward in rewards]


def _about(engine: Engine, groups: Sequence[Group]) -> dict[str, Any]:
    """All that an agreement depends on, as JSON has it."""
    family = engine.family
    models = {"rm": engine.sources.rm} | {
        name: engine.sources.lms[name] for name in family.lms
    }
    about = {
        "files": of_files(models),
        "recipe": family.recipe().to_json(),
        "conversation": of_conversation(engine),
        "examples": groups,
        "dtypes": [engine.dtype, engine.plan.dtype],
        "device": device_name(engine.device),
        "versions": versions() | {"bitsandbytes": version("bitsandbytes")},
    }
    return json.loads(json.dumps(about))


def _whole(engine: Engine) -> Engine | None:
    """The same family unquantised, on the same device or on the CPU, where it fits; else None."""
    for device in dict.fromkeys((engine.plan.device, "cpu")):
        try:
            return Engine.load(engine.family, device, engine.plan.dtype, parent=False)
        except DeviceError:
            continue
    return None


def _file(about: dict[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    return Path(constants.HF_ASSETS_CACHE) / "dogerm" / "agreement" / f"{digest}.json"


def _kept(file: Path, about: dict[str, Any]) -> Agreement | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return Agreement(**found["agreement"]) if found["of"] == about else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(file: Path, about: dict[str, Any], found: Agreement) -> None:
    try:
        with replacing(file) as out:
            json.dump({"of": about, "agreement": asdict(found)}, out, indent=1)
    except OSError as error:
        # Only the next load is slower for it.
        _log.warning("%s cannot be written: %s.", file, error.strerror)
