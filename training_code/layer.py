"""One Llama 4 decoder layer over tokens that lie end to end, its weights frozen, its adapter trained.

The arithmetic is Meta's (llama-models, models/llama4/model.py, ffn.py and moe.py), as transformers computes it in
the dtype of its weights, with one change that changes no figure: a token goes through its own expert only. The residual
stream has the dtype of `x`: f32 where the weights are f16, whose range it would leave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from training_code.architecture import Architecture
from training_code.frozen import FrozenLayer, Groups, grouped_linear, grouped_product, linear
from training_code.fused import fused
from training_code.lora_weights import LayerLora, Noise, drop

F16_HEADROOM = 2.0**-6
"""In f16 a feed-forward network's inner products are kept this much smaller, and its output made up for it in f32:
silu(gate) * up of Llama 4 goes beyond f16's 65,504."""


@dataclass(frozen=True)
class Places:
    """Where each token stands in its document; the same for every layer."""

    cosines: torch.Tensor
    """(tokens, 1, head size / 2) f32: each token's rotation by its place in its document."""
    sines: torch.Tensor
    temperature: torch.Tensor | None
    """(tokens, 1, 1) f32: by what a layer without RoPE multiplies queries."""

    @classmethod
    def of(cls, places: torch.Tensor, architecture: Architecture, frequencies: torch.Tensor) -> Places:
        """`places`: (tokens,) f32, counted from 0. `frequencies`: `architecture.inverse_frequencies()` beside them."""
        angles = (places[:, None] * frequencies)[:, None, :]
        temperature = None
        if architecture.temperature is not None:
            steps = torch.floor((places + 1) / architecture.temperature.floor_scale)
            temperature = (torch.log1p(steps) * architecture.temperature.scale + 1)[:, None, None]
        return cls(angles.cos(), angles.sin(), temperature)


Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]
"""What a layer's tokens see of each other: (query, key, value, number of the layer) -> a tensor like the query.

(tokens, heads, head size) for queries, (tokens, KV heads, head size) for keys and values; all are rotated, normed and
tempered, so that keys and values may be kept for tokens to come.
"""


@dataclass(frozen=True)
class Sorting:
    """Tokens in the order of their experts."""

    tokens: torch.Tensor
    """(tokens,): which token each row is."""
    places: torch.Tensor
    """(tokens,): in which row each token is; the other way round."""
    groups: Groups

    @classmethod
    def by(cls, expert: torch.Tensor, num_experts: int) -> Sorting:
        """`expert`: (tokens,), each token's. Nothing here waits for the device."""
        tokens = expert.argsort(stable=True)
        places = torch.empty_like(tokens)
        places[tokens] = torch.arange(len(tokens), device=tokens.device)
        sizes = torch.zeros(num_experts, dtype=torch.int32, device=expert.device)
        sizes.index_add_(0, expert, torch.ones_like(expert, dtype=torch.int32))
        return cls(tokens, places, Groups(sizes.cumsum(0, dtype=torch.int32)))


@dataclass(frozen=True)
class Parts:
    """A layer's output as the sum of what a backward pass can enter one by one."""

    residual: torch.Tensor
    """(tokens, hidden): the input with attention's output added."""
    shared: torch.Tensor
    """(tokens, hidden): what the shared expert, or the dense network, adds."""
    routed: torch.Tensor | None
    """(tokens, hidden) in the order of the experts."""
    sorting: Sorting | None

    def total(self) -> torch.Tensor:
        """(tokens, hidden): the layer's output."""
        if self.routed is None or self.sorting is None:
            return self.residual + self.shared
        return _sum(self.residual, self.shared, self.routed, self.sorting.places)

    def backward(self, gradient: torch.Tensor) -> None:
        """Run the backward pass for this gradient of the output."""
        tensors, gradients = [self.residual, self.shared], [gradient, gradient]
        if self.routed is not None and self.sorting is not None:
            tensors.append(self.routed)
            gradients.append(gradient[self.sorting.tokens])
        torch.autograd.backward(tensors, gradients)


def run_layer(
    x: torch.Tensor,
    layer: FrozenLayer,
    lora: LayerLora,
    places: Places,
    attend: Attend,
    architecture: Architecture,
    number: int,
    *,
    wanted: bool = True,
) -> Parts:
    """(tokens, hidden) -> the layer's output. Not `wanted`: for a backward pass alone (`frozen.grouped_linear`)."""
    eps = architecture.norm_eps
    weight = layer.plain(_NORM_BEFORE)
    normed, dropped = _norm_and_drop(x, weight, eps, layer.dtype, lora.noise(x, *_QKV))
    attended = _attention(normed, dropped, layer, lora, places, attend, architecture, number)
    has_experts = architecture.has_experts[number]
    place = _SHARED if has_experts else _DENSE
    weight = layer.plain(_NORM_AFTER)
    noise = lora.noise(x, f"{place}.gate_proj", f"{place}.up_proj")
    residual, normed, dropped = _add_norm_and_drop(x, attended, weight, eps, layer.dtype, noise)
    shared = _restored(_mlp(normed, dropped, layer, lora, place, wanted), x.dtype)
    if not has_experts:
        return Parts(residual, shared, None, None)
    routed, sorting = _experts(normed, layer, lora, wanted)
    return Parts(residual, shared, _restored(routed, x.dtype), sorting)


def weights_of(architecture: Architecture, number: int) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """All that `run_layer` asks a FrozenLayer for: plain tensors, and matrices, those of one product together."""
    has_experts = architecture.has_experts[number]
    gate, up, down = _mlp_parts(_SHARED if has_experts else _DENSE)
    modules = (_QKV, (_OUT,), (gate, up), (down,))
    matrices: list[Sequence[str]] = [tuple(f"{name}.weight" for name in names) for names in modules]
    if not has_experts:
        return (_NORM_BEFORE, _NORM_AFTER), matrices
    return (_NORM_BEFORE, _NORM_AFTER, _ROUTER), [*matrices, (_ROUTED_GATE_UP,), (_ROUTED_DOWN,)]


_NORM_BEFORE, _NORM_AFTER = "input_layernorm.weight", "post_attention_layernorm.weight"
_QKV, _OUT = tuple(f"self_attn.{part}_proj" for part in ("q", "k", "v")), "self_attn.o_proj"
_DENSE = "feed_forward"
_SHARED, _ROUTED, _ROUTER = f"{_DENSE}.shared_expert", f"{_DENSE}.experts", f"{_DENSE}.router.weight"
_ROUTED_GATE_UP, _ROUTED_DOWN = f"{_ROUTED}.gate_up_proj", f"{_ROUTED}.down_proj"


def _mlp_parts(place: str) -> tuple[str, str, str]:
    return f"{place}.gate_proj", f"{place}.up_proj", f"{place}.down_proj"


def _attention(
    x: torch.Tensor,
    dropped: torch.Tensor,
    layer: FrozenLayer,
    lora: LayerLora,
    places: Places,
    attend: Attend,
    architecture: Architecture,
    number: int,
) -> torch.Tensor:
    qkv = lora.add(linear(x, layer, *_QKV), dropped, *_QKV)
    shape = architecture.shape
    heads = shape.num_attention_heads, shape.num_key_value_heads, shape.head_size
    if architecture.has_rope[number]:
        eps = architecture.norm_eps if architecture.qk_norm else None
        query, key, value = _rotated(qkv, places.cosines, places.sines, heads, eps)
    else:
        query, key, value = _tempered(qkv, places.temperature, heads)
    out = attend(query, key, value, number).reshape(x.shape[0], -1)
    return lora.add(linear(out, layer, _OUT), lora.dropped(out, _OUT), _OUT)


def _mlp(
    x: torch.Tensor, dropped: torch.Tensor, layer: FrozenLayer, lora: LayerLora, place: str, wanted: bool
) -> torch.Tensor:
    gate, up, down = _mlp_parts(place)
    gate_up = lora.add(linear(x, layer, gate, up), dropped, gate, up)
    inner, dropped = _gate_and_drop(gate_up, lora.noise(gate_up, down, num_inputs=gate_up.shape[1] // 2))
    return lora.add(linear(inner, layer, down, wanted=wanted), dropped, down, wanted=wanted)


def _experts(x: torch.Tensor, layer: FrozenLayer, lora: LayerLora, wanted: bool) -> tuple[torch.Tensor, Sorting]:
    """Rows in the order of their experts."""
    logits = functional.linear(x, layer.plain(_ROUTER))
    best, expert = logits.max(dim=-1)
    sorting = Sorting.by(expert, logits.shape[1])
    score = torch.sigmoid(best.float()).to(x.dtype)
    rows: torch.Tensor = _ScaledRows.apply(x, score, sorting)  # type: ignore[no-untyped-call]
    gate, up, down = _mlp_parts(_ROUTED)
    gate_up = grouped_linear(rows, layer, _ROUTED_GATE_UP, sorting.groups)
    gate_up = _add_grouped(gate_up, lora.dropped(rows, gate, up), lora, sorting.groups, gate, up)
    inner, dropped = _gate_and_drop(gate_up, lora.noise(gate_up, down, num_inputs=gate_up.shape[1] // 2))
    out = grouped_linear(inner, layer, _ROUTED_DOWN, sorting.groups, wanted=wanted)
    return _add_grouped(out, dropped, lora, sorting.groups, down, wanted=wanted), sorting


def _add_grouped(
    y: torch.Tensor, x: torch.Tensor, lora: LayerLora, groups: Groups, *names: str, wanted: bool = True
) -> torch.Tensor:
    """`LayerLora.add` for matrices (experts, …)."""
    found = [lora.matrices[name] for name in names if name in lora.matrices]
    if not found:
        return y
    parts = []
    for matrix in found:
        low = grouped_product(x, matrix.lora_a.to(x.dtype).transpose(1, 2), groups)
        parts.append(grouped_product(low, matrix.lora_b.to(x.dtype).transpose(1, 2), groups))
    added = torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]
    return y.add_(added, alpha=lora.scale) if wanted else y.add(added, alpha=lora.scale)


class _ScaledRows(torch.autograd.Function):
    """Each token times its score, in the order of the experts: both ways a gather, where indexing's own gradient would
    be a scatter that adds."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, score: torch.Tensor, sorting: Sorting) -> torch.Tensor:
        ctx.save_for_backward(x, score)
        ctx.sorting = sorting
        return _scaled_rows(x, score, sorting.tokens)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return *_scaled_rows_backward(gradients[0], *ctx.saved_tensors, ctx.sorting.places), None


@fused
def _scaled_rows(x: torch.Tensor, score: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return x[tokens] * score[tokens].unsqueeze(-1)


@fused
def _scaled_rows_backward(
    gradient: torch.Tensor, x: torch.Tensor, score: torch.Tensor, places: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    by_token = gradient[places]
    return by_token * score.unsqueeze(-1), (by_token.float() * x.float()).sum(-1).to(score.dtype)


@fused
def _sum(residual: torch.Tensor, shared: torch.Tensor, routed: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    return residual + shared + routed[places]


@fused
def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight in `dtype`; the mean in f32."""
    return _rms_norm(x, weight, eps, dtype)


@fused
def _norm_and_drop(
    x: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype, noise: Noise | None
) -> tuple[torch.Tensor, torch.Tensor]:
    normed = _rms_norm(x, weight, eps, dtype)
    return normed, drop(normed, noise)


@fused
def _add_norm_and_drop(
    x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype, noise: Noise | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    total = x + y
    normed = _rms_norm(total, weight, eps, dtype)
    return total, normed, drop(normed, noise)


@fused
def _rotated(
    qkv: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor, heads: tuple[int, int, int], eps: float | None
) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values; in the first two, neighbouring pairs of each head's numbers are turned.

    `eps`: of the norm over a head that comes after, or None where there is none.
    """
    query, key, value = _split(qkv, heads)
    turned = []
    for part in (query, key):
        one, other = part.float().unflatten(-1, (-1, 2)).unbind(-1)
        pairs = torch.stack((one * cosines - other * sines, one * sines + other * cosines), dim=-1)
        part = pairs.flatten(-2).to(qkv.dtype)
        turned.append(part if eps is None else _l2_norm(part, eps))
    return *turned, value.contiguous()


@fused
def _tempered(
    qkv: torch.Tensor, temperature: torch.Tensor | None, heads: tuple[int, int, int]
) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values; the first times the temperature of their places."""
    query, key, value = _split(qkv, heads)
    if temperature is not None:
        query = (query * temperature).to(qkv.dtype)
    return query.contiguous(), key.contiguous(), value.contiguous()


def _split(qkv: torch.Tensor, heads: tuple[int, int, int]) -> tuple[torch.Tensor, ...]:
    """(tokens, heads, head size) of each."""
    num_heads, num_kv_heads, head_size = heads
    whole = qkv.unflatten(-1, (-1, head_size))
    return torch.split(whole, [num_heads, num_kv_heads, num_kv_heads], dim=1)


@fused
def _gate_and_drop(gate_up: torch.Tensor, noise: Noise | None) -> tuple[torch.Tensor, torch.Tensor]:
    inner = _gate(gate_up)
    return inner, drop(inner, noise)


def _gate(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    if gate.dtype != torch.float16:
        return functional.silu(gate) * up
    return (functional.silu(gate.float()) * up.float() * F16_HEADROOM).to(torch.float16)


def _rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype) -> torch.Tensor:
    return _l2_norm(x, eps).to(dtype) * weight


def _l2_norm(x: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def _restored(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What a feed-forward network adds, in the dtype of the residual stream."""
    return x.to(dtype) / F16_HEADROOM if x.dtype == torch.float16 else x
