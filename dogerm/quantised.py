"""Linear layers that hold their weights as codes of 8 or 4 bits, with bitsandbytes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Quantised = Literal["int8", "nf4"]

# Activations beyond this size stay out of int8, as in LLM.int8() (arXiv:2208.07339).
OUTLIER_THRESHOLD = 6.0
# Neighbouring weights that share one scale in NF4, as in QLoRA (arXiv:2305.14314).
BLOCK = 64
# Weights quantised to NF4 at a time, in whole blocks: on a CPU each takes some 20 bytes then.
PIECE = 1 << 22


@dataclass(frozen=True)
class Quantisation:
    """A way to hold the weight of a linear layer as codes with scales.

    Args:
        option: that asks for it on the command line.
        weight_bytes: of one weight.
        layer: a layer of another's shape, on a device, that computes in a dtype; with its
            codes and scales, yet to be written, and a bias that is still on no device.
        quantise: codes and scales of a float16 matrix, of the shapes that the layer has.
    """

    option: str
    weight_bytes: float
    layer: Callable[
        [nn.Linear, torch.device, torch.dtype], tuple[nn.Linear, Tensor, Tensor]
    ]
    quantise: Callable[[Tensor], tuple[Tensor, Tensor]]


class LinearNf4(nn.Linear):
    """A linear layer that makes its weight of NF4 codes anew at every call.

    Not bitsandbytes' Linear4bit: on a CPU with AVX512-BF16 that rearranges the codes, which
    merges write into, and computes in bfloat16; on others 0.50.2 takes wrong scales where a
    row is no whole number of blocks; on a GPU its products depend on how many rows are
    multiplied at a time.
    """

    def forward(self, x: Tensor) -> Tensor:
        from bitsandbytes.functional import dequantize_4bit

        shape = self.out_features, self.in_features
        weight = dequantize_4bit(self.weight, self.state).view(shape)
        return F.linear(x, weight, self.bias)


def _int8_layer(
    like: nn.Linear, device: torch.device, dtype: torch.dtype
) -> tuple[nn.Linear, Tensor, Tensor]:
    """A Linear8bitLt: a code for each weight, a scale for each row."""
    _quieten()
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    with torch.device("meta"):
        layer = Linear8bitLt(
            like.in_features,
            like.out_features,
            bias=like.bias is not None,
            has_fp16_weights=False,
            threshold=OUTLIER_THRESHOLD,
        )
    codes = torch.empty(like.weight.shape, dtype=torch.int8, device=device)
    layer.weight = Int8Params(codes, requires_grad=False, has_fp16_weights=False)
    layer.state.CB = layer.weight.data
    layer.state.SCB = torch.empty(like.out_features, device=device)
    return layer, layer.state.CB, layer.state.SCB


def _to_int8(merged: Tensor) -> tuple[Tensor, Tensor]:
    from bitsandbytes.functional import int8_vectorwise_quant

    codes, scales, _ = int8_vectorwise_quant(merged)
    return codes, scales


def _nf4_layer(
    like: nn.Linear, device: torch.device, dtype: torch.dtype
) -> tuple[nn.Linear, Tensor, Tensor]:
    """A LinearNf4: two codes in a byte, a scale for each block of the flattened weight."""
    _quieten()
    from bitsandbytes.functional import QuantState, get_4bit_type

    with torch.device("meta"):
        layer = LinearNf4(
            like.in_features, like.out_features, bias=like.bias is not None
        )
    numel = like.weight.numel()
    codes = torch.empty((numel + 1) // 2, 1, dtype=torch.uint8, device=device)
    layer.weight = nn.Parameter(codes, requires_grad=False)
    layer.state = QuantState(
        absmax=torch.empty(-(-numel // BLOCK), device=device),
        # A block a row, where they are whole: a CPU's threads share out rows.
        shape=(numel,) if numel % BLOCK else (numel // BLOCK, BLOCK),
        code=get_4bit_type("nf4", device=device),
        blocksize=BLOCK,
        quant_type="nf4",
        dtype=dtype,
    )
    return layer, layer.weight.data, layer.state.absmax


def _to_nf4(merged: Tensor) -> tuple[Tensor, Tensor]:
    from bitsandbytes.functional import quantize_4bit

    pieces = [
        quantize_4bit(piece, blocksize=BLOCK, quant_type="nf4")
        for piece in merged.view(-1).split(PIECE)
    ]
    codes = torch.cat([codes for codes, _ in pieces])
    return codes, torch.cat([state.absmax for _, state in pieces])


def _quieten() -> None:
    # On import bitsandbytes misses a package for 4 bits, and at every int8 product it says
    # that bfloat16 inputs are cast, which is how it works.
    for quiet in ("backends.cpu.ops", "autograd._functions"):
        logging.getLogger(f"bitsandbytes.{quiet}").setLevel(logging.ERROR)


QUANTISATIONS: dict[Quantised, Quantisation] = {
    "int8": Quantisation("--load-in-8bit", 1, _int8_layer, _to_int8),
    "nf4": Quantisation("--load-in-4bit", 0.5 + 4 / BLOCK, _nf4_layer, _to_nf4),
}
