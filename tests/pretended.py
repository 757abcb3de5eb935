"""GPUs that are not there: tensors that say they are on one, and are computed on the CPU.

An operation on tensors of two devices fails, as on real ones, so that a model spread over
several shows whether each value is where it is needed. Nothing is said of speed or of
memory, nor of CUDA's own kernels.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Self

import pytest
import torch
from conftest import AtOnce
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

aten = torch.ops.aten
# May read indices and values that are on the CPU, as on a real GPU.
_INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}
_COPYING = {aten.copy_.default}
_MATH = 0  # of torch.nn.attention.SDPBackend: attention in operations seen one by one


class OnGpu(Tensor):
    """What `held`, on the CPU, would be on a GPU.

    To torch it is on `meta`, as a torch built without CUDA guards no tensor said to be on a GPU.
    """

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is Tensor.tolist:
            return args[0].held.tolist()
        if func is Tensor.new_tensor:
            return OnGpu(args[0].held.new_tensor(args[1]), args[0].gpu)
        if func is Tensor.__getitem__:  # torch would make of a list a tensor on `meta`
            args = tree_map_only(list, torch.tensor, args, is_leaf=_is_list)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @staticmethod
    def __new__(cls, held: Tensor, gpu: torch.device) -> Self:
        with torch.inference_mode(False):  # views of parameters count with them
            return torch.Tensor._make_wrapper_subclass(
                cls,
                held.shape,
                strides=held.stride(),
                storage_offset=held.storage_offset(),
                dtype=held.dtype,
                device="meta",
            )

    def __init__(self, held: Tensor, gpu: torch.device):
        self.held, self.gpu = held, gpu

    @property
    def device(self) -> torch.device:
        return self.gpu

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def is_meta(self) -> bool:
        return False

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _is_list(value: object) -> bool:
    return isinstance(value, list)


class _PretendedGpus(TorchDispatchMode):
    """Within it, whatever is made on a GPU is an OnGpu."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func, args, kwargs):
    if func is aten._fused_sdp_choice.default:
        return _MATH
    leaves = tree_flatten((args, kwargs))[0]
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    _check(func, tensors)
    pretended = [tensor for tensor in tensors if isinstance(tensor, OnGpu)]
    named = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
    if pretended and named == torch.device("meta"):  # where torch takes it to be
        named = None
    if func is aten.copy_.default:
        named = args[0].device
    device = named or next((tensor.gpu for tensor in pretended), torch.device("cpu"))
    given = tree_map_only(OnGpu, lambda tensor: tensor.held, (args, kwargs))
    if device.type == "cuda" or pretended:
        given = tree_map_only(torch.device, lambda _: torch.device("cpu"), given)
    own = {id(t.held if isinstance(t, OnGpu) else t): t for t in tensors}
    if func is aten.histc.default:  # of whole numbers on a GPU, not on a CPU
        given = tree_map_only(Tensor, Tensor.float, given)
    result = func(*given[0], **given[1])

    def labelled(tensor: Tensor) -> Tensor:
        same = own.get(id(tensor))
        if same is not None and same.device == device:
            return same  # written in place, or left as it is
        moved = tensor if same is None else tensor.clone()
        return OnGpu(moved, device) if device.type == "cuda" else moved

    return tree_map_only(Tensor, labelled, result)


def _check(func, tensors: list[Tensor]) -> None:
    """RuntimeError where an operation would read from two devices; scalars may be anywhere."""
    devices = {t.device for t in tensors if t.dim()}
    if func in _INDEXING:
        devices.discard(torch.device("cpu"))
    if len(devices) > 1 and func not in _COPYING:
        raise RuntimeError(
            f"{func} expected all tensors to be on the same device, but found "
            f"{', '.join(sorted(map(str, devices)))}."
        )


def _parameter(codes: Tensor, **_) -> nn.Parameter:
    """For bitsandbytes' Int8Params, which is a class of tensors too; what its layer asks of it."""
    parameter = nn.Parameter(codes, requires_grad=False)
    parameter.CB = parameter.SCB = None
    return parameter


@contextmanager
def pretended_gpus(patch: pytest.MonkeyPatch, count: int, free: int = 8 << 30):
    """Has torch find so many GPUs, each with so many free bytes, for this thread."""
    try:
        import bitsandbytes.nn as bnb  # looks for CUDA's own functions where there are GPUs
    except ImportError:
        bnb = None
    if bnb:
        patch.setattr(bnb, "Int8Params", _parameter)
    patch.setattr(torch.cuda, "_lazy_init", lambda: None)
    patch.setattr(torch.cuda, "is_available", lambda: True)
    patch.setattr(torch.cuda, "device_count", lambda: count)
    patch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    patch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    patch.setattr(torch.cuda, "get_device_name", lambda device=None: "a pretended GPU")
    patch.setattr(torch.cuda, "empty_cache", lambda: None)
    patch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    patch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    patch.setattr("dogerm.engine.ThreadPoolExecutor", AtOnce)
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor: made first, moved then
    try:
        with _PretendedGpus():
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(before)
