"""Products with frozen matrices, which have no gradient of their own and may exist only while they are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch.nn import functional

from training_code.packs import Pack


@dataclass
class FrozenLayer:
    """One layer's weights as its forward and backward use them.

    `keep`: a matrix is dequantised once while the layer is in use, and serves a whole group of micro-batches; else
    anew for each product, which takes the memory of one matrix rather than of all.
    """

    pack: Pack
    dtype: torch.dtype
    keep: bool
    _kept: dict[tuple[str, ...], torch.Tensor] = field(default_factory=dict)

    def plain(self, name: str) -> torch.Tensor:
        """A norm's or the router's weights, in the dtype that is computed in."""
        found = self._kept.get((name,))
        return self.pack.tensor(name).to(self.dtype) if found is None else found

    def take(self, plain: Sequence[str], matrices: Sequence[Sequence[str]]) -> bool:
        """Have these in memory of their own, as `plain` and `matrix` will be asked for them: the pack is then not read
        again. False, and nothing is done, where that would be no more than a copy: a matrix is stored as it is used.
        """
        if not (self.keep and all(self.pack.layout.is_quantised(name) for names in matrices for name in names)):
            return False
        for name in plain:
            self._kept[name,] = self.pack.tensor(name).to(self.dtype, copy=True)
        for names in matrices:
            self.matrix(*names)
        return True

    def drop(self) -> None:
        """Forget what is kept, for the next layer to have the room."""
        self._kept.clear()

    def matrix(self, *names: str) -> torch.Tensor:
        """A weight, or several (outputs, inputs) of the same inputs as one, one below the other."""
        found = self._kept.get(names)
        if found is None:
            found = self.pack.matrix(names[0], self.dtype) if len(names) == 1 else self._stacked(names)
            if self.keep:
                self._kept[names] = found
        return found

    def num_outputs(self, *names: str) -> int:
        return sum(self.pack.layout.matrix_shape(name)[0] for name in names)

    def _stacked(self, names: tuple[str, ...]) -> torch.Tensor:
        num_inputs = self.pack.layout.matrix_shape(names[0])[1]
        whole = torch.empty(self.num_outputs(*names), num_inputs, dtype=self.dtype, device=self.pack.data.device)
        done = 0
        for name in names:
            end = done + self.num_outputs(name)
            self.pack.matrix(name, self.dtype, out=whole[done:end])
            done = end
        return whole


@dataclass(frozen=True)
class Groups:
    """Rows that are sorted by expert: rows ends[e-1] to ends[e] are expert e's."""

    ends: torch.Tensor
    """(experts,) int32, on the rows' device."""

    @property
    def sizes(self) -> list[int]:
        """Waits for the device."""
        ends = self.ends.tolist()
        return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def linear(x: torch.Tensor, layer: FrozenLayer, *names: str, wanted: bool = True) -> torch.Tensor:
    """x W^T for the weights (outputs, inputs) of the modules of these names, side by side, as one product.

    Not `wanted`: as `grouped_linear`.
    """
    weights = tuple(f"{name}.weight" for name in names)
    y: torch.Tensor = _Linear.apply(x, layer, weights, wanted)  # type: ignore[no-untyped-call]
    return y


def grouped_linear(
    x: torch.Tensor, layer: FrozenLayer, name: str, groups: Groups, *, wanted: bool = True
) -> torch.Tensor:
    """x[rows of e] W[e] for a stack of matrices (experts, inputs, outputs).

    Not `wanted`: nobody reads the result, only a gradient comes back through it; its numbers are then not computed
    and undefined. In the backward pass that spares a recomputed layer its last products, in Scout 27% of its forward's.
    """
    y: torch.Tensor = _GroupedLinear.apply(x, layer, name, groups, wanted)  # type: ignore[no-untyped-call]
    return y


def grouped_product(x: torch.Tensor, stack: torch.Tensor, groups: Groups) -> torch.Tensor:
    """x[rows of e] stack[e] for (experts, inputs, outputs); differentiable in both."""
    if _has_grouped_mm(x):
        return functional.grouped_mm(x, stack, offs=groups.ends)
    parts = x.split(groups.sizes)
    return torch.cat([part @ stack[expert] for expert, part in enumerate(parts)])


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: FrozenLayer, names: tuple[str, ...], wanted: bool) -> torch.Tensor:
        ctx.layer, ctx.names = layer, names
        if not wanted:
            return _no_numbers(x, layer.num_outputs(*names))
        return functional.linear(x, layer.matrix(*names))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        return gradient @ ctx.layer.matrix(*ctx.names), None, None, None


class _GroupedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: FrozenLayer, name: str, groups: Groups, wanted: bool) -> torch.Tensor:
        ctx.layer, ctx.name, ctx.groups = layer, name, groups
        if not wanted:
            return _no_numbers(x, layer.pack.layout.matrix_shape(name)[-1])
        return grouped_product(x, layer.matrix(name), groups)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        transposed = ctx.layer.matrix(ctx.name).transpose(1, 2)
        return grouped_product(gradient, transposed, ctx.groups), None, None, None, None


def _no_numbers(x: torch.Tensor, num_outputs: int) -> torch.Tensor:
    """(rows of x, outputs), for its shape: one number in memory stands for all of them."""
    return x.new_empty(1, 1).expand(x.shape[0], num_outputs)


def _has_grouped_mm(x: torch.Tensor) -> bool:
    # Before Hopper torch's grouped product is a loop over experts with a wait in each.
    return x.dtype == torch.bfloat16 and x.device.type == "cuda" and _is_hopper(x.device)


@cache
def _is_hopper(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device)[0] >= 9
