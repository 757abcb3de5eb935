"""The live model: built empty on its device, its parameters written by merges, whole or as codes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from accelerate import init_empty_weights
from accelerate.utils import send_to_device
from torch import Tensor, nn
from transformers import PreTrainedModel

from dogerm.checkpoint import BUILDING, Checkpoint, empty_reward_model
from dogerm.errors import DeviceError
from dogerm.plan import Devices, Plan
from dogerm.quantised import QUANTISATIONS, Quantised

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class Slot(ABC):
    """One parameter of the live model, as a merge sees it.

    Args:
        dtype: of the tensor that a merge fills.
    """

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    @abstractmethod
    def write(self, merge: Callable[[Tensor], None]) -> None:
        """Give merge a tensor of the parameter's shape to fill, and make that the parameter."""


class Plain(Slot):
    """A parameter in 16 or 32 bits: merged in place."""

    def __init__(self, parameter: nn.Parameter):
        self.parameter = parameter
        self.shape, self.dtype = parameter.shape, parameter.dtype
        self.device = parameter.device

    def write(self, merge: Callable[[Tensor], None]) -> None:
        merge(self.parameter)


class Codes(Slot):
    """The weight of a quantised layer: merged in float16, then quantised into its live buffers.

    Codes are never averaged. The float16 tensor lives only while it is quantised.
    """

    dtype = torch.float16

    def __init__(
        self,
        shape: torch.Size,
        live: tuple[Tensor, Tensor],
        quantise: Callable[[Tensor], tuple[Tensor, Tensor]],
    ):
        self.shape, self.live, self.quantise = shape, live, quantise
        self.device = live[0].device

    def write(self, merge: Callable[[Tensor], None]) -> None:
        merged = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        merge(merged)
        for live, found in zip(self.live, self.quantise(merged)):
            live.copy_(found)


def build(
    rm: Checkpoint,
    rows: int,
    plan: Plan,
    dtype: torch.dtype,
) -> tuple[PreTrainedModel, dict[str, Slot]]:
    """The reward model with every parameter still to be written, and a slot for each.

    Nothing is read from the checkpoint, so its format does not matter here, and the
    model never exists twice.

    Args:
        rows: of the embedding table, that of the merged vocabulary.
        plan: on which device each parameter lives; whether the backbone's linear layers
            are quantised. The rest, with the embeddings and the score head, is in dtype.
    """
    config, own_rows = rm.config, rm.config.vocab_size
    config.vocab_size = rows
    try:
        with BUILDING, init_empty_weights(include_buffers=False):
            model = empty_reward_model(rm)
    finally:
        config.vocab_size = own_rows
    backbone = model.get_submodule(model.base_model_prefix)
    quantised: dict[str, Slot] = {}
    if plan.quantised:
        own = QUANTISATIONS[plan.quantised]
        for name, layer in list(backbone.named_modules()):
            if isinstance(layer, nn.Linear):
                weight = f"{model.base_model_prefix}.{name}.weight"
                new, *live = own.layer(layer, plan.device_of(weight), dtype)
                _replace(backbone, name, new)
                shape = layer.weight.shape
                quantised[weight] = Codes(shape, tuple(live), own.quantise)
    for name, parameter in list(model.named_parameters()):
        if name not in quantised:
            device = plan.device_of(name)
            empty = torch.empty(parameter.shape, dtype=dtype, device=device)
            _replace(model, name, nn.Parameter(empty, requires_grad=False))
    _place_buffers(model, plan)
    if plan.blocks:
        _bring_inputs(model, plan)
    model.eval()
    slots = {
        name: quantised.get(name) or Plain(parameter)
        for name, parameter in model.named_parameters()
    }
    return model, slots


def _place_buffers(model: PreTrainedModel, plan: Plan) -> None:
    for name, module in model.named_modules():
        for key, buffer in module.named_buffers(recurse=False):
            setattr(module, key, buffer.to(plan.device_of(f"{name}.{key}")))


def _bring_inputs(model: PreTrainedModel, plan: Plan) -> None:
    """Let every block find its inputs on its own device; keys and values stay where they are.

    As accelerate's dispatch_model does it, which is not used because it places the
    parameters anew: those that merges write into must stay the same objects.
    """
    stay = model._skip_keys_device_placement

    def hook(device: torch.device) -> Callable:
        def bring(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            return send_to_device(args, device), send_to_device(
                kwargs, device, skip_keys=stay
            )

        return bring

    for block, device in plan.blocks.items():
        module = model.get_submodule(block)
        module.register_forward_pre_hook(hook(torch.device(device)), with_kwargs=True)


def _replace(model: nn.Module, name: str, new: nn.Parameter | nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)


def devices_named(names: str) -> list[Devices]:
    """The sets of devices that a name leaves to choose from, the one to prefer first.

    auto is each GPU alone, then all of them together, or the CPU where there is none;
    cuda:0,cuda:1 is those two together.

    Raises:
        DeviceError: one of them is not there, is named twice, or does not go with another.
    """
    if names == "auto":
        gpus = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
        together = [tuple(gpus)] if gpus[1:] else []
        return [(gpu,) for gpu in gpus] + together or [(torch.device("cpu"),)]
    devices = tuple(device_named(name.strip()) for name in names.split(","))
    if len(set(devices)) < len(devices):
        raise DeviceError(f"{names!r} names a device twice.")
    if len({device.type for device in devices}) > 1:
        raise DeviceError(f"{names!r} mixes GPUs with the CPU; name GPUs only.")
    return [devices]


def device_named(name: str) -> torch.device:
    """auto, cpu, cuda or cuda:N as one device that is there; DeviceError otherwise."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(
            f"{name!r} is not a device; use auto, cpu, cuda or cuda:N."
        ) from None
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"{name!r} is not supported; use auto, cpu, cuda or cuda:N.")
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available():
        raise DeviceError("no CUDA GPU is usable here; use --device cpu.")
    if (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"there is no {name}; this machine has {torch.cuda.device_count()} GPU(s)."
        )
    return torch.device("cuda", device.index or 0)


def dtype_named(name: str) -> torch.dtype:
    """float32, bfloat16 or float16; DeviceError for any other name."""
    if name not in DTYPES:
        raise DeviceError(f"{name!r} is not a dtype; use {', '.join(DTYPES)}.")
    return DTYPES[name]


def live_dtype(
    name: str | None,
    stored: torch.dtype,
    device: torch.device,
    quantised: Quantised | None = None,
) -> torch.dtype:
    """The dtype asked for; else the stored 16-bit one on a GPU and float32 on a CPU.

    Beside int8 weights it is float16 on a GPU, which is what their kernels compute in.
    """
    if name is not None:
        return dtype_named(name)
    if device.type == "cpu":
        return torch.float32
    if quantised == "int8":
        return torch.float16
    return stored if stored.itemsize == 2 else torch.bfloat16
