"""The trainer's own Llama 4 against Meta's and transformers', and its ways of computing against each other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import torch

from tests.training import meta
from tests.training.models import batch, build, gradients, logits, shake
from training_code.attention import chunks
from training_code.batches import MicroBatch
from training_code.llama import Llama, Placement

TARGETS = ("attention", "shared_expert", "routed_experts")
EXPERT_PARTS = {"gate": ("gate_up_proj", 0), "up": ("gate_up_proj", 1), "down": ("down_proj", None)}


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def weight_gradient(recording: meta.Recording, name: str) -> torch.Tensor:
    """Of Meta's weight that this LoRA is on, (..., outputs, inputs)."""
    if ".experts." not in name:
        return recording.gradients[f"{name}.weight"]
    place, _, part = name.rpartition(".")
    stack, half = EXPERT_PARTS[part.removesuffix("_proj")]
    gradient = recording.gradients[f"{place}.{stack}"]
    return (gradient if half is None else gradient.chunk(2, dim=-1)[half]).transpose(1, 2)


@pytest.mark.parametrize("name", meta.names())
def test_loss_and_lora_gradients_are_those_of_metas_code(name: str) -> None:
    """B is zero, so the model is the base, and B's gradient is the weight's times A^T, scaled."""
    recording = meta.load(name)
    llama = build(recording, targets=TARGETS)
    one = batch(recording.documents())
    loss, _ = gradients(llama, [one])
    assert loss == pytest.approx(recording.loss, rel=1e-6)
    for matrix in llama.lora.matrices():
        expected = llama.lora.scale * weight_gradient(recording, matrix.name) @ matrix.lora_a.detach().mT
        assert matrix.lora_b.grad is not None
        assert relative(matrix.lora_b.grad / one.num_supervised, expected) < 1e-5, matrix.name


@pytest.mark.parametrize("name", meta.names())
def test_documents_do_not_see_each_other(name: str) -> None:
    recording = meta.load(name)
    packed, alone = build(recording, targets=TARGETS), build(recording, targets=TARGETS)
    shake(packed)
    shake(alone)
    loss, gradient = gradients(packed, [batch(recording.documents())])
    other_loss, other = gradients(alone, [batch([document]) for document in recording.documents()])
    assert loss == pytest.approx(other_loss, rel=1e-6)
    assert relative(gradient, other) < 1e-5


@pytest.mark.parametrize("name", meta.names())
def test_logits_are_those_of_metas_code(name: str) -> None:
    recording = meta.load(name)
    llama, end = build(recording), 0
    for document in recording.documents():
        start, end = end, end + len(document)
        assert relative(logits(llama, document.tolist(), adapted=True), recording.logits[start:end]) < 1e-5


@pytest.mark.parametrize(
    ("name", "number"), [(name, i) for name in meta.names() for i in range(len(meta.load(name).lengths))]
)
def test_loss_and_gradients_are_those_of_transformers_dense_experts_with_the_adapter_on(name: str, number: int) -> None:
    from transformers import Llama4ForCausalLM, Llama4TextConfig

    recording = meta.load(name)
    document = recording.documents()[number]
    llama = build(recording, targets=("attention", "shared_expert"))
    shake(llama)
    reference = Llama4ForCausalLM(Llama4TextConfig(**recording.config))
    reference.load_state_dict({name: weight.float() for name, weight in recording.weights.items()})
    for matrix in llama.lora.matrices():
        weight = reference.get_submodule(matrix.name).weight
        weight.data += (matrix.lora_b @ matrix.lora_a * llama.lora.scale).detach()
    out = reference(input_ids=document[None], labels=document[None], use_cache=False)
    out.loss.backward()
    loss, _ = gradients(llama, [batch([document])])
    assert loss == pytest.approx(out.loss.item(), rel=1e-6)
    for matrix in llama.lora.matrices():
        by_weight = reference.get_submodule(matrix.name).weight.grad
        scale = llama.lora.scale * (len(document) - 1)  # the adapter's gradient is of the sum
        assert matrix.lora_a.grad is not None
        assert matrix.lora_b.grad is not None
        assert relative(matrix.lora_a.grad, scale * matrix.lora_b.detach().mT @ by_weight) < 1e-5
        assert relative(matrix.lora_b.grad, scale * by_weight @ matrix.lora_a.detach().mT) < 1e-5


def documents() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(0, 64, (length,), generator=generator) for length in (40, 9, 21, 33, 2, 17, 30)]


def gradient_by_document(llama: Llama) -> torch.Tensor:
    batches = [batch([document]) for document in documents()]
    return gradients(llama, batches)[1]


@pytest.mark.parametrize(
    "placement",
    [
        Placement(group_size=3),
        Placement(group_size=7),
        Placement(group_size=100, keep_dequantised=False),
        Placement(group_size=7, boundaries="host"),
        Placement(group_size=3, graph_tokens=1000),
        Placement(group_size=3, graph_tokens=50),  # kept of the first group and the last, anew of the second
    ],
    ids=str,
)
@pytest.mark.parametrize("quantise", [False, True])
def test_layer_major_order_changes_no_bit_of_a_gradient(placement: Placement, quantise: bool) -> None:
    made = {}
    for kind in (Placement(group_size=1), placement):
        llama = build(meta.load("scout"), targets=TARGETS, dropout=0.1, placement=kind, quantise=quantise)
        shake(llama)
        made[kind] = gradient_by_document(llama)
    one, other = made.values()
    assert one.abs().sum() > 0
    assert torch.equal(one, other)


def test_groups_are_of_like_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer on its way hides behind a group's work, and one micro-batch of a few tokens would not be enough."""
    llama = build(meta.load("scout"), placement=Placement(group_size=5))
    pieces: list[int] = []

    def watched(order: Sequence[int], **options: Any) -> Any:
        pieces.append(options["pieces"])
        return walk(order, **options)

    walk = llama.walk
    monkeypatch.setattr(llama, "walk", watched)
    gradients(llama, [batch([document]) for document in documents()])
    assert pieces == [3, 3, 4, 4]  # up and down


def test_the_recomputed_forward_drops_what_the_first_dropped() -> None:
    """Along the gradient the loss grows as the gradient says; with another mask it would be another function's."""
    recording = meta.load("scout")
    llama = build(recording, dropout=0.5)
    shake(llama)
    batches = [batch([document]) for document in recording.documents()]
    _, gradient = gradients(llama, batches)
    step, flat = 0.003 * gradient / gradient.norm(), llama.lora.flat.detach()
    flat += step
    higher, _ = gradients(llama, batches)
    flat -= 2 * step
    lower, _ = gradients(llama, batches)
    assert higher - lower == pytest.approx(2 * float(gradient @ step), rel=0.02)


def test_another_seed_drops_other_inputs() -> None:
    llama = build(meta.load("scout"), dropout=0.3)
    shake(llama)
    one = batch(documents())
    first, second, third = (gradients(llama, [one], seed=seed)[1] for seed in ("0", "0", "1"))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def summed_loss(llama: Llama, one: MicroBatch, *, adapted: bool) -> float:
    (found,) = llama.losses([one], num_batches=1, adapted=adapted)
    assert found is not None
    return found.sum().item()


def test_a_token_goes_through_its_own_expert_alone() -> None:
    recording = meta.load("scout")
    document = recording.documents()[0][:1]
    losses = set()
    for broken in range(4):
        weights = dict(recording.weights)
        for layer in range(4):
            for part in ("gate_up_proj", "down_proj"):
                name = f"model.layers.{layer}.feed_forward.experts.{part}"
                weights[name] = weights[name].clone()
                weights[name][broken] = float("nan")
        damaged = meta.Recording(**{**vars(recording), "weights": weights})
        two = batch([torch.cat((document, document))])
        losses.add(math.isnan(summed_loss(build(damaged), two, adapted=False)))
    assert losses == {True, False}


def test_f16_computes_what_f32_does_beyond_the_range_of_f16() -> None:
    """With the feed-forward networks' inner numbers far over 65,504, as a few of Llama 4's are."""
    recording = meta.load("scout")
    weights = dict(recording.weights)
    for name in weights:
        if "feed_forward" in name and ("gate" in name or "up" in name):
            weights[name] = weights[name] * 120
        elif "feed_forward" in name and "down" in name:
            weights[name] = weights[name] / 120**2
    large = meta.Recording(**{**vars(recording), "weights": weights})
    wide, half = build(large), build(large, dtype=torch.float16)
    shake(wide)
    shake(half)
    one = batch(recording.documents())
    loss, gradient = gradients(wide, [one])
    half_loss, half_gradient = gradients(half, [one])
    assert half_loss == pytest.approx(loss, rel=5e-3)
    assert relative(half_gradient, gradient) < 0.03


def test_an_interrupted_step_says_so_and_the_next_is_whole() -> None:
    llama, fresh = build(meta.load("scout")), build(meta.load("scout"))
    batches = [batch([document]) for document in documents()]
    for left in (0, 3, 5):
        asked = iter(range(100))
        found = llama.accumulate(batches, num_batches=7, seed="0", interrupted=partial(_after, left, asked))
        assert found is None
    assert torch.equal(gradients(llama, batches)[1], gradients(fresh, batches)[1])


def _after(num_times: int, asked: Iterator[int]) -> bool:
    return next(asked) >= num_times


def test_evaluation_leaves_no_gradient_and_drops_nothing() -> None:
    recording = meta.load("scout")
    llama = build(recording, dropout=0.5)
    one = batch(recording.documents())
    adapted, base = (summed_loss(llama, one, adapted=on) / one.num_supervised for on in (True, False))
    assert adapted == base == pytest.approx(recording.loss, rel=1e-6)
    assert not llama.lora.gradient.any()
    shake(llama)
    assert summed_loss(llama, one, adapted=True) / one.num_supervised != pytest.approx(base, rel=1e-4)


def test_an_interrupted_evaluation_says_so_and_the_next_is_whole() -> None:
    llama = build(meta.load("scout"), placement=Placement(group_size=3))
    batches = [batch([document]) for document in documents()]

    def losses(**options: Any) -> list[list[float] | None]:
        found = llama.losses(batches, num_batches=len(batches), adapted=True, **options)
        return [None if group is None else group.tolist() for group in found]

    whole = losses()
    assert len(whole) == 3
    for left, num_whole in ((0, 0), (3, 0), (5, 1)):
        found = losses(interrupted=partial(_after, left, iter(range(100))))
        assert found == [*whole[:num_whole], None]
    assert losses() == whole


def test_chunks_are_cut_at_multiples_from_each_documents_start() -> None:
    assert chunks((5, 8, 20), 8) == (5, 8, 8, 8, 4)
    assert chunks((5, 7), 8) == (5, 7)
    assert chunks((5, 700), None) == (5, 700)
