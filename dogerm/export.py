"""A merge written to disk as an ordinary checkpoint, one parameter at a time."""

from __future__ import annotations

import errno
import glob
import json
import math
import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AddedToken, PreTrainedModel, PreTrainedTokenizerBase

from dogerm.card import card, record
from dogerm.checkpoint import Checkpoint, empty_reward_model
from dogerm.compatibility import Compatibility, compare
from dogerm.errors import CheckpointError
from dogerm.family import PARENT, Family, RewardAt
from dogerm.live import device_named, dtype_named
from dogerm.merge import METHODS, check_method
from dogerm.plan import size_text
from dogerm.provenance import Hashes, of_models, published
from dogerm.recipe import Recipe
from dogerm.sources import Sources, open_models
from dogerm.weights import all_finite, one_line

try:
    import fcntl
except ImportError:  # Windows: what a killed export left is not found again there
    fcntl = None

SHARD_BYTES = 5_000_000_000
BESIDE_WEIGHTS = 64 << 20  # bytes for the tokenizer and the rest
PIECE = 1 << 22  # values of an embedding table in memory at a time
CODES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
LOCK = ".dogerm-is-writing"  # held in the hidden folder for as long as its writer lives


@dataclass(frozen=True)
class Export:
    """What was written.

    Args:
        folder: the checkpoint.
        files: its weight files.
        nbytes: of all weights.
        merged, kept: parameters merged, and kept from the reward model.
        left_out: constants of the score head, which the saved model has no place for.
        unplaced: per model, tensors of its files that a reward model has no place for.
        appended: tokens that only LMs have, whose rows follow the reward model's.
        tokens_added: whether the saved tokenizer knows them all.
        models: of each model that was merged its source, hub revision if any, and its
            files' SHA-256.
        seconds: wall time.
    """

    folder: Path
    files: tuple[str, ...]
    nbytes: int
    merged: tuple[str, ...]
    kept: tuple[str, ...]
    left_out: tuple[str, ...]
    unplaced: Mapping[str, tuple[str, ...]]
    appended: tuple[str, ...]
    tokens_added: bool
    models: Mapping[str, Mapping[str, Any]]
    seconds: float


def export(
    family: Family,
    recipe: Recipe,
    out: str | Path,
    dtype: str | None = None,
    device: str = "cpu",
    shard_bytes: int = SHARD_BYTES,
    on_progress: Callable[[int, int], None] | None = None,
    on_fit: Callable[[Compatibility], None] | None = None,
) -> Export:
    """Write the recipe's merge to a folder that plain transformers loads.

    The weights are those of the live engine in the same dtype, bit for bit. Memory
    holds one parameter at a time, and of an embedding table some rows. The folder
    appears when all of it is on disk. At the end the sources are read once more, to
    record their hashes: 27 GB in 20 s on one core; hub copies are known by theirs.

    Args:
        out: a folder that is not there yet, or empty.
        dtype: float32, bfloat16, float16; None: the reward model's stored one.
        device: where each parameter is merged.
        shard_bytes: a weight file is no larger, unless one parameter alone is.
        on_progress: called with the bytes written since the last call, and in all.
        on_fit: told how the sources fit together, before anything is written.

    Raises:
        CheckpointError, CheckpointMismatch: the sources cannot be read or merged;
            one holds NaN or infinity; out is taken; the disk has too little room, or
            fills up or fails meanwhile.
        RecipeError: the recipe cannot be meant.
    """
    started = time.perf_counter()
    out = Path(out)
    check_method(recipe, parent=family.parent is not None)
    family.recipe(shares=recipe.shares)  # names an LM that is not there
    _check_free(out)
    place = device_named(device)
    rm, lms = open_models(family, METHODS[recipe.method].needs_parent)
    fit = compare(rm, lms)
    fit.anatomy.check(recipe)
    if on_fit:
        on_fit(fit)
    precision = dtype_named(dtype) if dtype else _stored_dtype(rm)
    with torch.device("meta"):
        model = empty_reward_model(rm)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    shapes[fit.embedding] = (fit.vocabulary.size, *shapes[fit.embedding][1:])
    # A value head's bias: transformers' class has no place for a constant, which
    # changes no difference between rewards.
    constants = [name for name in fit.kept if name.endswith(".bias")]
    for name in constants:
        del shapes[name]
    nbytes = sum(_nbytes(shape, precision) for shape in shapes.values())
    _check_room(out, nbytes)

    def step_of(name: str) -> int:
        """Rows merged at a time: embedding tables are by far the largest parameters."""
        rows, *rest = shapes[name]
        if name != fit.embedding or not METHODS[recipe.method].elementwise:
            return rows
        return min(rows, max(1, PIECE // math.prod(rest)))

    # Taken in turn, as one piece is written while the next is merged. New memory for each
    # would cost more time than its merge does.
    room = max(step_of(name) * math.prod(shape[1:]) for name, shape in shapes.items())
    buffers = cycle([torch.empty(room, dtype=precision, device=place) for _ in "ab"])

    def merged(name: str) -> Iterator[Tensor]:
        step, (length, *rest) = step_of(name), shapes[name]
        for start in range(0, length, step):
            rows = slice(start, min(start + step, length))
            shape = (rows.stop - rows.start, *rest)
            piece = next(buffers)[: math.prod(shape)].view(shape)
            # Sources of its own for each piece, released after it: nothing stays.
            if step == length:
                Sources(rm, lms, fit).merge_into(piece, name, recipe)
            else:
                Sources(rm, lms, fit).merge_rows_into(piece, rows, recipe)
            _check_finite(piece, name, (rm, *(lms[n] for n in recipe.shares)))
            for checkpoint in (rm, *lms.values()):
                checkpoint.release()
            yield piece.cpu()
        for file in done.get(name, ()):
            hashes.begin(file)  # while its pages are still in memory

    used = {"rm": rm} | {n: lms[n] for n in recipe.shares if recipe.lam}
    if PARENT in lms:
        used["parent"] = lms[PARENT]
    done = _last_read(shapes, list(used.values()))
    with _appearing(out) as folder, Hashes() as hashes:
        reward_at = family.reward_at or rm.reward_at
        _save_config(model, fit.vocabulary.size, precision, reward_at, folder)
        tokenizer = _tokenizer(rm, lms, family, fit)
        tokenizer.save_pretrained(folder)
        files = write_weights(
            folder, shapes, precision, merged, shard_bytes, on_progress
        )
        result = Export(
            folder=out,
            files=files,
            nbytes=nbytes,
            merged=fit.merged,
            kept=tuple(name for name in fit.kept if name in shapes),
            left_out=tuple(constants),
            unplaced={name: own for name, own in fit.left_out.items() if own},
            appended=fit.vocabulary.appended,
            tokens_added=set(fit.vocabulary.appended) <= set(tokenizer.get_vocab()),
            models=published(of_models(used, hashes)),
            seconds=time.perf_counter() - started,
        )
        name = str(precision).removeprefix("torch.")
        _write_json(folder / "dogerm.json", record(family, recipe, result, name))
        text = card(family, recipe, result, name)
        (folder / "README.md").write_text(text, encoding="utf-8")
    return result


def check_repository(repository: str) -> None:
    """CheckpointError where the hub would take no repository of that name; asks no host."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError:
        raise CheckpointError(
            f"{repository!r} cannot be a repository's name on the hub: write ORG/NAME, each "
            "of letters, digits, '-', '_' and '.', neither beginning nor ending with '-' or "
            "'.', 96 characters at most. Nothing was read or written."
        ) from None


def push_to_hub(folder: Path, repository: str) -> str:
    """Upload an exported checkpoint to the hub, into a new or an own repository; its address.

    Raises:
        CheckpointError: the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError

    try:
        api = HfApi()
        address = api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder)
    except (HTTPError, HFValidationError, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder} could not be uploaded to {repository} ({one_line(error)}) "
            "It is whole on this disk; log in with `hf auth login` and upload it with "
            f"`hf upload {repository} {folder}`."
        ) from None
    return str(address)


def write_weights(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    read: Callable[[str], Iterable[Tensor]],
    shard_bytes: int = SHARD_BYTES,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[str, ...]:
    """Write safetensors files, with an index if there are several, and return their names.

    Args:
        shapes: of every tensor, in the order they are written.
        read: gives the tensor of a name, of that dtype, on the CPU, whole or in
            pieces; called once for each. While one piece is written the next is made, so
            that two are in memory; what the one before them lay in may be used again.
        shard_bytes, on_progress: as for `export`.
    """
    shards = _shards(shapes, dtype, shard_bytes)
    nbytes = sum(shard.nbytes for shard in shards)
    for shard in shards:
        with (
            (folder / shard.file).open("wb") as file,
            ThreadPoolExecutor(1) as writer,
        ):
            written = writer.submit(file.write, shard.header)
            for piece in (piece for name in shard.shapes for piece in read(name)):
                written.result()
                written = writer.submit(file.write, _raw(piece))
                if on_progress:
                    on_progress(piece.nbytes, nbytes)
            written.result()
    if len(shards) > 1:
        _write_json(folder / "model.safetensors.index.json", _index(shards))
    return tuple(shard.file for shard in shards)


def _last_read(
    names: Iterable[str], models: Sequence[Checkpoint]
) -> Mapping[str, list[Path]]:
    """The files that nothing is read of any more after each of the parameters, in this order."""
    last: dict[Path, str] = {}
    for name in names:
        for model in models:
            if name in model.tensors:
                last[model.tensors[name].file] = name
    done = defaultdict(list)
    for file, name in last.items():
        done[name].append(file)
    return done


def _stored_dtype(rm: Checkpoint) -> torch.dtype:
    return rm.dtype if rm.dtype in CODES else torch.float32


@dataclass(frozen=True)
class _Shard:
    """One safetensors file, laid out before any weight is read.

    safetensors' own save_file wants all tensors of a file at once; a header only
    needs names, shapes and dtype, so here it goes first and the tensors follow one
    by one: 8 bytes of header length, the header in JSON, the raw values.
    """

    file: str
    shapes: dict[str, tuple[int, ...]]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return sum(_nbytes(shape, self.dtype) for shape in self.shapes.values())

    @property
    def header(self) -> bytes:
        """What comes before the values of the tensors, which follow in the order of shapes."""
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, shape in self.shapes.items():
            start, end = end, end + _nbytes(shape, self.dtype)
            header[name] = {
                "dtype": CODES[self.dtype],
                "shape": shape,
                "data_offsets": [start, end],
            }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # so that the values start aligned
        return len(text).to_bytes(8, "little") + text


def _shards(
    shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, limit: int
) -> list[_Shard]:
    parts: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, shape in shapes.items():
        size += _nbytes(shape, dtype)
        if parts[-1] and size > limit:
            parts.append({})
            size = _nbytes(shape, dtype)
        parts[-1][name] = shape
    if len(parts) == 1:
        return [_Shard("model.safetensors", parts[0], dtype)]
    return [
        _Shard(f"model-{i:05}-of-{len(parts):05}.safetensors", part, dtype)
        for i, part in enumerate(parts, start=1)
    ]


def _nbytes(shape: Sequence[int], dtype: torch.dtype) -> int:
    return torch.Size(shape).numel() * dtype.itemsize


def _raw(tensor: Tensor) -> memoryview:
    """The tensor's values as they lie in memory (little-endian, as the format wants)."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())


def _index(shards: Sequence[_Shard]) -> dict[str, Any]:
    return {
        "metadata": {"total_size": sum(shard.nbytes for shard in shards)},
        "weight_map": {name: shard.file for shard in shards for name in shard.shapes},
    }


def _check_free(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise CheckpointError(
            f"{out} is there already. Name a folder that is not, or empty it first."
        )


def _check_room(out: Path, nbytes: int) -> None:
    parent = out.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(parent).free
    if free < nbytes + BESIDE_WEIGHTS:
        raise CheckpointError(
            f"the merged weights take {size_text(nbytes)}, {size_text(BESIDE_WEIGHTS)} more "
            f"are wanted for the tokenizer and the rest, and {parent} has "
            f"{size_text(free)} free. Make room, or choose another place."
        )


def _check_finite(result: Tensor, name: str, sources: Sequence[Checkpoint]) -> None:
    if all_finite(result):
        return
    for checkpoint in sources:
        if name not in checkpoint.tensors:
            continue
        if wrong := int((~checkpoint.read(name).isfinite()).sum()):
            raise CheckpointError(
                f"{name} of {checkpoint.name} ({checkpoint.tensors[name].file}) holds "
                f"{wrong} values that are NaN or infinite. Nothing was written."
            )
    dtype = str(result.dtype).removeprefix("torch.")
    wrong = int((~result.isfinite()).sum())
    raise CheckpointError(
        f"{wrong} merged values of {name} are beyond what {dtype} can hold. "
        "Use --dtype bfloat16 or float32."
    )


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A hidden folder beside out that takes its name when the block ends without an error.

    What an export that was killed left there is removed first.

    Raises:
        CheckpointError: the disk fills up, or fails; or out was taken meanwhile.
    """
    parent = out.absolute().parent
    _remove_abandoned(parent, out.name)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=parent))
    try:
        with (partial / LOCK).open("w") as lock:
            if fcntl:
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield partial
            for file in (*partial.iterdir(), partial):
                _sync(file)
            umask = os.umask(0)
            os.umask(umask)
            partial.chmod(0o777 & ~umask)  # mkdtemp's is for this user alone
            try:
                os.rename(partial, out)
            except OSError:
                _check_free(out)  # it was taken while we wrote
                raise
            # Not before: without it a folder of gigabytes would be found by nobody.
            (out / LOCK).unlink()
            _sync(parent)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise CheckpointError(
            f"{out} could not be written: "
            + ("the disk is full" if full else one_line(error).rstrip("."))
            + ". Nothing of it was left. Make room, or choose another place."
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_abandoned(parent: Path, name: str) -> None:
    """Remove the hidden folders of exports of that name whose process is dead: none holds the lock."""
    for lock in parent.glob(f".{glob.escape(name)}.*/{LOCK}") if fcntl else ():
        try:
            with lock.open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent)
        except OSError:
            continue  # another export is at work in it, or it is another user's


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _save_config(
    model: PreTrainedModel,
    rows: int,
    dtype: torch.dtype,
    reward_at: RewardAt,
    folder: Path,
) -> None:
    config = deepcopy(model.config)
    config.vocab_size = rows
    config.dtype = dtype
    config.architectures = [type(model).__name__]
    if reward_at == "end" and config.pad_token_id == config.eos_token_id:
        # transformers' class would pass over the last token. Without a padding token it
        # reads it, and refuses batches, which are to be padded with another.
        config.pad_token_id = None
    config.save_pretrained(folder)


def _tokenizer(
    rm: Checkpoint, lms: Mapping[str, Checkpoint], family: Family, fit: Compatibility
) -> PreTrainedTokenizerBase:
    """The reward model's tokenizer, with the appended tokens where their ids fit their rows.

    They do not where the reward model's table has rows that no token names.
    """
    tokenizer = deepcopy(rm.tokenizer)
    tokenizer.chat_template = family.template or tokenizer.chat_template
    appended = fit.vocabulary.appended
    if not appended:
        return tokenizer
    extended = deepcopy(tokenizer)
    extended.add_tokens([_added(token, lms) for token in appended])
    first = rm.tensors[fit.embedding].shape[0]
    ids = extended.convert_tokens_to_ids(list(appended))
    return extended if ids == list(range(first, first + len(ids))) else tokenizer


def _added(token: str, lms: Mapping[str, Checkpoint]) -> AddedToken | str:
    """The token as its LM's tokenizer has it: special or not, stripped or not."""
    for lm in lms.values():
        for added in lm.tokenizer.added_tokens_decoder.values():
            if added.content == token:
                return added
    return token


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    text = json.dumps(data, ensure_ascii=False, indent=2)
    path.write_text(text + "\n", encoding="utf-8")
