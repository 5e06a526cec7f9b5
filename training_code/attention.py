"""Causal attention: within documents that lie end to end in one row of tokens, and of one token to those before it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.nn import functional

from training_code.architecture import Architecture


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


def places_of(lengths: Sequence[int]) -> torch.Tensor:
    """(tokens,) int64 on the host: each token's place in its document, from 0."""
    return torch.cat([torch.arange(length) for length in lengths])


@dataclass(frozen=True)
class Documents:
    """Whole documents end to end, as training and reading a prompt attend over them."""

    whole: Segments
    chunks: Segments
    """Over what a RoPE layer attends."""
    has_rope: tuple[bool, ...]

    @classmethod
    def of(cls, lengths: tuple[int, ...], architecture: Architecture, device: torch.device) -> Documents:
        whole, cut = Segments.of(lengths, device), chunks(lengths, architecture.chunk_size)
        return cls(whole, whole if cut == lengths else Segments.of(cut, device), architecture.has_rope)

    def places(self) -> torch.Tensor:
        """(tokens,) f32: each token's place in its document, from 0."""
        return places_of(self.whole.lengths).to(self.whole.starts.device, torch.float32, non_blocking=True)

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, number: int) -> torch.Tensor:
        """As `layer.Attend`."""
        return attend(query, key, value, self.chunks if self.has_rope[number] else self.whole)


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


def attend_to_kept(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, visible: torch.Tensor
) -> torch.Tensor:
    """(rows, heads, head size) of one token a row, (rows, KV heads, kept, head size) twice -> as the query.

    `visible`: (rows, kept) bool, which of its row's kept keys a token sees. What it does not see must be finite.
    Scores are scaled as `attend` does.
    """
    # The heads that share keys stand where tokens would: no kernel has then to know of grouped heads, or repeat keys.
    grouped = query.unflatten(1, (keys.shape[1], -1))
    out = functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=visible[:, None, None])
    return out.flatten(1, 2)


@cache
def _grouped_heads(varlen_attn: Callable[..., object]) -> dict[str, Any]:
    """torch 2.11 takes fewer KV heads than heads as a matter of course; later it wants to be told."""
    return {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


@cache
def _has_flash_attention(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device)[0] >= 8
