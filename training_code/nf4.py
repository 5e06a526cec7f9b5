"""NF4 with double quantisation (Dettmers et al. 2023, arXiv:2305.14314), as bitsandbytes stores it.

A block of 64 weights is 64 four-bit codes and one scale, the largest magnitude in it (absmax). Scales are quantised
in turn: less their mean they are coded in 8 bits, with one float32 for 256 of them. 4.127 bits a weight in all.

Codes, scales and dequantised weights have the bits of bitsandbytes 0.50. It quantises the scales to 8 bits differently
on each backend (CUDA's is compiled with approximate division, its C++ rounds through a table of 65,536 entries); here
that is done as in its plain torch backend, in IEEE float32, so that every machine stores the same.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch

from training_code.device import has_triton

BLOCK = 64
"""Weights with one scale."""
NESTED_BLOCK = 256
"""Scales with one float32."""

_SLICE = 256 * BLOCK * NESTED_BLOCK
"""Weights worked on at once by the plain path: about 60 MiB of temporary tensors."""
_LEAST_ABSMAX = 1e-38
"""A block of zeros is divided by this, not by zero."""
_VALUES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""What the 16 codes stand for: quantiles of the normal distribution, with an exact zero (the paper's appendix E)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantised:
    """A flattened weight of `num` values."""

    codes: torch.Tensor
    """uint8 (num / 2,): two codes a byte, the first in the high half."""
    absmax: torch.Tensor
    """uint8 (num / 64,)"""
    nested: torch.Tensor
    """float32 (nested blocks + 1,): the scales of the scales, and last the mean that was taken off the scales."""


def nested_size(num_weights: int) -> int:
    """The length of `nested` for that many weights."""
    return -(-num_weights // (BLOCK * NESTED_BLOCK)) + 1


def quantize(weight: torch.Tensor) -> Quantised:
    """On the weight's own device, in slices of bounded memory.

    Raises ValueError where the number of weights is not a positive multiple of 64, or one of them is not finite.
    """
    num = weight.numel()
    if not num or num % BLOCK:
        raise ValueError(f"{num} weights are not a whole number of blocks of {BLOCK}")
    flat = weight.reshape(-1)
    codes = torch.empty(num // 2, dtype=torch.uint8, device=weight.device)
    scales = torch.empty(num // BLOCK, dtype=torch.float32, device=weight.device)
    bounds = _tables(weight.device).bounds
    for start in range(0, num, _SLICE):
        values = flat[start : start + _SLICE].float().view(-1, BLOCK)
        absmax = values.abs().amax(dim=1)
        nearest = _nearest(_divided(values, absmax), bounds)
        torch.add(nearest[::2] << 4, nearest[1::2], out=codes[start // 2 : (start + values.numel()) // 2])
        scales[start // BLOCK : (start + values.numel()) // BLOCK] = absmax
    mean = scales.mean()
    if not mean.isfinite():
        raise ValueError("a weight is not a finite number")
    absmax_codes, nested = _quantize_scales(scales - mean)
    return Quantised(codes=codes, absmax=absmax_codes, nested=torch.cat([nested, mean.view(1)]))


def dequantize(
    quantised: Quantised, shape: Sequence[int], dtype: torch.dtype, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """The weight in `shape` and `dtype`, written to `out` where that is given (contiguous, of that shape and dtype).

    One fused kernel on NVIDIA GPUs from compute capability 8.0; elsewhere plain torch in slices of bounded memory.
    """
    if 2 * quantised.codes.numel() != prod(shape):
        raise ValueError(f"{2 * quantised.codes.numel()} weights have no shape {tuple(shape)}")
    if out is None:
        out = torch.empty(tuple(shape), dtype=dtype, device=quantised.codes.device)
    elif out.shape != tuple(shape) or out.dtype != dtype or not out.is_contiguous():
        raise ValueError(f"out must be contiguous, {tuple(shape)} and {dtype}, not {tuple(out.shape)} and {out.dtype}")
    if has_triton(quantised.codes.device):
        from training_code import nf4_triton

        tables = _tables(quantised.codes.device)
        nf4_triton.dequantize(
            quantised.codes, quantised.absmax, quantised.nested, tables.values, tables.scale_values, out
        )
    else:
        _dequantize(quantised, out.view(-1))
    return out


def _dequantize(quantised: Quantised, out: torch.Tensor) -> None:
    """In plain torch, into a flat `out`."""
    tables = _tables(quantised.codes.device)
    for start in range(0, out.numel(), _SLICE):
        end = min(start + _SLICE, out.numel())
        scales = _scales(quantised, start // BLOCK, end // BLOCK)
        pairs = tables.pairs.index_select(0, quantised.codes[start // 2 : end // 2].int())
        out[start:end].view(-1, BLOCK).copy_(pairs.view(-1, BLOCK).mul_(scales[:, None]))


def _scales(quantised: Quantised, start: int, end: int) -> torch.Tensor:
    """Of the blocks from `start`, a multiple of 256, to `end`; float32."""
    tables = _tables(quantised.absmax.device)
    values = tables.scale_values.index_select(0, quantised.absmax[start:end].int())
    nested = quantised.nested[start // NESTED_BLOCK : -(-end // NESTED_BLOCK)]
    return values * nested.repeat_interleave(NESTED_BLOCK)[: end - start] + quantised.nested[-1]


def _quantize_scales(scales: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """8-bit codes of the scales less their mean, and the largest magnitude of each 256 of them."""
    padding = -scales.numel() % NESTED_BLOCK
    values = torch.nn.functional.pad(scales, (0, padding)).view(-1, NESTED_BLOCK)
    absmax = values.abs().amax(dim=1)
    codes = _nearest(_divided(values, absmax), _tables(scales.device).scale_bounds)
    return codes[: scales.numel()], absmax


def _divided(values: torch.Tensor, absmax: torch.Tensor) -> torch.Tensor:
    return (values * (1.0 / absmax.clamp(min=_LEAST_ABSMAX))[:, None]).clamp_(-1, 1)


def _nearest(values: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
    """uint8 codes, flat. A value exactly between two takes the lower."""
    return torch.bucketize(values, bounds, out_int32=True).view(-1).to(torch.uint8)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Tables:
    values: torch.Tensor
    """float32 (16,)"""
    bounds: torch.Tensor
    """float32 (15,): half way between them"""
    pairs: torch.Tensor
    """float32 (256, 2): both values of a byte"""
    scale_values: torch.Tensor
    """float32 (256,)"""
    scale_bounds: torch.Tensor
    """float32 (255,)"""


@functools.cache
def _tables(device: torch.device) -> _Tables:
    # Made on the host, whatever torch's default device is, so that every device has the same bits.
    with torch.device("cpu"):
        values, scale_values = torch.tensor(_VALUES), _scale_values()
        pairs = torch.stack([values.repeat_interleave(16), values.repeat(16)], dim=1)
        bounds, scale_bounds = ((table[:-1] + table[1:]) / 2 for table in (values, scale_values))
    return _Tables(
        values=values.to(device),
        bounds=bounds.to(device),
        pairs=pairs.to(device),
        scale_values=scale_values.to(device),
        scale_bounds=scale_bounds.to(device),
    )


def _scale_values() -> torch.Tensor:
    """What the 256 codes of a scale stand for (Dettmers et al. 2022, arXiv:2110.02861), ascending; float32.

    The decade up to 10^(e-6), for e from 0 to 6, has 2^e values of either sign, evenly spaced; and there are 0 and 1.
    The spacing is computed in float64 and rounded once. That gives the bits that bitsandbytes has on a CPU with fused
    multiply-add; its own table depends on the machine's instruction set.
    """
    values = [torch.tensor([0.0, 1.0])]
    for exponent in range(7):
        num = 2**exponent
        step = ((torch.tensor(1.0) - torch.tensor(0.1)) / num).double()
        i = torch.arange(num + 1, dtype=torch.float64)
        low, high = torch.tensor(0.1).double() + step * i, 1.0 - step * (num - i)
        edges = torch.where(i < (num + 1) // 2, low, high).float()
        decade = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (exponent - 6)
        values += [decade, -decade]
    return torch.cat(values).sort().values
