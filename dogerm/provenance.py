"""What rewards depend on, written down: weights, rows, settings, precision, device, versions."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import torch

import dogerm
from dogerm.checkpoint import Checkpoint
from dogerm.engine import Engine
from dogerm.family import Family
from dogerm.hub import needed
from dogerm.recording import Made
from dogerm.rows import Row

CARD = "README.md"  # of a model: rewards do not depend on it


def described(family: Family) -> dict[str, Any]:
    """A family as a report names it."""
    return {"name": family.name, "rm": family.rm, "lms": dict(family.lms)}


def versions() -> dict[str, str]:
    """Versions that numbers and files are stamped with."""
    return {"dogerm": dogerm.__version__, **_packages()}


@cache
def _packages() -> Mapping[str, str]:
    return {name: version(name) for name in ("torch", "transformers")}


def of_engine(engine: Engine) -> dict[str, Any]:
    """Which weights, in which precision, on which device, by which programs.

    Reads every file of a local folder once, to hash it.
    """
    return {
        "models": of_models({"rm": engine.sources.rm, **engine.sources.lms}),
        "conversation": of_conversation(engine),
        "max_tokens": engine.max_tokens,
        "dtype": engine.dtype,
        "device": device_name(engine.device),
        "versions": versions(),
    }


def of_conversation(engine: Engine) -> dict[str, Any]:
    """How a conversation becomes tokens."""
    family = engine.family
    return {
        "system": family.system,
        "template": family.template or engine.tokenizer.chat_template,
        "add_special_tokens": family.add_special_tokens,
        "reward_at": engine.reward_at,
    }


def device_name(device: torch.device) -> str:
    """cpu, or the GPU's model: rewards of two models of GPU differ in their last bits."""
    return device.type if device.type == "cpu" else torch.cuda.get_device_name(device)


class Hashes:
    """SHA-256 of files, each read once; those asked for ahead are hashed meanwhile.

    To be used in a with block, at whose end nothing is hashed any more.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(4)  # hashing leaves the interpreter free
        self._found: dict[Path, Future[str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self._pool.shutdown(cancel_futures=True)

    def begin(self, file: Path) -> Future[str]:
        """Hash the file, unless that has begun."""
        if file not in self._found:
            self._found[file] = self._pool.submit(_sha256, file)
        return self._found[file]


def of_models(
    models: Mapping[str, Checkpoint], hashes: Hashes | None = None
) -> dict[str, Any]:
    """Each model's `source`, hub revision if any, and its files' SHA-256; an adapter's base too.

    Args:
        hashes: what has begun to be hashed.
    """
    if hashes is None:
        with Hashes() as own:
            return of_models(models, own)
    named = dict(models)
    for name, model in models.items():
        if model.base:
            named[f"base of {name}"] = model.base
    return {
        name: {"source": model.source} | _content(model.folder, hashes)
        for name, model in named.items()
    }


def published(models: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The models with a folder's name for its path, for files that are given to others."""
    return {
        name: {**model, "source": shown(model["source"])}
        for name, model in models.items()
    }


def shown(source: str) -> str:
    """A hub id as it is; of a folder its name."""
    return Path(source).resolve().name if Path(source).is_dir() else source


def made_on(engine: Engine, with_models: bool = False) -> Made:
    """What a curve is stamped with that is measured now.

    Args:
        with_models: also the models' files by SHA-256: reads every file of a local
            folder once.
    """
    family = engine.family
    return Made(
        family=family.title or family.name,
        parameters=engine.size,
        device=device_name(engine.device),
        dtype=engine.dtype,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        models=models_of(engine) if with_models else {},
    )


def models_of(engine: Engine) -> dict[str, Any]:
    """The files that the engine's rewards come from, by SHA-256, as they may be published."""
    return without_cards(of_models({"rm": engine.sources.rm, **engine.sources.lms}))


def without_cards(models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What `of_models` found, published, without the files that no reward depends on."""
    found = published(models)
    for model in found.values():
        files = model["files"].items()
        model["files"] = {name: digest for name, digest in files if name != CARD}
    return found


def of_files(models: Mapping[str, Checkpoint]) -> dict[str, Any]:
    """What tells each model's files from any others on this machine, without reading them.

    Of a hub copy the hash that its cache calls a file by; of another file its place, size
    and times, among them the one that no program can set.
    """
    named = {name: model.folder for name, model in models.items()}
    named |= {f"base of {n}": m.base.folder for n, m in models.items() if m.base}
    return {
        name: {
            file.name: _identity(file)
            for file in sorted(folder.iterdir())
            if file.is_file()
        }
        for name, folder in named.items()
    }


def of_rows(rows: Iterable[Row]) -> str:
    """SHA-256 of the rows as they were read, whatever file or set they came from."""
    digest = hashlib.sha256()
    for row in rows:
        text = json.dumps(asdict(row) | {"where": ""}, ensure_ascii=False)
        digest.update(text.encode("utf-8") + b"\n")
    return digest.hexdigest()


def differences(there: Any, here: Any, name: str = "") -> list[str]:
    """Where two nested tables of plain values differ: "dtype is float32 there, float16 here".

    A `source`, where the same thing was found, may differ.
    """
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        keys = [key for key in dict.fromkeys((*there, *here)) if key != "source"]
        pairs = [(there.get(k), here.get(k), f"{name} {k}".strip()) for k in keys]
        return [sentence for pair in pairs for sentence in differences(*pair)]
    if there == here:
        return []
    return [f"{name} is {_brief(there)} there, {_brief(here)} here"]


def _content(folder: Path, hashes: Hashes) -> dict[str, Any]:
    names = needed(file.name for file in folder.iterdir() if file.is_file())
    begun = [hashes.begin(folder / name) for name in names]
    files = {name: digest.result() for name, digest in zip(names, begun)}
    if folder.parent.name == "snapshots":  # of the hub's cache, by commit
        return {"revision": folder.name, "files": files}
    return {"files": files}


def _identity(file: Path) -> list[Any]:
    if digest := _blob(file):
        return [digest]
    known = file.stat()
    times = known.st_mtime_ns, known.st_ctime_ns
    return [str(file.resolve()), known.st_ino, known.st_size, *times]


def _sha256(file: Path) -> str:
    if digest := _blob(file):
        return digest
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _blob(file: Path) -> str | None:
    """The SHA-256 that the hub's cache calls a large file by: no need to read 10 GB for it."""
    blob = file.resolve()
    if blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return blob.name
    return None


def _brief(value: Any) -> str:
    if value is None:
        return "absent"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
