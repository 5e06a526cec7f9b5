"""NF4 dequantised in one pass over the codes, for NVIDIA GPUs. `training_code.nf4` says what is computed.

Bound by memory: it reads 0.52 bytes a weight and writes the result, without the tensor of float32 scales that two
passes would leave between them.
"""

from __future__ import annotations

import torch
import triton  # type: ignore[import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, unused-ignore]

_BLOCKS = 32
"""Blocks of 64 weights a program works on: with 128 threads each reads 8 bytes and writes 16 weights."""
_WARPS = 4


def dequantize(
    codes: torch.Tensor,
    absmax: torch.Tensor,
    nested: torch.Tensor,
    values: torch.Tensor,
    scale_values: torch.Tensor,
    out: torch.Tensor,
) -> None:
    """Write the weights to `out`, contiguous float32, bfloat16 or float16. Shapes as in `nf4.Quantised`; on one GPU.

    `values` float32 (16,) and `scale_values` float32 (256,) are what the codes stand for.
    """
    num_blocks = absmax.numel()
    with torch.cuda.device(out.device):
        _dequantize[(triton.cdiv(num_blocks, _BLOCKS),)](
            codes,
            absmax,
            nested,
            values,
            scale_values,
            out,
            num_blocks,
            nested.numel() - 1,
            BLOCKS=_BLOCKS,
            num_warps=_WARPS,
            # A fused multiply-add rounds once where bitsandbytes rounds twice.
            enable_fp_fusion=False,
        )


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _dequantize(  # type: ignore[no-untyped-def]
    codes,
    absmax,
    nested,
    values,
    scale_values,
    out,
    num_blocks,
    mean_at,
    BLOCKS: tl.constexpr,  # noqa: N803
):
    blocks = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    inside = blocks < num_blocks
    scale_codes = tl.load(absmax + blocks, mask=inside, other=0).to(tl.int32)
    nested_scales = tl.load(nested + blocks // 256, mask=inside, other=0.0)
    scales = tl.load(scale_values + scale_codes) * nested_scales + tl.load(nested + mean_at)

    at = blocks[:, None] * 32 + tl.arange(0, 32)[None, :]
    pairs = tl.load(codes + at, mask=inside[:, None], other=0).to(tl.int32)
    first = tl.load(values + (pairs >> 4)) * scales[:, None]
    second = tl.load(values + (pairs & 15)) * scales[:, None]
    weights = tl.interleave(first, second)

    to = blocks[:, None] * 64 + tl.arange(0, 64)[None, :]
    tl.store(out + to, weights.to(out.dtype.element_ty), mask=inside[:, None])
