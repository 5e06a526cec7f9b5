"""What each layer was given, kept from the forward pass for the backward pass: on the GPU, or in pinned host memory."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch

from training_code import pinned
from training_code.feed import Place

ROOM = 1024
"""Tokens; a block of host memory has room for a multiple of them, so that one block serves most micro-batches."""


class Boundaries:
    """Inputs (tokens, hidden) of every layer, for each micro-batch of a group.

    In host memory a copy runs beside the computation both ways: out as soon as a layer is done with its input, back
    while the micro-batch before is being worked on.
    """

    def __init__(self, *, num_layers: int, place: Place, device: torch.device) -> None:
        self._device = device
        self._on_host = place == "host" and device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._on_host else None
        self._kept: list[list[torch.Tensor]] = [[] for _ in range(num_layers)]
        self._blocks = _Blocks()

    def forget(self) -> None:
        """Drop what an abandoned group has left."""
        for kept in self._kept:
            for host in kept:
                self._blocks.give_back(host)
            kept.clear()

    def put(self, layer: int, x: torch.Tensor) -> None:
        """Keep the next micro-batch's input of the layer."""
        if self._stream is None:
            self._kept[layer].append(x)
            return
        host = self._blocks.take(x)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            host.copy_(x, non_blocking=True)
        x.record_stream(self._stream)
        self._kept[layer].append(host)

    def take(self, layer: int) -> Iterator[torch.Tensor]:
        """The inputs of the layer in the order of `put`, on the device; they are forgotten."""
        kept, self._kept[layer] = self._kept[layer], []
        if self._stream is None:
            while kept:
                yield kept.pop(0)
            return
        arriving = self._fetch(kept[0]) if kept else None
        for i in range(len(kept)):
            assert arriving is not None
            x, event = arriving
            if i + 1 < len(kept):
                arriving = self._fetch(kept[i + 1])
            torch.cuda.current_stream(self._device).wait_event(event)
            yield x

    def _fetch(self, host: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event]:
        assert self._stream is not None
        x = torch.empty(host.shape, dtype=host.dtype, device=self._device)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))  # x may lie where something was in use
        with torch.cuda.stream(self._stream):
            x.copy_(host, non_blocking=True)
            arrived = self._stream.record_event()
        self._blocks.give_back(host)  # what is written there next is written by the same stream, after this
        return x, arrived


class _Blocks:
    """Pinned host memory, which is slow to make: what one step has made serves all others."""

    def __init__(self) -> None:
        self._free: list[torch.Tensor] = []
        self._of: dict[int, torch.Tensor] = {}
        self._most_tokens = 0

    def take(self, like: torch.Tensor) -> torch.Tensor:
        """A tensor of this shape and dtype."""
        num_tokens, *sizes = like.shape
        row_bytes = prod(sizes) * like.element_size()
        fitting = (i for i, block in enumerate(self._free) if block.numel() >= num_tokens * row_bytes)
        index = next(fitting, None)
        if index is None:
            self._most_tokens = max(self._most_tokens, -(-num_tokens // ROOM) * ROOM)
            block = pinned.allocate(self._most_tokens * row_bytes)
        else:
            block = self._free.pop(index)
        self._of[block.data_ptr()] = block
        return block[: num_tokens * row_bytes].view(like.dtype).view(like.shape)

    def give_back(self, tensor: torch.Tensor) -> None:
        """Not before the last copy from or to it has been put on the stream that all copies are on.

        Not left to a consumer that may stop early either: pinning a block anew takes as long as two layers' work.
        """
        block = self._of.pop(tensor.data_ptr(), None)
        if block is not None:  # on a device it is none of these
            self._free.append(block)
