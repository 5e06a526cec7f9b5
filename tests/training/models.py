"""A recorded model of Meta's as the trainer holds it, and its documents as micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch

from tests.training.meta import Recording
from training_code import packs
from training_code.architecture import Architecture
from training_code.attention import Documents
from training_code.batches import IGNORED, MicroBatch
from training_code.feed import Feed, Place
from training_code.head import Head
from training_code.layer import run_layer
from training_code.llama import Llama, Placement
from training_code.lora_weights import LoraWeights
from training_code.ranks import Ranks

CPU = torch.device("cpu")
MATRICES = (
    *(f"self_attn.{part}_proj.weight" for part in "qkvo"),
    *(f"feed_forward.{place}{part}_proj.weight" for place in ("", "shared_expert.") for part in ("gate", "up", "down")),
    "feed_forward.experts.gate_up_proj",
    "feed_forward.experts.down_proj",
)
"""What NF4 is for."""


def build(
    recording: Recording,
    *,
    targets: Sequence[str] = ("attention", "shared_expert"),
    dtype: torch.dtype = torch.float32,
    quantise: bool = False,
    dropout: float = 0.0,
    placement: Placement | None = None,
    place: Place = "device",
    ranks: Ranks | None = None,
    split: bool = False,
) -> Llama:
    architecture = Architecture.from_config(recording.config)
    weights = {name: weight.to(dtype) for name, weight in recording.weights.items()}
    layers = [
        packs.build(_layer(weights, number), quantise=_present(MATRICES, weights, number) if quantise else ())
        for number in range(architecture.shape.num_layers)
    ]
    ranks = ranks or Ranks()
    feed = Feed([pack.layout for pack in layers], device=CPU, ranks=ranks, place=place, split=split)
    for number, pack in enumerate(layers):
        feed.fill(number, _reader(pack.data))
    return Llama(
        architecture=architecture,
        feed=feed,
        embedding=weights["model.embed_tokens.weight"],
        head=Head(norm=weights["model.norm.weight"], weight=weights["lm_head.weight"], norm_eps=architecture.norm_eps),
        lora=LoraWeights(architecture, targets, rank=4, alpha=8, dropout=dropout, seed=0, device=CPU),
        device=CPU,
        dtype=dtype,
        placement=placement or Placement(),
    )


def _reader(data: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    def read(out: torch.Tensor) -> torch.Tensor:
        return out[: len(data)].copy_(data)

    return read


def batch(documents: Sequence[torch.Tensor]) -> MicroBatch:
    """These documents end to end, the loss on every token that has one before it."""
    targets = [torch.cat((ids[1:], torch.tensor([IGNORED]))) for ids in documents]
    lengths = tuple(len(ids) for ids in documents)
    return MicroBatch(
        ids=torch.cat(list(documents)),
        targets=torch.cat(targets),
        lengths=lengths,
        num_tokens=sum(lengths),
        num_supervised=sum(lengths) - len(lengths),
    )


def shake(llama: Llama) -> None:
    """Give B numbers other than zero, as after some steps."""
    generator = torch.Generator(llama.device).manual_seed(5)
    for matrix in llama.lora.matrices():
        matrix.lora_b.detach().normal_(0, 0.05, generator=generator)


def gradients(llama: Llama, batches: Sequence[MicroBatch], *, seed: str = "0") -> tuple[float, torch.Tensor]:
    """(mean loss, its gradient by the adapter, flat) of these micro-batches."""
    tokens = sum(one.num_supervised for one in batches)
    llama.lora.gradient.zero_()
    total = llama.accumulate(batches, num_batches=len(batches), seed=seed)
    assert total is not None
    return total.item() / tokens, llama.lora.gradient / tokens


@torch.no_grad()
def logits(llama: Llama, ids: Sequence[int], *, adapted: bool) -> torch.Tensor:
    """(tokens, vocabulary) of one document, by the path that training takes."""
    x = llama.embed(torch.tensor(ids))
    documents = Documents.of((len(ids),), llama.architecture, llama.device)
    places = llama.places(documents.places())
    for number, layer, lora in llama.walk(range(llama.num_layers), adapted=adapted):
        x = run_layer(x, layer, lora, places, documents.attend, llama.architecture, number).total()
    return llama.head.logits(x)


def shortfall(llama: Llama, asked: Sequence[int], answer: Sequence[int], *, adapted: bool) -> float:
    """By how much an answer's tokens miss the likeliest on average, in standard deviations of the logits.

    One token alone may miss it by much where rounding has it go through another expert.
    """
    found = logits(llama, [*asked, *answer], adapted=adapted)[len(asked) - 1 : -1].float()
    missed = found.amax(dim=-1) - found.gather(1, torch.tensor(answer)[:, None])[:, 0]
    return float(missed.mean() / found.std())


def _layer(weights: dict[str, torch.Tensor], number: int) -> dict[str, torch.Tensor]:
    prefix = f"model.layers.{number}."
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def _present(names: Collection[str], weights: dict[str, torch.Tensor], number: int) -> list[str]:
    return [name for name in names if f"model.layers.{number}.{name}" in weights]
