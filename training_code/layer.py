"""One Llama 4 decoder layer over tokens that lie end to end, its weights frozen, its adapter trained.

The arithmetic is Meta's (llama-models, models/llama4/model.py, ffn.py and moe.py), as transformers computes it in
the dtype of its weights, with one change that changes no figure: a token goes through its own expert only. The residual
stream has the dtype of `x`: f32 where the weights are f16, whose range it would leave.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from training_code.architecture import Architecture
from training_code.attention import Segments, attend, chunks
from training_code.frozen import FrozenLayer, Groups, grouped_linear, grouped_product, linear
from training_code.lora_weights import LayerLora

F16_HEADROOM = 2.0**-6
"""In f16 a feed-forward network's inner products are kept this much smaller, and its output made up for it in f32:
silu(gate) * up of Llama 4 goes beyond f16's 65,504."""


@dataclass(frozen=True)
class Places:
    """Where each token of a micro-batch stands; the same for every layer."""

    documents: Segments
    chunks: Segments
    """Of documents: over what a RoPE layer attends."""
    cosines: torch.Tensor
    """(tokens, 1, head size / 2) f32: each token's rotation by its place in its document."""
    sines: torch.Tensor
    temperature: torch.Tensor | None
    """(tokens, 1, 1) f32: by what a layer without RoPE multiplies queries."""

    @classmethod
    def of(
        cls, lengths: tuple[int, ...], architecture: Architecture, device: torch.device, frequencies: torch.Tensor
    ) -> Places:
        """`frequencies`: `architecture.inverse_frequencies()` on the device."""
        places = torch.cat([torch.arange(length) for length in lengths]).to(device, torch.float32, non_blocking=True)
        angles = (places[:, None] * frequencies)[:, None, :]
        documents = Segments.of(lengths, device)
        cut = chunks(lengths, architecture.chunk_size)
        temperature = None
        if architecture.temperature is not None:
            steps = torch.floor((places + 1) / architecture.temperature.floor_scale)
            temperature = (torch.log1p(steps) * architecture.temperature.scale + 1)[:, None, None]
        return cls(
            documents,
            documents if cut == lengths else Segments.of(cut, device),
            angles.cos(),
            angles.sin(),
            temperature,
        )


@dataclass(frozen=True)
class Parts:
    """A layer's output as the sum of what a backward pass can enter one by one."""

    residual: torch.Tensor
    """(tokens, hidden): the input with attention's output added."""
    shared: torch.Tensor
    """(tokens, hidden): what the shared expert, or the dense network, adds."""
    routed: torch.Tensor | None
    """(tokens, hidden) in the order of the experts."""
    order: torch.Tensor | None
    """(tokens,): which token each row of `routed` belongs to."""

    def total(self) -> torch.Tensor:
        """(tokens, hidden): the layer's output."""
        out = self.residual + self.shared
        if self.routed is None or self.order is None:
            return out
        return out.index_add_(0, self.order, self.routed)

    def backward(self, gradient: torch.Tensor) -> None:
        """Run the backward pass for this gradient of the output."""
        tensors, gradients = [self.residual, self.shared], [gradient, gradient]
        if self.routed is not None and self.order is not None:
            tensors.append(self.routed)
            gradients.append(gradient[self.order])
        torch.autograd.backward(tensors, gradients)


def run_layer(
    x: torch.Tensor,
    layer: FrozenLayer,
    lora: LayerLora,
    places: Places,
    architecture: Architecture,
    number: int,
    *,
    wanted: bool = True,
) -> Parts:
    """(tokens, hidden) -> the layer's output. Not `wanted`: for a backward pass alone (`frozen.grouped_linear`)."""
    eps = architecture.norm_eps
    normed = rms_norm(x, layer.plain("input_layernorm.weight"), eps, layer.dtype)
    residual = x + _attention(normed, layer, lora, places, architecture, architecture.has_rope[number])
    normed = rms_norm(residual, layer.plain("post_attention_layernorm.weight"), eps, layer.dtype)
    if not architecture.has_experts[number]:
        return Parts(residual, _restored(_mlp(normed, layer, lora, "feed_forward", wanted), x.dtype), None, None)
    shared = _restored(_mlp(normed, layer, lora, "feed_forward.shared_expert", wanted), x.dtype)
    routed, order = _experts(normed, layer, lora, wanted)
    return Parts(residual, shared, _restored(routed, x.dtype), order)


def _attention(
    x: torch.Tensor,
    layer: FrozenLayer,
    lora: LayerLora,
    places: Places,
    architecture: Architecture,
    has_rope: bool,
) -> torch.Tensor:
    names = [f"self_attn.{part}_proj" for part in ("q", "k", "v")]
    dropped = lora.dropped(x, *names)
    query, key, value = (
        lora.add(linear(x, layer, name), dropped, name).view(x.shape[0], -1, architecture.shape.head_size)
        for name in names
    )
    if has_rope:
        query = _rotate(query, places.cosines, places.sines)
        key = _rotate(key, places.cosines, places.sines)
        if architecture.qk_norm:
            query, key = _l2_norm(query, architecture.norm_eps), _l2_norm(key, architecture.norm_eps)
    elif places.temperature is not None:
        query = (query * places.temperature).to(query.dtype)
    out = attend(query, key, value, places.chunks if has_rope else places.documents).reshape(x.shape[0], -1)
    name = "self_attn.o_proj"
    return lora.add(linear(out, layer, name), lora.dropped(out, name), name)


def _mlp(x: torch.Tensor, layer: FrozenLayer, lora: LayerLora, place: str, wanted: bool) -> torch.Tensor:
    gate, up, down = (f"{place}.{part}_proj" for part in ("gate", "up", "down"))
    dropped = lora.dropped(x, gate, up)
    inner = _gated(lora.add(linear(x, layer, gate), dropped, gate), lora.add(linear(x, layer, up), dropped, up))
    return lora.add(linear(inner, layer, down, wanted=wanted), lora.dropped(inner, down), down)


def _experts(x: torch.Tensor, layer: FrozenLayer, lora: LayerLora, wanted: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in the order of their experts, and which token each is."""
    logits = functional.linear(x, layer.plain("feed_forward.router.weight"))
    best, expert = logits.max(dim=-1)
    scaled = x * torch.sigmoid(best.float()).to(x.dtype).unsqueeze(-1)
    order = expert.argsort(stable=True)
    sizes = torch.zeros(logits.shape[1], dtype=torch.int32, device=x.device)
    sizes.index_add_(0, expert, torch.ones_like(expert, dtype=torch.int32))
    groups = Groups(sizes.cumsum(0, dtype=torch.int32))
    rows: torch.Tensor = _Permute.apply(scaled, order)  # type: ignore[no-untyped-call]
    place = "feed_forward.experts"
    gate, up = grouped_linear(rows, layer, f"{place}.gate_up_proj", groups).chunk(2, dim=-1)
    dropped = lora.dropped(rows, f"{place}.gate_proj", f"{place}.up_proj")
    inner = _gated(
        _add_grouped(gate, dropped, lora, f"{place}.gate_proj", groups),
        _add_grouped(up, dropped, lora, f"{place}.up_proj", groups),
    )
    out = grouped_linear(inner, layer, f"{place}.down_proj", groups, wanted=wanted)
    name = f"{place}.down_proj"
    return _add_grouped(out, lora.dropped(inner, name), lora, name, groups), order


def _add_grouped(y: torch.Tensor, x: torch.Tensor, lora: LayerLora, name: str, groups: Groups) -> torch.Tensor:
    matrix = lora.matrices.get(name)
    if matrix is None:
        return y
    low = grouped_product(x, matrix.lora_a.to(x.dtype).transpose(1, 2), groups)
    return y + grouped_product(low, matrix.lora_b.to(x.dtype).transpose(1, 2), groups) * lora.scale


class _Permute(torch.autograd.Function):
    """x[order] of a permutation. Its gradient is a gather too, where indexing's own would be a scatter that adds."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(order)
        return x[order]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (order,) = ctx.saved_tensors  # type: ignore[attr-defined]
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(len(order), device=order.device)
        return gradients[0][inverse], None


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight in `dtype`; the mean in f32."""
    return _l2_norm(x, eps).to(dtype) * weight


def _l2_norm(x: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def _rotate(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Turn neighbouring pairs of each head's numbers: (tokens, heads, head size)."""
    one, other = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((one * cosines - other * sines, one * sines + other * cosines), dim=-1)
    return turned.flatten(-2).to(x.dtype)


def _gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    if gate.dtype != torch.float16:
        return functional.silu(gate) * up
    return (functional.silu(gate.float()) * up.float() * F16_HEADROOM).to(torch.float16)


def _restored(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What a feed-forward network adds, in the dtype of the residual stream."""
    return x.to(dtype) / F16_HEADROOM if x.dtype == torch.float16 else x
