"""The trainer's GPU paths against its plain ones; nothing here runs on a machine without an NVIDIA GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import random_model
from tests.training.models import batch, gradients, shake
from training_code.llama import Llama, Placement
from training_code.ranks import Ranks

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

LENGTHS = (300, 17, 128, 1, 64, 500)


def build(
    device: str, dtype: torch.dtype, placement: Placement | None = None, mode: str = "resident", dropout: float = 0.0
) -> Llama:
    llama = random_model.build(
        random_model.TINY,
        mode=mode,
        placement=placement or Placement(group_size=2),
        targets=("attention", "shared_expert", "routed_experts"),
        rank=8,
        device=torch.device(device),
        dtype=dtype,
        ranks=Ranks(),
        dropout=dropout,
    )
    shake(llama)
    return llama


def copy_to(device: str, source: Llama, dtype: torch.dtype, **options: Any) -> Llama:
    """The same numbers elsewhere."""
    made = build(device, dtype, **options)
    for mine, theirs in zip(made.feed.shares, source.feed.shares, strict=True):
        mine.copy_(theirs)
    made.embedding.copy_(source.embedding)
    made.head.weight.copy_(source.head.weight)
    made.lora.flat.detach().copy_(source.lora.flat.detach())
    return made


def documents() -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    return [batch([torch.randint(4096, (length,), generator=generator) for length in LENGTHS]) for _ in range(4)]


def test_f32_on_the_gpu_is_f32_on_the_cpu() -> None:
    plain = build("cpu", torch.float32)
    loss, gradient = gradients(plain, documents())
    other_loss, other = gradients(copy_to("cuda", plain, torch.float32), documents())
    assert other_loss == pytest.approx(loss, rel=1e-5)
    assert (other.cpu() - gradient).norm() < 1e-3 * gradient.norm()


def test_bf16_with_flash_attention_and_grouped_products_is_near_f32() -> None:
    plain = build("cpu", torch.float32)
    loss, gradient = gradients(plain, documents())
    other_loss, other = gradients(copy_to("cuda", plain, torch.bfloat16), documents())
    assert other_loss == pytest.approx(loss, rel=5e-3)
    assert torch.cosine_similarity(other.cpu(), gradient, dim=0) > 0.98


@pytest.mark.parametrize(
    ("mode", "placement"),
    [
        ("resident", Placement(group_size=4, boundaries="host")),
        ("resident", Placement(group_size=1, boundaries="device", keep_dequantised=False)),
        ("streamed", Placement(group_size=4, boundaries="host")),
        ("streamed", Placement(group_size=3, boundaries="host", keep_dequantised=False)),
    ],
    ids=str,
)
def test_where_things_lie_changes_no_figure(mode: str, placement: Placement) -> None:
    resident = build("cuda", torch.bfloat16, dropout=0.05)
    loss, gradient = gradients(resident, documents())
    elsewhere = copy_to("cuda", resident, torch.bfloat16, placement=placement, mode=mode, dropout=0.05)
    for _ in range(2):  # the second time with buffers that the first has used
        other_loss, other = gradients(elsewhere, documents())
        assert other_loss == pytest.approx(loss, rel=1e-5)
        # Flash attention's backward adds in an order of its own.
        assert (other - gradient).norm() < 5e-3 * gradient.norm()


def test_the_recomputed_forward_drops_what_the_first_dropped() -> None:
    """As on the CPU (test_llama), with what is compiled for the GPU."""
    llama = build("cuda", torch.float32, dropout=0.5)
    _, gradient = gradients(llama, documents())
    step, flat = 0.01 * gradient / gradient.norm(), llama.lora.flat.detach()
    flat += step
    higher, _ = gradients(llama, documents())
    flat -= 2 * step
    lower, _ = gradients(llama, documents())
    assert higher - lower == pytest.approx(2 * float(gradient @ step), rel=0.02)
