"""The trainer's GPU paths against its plain ones; nothing here runs on a machine without an NVIDIA GPU."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from benchmarks import random_model
from tests.training.models import batch, gradients, shake, shortfall
from training_code import pinned
from training_code.generate import generate
from training_code.launch import Cluster, launch
from training_code.llama import Llama, Placement
from training_code.ranks import Ranks

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

LENGTHS = (300, 17, 128, 1, 64, 500)


def build(
    device: str,
    dtype: torch.dtype,
    placement: Placement | None = None,
    mode: str = "resident",
    dropout: float = 0.0,
    chunk_size: int = 8192,
) -> Llama:
    llama = random_model.build(
        {**random_model.TINY, "attention_chunk_size": chunk_size},
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


def test_a_step_pins_no_more_host_memory_than_the_one_before() -> None:
    """Pinning is slow and never undone: a block that is not given back would be a leak, and a wait, of every step."""
    llama = build("cuda", torch.bfloat16, Placement(group_size=4, boundaries="host"))
    gradients(llama, documents())
    pinned_once = len(pinned._kept)
    for _ in range(2):
        gradients(llama, documents())
    assert len(pinned._kept) == pinned_once


def test_memory_that_a_layer_leaves_is_whole_for_the_next() -> None:
    """Read by torch when it first allocates, so asked of a process that has not."""
    ask = "from training_code import device; import torch; x = torch.ones(9, device=device.of_process()); "
    ask += "print({segment['is_expandable'] for segment in torch.cuda.memory_snapshot()})"
    said = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "{True}"


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


def say(llama: Llama, **options: Any) -> list[list[int]]:
    asked = [document.tolist() for document in documents()[0].ids.split(LENGTHS)]
    settled: dict[str, Any] = {"max_new_tokens": 70, "stop_ids": (), "adapted": True, "batch_size": 4}
    return generate(llama, asked, **{**settled, **options})


def test_f32_on_the_gpu_says_what_f32_on_the_cpu_says() -> None:
    """Over several chunks; the last batch has two rows, and one where each goes alone."""
    plain = build("cpu", torch.float32, chunk_size=64)
    expected = say(plain)
    fast = copy_to("cuda", plain, torch.float32, chunk_size=64)
    assert say(fast) == expected
    assert say(fast, batch_size=1) == expected
    assert say(fast, stop_ids=(expected[2][9],))[2] == expected[2][: expected[2].index(expected[2][9]) + 1]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_bf16_says_what_f32_finds_likeliest_or_nearly(batch_size: int) -> None:
    plain = build("cpu", torch.float32, chunk_size=64)
    fast = copy_to("cuda", plain, torch.bfloat16, chunk_size=64)
    said = say(fast, batch_size=batch_size)
    for document, answer in zip(documents()[0].ids.split(LENGTHS), said, strict=True):
        assert shortfall(plain, document.tolist(), answer, adapted=True) < 0.05  # of random tokens: about 3.5
    streamed = copy_to("cuda", fast, torch.bfloat16, chunk_size=64, mode="streamed")
    assert say(streamed, batch_size=batch_size) == said


TWO_GPUS = """
import torch
from benchmarks import random_model
from tests.training.models import gradients, shake
from tests.training.test_gpu import build, documents, say
from training_code import device as devices
from training_code.feed import Feed
from training_code.llama import Placement
from training_code.ranks import end_process, join

where = devices.of_process()
ranks = join(where)
for place in ("device", "host"):
    whole = build(str(where), torch.bfloat16)
    loss, gradient = gradients(whole, documents())
    said = say(whole, batch_size=1)  # each row alone: dealt to ranks, batches would differ, and with them rounding
    layouts = [random_model.layer_layout(whole.architecture, number) for number in range(whole.num_layers)]
    split = Feed(layouts, device=where, ranks=ranks, place=place, split=True)
    for number, share in enumerate(whole.feed.shares):
        split.fill(number, lambda out, share=share: out[: share.numel()].copy_(share))
    whole.feed, whole.placement = split, Placement(group_size=2, boundaries=place)
    assert say(whole, batch_size=1, ranks=ranks) == said
    for _ in range(2):
        mine = documents()[ranks.rank :: ranks.world_size]
        my_loss, other = gradients(whole, mine)
        ranks.sum(other).wait()
        ranks.sum(told := torch.tensor([my_loss], device=where)).wait()
        assert abs(told.item() / 2 - loss) < 1e-4 * loss, (told.item() / 2, loss)
        assert (other / 2 - gradient).norm() < 5e-3 * gradient.norm(), (other.norm() / 2, gradient.norm())
ranks.wait_for_all()
end_process(0)
"""


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs")
def test_two_gpus_that_split_the_layers_give_the_gradient_of_one() -> None:
    ended = launch(["-c", TWO_GPUS], num_processes=2, cluster=Cluster())
    assert (ended.status, ended.killed) == (0, None)
