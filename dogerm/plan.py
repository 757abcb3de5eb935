"""Where a family's weights will live, made from the free memory before anything is loaded."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

import psutil
import torch

from dogerm.checkpoint import Checkpoint, Compatibility
from dogerm.errors import DeviceError

Place = Literal["device", "pinned", "mapped"]

# On a CPU, sources this small are held in the live dtype, so that a merge converts
# nothing; larger ones stay in the file cache, which is the same memory.
RESIDENT_BYTES = 256 << 20
# What other programs and the allocator's own gaps may take of a device's free memory.
MARGIN = 0.95
# Padded tokens in one forward pass: as many as fit, within these bounds.
MIN_BATCH_TOKENS = 2048
MAX_BATCH_TOKENS = {"cpu": 8192, "cuda": 32768}
WORDS = {
    "device": "held on the device",
    "pinned": "held in pinned host memory",
    "mapped": "mapped from disk, read at every merge",
}


@dataclass(frozen=True)
class Free:
    """Bytes free now, on the device and in host memory (the same for a CPU)."""

    device: int
    host: int

    @classmethod
    def on(cls, device: torch.device) -> Free:
        host = psutil.virtual_memory().available
        if device.type == "cuda":
            return cls(torch.cuda.mem_get_info(device)[0], host)
        return cls(host, host)


@dataclass(frozen=True)
class Plan:
    """What loading a family takes, in bytes, and what a merge will wait for.

    Args:
        dtype: of the live weights; int8 for the linear layers when load_in_8bit.
        live: the model whose weights are merged.
        sources: the original weights of the reward model and every LM.
        place: where the sources live.
        largest: the working set of merging the largest parameter.
        token_bytes: activations of one token of a batch, at most.
        free: on the device, before loading.
        merge_bytes: read and written by one merge with every LM.
        advice: what would fit, when this does not.
    """

    device: str
    dtype: str
    load_in_8bit: bool
    live: int
    sources: int
    place: Place
    largest: int
    token_bytes: int
    free: int
    merge_bytes: int
    advice: tuple[str, ...] = ()

    @property
    def needed(self) -> int:
        """Bytes on the device with the smallest batches."""
        held = self.sources if self.place == "device" else 0
        batch = MIN_BATCH_TOKENS * self.token_bytes
        return self.live + held + self.largest + batch

    @property
    def batch_tokens(self) -> int:
        """Padded tokens of one forward pass: what the rest of the memory holds, within bounds."""
        rest = max(0, self.free - self.needed) // self.token_bytes
        most = MAX_BATCH_TOKENS[torch.device(self.device).type]
        return min(most, MIN_BATCH_TOKENS + rest)

    @property
    def fits(self) -> bool:
        return self.needed <= self.free

    @property
    def bottleneck(self) -> str:
        """What a merge waits for."""
        if self.place == "device" or self.device == "cpu":
            return f"memory of {self.device}"
        return "the link from host to device" + (
            ", and the disk until the files are cached"
            if self.place == "mapped"
            else ""
        )

    def merge_seconds(self) -> float:
        """Expected time of one merge, from this machine's bandwidth, measured now.

        Mapped files are taken to be in the file cache.
        """
        device = torch.device(self.device)
        if self.place != "device" and device.type == "cuda":
            return self.sources / _link_rate(device, self.place == "pinned")
        return self.merge_bytes / _copy_rate(device)

    def to_json(self) -> dict[str, Any]:
        extra = {
            "needed": self.needed,
            "batch_tokens": self.batch_tokens,
            "fits": self.fits,
            "bottleneck": self.bottleneck,
            "merge_seconds": round(self.merge_seconds(), 4),
        }
        return asdict(self) | extra


def make_plan(
    rm: Checkpoint,
    lms: Mapping[str, Checkpoint],
    fit: Compatibility,
    device: torch.device,
    dtype: torch.dtype,
    load_in_8bit: bool = False,
    free: Free | None = None,
    place: Place | None = None,
) -> Plan:
    """Where to keep the sources: on the device, else in pinned host memory, else mapped.

    Args:
        free: the memory to plan with; None: what is free now.
        place: where they must be kept; None: the first of those where they fit.

    Raises:
        DeviceError: pinned memory is asked for, and the device is a CPU.
    """
    if place == "pinned" and device.type == "cpu":
        raise DeviceError("host memory is pinned for a GPU; a CPU reads it as it is.")
    free = free or Free.on(device)
    shapes = {name: rm.tensors[name].shape for name in (*fit.merged, *fit.kept)}
    shapes[fit.embedding] = (fit.vocabulary.size, *shapes[fit.embedding][1:])
    numel = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    models = (rm, *lms.values())
    stored = {
        name: sum(numel[name] * m.tensors[name].dtype.itemsize for m in models)
        for name in fit.merged
    }
    live = sum(
        numel[name]
        * (1 if load_in_8bit and _is_linear(name, shapes, fit) else dtype.itemsize)
        for name in numel
    )
    sources = sum(stored.values())
    small = place == "device" if place else sources <= RESIDENT_BYTES
    small = small and device.type == "cpu"
    widest = max(stored, key=stored.__getitem__)
    settings = {
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch."),
        "load_in_8bit": load_in_8bit,
        "live": live,
        # Small ones on a CPU are widened to the live dtype.
        "sources": max(sources, len(models) * live) if small else sources,
        # In 8-bit the float16 merge stands beside its sources until it is quantised.
        "largest": stored[widest] + (2 * numel[widest] if load_in_8bit else 0),
        "token_bytes": _token_bytes(rm, dtype),
        "free": int(free.device * MARGIN),
        "merge_bytes": sources + live,
    }
    places: tuple[Place, ...] = ("device", "pinned", "mapped")
    if place:
        places = (place,)
    elif device.type == "cpu":
        places = ("device",) if small else ("mapped",)
    elif free.host * MARGIN < sources:
        places = ("device", "mapped")
    plans = [Plan(place=place, **settings) for place in places]
    chosen = next((plan for plan in plans if plan.fits), plans[-1])
    if chosen.fits:
        return chosen
    advice = _advice(rm, lms, fit, chosen, free)
    return Plan(place=chosen.place, advice=advice, **settings)


def require(plan: Plan) -> None:
    """DeviceError that says what would fit, when the plan does not."""
    if not plan.fits:
        raise DeviceError(
            f"{size_text(plan.needed)} are needed on {plan.device} in "
            f"{'int8' if plan.load_in_8bit else plan.dtype} and {size_text(plan.free)} "
            f"are free. " + " ".join(plan.advice)
        )


def size_text(nbytes: int) -> str:
    """Bytes for people: 13.48 GB, 5.41 MB."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.2f} MB"


def _advice(
    rm: Checkpoint,
    lms: Mapping[str, Checkpoint],
    fit: Compatibility,
    plan: Plan,
    free: Free,
) -> tuple[str, ...]:
    """Smaller settings that would fit, each as a sentence; or that none would."""
    device, host = torch.device(plan.device), torch.device("cpu")
    tries = [
        (device, torch.bfloat16, False, "--dtype bfloat16"),
        (device, torch.float16, True, "--load-in-8bit"),
        (host, torch.bfloat16, False, "--device cpu --dtype bfloat16"),
        (host, torch.float16, True, "--device cpu --load-in-8bit"),
    ]
    found = []
    for place, dtype, in_8bit, option in tries:
        settings = _needs(rm, lms, fit, place, dtype, in_8bit)
        room = free.device if place == device else free.host
        if settings <= room * MARGIN:
            found.append(f"{option} would need {size_text(settings)}.")
    return tuple(found) or ("Nothing smaller would fit: free some memory.",)


def _needs(rm, lms, fit, device, dtype, in_8bit) -> int:
    """Bytes on the device with mapped sources: the least that works."""
    plenty = Free(1 << 62, 0)
    plan = make_plan(rm, lms, fit, device, dtype, in_8bit, plenty)
    return plan.needed - (plan.sources if plan.place == "device" else 0)


def _is_linear(
    name: str, shapes: Mapping[str, tuple[int, ...]], fit: Compatibility
) -> bool:
    return name in fit.merged and name != fit.embedding and len(shapes[name]) == 2


def _token_bytes(rm: Checkpoint, dtype: torch.dtype) -> int:
    """Of one layer's intermediate values, the widest alive at a time, and of all keys and values."""
    config = rm.config
    width = config.hidden_size
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or width // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    inner = getattr(config, "intermediate_size", 4 * width)
    cached = 2 * config.num_hidden_layers * kv_heads * head_dim
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
