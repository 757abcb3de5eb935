"""Where a checkpoint lies: the folder that was named, or the hub's, downloaded to its cache."""

from __future__ import annotations

import atexit
import errno
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dogerm.errors import CheckpointError

# Seconds for the hub to answer before it counts as out of reach.
PATIENCE = 10

# Weights in the order they are preferred in; of these kinds only, and only at the top of a
# repository: original/, checkpoints and other frameworks' copies are not needed.
_WEIGHTS = (
    re.compile(r"(adapter_)?model(-\d+-of-\d+)?\.safetensors"),
    re.compile(r"(pytorch_|adapter_)model(-\d+-of-\d+)?\.bin"),
)
_HEADS = ("value_head.safetensors", "value_head.bin")
# Settings, tokenizers and the card. Never *.py: no code of a checkpoint is run, so none is
# fetched.
_TEXTS = re.compile(r".+\.(json|jinja|model)|merges\.txt|vocab\.txt|README\.md")

_log = logging.getLogger("dogerm")


@dataclass(frozen=True)
class Download:
    """What a repository's checkpoint consists of, and how much of it is still to come.

    Args:
        repository: ORG/NAME.
        sizes: bytes of each file that is needed.
        missing: bytes that are not in the cache yet.
    """

    repository: str
    sizes: Mapping[str, int]
    missing: int


def located(source: str, name: str) -> Path:
    """The folder of a checkpoint, downloaded if it has to be.

    Says how much is to come before a download starts, and how far it is. After an interruption the files
    that were complete are not fetched again. When the hub does not answer, or refuses, a
    copy in its cache is used.

    Args:
        source: a folder, or ORG/NAME or ORG/NAME@REVISION on the hub.
        name: how errors call it: 'the reward model', 'math', …

    Raises:
        CheckpointError: there is no such folder or repository, it may not be read, or it
            does not fit on the disk. Names the page to open, and the command to log in.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    repository, revision = _on_the_hub(source, name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        download = pending(source, name)
        if download.missing:
            _check_space([download])
            _log.warning("%s: downloading %s.", name, _said([download]))
        _show_progress(bool(download.missing))
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=list(download.sizes),
                etag_timeout=PATIENCE,
            )
        )
    except _failures() as error:
        copy = _cached(repository, revision)
        if copy is None:
            raise CheckpointError(
                f"{name}: {_why(error, repository, revision)}"
            ) from None
        if not isinstance(error, OfflineModeIsEnabled):
            _log.warning(
                "%s: the hub did not give %s (%s); the copy in its cache is used.",
                name,
                source,
                type(error).__name__,
            )
        return copy


def _show_progress(shown: bool) -> None:
    """The hub library's bars, which transformers silences with its own."""
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    if constants.HF_HUB_DISABLE_PROGRESS_BARS is None:  # else the user has said
        (enable_progress_bars if shown else disable_progress_bars)()


def check_space(sources: Mapping[str, str]) -> None:
    """Says what is still to be downloaded of several checkpoints, by name, all together.

    Raises:
        CheckpointError: the disk cannot hold them all.
    """
    downloads = []
    for name, source in sources.items():
        if Path(source).expanduser().is_dir():
            continue
        try:
            downloads.append(pending(source, name))
        except _failures():
            return  # `located` knows what to say, or has a copy
    if missing := [download for download in downloads if download.missing]:
        _check_space(missing)
        _log.warning("Downloading %s.", _said(missing))


def to_download(source: str, name: str) -> int:
    """Bytes of a checkpoint that are not on this machine; 0 for a folder or a cached copy.

    Raises:
        CheckpointError: as `located`, when the hub is out of reach and there is no copy.
    """
    if Path(source).expanduser().is_dir():
        return 0
    try:
        return pending(source, name).missing
    except _failures():
        located(source, name)
        return 0


def is_here(source: str, name: str) -> bool:
    """Whether all of a checkpoint is on this machine. False also where the hub does not say."""
    try:
        return not to_download(source, name)
    except CheckpointError:
        return False


def outline(source: str, name: str) -> Path:
    """A folder like `located`'s, to look at and not to load: nothing but headers is downloaded.

    Its safetensors files have the header and the size of the hub's, with a hole for the
    weights that takes no room on the disk. It is gone when the program ends. Weights in
    other files have no header that could be had alone: those are downloaded whole.

    Raises:
        CheckpointError: as `located`.
    """
    if Path(source).expanduser().is_dir():
        return located(source, name)
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

    repository, revision = _on_the_hub(source, name)
    try:
        download = pending(source, name)
        if not download.missing:
            return located(source, name)
        headers = HfApi().get_safetensors_metadata(repository, revision=revision)
        light = [file for file in download.sizes if file not in headers.files_metadata]
        snapshot = Path(
            snapshot_download(repository, revision=revision, allow_patterns=light)
        )
    except (*_failures(), NotASafetensorsRepoError, SafetensorsParsingError):
        return located(source, name)  # which has a copy, or the right words
    folder = Path(tempfile.mkdtemp(prefix="dogerm-outline-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for file in light:
        shutil.copyfile(snapshot / file, folder / file)
    for file, header in headers.files_metadata.items():
        _write_header(folder / file, header.tensors)
    return folder


def _write_header(file: Path, tensors: Mapping[str, Any]) -> None:
    """A safetensors file of these tensors with a hole where their values would be.

    Source: the format, https://huggingface.co/docs/safetensors: the header's length in
    8 bytes, the header, the values.
    """
    header = json.dumps(
        {
            name: {
                "dtype": tensor.dtype,
                "shape": tensor.shape,
                "data_offsets": tensor.data_offsets,
            }
            for name, tensor in tensors.items()
        }
    ).encode()
    values = max((tensor.data_offsets[1] for tensor in tensors.values()), default=0)
    with file.open("wb") as out:
        out.write(len(header).to_bytes(8, "little") + header)
        out.truncate(8 + len(header) + values)


def pending(source: str, name: str) -> Download:
    """What there is of a checkpoint on the hub and what of it is not in the cache yet.

    Raises:
        CheckpointError: it holds no weights of a kind that is read.
        HTTPError, OSError, HFValidationError: the hub does not answer, or refuses.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    repository, revision = _on_the_hub(source, name)
    info = HfApi().model_info(
        repository, revision=revision, files_metadata=True, timeout=PATIENCE
    )
    there = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    files = needed(there)
    if not any(map(is_weights, files)):
        raise CheckpointError(
            f"{name}: {repository} has no weights that are read here, which are "
            "model*.safetensors, pytorch_model*.bin or adapter_model.*: see "
            f"{_page(repository)}/tree/main."
        )
    missing = sum(
        there[file]
        for file in files
        if not isinstance(
            try_to_load_from_cache(repository, file, revision=info.sha), str
        )
    )
    return Download(repository, {file: there[file] for file in files}, missing)


def needed(files: Iterable[str]) -> list[str]:
    """Those of a repository's files that make up a checkpoint: one copy of its weights, settings, tokenizer."""
    names = sorted(files)
    weights: list[str] = []
    for kind in _WEIGHTS:
        weights = weights or [name for name in names if kind.fullmatch(name)]
    head = next((name for name in _HEADS if name in names), None)
    texts = [name for name in names if "/" not in name and _TEXTS.fullmatch(name)]
    return texts + weights + ([head] if head else [])


def is_weights(file: str) -> bool:
    """Whether a file of that name holds a checkpoint's weights, or a value head's."""
    return file in _HEADS or any(kind.fullmatch(file) for kind in _WEIGHTS)


def _on_the_hub(source: str, name: str) -> tuple[str, str | None]:
    repository, _, revision = source.partition("@")
    if source.startswith((".", "/", "~")) or repository.count("/") != 1:
        raise CheckpointError(f"{name}: there is no folder {source}.")
    return repository, revision or None


def _cached(repository: str, revision: str | None) -> Path | None:
    """The folder of a copy in the hub's cache that has all of its weights."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for file in ("config.json", "adapter_config.json"):
        try:
            found = try_to_load_from_cache(repository, file, revision=revision)
        except HFValidationError:
            return None
        if isinstance(found, str) and _whole(Path(found).parent):
            return Path(found).parent
    return None


def _whole(folder: Path) -> bool:
    """Whether an interrupted download left no gaps: as many shards as their names say."""
    files = needed(file.name for file in folder.iterdir() if file.exists())
    weights = [file for file in files if is_weights(file) and file not in _HEADS]
    totals = {int(n) for file in weights for n in re.findall(r"-of-(\d+)\.", file)}
    return bool(weights) and totals in (set(), {len(weights)})


def _check_space(downloads: list[Download]) -> None:
    missing, free = sum(download.missing for download in downloads), _free()
    if missing > free:
        raise CheckpointError(
            f"there is no room to download {_said(downloads)}. Make room, or set HF_HOME "
            "to a folder on another disk."
        )


def _said(downloads: list[Download]) -> str:
    """The downloads, what they need and what there is room for: one line for people."""
    parts = [
        f"{_gb(download.missing)} of {download.repository}" for download in downloads
    ]
    total = sum(download.missing for download in downloads)
    return (
        ", ".join(parts)
        + (f", together {_gb(total)}" if parts[1:] else "")
        + f"; {_gb(_free())} are free in {_cache()}"
    )


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _free() -> int:
    """Bytes free on the disk of the hub's cache, which need not be there yet."""
    folder = _cache().absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _gb(nbytes: int) -> str:
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.1f} MB"


def _page(repository: str) -> str:
    return f"https://huggingface.co/{repository}"


def _failures() -> tuple[type[Exception], ...]:
    """What the hub's library raises when the hub does not answer, or refuses."""
    from huggingface_hub.errors import HFValidationError, HTTPError

    # RuntimeError comes from hf_xet, its transport for large files.
    return HTTPError, HFValidationError, OSError, RuntimeError


def _why(error: Exception, repository: str, revision: str | None) -> str:
    """What went wrong at the hub, and what to do about it: one sentence."""
    from huggingface_hub import errors

    page, log_in = _page(repository), "log in with `hf auth login`"
    at = f"{repository}@{revision}" if revision else repository
    status = getattr(getattr(error, "response", None), "status_code", None)
    match error:
        case errors.LocalEntryNotFoundError() if isinstance(error.__cause__, Exception):
            return _why(error.__cause__, repository, revision)
        case errors.GatedRepoError():
            return f"{repository} is gated: open {page}, accept its conditions, then {log_in}."
        case errors.RevisionNotFoundError():
            return f"{repository} has no revision {revision!r}: {page}/commits/main lists them."
        case errors.RepositoryNotFoundError():
            return (
                f"there is no {repository} on the hub, or it is private: check {page}, "
                f"and if it is one of yours {log_in}."
            )
        case errors.HfHubHTTPError() if status in (401, 403):
            return f"the hub does not let you read {repository}: open {page}, then {log_in}."
        case errors.HfHubHTTPError():
            return (
                f"the hub answered {status} for {at}; see {page}, and try again later."
            )
        case errors.OfflineModeIsEnabled():
            return (
                f"{at} is neither a folder here nor in the hub's cache, and HF_HUB_OFFLINE "
                f"forbids to fetch it: unset it, or bring the files of {page} here and "
                "name their folder."
            )
        case errors.HFValidationError():
            return (
                f"{at} is neither a folder here nor the id of a repository on the hub."
            )
        case OSError() if error.errno == errno.ENOSPC:
            return f"the disk of {_cache()} is full; make room and run the same command again."
        case _:
            return (
                f"the hub cannot be reached for {at} ({type(error).__name__}): check the "
                f"connection and run the same command again, or get the files of {page} "
                "another way and name their folder."
            )
