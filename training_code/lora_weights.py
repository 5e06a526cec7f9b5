"""LoRA (Hu et al. 2021, arXiv:2106.09685): every trained number of a run, in one flat tensor.

One tensor is one optimizer kernel, one norm and, for a layer's slice, one all-reduce. Matrices are views of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from training_code.architecture import Architecture
from training_code.fused import fused
from training_code.weight_names import layer_shapes

ATTENTION = ("q", "k", "v", "o")
FEED_FORWARD = ("gate", "up", "down")


@dataclass(frozen=True)
class Matrix:
    """One adapted weight: y += dropout(x) A^T B^T * alpha / rank."""

    name: str
    """As in the checkpoint, without `.weight`: `model.layers.3.self_attn.q_proj`."""
    lora_a: torch.Tensor
    """(rank, inputs), or (experts, rank, inputs)."""
    lora_b: torch.Tensor
    """(outputs, rank), or (experts, outputs, rank)."""


@dataclass(frozen=True, kw_only=True)
class _Spec:
    name: str
    num_inputs: int
    num_outputs: int
    num_experts: int | None

    def shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        stack = () if self.num_experts is None else (self.num_experts,)
        return (*stack, rank, self.num_inputs), (*stack, self.num_outputs, rank)


class LoraWeights:
    """All of an adapter, f32 whatever the base computes in: AdamW's updates are far below bf16's resolution.

    B starts at zero, so that training starts from the base model; A as PEFT starts it (Kaiming, a = sqrt(5)).
    """

    def __init__(
        self,
        architecture: Architecture,
        targets: Sequence[str],
        *,
        rank: int,
        alpha: float,
        dropout: float,
        seed: int,
        device: torch.device,
    ) -> None:
        self.scale, self.dropout = alpha / rank, dropout
        layers = [
            [(spec, spec.shapes(rank)) for spec in _specs(architecture, layer, targets)]
            for layer in range(architecture.shape.num_layers)
        ]
        sizes = [sum(math.prod(a) + math.prod(b) for _, (a, b) in layer) for layer in layers]
        self.flat = nn.Parameter(torch.zeros(sum(sizes), dtype=torch.float32, device=device))
        self.flat.grad = torch.zeros_like(self.flat)
        self._bounds: list[tuple[int, int]] = []
        self._layers: list[dict[str, Matrix]] = []
        generator, end = torch.Generator().manual_seed(seed), 0
        for layer, size in zip(layers, sizes, strict=True):
            self._bounds.append((end, end + size))
            self._layers.append({})
            for spec, (shape_a, shape_b) in layer:
                matrix = Matrix(spec.name, self._view(end, shape_a), self._view(end + math.prod(shape_a), shape_b))
                end += matrix.lora_a.numel() + matrix.lora_b.numel()
                self._layers[-1][spec.name.split(".", 3)[3]] = matrix
                for a in matrix.lora_a.detach().unbind() if spec.num_experts else (matrix.lora_a.detach(),):
                    start = torch.empty(a.shape)
                    nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
                    a.copy_(start)

    def _view(self, start: int, shape: tuple[int, ...]) -> torch.Tensor:
        """A leaf whose value and gradient are stretches of the flat ones: autograd adds to a gradient in place."""
        stretch = slice(start, start + math.prod(shape))
        assert self.flat.grad is not None
        view = self.flat.detach()[stretch].view(shape).requires_grad_()
        view.grad = self.flat.grad[stretch].view(shape)
        return view

    @property
    def num_parameters(self) -> int:
        return self.flat.numel()

    @property
    def gradient(self) -> torch.Tensor:
        assert self.flat.grad is not None
        return self.flat.grad

    def layer(self, number: int) -> Mapping[str, Matrix]:
        """Adapted matrices of a layer by their names within it: `self_attn.q_proj`."""
        return self._layers[number]

    def layer_gradient(self, number: int) -> torch.Tensor:
        return self.gradient[slice(*self._bounds[number])]

    def matrices(self) -> Iterator[Matrix]:
        for layer in self._layers:
            yield from layer.values()

    def named(self, like: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Views of the flat tensor, or of one `like` it (an optimizer's moment), by the names in a checkpoint."""
        flat = self.flat.detach() if like is None else like
        views, end = {}, 0
        for matrix in self.matrices():
            for part, tensor in (("lora_A", matrix.lora_a), ("lora_B", matrix.lora_b)):
                views[f"{matrix.name}.{part}"] = flat[end : end + tensor.numel()].view(tensor.shape)
                end += tensor.numel()
        return views


class Noise(NamedTuple):
    """What dropout (Srivastava et al. 2014) decides by."""

    values: torch.Tensor
    """(tokens, inputs), int16, each value as likely."""
    threshold: int
    """What lies below is dropped."""

    @classmethod
    def draw(cls, shape: tuple[int, int], p: float, device: torch.device) -> Noise:
        """From torch's own generator, four numbers a draw: on a GPU a fifth of what drawing them one by one takes."""
        num = math.prod(shape)
        values = torch.empty(-(-num // 4), dtype=torch.int64, device=device).random_(-(2**63), None)
        return cls(values.view(torch.int16)[:num].view(shape), round(p * _NOISE_VALUES) - _NOISE_VALUES // 2)


_NOISE_VALUES = 2**16


def drop(x: torch.Tensor, noise: Noise | None) -> torch.Tensor:
    """x with some numbers dropped and the others as much larger that its mean stays; x itself without noise."""
    if noise is None:
        return x
    kept_share = (_NOISE_VALUES // 2 - noise.threshold) / _NOISE_VALUES
    return torch.where(noise.values >= noise.threshold, x * (1 / kept_share), 0)


_drop = fused(drop)


@dataclass(frozen=True)
class LayerLora:
    """A layer's adapter as its forward uses it."""

    matrices: Mapping[str, Matrix]
    scale: float
    dropout: float
    """0 where nothing is trained."""

    def noise(self, x: torch.Tensor, *names: str, num_inputs: int | None = None) -> Noise | None:
        """By what inputs of these matrices, as many as x has or `num_inputs`, are dropped; None where all are kept.

        Those that read the same numbers share it: one pass over them, not three.
        """
        if not self.dropout or not any(name in self.matrices for name in names):
            return None
        return Noise.draw((x.shape[0], num_inputs or x.shape[1]), self.dropout, x.device)

    def dropped(self, x: torch.Tensor, *names: str) -> torch.Tensor:
        """x as these matrices take it."""
        noise = self.noise(x, *names)
        return x if noise is None else _drop(x, noise)

    def add(self, y: torch.Tensor, x: torch.Tensor, *names: str, wanted: bool = True) -> torch.Tensor:
        """y + x A^T B^T * scale, for matrices of the same inputs whose outputs lie side by side in y.

        x is as `dropped` gives it. All of them are adapted or none. y is changed in place, but where nobody reads the
        numbers (not `wanted`, as `frozen.linear`).
        """
        found = [self.matrices[name] for name in names if name in self.matrices]
        if not found:
            return y
        parts = [part for matrix in found for part in (matrix.lora_a, matrix.lora_b)]
        added: torch.Tensor = _Added.apply(y, x, self.scale, wanted, *parts)  # type: ignore[no-untyped-call]
        return added


class _Added(torch.autograd.Function):
    """`LayerLora.add`, with a gradient of its own: what autograd would make of it starts three times as many kernels,
    and a small micro-batch waits for the processor that starts them."""

    @staticmethod
    def forward(
        ctx: Any, y: torch.Tensor, x: torch.Tensor, scale: float, wanted: bool, *parts: torch.Tensor
    ) -> torch.Tensor:
        a = torch.cat(parts[::2]).to(x.dtype)
        bs = [b.to(x.dtype) for b in parts[1::2]]
        low = functional.linear(x, a)
        ctx.scale = scale
        ctx.save_for_backward(x, low, a, *bs)
        if wanted:
            for columns, of_one, b in zip(_columns(y, bs), _ranks(low, bs), bs, strict=True):
                columns.addmm_(of_one, b.t(), alpha=scale)
            ctx.mark_dirty(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        x, low, a, *bs = ctx.saved_tensors
        by_low = torch.empty_like(low)
        by_bs = []
        for columns, of_one, by_one, b in zip(
            _columns(gradient, bs), _ranks(low, bs), _ranks(by_low, bs), bs, strict=True
        ):
            by_one.addmm_(columns, b, beta=0, alpha=ctx.scale)
            by_bs.append(torch.addmm(b, columns.t(), of_one, beta=0, alpha=ctx.scale).float())
        by_a = (by_low.t() @ x).float().split([b.shape[1] for b in bs])
        parts = [part for pair in zip(by_a, by_bs, strict=True) for part in pair]
        return gradient, by_low @ a if ctx.needs_input_grad[1] else None, None, None, *parts


def _columns(y: torch.Tensor, bs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """(tokens, all outputs) -> of each matrix."""
    return torch.split(y, [b.shape[0] for b in bs], dim=1)


def _ranks(low: torch.Tensor, bs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """(tokens, all ranks) -> of each matrix."""
    return torch.split(low, [b.shape[1] for b in bs], dim=1)


NO_LORA = LayerLora({}, 0.0, 0.0)


def _specs(architecture: Architecture, layer: int, targets: Sequence[str]) -> Iterator[_Spec]:
    shapes, prefix = layer_shapes(architecture, layer), f"model.layers.{layer}."
    for target, place, parts in (
        ("attention", "self_attn", ATTENTION),
        ("shared_expert", "feed_forward.shared_expert", FEED_FORWARD),
    ):
        for module in (f"{place}.{part}_proj" for part in parts):
            if target in targets and f"{module}.weight" in shapes:
                num_outputs, num_inputs = shapes[f"{module}.weight"]
                yield _Spec(name=prefix + module, num_inputs=num_inputs, num_outputs=num_outputs, num_experts=None)
    if "routed_experts" in targets and architecture.has_experts[layer]:
        place = "feed_forward.experts"
        num_experts, size, hidden = shapes[f"{place}.down_proj"]
        for part in FEED_FORWARD:
            num_inputs, num_outputs = (size, hidden) if part == "down" else (hidden, size)
            yield _Spec(
                name=f"{prefix}{place}.{part}_proj",
                num_inputs=num_inputs,
                num_outputs=num_outputs,
                num_experts=num_experts,
            )
