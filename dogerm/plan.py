"""Where a family's weights will live, made from the free memory before anything is loaded."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from io import RawIOBase
from itertools import accumulate
from math import ceil
from pathlib import Path
from typing import Any, Literal

import psutil
import torch

from dogerm.checkpoint import Checkpoint
from dogerm.compatibility import Compatibility
from dogerm.errors import DeviceError
from dogerm.quantised import QUANTISATIONS, Quantised

Place = Literal["device", "pinned", "mapped"]
Devices = tuple[torch.device, ...]

# On a CPU, sources this small are held in the live dtype, so that a merge converts
# nothing; larger ones stay in the file cache, which is the same memory.
RESIDENT_BYTES = 256 << 20
# What other programs and the allocator's own gaps may take of a device's free memory.
MARGIN = 0.95
# Padded tokens in one forward pass: as many as fit, within these bounds.
MIN_BATCH_TOKENS = 2048
MAX_BATCH_TOKENS = {"cpu": 8192, "cuda": 32768}
# What is read of a file to time its disk, at most: so many bytes, or seconds.
DISK_BYTES = 256 << 20
DISK_SECONDS = 1.0
WORDS = {
    "device": "held on the device",
    "pinned": "held in pinned host memory",
    "mapped": "mapped from disk, read at every merge",
}


@dataclass(frozen=True)
class Free:
    """Bytes free now: in host memory, which is a CPU's, and on the GPUs.

    A GPU is asked when it is planned for, and not before: asking it makes a context on
    it, of some hundred MB.
    """

    host: int
    devices: dict[str, int] = field(default_factory=dict)

    @classmethod
    def now(cls) -> Free:
        return cls(psutil.virtual_memory().available)

    def on(self, device: torch.device) -> int:
        if str(device) not in self.devices:
            cuda = device.type == "cuda"
            free = torch.cuda.mem_get_info(device)[0] if cuda else self.host
            self.devices[str(device)] = free
        return self.devices[str(device)]


@dataclass(frozen=True)
class Part:
    """What one device has of a plan, in bytes.

    Args:
        live: of the model whose weights are merged.
        sources: the original weights of those parameters, of the reward model and every LM
            that has them.
        largest: the working set of merging the largest of them.
        token_bytes: activations of one token of a batch, at most.
        free: before loading.
        merge_bytes: read and written by one merge with every LM.
    """

    device: str
    live: int
    sources: int
    largest: int
    token_bytes: int
    free: int
    merge_bytes: int

    def needed(self, holds_sources: bool) -> int:
        """With the smallest batches."""
        held = self.sources if holds_sources else 0
        return self.live + held + self.largest + MIN_BATCH_TOKENS * self.token_bytes


@dataclass(frozen=True)
class Plan:
    """What loading a family takes, in bytes, and what a merge will wait for.

    Args:
        device: where it lives; several, the first of which reads the text, with commas.
        dtype: of the live weights.
        quantised: how the linear layers' are held instead, if they are.
        place: where the sources live.
        parts: of each device, in the order of the model's layers.
        blocks: the device of each part of the model that stays together; empty with one.
        host: bytes free in host memory, before loading.
        file: the largest of the sources' files.
        advice: what would fit, when this does not.
    """

    device: str
    dtype: str
    quantised: Quantised | None
    place: Place
    parts: tuple[Part, ...]
    blocks: Mapping[str, str] = field(default_factory=dict)
    host: int = 0
    file: Path | None = None
    advice: tuple[str, ...] = ()

    def device_of(self, name: str) -> torch.device:
        """Where a parameter or a buffer of the live model is."""
        return torch.device(self.blocks.get(block_of(name), self.parts[0].device))

    @property
    def kind(self) -> str:
        """cpu or cuda."""
        return torch.device(self.parts[0].device).type

    @property
    def live(self) -> int:
        return sum(part.live for part in self.parts)

    @property
    def sources(self) -> int:
        return sum(part.sources for part in self.parts)

    @property
    def free(self) -> int:
        return sum(part.free for part in self.parts)

    @property
    def merge_bytes(self) -> int:
        return sum(part.merge_bytes for part in self.parts)

    @property
    def needed(self) -> int:
        """Bytes on the devices with the smallest batches."""
        return sum(part.needed(self.place == "device") for part in self.parts)

    @property
    def batch_tokens(self) -> int:
        """Padded tokens of one forward pass: what the rest of the memory holds, within bounds."""
        rest = min(
            max(0, part.free - part.needed(self.place == "device")) // part.token_bytes
            for part in self.parts
        )
        return min(MAX_BATCH_TOKENS[self.kind], MIN_BATCH_TOKENS + rest)

    @property
    def fits(self) -> bool:
        held = self.place == "device"
        return all(part.needed(held) <= part.free for part in self.parts)

    @property
    def reads_the_disk(self) -> bool:
        """Whether the sources are read from it at every merge: free memory does not keep them."""
        beside = self.needed if self.kind == "cpu" else 0
        return self.place == "mapped" and self.sources > self.host - beside

    @property
    def bottleneck(self) -> str:
        """What a merge waits for."""
        if self.reads_the_disk:
            return "the disk, as free memory does not hold the sources"
        own = self.place == "device" or self.kind == "cpu"
        first = f"memory of {self.device}" if own else "the link from host to device"
        cached = ", and the disk until the files are cached"
        return first + (cached if self.place == "mapped" else "")

    def merge_seconds(self) -> float | None:
        """Expected time of one merge, from this machine's bandwidth, measured now.

        None where the disk decides and cannot be timed. Mapped files that free memory
        can hold are taken to be in the file cache. GPUs merge at the same time, but read
        from one host memory.
        """
        if not self.reads_the_disk:
            return self._moving_seconds()
        rate = _disk_rate(self.file)
        return max(self.sources / rate, self._moving_seconds()) if rate else None

    def _moving_seconds(self) -> float:
        """Of one merge whose sources are in memory."""
        devices = [torch.device(part.device) for part in self.parts]
        if self.place != "device" and self.kind == "cuda":
            return self.sources / _link_rate(devices[0], self.place == "pinned")
        return max(
            part.merge_bytes / _copy_rate(device)
            for part, device in zip(self.parts, devices)
        )

    def to_json(self) -> dict[str, Any]:
        names = ("live", "sources", "free", "merge_bytes", "needed", "batch_tokens")
        seconds = self.merge_seconds()
        extra = {name: getattr(self, name) for name in names} | {
            "largest": max(part.largest for part in self.parts),
            "token_bytes": max(part.token_bytes for part in self.parts),
            "fits": self.fits,
            "bottleneck": self.bottleneck,
            "merge_seconds": None if seconds is None else round(seconds, 4),
        }
        own = asdict(self)
        del own["file"]
        held = own.pop("quantised")
        asked = {"load_in_8bit": held == "int8", "load_in_4bit": held == "nf4"}
        return own | asked | extra


def make_plan(
    rm: Checkpoint,
    lms: Mapping[str, Checkpoint],
    fit: Compatibility,
    choices: Sequence[Devices],
    dtype: torch.dtype,
    quantised: Quantised | None = None,
    free: Free | None = None,
    place: Place | None = None,
) -> Plan:
    """Which devices, and where to keep the sources: there, else in pinned host memory, else mapped.

    Args:
        choices: sets of devices to spread the model over; the first that suffices is taken.
        free: the memory to plan with; None: what is free now.
        place: where they must be kept; None: the first of those where they fit.

    Raises:
        DeviceError: pinned memory is asked for, and the device is a CPU.
    """
    if place == "pinned" and choices[0][0].type == "cpu":
        raise DeviceError("host memory is pinned for a GPU; a CPU reads it as it is.")
    free = free or Free.now()
    chosen = _chosen(rm, lms, fit, choices, dtype, quantised, free, place)
    if chosen.fits:
        return chosen
    return replace(chosen, advice=_advice(rm, lms, fit, choices[-1], free))


def block_of(name: str) -> str:
    """The part of the model that stays on one device with a parameter: its layer, or its module."""
    layer = re.match(r".*?\.\d+(?=\.)", name)
    return layer[0] if layer else name.rpartition(".")[0]


@dataclass(frozen=True)
class _Size:
    """Bytes of one parameter: live, of all its sources, and of its merge's working set."""

    live: int
    sources: int
    working: int


def _chosen(rm, lms, fit, choices, dtype, quantised, free, place) -> Plan:
    """As `make_plan`, without advice."""
    sizes = _sizes(rm, lms, fit, dtype, quantised)
    sources = sum(size.sources for size in sizes.values())
    if place:
        places: tuple[Place, ...] = (place,)
    elif choices[0][0].type == "cpu":
        places = ("device",) if sources <= RESIDENT_BYTES else ("mapped",)
    elif free.host * MARGIN < sources:
        places = ("device", "mapped")
    else:
        places = ("device", "pinned", "mapped")
    for devices in choices:
        for kept in places:
            where = _spread(sizes, devices, free, kept == "device")
            plan = Plan(
                device=",".join(map(str, devices)),
                dtype=str(dtype).removeprefix("torch."),
                quantised=quantised,
                place=kept,
                parts=_parts(
                    rm, len(lms) + 1, dtype, sizes, devices, where, free, kept
                ),
                blocks=where if devices[1:] else {},
                host=int(free.host * MARGIN),
                file=_largest_file([rm, *lms.values()]),
            )
            if plan.fits:
                return plan
    return plan


def _sizes(rm, lms, fit, dtype, quantised) -> dict[str, _Size]:
    """Of every parameter, in the model's order, the kept ones at the end."""
    sizes = {}
    for name in (*fit.merged, *fit.kept):
        shape = rm.tensors[name].shape
        if name == fit.embedding:
            shape = (fit.vocabulary.size, *shape[1:])
        numel = torch.Size(shape).numel()
        codes = quantised and name in fit.linear
        each = QUANTISATIONS[quantised].weight_bytes if codes else dtype.itemsize
        models = (rm, *lms.values()) if name in fit.merged else (rm,)
        stored = sum(numel * model.tensors[name].dtype.itemsize for model in models)
        # The float16 merge stands beside its sources until it is quantised.
        sizes[name] = _Size(
            live=ceil(numel * each),
            sources=stored,
            working=stored + (2 * numel if codes else 0),
        )
    return sizes


def _spread(
    sizes: Mapping[str, _Size], devices: Devices, free: Free, held: bool
) -> dict[str, str]:
    """A device for each block: the model cut where the room of each device says, in its order.

    accelerate's infer_auto_device_map knows nothing of the sources, which are most of what
    has to fit, so it is not asked.
    """
    costs: dict[str, int] = {}
    for name, size in sizes.items():
        own = size.live + (size.sources if held else 0)
        costs[block_of(name)] = costs.get(block_of(name), 0) + own
    total = sum(costs.values())
    working = max(size.working for size in sizes.values())
    room = [max(1.0, free.on(device) * MARGIN - working) for device in devices]
    ends = [total * end / sum(room) for end in accumulate(room)]
    where, before = {}, 0
    for block, cost in costs.items():
        middle = before + cost / 2
        index = next((i for i, end in enumerate(ends) if middle <= end), -1)
        where[block] = str(devices[index])
        before += cost
    # The score head reads where the text is read: its block is the last, and small.
    where[block] = str(devices[0])
    return where


def _parts(rm, models, dtype, sizes, devices, where, free, kept) -> tuple[Part, ...]:
    parts = []
    for device in devices:
        own = {n: s for n, s in sizes.items() if where[block_of(n)] == str(device)}
        layers = {block_of(n) for n in own if re.search(r"\.\d+\.", n)}
        live = sum(size.live for size in own.values())
        sources = sum(size.sources for size in own.values())
        # Those held on a CPU are widened to the live dtype.
        wide = kept == "device" and device.type == "cpu"
        parts.append(
            Part(
                device=str(device),
                live=live,
                sources=max(sources, models * live) if wide else sources,
                largest=max((size.working for size in own.values()), default=0),
                token_bytes=_token_bytes(rm, dtype, len(layers)),
                free=int(free.on(device) * MARGIN),
                merge_bytes=sources + live,
            )
        )
    return tuple(parts)


def require(plan: Plan) -> None:
    """DeviceError that says what would fit, when the plan does not."""
    if not plan.fits:
        raise DeviceError(f"{shortage(plan)} {' '.join(plan.advice)}")


def shortage(plan: Plan) -> str:
    """What is needed and what is free, of each device, as a sentence."""
    weights = plan.quantised or plan.dtype
    first, *others = (
        (size_text(part.needed(plan.place == "device")), part.device, part.free)
        for part in plan.parts
    )
    needed, device, free = first
    text = (
        f"{needed} are needed on {device} in {weights} and {size_text(free)} are free"
    )
    for needed, device, free in others:
        text += f"; {needed} on {device}, {size_text(free)} free"
    return text + "."


def size_text(nbytes: int) -> str:
    """Bytes for people: 13.48 GB, 5.41 MB."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.2f} MB"


def seconds_text(seconds: float) -> str:
    """A time for people: 635 ms, 6.4 s."""
    return f"{seconds:.1f} s" if seconds >= 0.9995 else f"{seconds * 1e3:.3g} ms"


def _largest_file(models: Iterable[Checkpoint]) -> Path:
    """The one that holds most of the weights."""
    sizes: Counter[Path] = Counter()
    for model in models:
        for info in model.tensors.values():
            sizes[info.file] += info.nbytes
    return max(sizes, key=sizes.__getitem__)


def _advice(
    rm: Checkpoint,
    lms: Mapping[str, Checkpoint],
    fit: Compatibility,
    devices: Devices,
    free: Free,
) -> tuple[str, ...]:
    """Smaller settings that would fit, each as a sentence; or that none would."""
    host = (torch.device("cpu"),)
    smaller = [(torch.bfloat16, None, "--dtype bfloat16")]
    smaller += [(torch.float16, q, own.option) for q, own in QUANTISATIONS.items()]
    tries = [(devices, *settings) for settings in smaller]
    if devices != host:
        tries += [(host, *own, f"--device cpu {option}") for *own, option in smaller]
    found = []
    for choice, dtype, quantised, option in tries:
        # Mapped sources are the least that works.
        plan = _chosen(rm, lms, fit, [choice], dtype, quantised, free, "mapped")
        if plan.fits:
            found.append(f"{option} would need {size_text(plan.needed)}.")
    return tuple(found) or ("Nothing smaller would fit: free some memory.",)


def _token_bytes(rm: Checkpoint, dtype: torch.dtype, layers: int) -> int:
    """Of one layer's intermediate values, the widest alive at a time, and of all layers' keys and values."""
    config = rm.config
    width = config.hidden_size
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or width // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    inner = getattr(config, "intermediate_size", 4 * width)
    cached = 2 * layers * kv_heads * head_dim
    return (8 * width + 3 * inner + cached) * dtype.itemsize


@cache
def _copy_rate(device: torch.device) -> float:
    """Bytes read plus bytes written per second by a copy within the device's memory."""
    source = torch.zeros(32 << 20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _fastest(lambda: target.copy_(source), device)


@cache
def _link_rate(device: torch.device, pinned: bool) -> float:
    """Bytes per second from host memory to the device."""
    source = torch.zeros(64 << 20, dtype=torch.uint8)
    source = source.pin_memory() if pinned else source
    target = torch.empty_like(source, device=device)
    return source.numel() / _fastest(lambda: target.copy_(source), device)


@cache
def _disk_rate(file: Path) -> float | None:
    """Bytes per second that the file is read with from its disk; None if that cannot be told.

    It cannot where the file has holes, which no disk holds, and where the system cannot
    forget what it has of the file in memory, which would be timed instead.
    """
    if not hasattr(os, "posix_fadvise"):
        return None
    try:
        with file.open("rb", buffering=0) as opened:
            stat = os.fstat(opened.fileno())
            size = min(stat.st_size, DISK_BYTES)
            if stat.st_blocks * 512 < 0.9 * stat.st_size:
                return None
            os.posix_fadvise(opened.fileno(), 0, size, os.POSIX_FADV_DONTNEED)
            if _is_in_memory(opened.fileno(), size // 2):
                return None
            return _read_rate(opened, size)
    except OSError:
        return None


def _is_in_memory(file: int, place: int) -> bool:
    """Whether a byte of an open file can be had without waiting for its disk."""
    try:
        return os.preadv(file, [bytearray(1)], place, os.RWF_NOWAIT) > 0
    except OSError:  # it would have to wait; or the file system does not say
        return False


def _read_rate(file: RawIOBase, size: int) -> float:
    """Bytes per second of reading that many from the file's beginning, or for DISK_SECONDS."""
    piece, done = bytearray(min(8 << 20, size)), 0
    started = time.perf_counter()
    seconds = 0.0
    while done < size and seconds < DISK_SECONDS and (got := file.readinto(piece)):
        done += got
        seconds = time.perf_counter() - started
    return done / seconds


def _fastest(action, device: torch.device) -> float:
    """Seconds of the fastest of five runs: the limit, not the noise."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times)
