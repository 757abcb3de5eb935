"""Where a checkpoint's tensors lie: safetensors, PyTorch shards, adapters on a base.

Headers are read first, tensors when asked, memory-mapped. Nothing but tensors is ever
unpickled.
"""

from __future__ import annotations

import json
import math
import pickle
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dogerm.errors import CheckpointError, CheckpointMismatch, DogermError

DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
}
# Those that cannot be merged: `require_floats` refuses them where a model wants them. Old
# checkpoints hold masks in these, which no model does.
_OTHER_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor is and what it looks like."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class Weights(ABC):
    """Named tensors on disk. `tensors` is known at once, `read` fetches one."""

    tensors: dict[str, TensorInfo]

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """The tensor, on the CPU, in its stored dtype; mapped where it can be, not to be written to."""

    def release(self) -> None:
        """Unmap the files: pages that were read no longer count as this process's memory."""


def open_weights(folder: Path, who: str) -> Weights:
    """The weights of a folder in Hugging Face layout: safetensors if there, else .bin shards.

    Raises:
        CheckpointError: there are none, one is missing, truncated, or holds more than tensors.
    """
    for stem, kind in (
        ("model.safetensors", Safetensors),
        ("pytorch_model.bin", Torch),
    ):
        index = folder / f"{stem}.index.json"
        if index.is_file():
            return kind(_shards(index, who), who)
        if (folder / stem).is_file():
            return kind({folder / stem: None}, who)
    raise CheckpointError(
        f"{who}: {folder / 'model.safetensors'} is missing, and so is a pytorch_model.bin. "
        "Download the checkpoint again, whole."
    )


def require_floats(tensors: Mapping[str, TensorInfo], who: str) -> None:
    """CheckpointError that names the first tensor whose dtype cannot be merged."""
    for name, info in tensors.items():
        if info.dtype not in DTYPES.values():
            raise _not_a_float(who, name, info.file, info.dtype)


def open_file(file: Path, who: str) -> Weights:
    """The tensors of one .safetensors or .bin file."""
    kind = Safetensors if file.suffix == ".safetensors" else Torch
    return kind({file: None}, who)


class Safetensors(Weights):
    """Tensors in safetensors files.

    Args:
        files: each file with the names an index promises to be in it, if there is an index.
    """

    def __init__(self, files: Mapping[Path, set[str] | None], who: str):
        self.who, self.tensors = who, {}
        self._open_files: dict[Path, Any] = {}
        self._views: dict[str, Tensor] = {}  # of the mapped files: they hold no copy
        for file, promised in files.items():
            with self._open(file) as opened:
                found = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
                for name, view in found.items():
                    code = view.get_dtype()
                    dtype = DTYPES.get(code) or _OTHER_DTYPES.get(code)
                    if dtype is None:
                        raise _not_a_float(who, name, file, code)
                    shape = tuple(view.get_shape())
                    self.tensors[name] = TensorInfo(shape, dtype, file)
            _check_promised(promised, found, file, who)

    def read(self, name: str) -> Tensor:
        if name not in self._views:
            file = self.tensors[name].file
            if file not in self._open_files:
                self._open_files[file] = self._open(file)
            self._views[name] = self._open_files[file].get_tensor(name)
        return self._views[name]

    def release(self) -> None:
        self._views.clear()
        self._open_files.clear()

    def _open(self, file: Path):
        try:
            return safe_open(file, framework="pt", device="cpu")
        except (SafetensorError, OSError) as error:
            _check_not_something_else(file, self.who)
            raise CheckpointError(
                f"{self.who}: {file} is truncated or not a safetensors file "
                f"({one_line(error)}) Download it again."
            ) from None


class Torch(Weights):
    """Tensors in pytorch_model*.bin files, mapped; anything but tensors in them is refused."""

    def __init__(self, files: Mapping[Path, set[str] | None], who: str):
        self.who, self.tensors = who, {}
        self._loaded: dict[Path, dict[str, Tensor]] = {}
        for file, promised in files.items():
            found = self._load(file)
            for name, tensor in found.items():
                if not isinstance(name, str):
                    raise CheckpointError(
                        f"{who}: {file} names a tensor {name!r:.40}; names must be text. "
                        "A checkpoint of the plain weights is needed."
                    )
                if not isinstance(tensor, Tensor):
                    raise CheckpointError(
                        f"{who}: {name} in {file} is a {type(tensor).__name__}, not a tensor. "
                        "A checkpoint of the plain weights is needed."
                    )
                self.tensors[name] = TensorInfo(tuple(tensor.shape), tensor.dtype, file)
            _check_promised(promised, found, file, who)

    def read(self, name: str) -> Tensor:
        file = self.tensors[name].file
        if file not in self._loaded:
            self._load(file)
        return self._loaded[file][name]

    def release(self) -> None:
        self._loaded.clear()

    def _load(self, file: Path) -> dict[str, Tensor]:
        with file.open("rb") as opened:
            head = opened.read(2)
        try:
            # Files from before PyTorch 1.6 are no zip archives and cannot be mapped.
            loaded = torch.load(
                file, map_location="cpu", weights_only=True, mmap=head == b"PK"
            )
        # Of bytes that are no pickle torch complains by any error, IndexError too.
        except Exception as error:
            if isinstance(error, MemoryError):
                raise
            _check_not_something_else(file, self.who)
            is_pickle = head == b"PK" or head[:1] == b"\x80" or "GLOBAL" in str(error)
            if is_pickle and isinstance(error, pickle.UnpicklingError):
                raise CheckpointError(
                    f"{self.who}: {file} holds more than tensors, and unpickling it could "
                    "run any program; it is not read. Ask for a safetensors version of it."
                ) from None
            why = "" if isinstance(error, pickle.UnpicklingError) else one_line(error)
            raise CheckpointError(
                f"{self.who}: {file} is truncated or not a PyTorch file"
                + (f" ({why}) " if why else ". ")
                + "Download it again."
            ) from None
        if not isinstance(loaded, dict):
            raise CheckpointError(f"{self.who}: {file} does not hold named tensors.")
        self._loaded[file] = loaded
        return loaded


class Adapted(Weights):
    """A base's weights with a LoRA adapter folded in, tensor by tensor, when read.

    W + scale·B·A in float32, rounded to the base's dtype; scale is alpha / r, or
    alpha / sqrt(r) for rank-stabilised adapters. Whole modules that the adapter
    stores (modules_to_save) replace the base's.

    Source: LoRA, arXiv:2106.09685; rank stabilisation, arXiv:2312.03732.

    Args:
        base: the weights the adapter was trained on.
        folder: holds adapter_config.json and adapter_model.safetensors or .bin.

    Raises:
        CheckpointError: no LoRA adapter, or one with parts that are not plain LoRA.
        CheckpointMismatch: it changes a tensor that the base lacks, or has in another shape.
    """

    PREFIX = "base_model.model."

    def __init__(self, base: Weights, folder: Path, who: str):
        self.base, self.who = base, who
        self.settings = adapter_settings(folder, who)
        files = [folder / f"adapter_model.{end}" for end in ("safetensors", "bin")]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            raise CheckpointError(f"{who}: {files[0]} is missing.")
        self.adapter = open_file(file, who)
        require_floats(self.adapter.tensors, who)
        self.tensors = dict(base.tensors)
        self._pairs: dict[str, tuple[str, str]] = {}
        self._whole: dict[str, str] = {}
        for name, info in self.adapter.tensors.items():
            self._place(name, info)
        for target, (a, b) in self._pairs.items():
            self._check_fits(target, a, b, file)

    def read(self, name: str) -> Tensor:
        if name in self._whole:
            return self.adapter.read(self._whole[name])
        weight = self.base.read(name)
        if name not in self._pairs:
            return weight
        a, b = (self.adapter.read(part).float() for part in self._pairs[name])
        update = (b @ a) * self._scale(name, rank=len(a))
        if self._transposed(self._pairs[name][0]):
            update = update.T
        return (weight.float() + update).to(weight.dtype)

    def release(self) -> None:
        self.base.release()
        self.adapter.release()

    def _place(self, name: str, info: TensorInfo) -> None:
        """Sorts one adapter tensor: the A of a pair, its B, or a whole replacement."""
        plain = name.removeprefix(self.PREFIX)
        if found := re.fullmatch(r"(.+)\.lora_(?:embedding_)?A(?:\.weight)?", plain):
            other = name.replace(".lora_A", ".lora_B")
            other = other.replace(".lora_embedding_A", ".lora_embedding_B")
            if other not in self.adapter.tensors:
                raise CheckpointError(f"{self.who}: {name} has no {other} beside it.")
            self._pairs[found[1] + ".weight"] = (name, other)
        elif ".lora_" not in plain:
            self._whole[plain] = name
            self.tensors[plain] = info
        elif not re.search(r"\.lora_(embedding_)?B(\.weight)?$", plain):
            raise CheckpointError(
                f"{self.who}: {name} in {info.file} is not plain LoRA, which is what is "
                "folded in here. Merge the adapter with its own tool first."
            )

    def _check_fits(self, target: str, a: str, b: str, file: Path) -> None:
        weight = self.base.tensors.get(target)
        for part in (a, b):
            found = self.adapter.tensors[part].shape
            if len(found) != 2 or 0 in found:
                raise CheckpointError(
                    f"{self.who}: {part} in {file} is of shape {found}, where LoRA has a "
                    "matrix. Save the adapter again with PEFT."
                )
        rank, inputs = self.adapter.tensors[a].shape
        outputs, rank_of_b = self.adapter.tensors[b].shape
        shape = (inputs, outputs) if self._transposed(a) else (outputs, inputs)
        if weight is None or weight.shape != shape or rank != rank_of_b:
            raise CheckpointMismatch(
                f"{self.who}: the adapter in {file} changes {target} of shape {shape}, but "
                + (f"its base has {weight.shape}" if weight else "its base has none")
                + ". It was trained on another base model."
            )

    def _transposed(self, a: str) -> bool:
        """Whether the update B·A is stored transposed against the weight it changes."""
        return ".lora_embedding_A" in a or bool(self.settings.get("fan_in_fan_out"))

    def _scale(self, name: str, rank: int) -> float:
        alpha = self.settings["lora_alpha"]
        for pattern, own in (self.settings.get("alpha_pattern") or {}).items():
            if re.search(rf"(^|\.)({pattern})$", name.removesuffix(".weight")):
                alpha = own
        return alpha / (math.sqrt(rank) if self.settings.get("use_rslora") else rank)


def adapter_settings(folder: Path, who: str) -> dict[str, Any]:
    """adapter_config.json of a plain LoRA adapter."""
    file = folder / "adapter_config.json"
    settings = read_json(file, who)
    kind = settings.get("peft_type")
    if kind != "LORA" or settings.get("use_dora") or settings.get("lora_bias"):
        raise CheckpointError(
            f"{who}: {file} describes a {kind} adapter with parts that are not plain LoRA. "
            "Merge it with its own tool first."
        )
    for key, fits, wanted in _ADAPTER_SETTINGS:
        if not fits(found := settings.get(key)):
            raise CheckpointError(
                f"{who}: in {file} {key} is {json.dumps(found):.80}; it must be {wanted}."
            )
    return settings


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_alpha_pattern(value: object) -> bool:
    try:
        return value is None or all(
            re.compile(pattern) and _is_number(alpha)
            for pattern, alpha in value.items()
        )
    except (AttributeError, re.error):
        return False


_ADAPTER_SETTINGS = (
    (
        "base_model_name_or_path",
        lambda value: isinstance(value, str) and value.strip() != "",
        "the folder or hub id of the model that the adapter was trained on",
    ),
    ("lora_alpha", _is_number, "a number"),
    ("alpha_pattern", _is_alpha_pattern, "a table of module names, each with a number"),
)


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor of floats holds neither NaN nor infinity.

    By its extremes, which either would show in: torch finds them 40 times as fast as it
    asks each value of a 16-bit tensor on a CPU.
    """
    return not tensor.numel() or all(end.isfinite() for end in tensor.aminmax())


def read_json(file: Path, who: str) -> dict[str, Any]:
    """A JSON object from a file; CheckpointError that names it otherwise."""
    with reading(f"{who}: {file}", file):
        data = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(data, dict):
        raise CheckpointError(f"{who}: {file} does not hold a JSON object.")
    return data


@contextmanager
def reading(what: str, file: Path | None = None) -> Iterator[None]:
    """Makes one CheckpointError of whatever a library raises while it reads damaged settings.

    Every kind of error, because transformers raises every kind: a number of layers that
    is text is a TypeError, seven heads a ValueError, none a ZeroDivisionError.

    Args:
        what: whose settings, and where: the sentence's subject.
        file: where that is one, so that a web page or a Git LFS pointer is called that.
    """
    try:
        yield
    except (DogermError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001, as said above
        if file:
            _check_not_something_else(file, what.partition(":")[0])
        plain = isinstance(error, OSError | ValueError | ImportError)
        kind = "" if plain else f"{type(error).__name__}: "
        raise CheckpointError(
            f"{what} cannot be read: {kind}{one_line(error)}"
        ) from None


def one_line(error: Exception) -> str:
    """The first line of a library's message, as one sentence."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return (text or type(error).__name__).rstrip(".") + "."


def _check_not_something_else(file: Path, who: str) -> None:
    """CheckpointError where a file is empty, a web page, or a Git LFS pointer."""
    if not file.is_file():
        return
    with file.open("rb") as opened:
        head = opened.read(512).lstrip()
    if not head:
        raise CheckpointError(f"{who}: {file} is empty. Download it again.")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{who}: {file} is a Git LFS pointer, not the file itself. Run `git lfs pull` "
            "in its folder, or download it again."
        )
    if head.lower().startswith((b"<!doctype html", b"<html")):
        raise CheckpointError(
            f"{who}: {file} is a web page, perhaps one that asks to log in. Download the "
            "file itself."
        )


def _shards(index: Path, who: str) -> dict[Path, set[str] | None]:
    """The files that an index names, each with the tensors it should hold."""
    where = read_json(index, who).get("weight_map")
    if not isinstance(where, dict) or not all(
        isinstance(f, str) for f in where.values()
    ):
        raise CheckpointError(f"{who}: {index} has no weight_map.")
    shards: dict[Path, set[str] | None] = {}
    for name, file in where.items():
        path = index.parent / file
        # An index must not reach out of its folder.
        if Path(file).name != file:
            raise CheckpointError(
                f"{who}: {index} names {file!r}, which is no plain file name."
            )
        if not path.is_file():
            raise CheckpointError(
                f"{who}: {path} is missing, which {index.name} names. "
                "Download the checkpoint again, whole."
            )
        shards.setdefault(path, set()).add(name)
    return shards


def _check_promised(
    promised: set[str] | None, found: Mapping[str, object], file: Path, who: str
) -> None:
    if promised and (lost := sorted(promised - set(found))):
        raise CheckpointError(
            f"{who}: the index promises {lost[0]} in {file}, but it is not there. "
            "Download the checkpoint again, whole."
        )


def _not_a_float(who: str, name: str, file: Path, dtype: object) -> CheckpointError:
    return CheckpointError(
        f"{who}: {name} in {file} is stored as {str(dtype).removeprefix('torch.')}; only float32, bfloat16 and "
        "float16 weights can be merged."
    )
