"""A frozen Llama 4 with an adapter: losses, and gradients by layer-major accumulation.

All micro-batches of a group go through layer l before any goes through layer l+1. A layer is then fetched and
dequantised twice for the group rather than twice for each micro-batch, and only what each layer was given is kept:
the backward pass computes a layer anew. Gradients are those of the plain order, to the last bit in f32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch.nn import functional

from heartbeat.workload import MICRO_BATCH_TOKENS
from training_code.architecture import Architecture
from training_code.attention import Documents
from training_code.batches import MicroBatch
from training_code.boundaries import Boundaries
from training_code.feed import Feed, Place
from training_code.frozen import FrozenLayer
from training_code.head import Head
from training_code.layer import Parts, Places, run_layer, weights_of
from training_code.lora_weights import NO_LORA, LayerLora, LoraWeights


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How a model and its work are laid out in memory; but for rounding, no figure depends on it."""

    boundaries: Place = "device"
    micro_batch_tokens: int = MICRO_BATCH_TOKENS
    """Most that a micro-batch is given."""
    group_size: int = 1
    """Micro-batches that go through a layer together, at most."""
    keep_dequantised: bool = True
    """Whether all of a layer's matrices exist dequantised while it is in use."""
    graph_tokens: int = 0
    """Tokens of a group up to which the graphs of all layers are kept from the forward pass to the backward one.

    Above, a layer is computed anew. Layers must stay where they are, and their weights with the graphs.
    """


@dataclass(kw_only=True)
class Llama:
    """The model on one rank."""

    architecture: Architecture
    feed: Feed
    embedding: torch.Tensor
    """(vocabulary, hidden), on the device or where it can read it."""
    head: Head
    lora: LoraWeights
    device: torch.device
    dtype: torch.dtype
    placement: Placement
    _frequencies: torch.Tensor = field(init=False)
    _boundaries: Boundaries = field(init=False)

    def __post_init__(self) -> None:
        self._frequencies = self.architecture.inverse_frequencies().to(self.device)
        self._boundaries = Boundaries(num_layers=self.num_layers, place=self.placement.boundaries, device=self.device)

    @property
    def stream_dtype(self) -> torch.dtype:
        """Of hidden states between layers."""
        return torch.float32 if self.dtype == torch.float16 else self.dtype

    @property
    def num_layers(self) -> int:
        return self.architecture.shape.num_layers

    def walk(
        self, order: Sequence[int], *, adapted: bool = True, dropout: float = 0.0, pieces: int = 1
    ) -> Iterator[tuple[int, FrozenLayer, LayerLora]]:
        """(number, weights, adapter) of each layer in this order; `NO_LORA` where not `adapted`.

        What is given may be used until the next is asked for. Where ranks share the layers, all must walk alike.
        """
        for number, pack in self.feed.walk(order, pieces=pieces):
            lora = LayerLora(self.lora.layer(number), self.lora.scale, dropout) if adapted else NO_LORA
            layer = FrozenLayer(pack, self.dtype, keep=self.placement.keep_dequantised)
            is_taken = self.feed.moves and layer.take(*weights_of(self.architecture, number))
            if is_taken:
                self.feed.release()
            yield number, layer, lora
            if is_taken:
                layer.drop()

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """(tokens,) -> (tokens, hidden): what the first layer is given, on the device."""
        return functional.embedding(ids.to(self.device), self.embedding).to(self.stream_dtype)

    def places(self, places: torch.Tensor) -> Places:
        """Of tokens that stand at these places (tokens,) f32 of their documents."""
        return Places.of(places, self.architecture, self._frequencies)

    def losses(
        self,
        batches: Sequence[MicroBatch],
        *,
        num_batches: int,
        adapted: bool,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> Iterator[torch.Tensor | None]:
        """The loss of each target of a group, group by group, without dropout; the base model's where not `adapted`.

        `num_batches` as in `accumulate`, and `interrupted` as well: None, and no more groups, as soon as it says so.
        """
        for group in self._groups(batches, num_batches):
            states = self._start(group)
            with torch.no_grad():
                for number, layer, lora in self.walk(range(self.num_layers), adapted=adapted, pieces=len(states)):
                    if interrupted():
                        yield None
                        return
                    for state in states:
                        self.feed.more()
                        state.x = self._run(state, state.x, layer, lora, number).total()
                found = [self.head.losses(state.x, state.positions, state.targets) for state in states]
            yield torch.cat(found) if found else torch.zeros(0, device=self.device)

    def accumulate(
        self,
        batches: Sequence[MicroBatch],
        *,
        num_batches: int,
        seed: str,
        after_layer: Callable[[int], None] | None = None,
        interrupted: Callable[[], bool] = lambda: False,
        mark: Callable[[str], None] | None = None,
    ) -> torch.Tensor | None:
        """Add the gradient of the summed loss to the adapter's; the summed loss, a number on the device.

        `num_batches`: of the rank that has the most, since ranks bring the layers to each other. `after_layer` is
        called when a layer's gradient is complete. None, with gradients that are worth nothing, as soon as
        `interrupted` says so; it is asked before every layer.
        """
        groups = self._groups(batches, num_batches)
        total, first = torch.zeros((), device=self.device), 0
        for index, group in enumerate(groups):
            seeds = [f"{seed}:{number}" for number in range(first, first + len(group))]
            first += len(group)
            done = after_layer if index == len(groups) - 1 else None
            found = self._accumulate_group(group, seeds, done, interrupted, mark or _unmarked)
            if found is None:
                return None
            total += found
        return total

    def _accumulate_group(
        self,
        group: Sequence[MicroBatch],
        seeds: Sequence[str],
        after_layer: Callable[[int], None] | None,
        interrupted: Callable[[], bool],
        mark: Callable[[str], None],
    ) -> torch.Tensor | None:
        states = self._start(group)
        boundaries, pieces = self._boundaries, len(states)
        boundaries.forget()
        keeps_graphs = sum(len(state.x) for state in states) <= self.placement.graph_tokens
        graphs: list[list[tuple[torch.Tensor, Parts]]] = []
        with torch.no_grad():
            for number, layer, lora in self.walk(range(self.num_layers), dropout=self.lora.dropout, pieces=pieces):
                if interrupted():
                    return None
                graphs.append([])
                for state, seed in zip(states, seeds, strict=False):
                    self.feed.more()
                    if keeps_graphs:
                        x, parts = self._graph(state, seed, state.x, layer, lora, number)
                        graphs[number].append((x, parts))
                        state.x = parts.total()
                        continue
                    boundaries.put(number, state.x)
                    _seed_dropout(seed, number, self.device)
                    state.x = self._run(state, state.x, layer, lora, number).total()
        mark("forward")
        total = torch.zeros((), device=self.device)
        for state in states:
            loss, state.x = self.head.loss_and_gradient(state.x, state.positions, state.targets)
            total += loss
        mark("head")
        downwards = range(self.num_layers - 1, -1, -1)
        for number, layer, lora in self.walk(downwards, dropout=self.lora.dropout, pieces=pieces):
            if interrupted():
                return None
            kept, given = graphs.pop(), boundaries.take(number)
            for index, (state, seed) in enumerate(zip(states, seeds, strict=False)):
                self.feed.more()
                if keeps_graphs:
                    x, parts = kept[index]
                else:
                    x, parts = self._graph(state, seed, next(given), layer, lora, number, wanted=False)
                parts.backward(state.x)
                assert x.grad is not None
                state.x = x.grad
                del parts  # its graph holds the layer's dequantised matrices, and the next layer's need the room
            if after_layer is not None:
                after_layer(number)
        mark("backward")
        return total

    def _groups(self, batches: Sequence[MicroBatch], num_batches: int) -> list[Sequence[MicroBatch]]:
        """As few as may be, and of like size: a layer on its way has something to hide behind in each.

        A rank with fewer micro-batches than `num_batches` has none for some.
        """
        number = max(1, -(-num_batches // self.placement.group_size))
        ends = [num_batches * index // number for index in range(number + 1)]
        return [batches[start:end] for start, end in pairwise(ends)]

    def _start(self, group: Sequence[MicroBatch]) -> list[_State]:
        states = []
        for batch in group:
            documents = Documents.of(batch.lengths, self.architecture, self.device)
            positions = (batch.targets >= 0).nonzero().squeeze(1)  # on the host: nothing waits for the GPU
            states.append(
                _State(
                    self.embed(batch.ids),
                    documents,
                    self.places(documents.places()),
                    positions.to(self.device, non_blocking=True),
                    batch.targets[positions].to(self.device, non_blocking=True),
                )
            )
        return states

    def _graph(
        self,
        state: _State,
        seed: str,
        given: torch.Tensor,
        layer: FrozenLayer,
        lora: LayerLora,
        number: int,
        *,
        wanted: bool = True,
    ) -> tuple[torch.Tensor, Parts]:
        """A layer ready for its backward pass: what it was given, whose gradient that will bring, and its output."""
        x = given.detach().requires_grad_()
        _seed_dropout(seed, number, self.device)
        with torch.enable_grad():
            return x, self._run(state, x, layer, lora, number, wanted=wanted)

    def _run(
        self, state: _State, x: torch.Tensor, layer: FrozenLayer, lora: LayerLora, number: int, *, wanted: bool = True
    ) -> Parts:
        attend = state.documents.attend
        return run_layer(x, layer, lora, state.places, attend, self.architecture, number, wanted=wanted)


@dataclass
class _State:
    """A micro-batch on its way: `x` is its hidden states going up, and their gradient coming down."""

    x: torch.Tensor
    documents: Documents
    places: Places
    positions: torch.Tensor
    targets: torch.Tensor


def _unmarked(name: str) -> None:
    del name


def _seed_dropout(seed: str, layer: int, device: torch.device) -> None:
    # The recomputed forward must drop what the first one dropped, whatever ran in between.
    digest = hashlib.blake2b(f"{seed}:{layer}".encode(), digest_size=8).digest()
    generator = torch.default_generator if device.type == "cpu" else torch.cuda.default_generators[device.index or 0]
    # torch.manual_seed would seed every kind of device there is: half a millisecond, twice for each micro-batch.
    generator.manual_seed(int.from_bytes(digest, "little"))
