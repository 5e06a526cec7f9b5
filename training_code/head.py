"""The loss: cross-entropy over the vocabulary of the tokens that the assistant says, and of no others."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from training_code.fused import fused
from training_code.layer import rms_norm

LOGITS_BYTES = 2**29
"""Of f32 logits that exist at a time: Scout's 202,048 classes of a whole micro-batch of 8,192 would be 6.2 GiB."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """Final norm and output matrix, both frozen."""

    norm: torch.Tensor
    """(hidden,)"""
    weight: torch.Tensor
    """(vocabulary, hidden)"""
    norm_eps: float

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """(tokens, hidden) -> (tokens, vocabulary), in the dtype of the matrix."""
        return self._normed(x) @ self.weight.t()

    def losses(self, x: torch.Tensor, positions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Natural-log cross-entropy at each of `positions` of x (tokens, hidden), f32; `targets` are their classes."""
        with torch.no_grad():
            normed = self._normed(x[positions])
            found = [_losses(rows @ self.weight.t(), classes) for rows, classes in self._chunks(normed, targets)]
        return torch.cat(found) if found else torch.zeros(0, device=x.device)

    def loss_and_gradient(
        self, x: torch.Tensor, positions: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of `losses`, and its gradient by x.

        The gradient by the logits is softmax minus the target's one-hot; it goes through the matrix chunk by chunk,
        so that neither logits nor their gradient ever exist for all tokens.
        """
        rows_of_x = x.detach()[positions].requires_grad_()
        with torch.enable_grad():
            normed = self._normed(rows_of_x)
        gradient = torch.empty_like(normed)
        total, done = torch.zeros((), device=x.device), 0
        with torch.no_grad():
            for rows, classes in self._chunks(normed.detach(), targets):
                loss, by_logits = _loss_and_gradient(rows @ self.weight.t(), classes)
                total += loss
                torch.mm(by_logits, self.weight, out=gradient[done : done + len(rows)])
                done += len(rows)
        normed.backward(gradient)
        assert rows_of_x.grad is not None
        return total, torch.zeros_like(x).index_copy_(0, positions, rows_of_x.grad)

    def _normed(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.norm, self.norm_eps, self.weight.dtype)

    def _chunks(self, normed: torch.Tensor, targets: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        size = max(1, LOGITS_BYTES // (4 * self.weight.shape[0]))
        return list(zip(normed.split(size), targets.split(size), strict=True)) if len(targets) else []


@fused
def _losses(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Of each row of `logits` (tokens, vocabulary), in f32."""
    log_sum = logits.float().logsumexp(-1)
    return log_sum - logits.gather(1, classes[:, None])[:, 0].float()


@fused
def _loss_and_gradient(logits: torch.Tensor, classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Their sum and its gradient by `logits`, in the dtype of these."""
    wide = logits.float()
    log_sum = wide.logsumexp(-1, keepdim=True)
    loss = (log_sum - wide.gather(1, classes[:, None])).sum()
    is_target = torch.arange(logits.shape[1], device=logits.device) == classes[:, None]
    return loss, ((wide - log_sum).exp() - is_target.float()).to(logits.dtype)
