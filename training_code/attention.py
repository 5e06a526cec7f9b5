"""Causal attention within documents that lie end to end in one row of tokens."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.nn import functional


@dataclass(frozen=True)
class Segments:
    """Stretches of tokens that attend to themselves alone, in order, without gaps.

    Lengths are known on the host, so that no kernel waits for them.
    """

    lengths: tuple[int, ...]
    starts: torch.Tensor
    """(segments + 1,) int32 on the tokens' device: where each begins, and the end of the last."""

    @classmethod
    def of(cls, lengths: tuple[int, ...], device: torch.device) -> Segments:
        starts = torch.tensor([0, *lengths]).cumsum(0)
        return cls(lengths, starts.to(device=device, dtype=torch.int32, non_blocking=True))

    @property
    def longest(self) -> int:
        return max(self.lengths)


def chunks(lengths: tuple[int, ...], size: int | None) -> tuple[int, ...]:
    """Lengths of documents cut at multiples of `size`, counted from each document's start."""
    if size is None or max(lengths) <= size:
        return lengths
    cut: list[int] = []
    for length in lengths:
        full, rest = divmod(length, size)
        cut += [size] * full + ([rest] if rest else [])
    return tuple(cut)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments) -> torch.Tensor:
    """(tokens, heads, head size) for queries, (tokens, KV heads, head size) for keys and values -> as the queries.

    Scores are scaled by 1 / sqrt(head size).
    """
    if query.device.type == "cuda" and query.dtype != torch.float32 and _has_flash_attention(query.device):
        from torch.nn.attention.varlen import varlen_attn

        starts, longest = segments.starts, segments.longest
        out = varlen_attn(
            query, key, value, starts, starts, longest, longest, window_size=(-1, 0), **_grouped_heads(varlen_attn)
        )
        assert isinstance(out, torch.Tensor)  # it gives more only where that is asked for
        return out
    parts, start = [], 0
    for length in segments.lengths:
        q, k, v = (x[start : start + length].transpose(0, 1).unsqueeze(0) for x in (query, key, value))
        part = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        parts.append(part.squeeze(0).transpose(0, 1))
        start += length
    return torch.cat(parts)


@cache
def _grouped_heads(varlen_attn: Callable[..., object]) -> dict[str, Any]:
    """torch 2.11 takes fewer KV heads than heads as a matter of course; later it wants to be told."""
    return {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


@cache
def _has_flash_attention(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device)[0] >= 8
