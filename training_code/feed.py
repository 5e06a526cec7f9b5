"""Where the frozen layers lie, and how they come to the GPU one after the other, the next while the last computes.

A rank keeps all of each layer's pack or its share of it, on its GPU or in pinned host memory. That is all that the
modes differ in: resident (all, GPU), sharded (a share, GPU), streamed (all or a share, host). Where layers move, one
buffer holds the pack in use: once its matrices are dequantised nobody reads it, and the next pack comes in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from training_code import pinned
from training_code.packs import Layout, Pack
from training_code.ranks import Ranks, Work

Place = Literal["device", "host"]
ALIGNMENT = 256
"""Bytes to which a share is padded, for every rank's to be of one size and begin where kernels like it."""


def share_bytes(layer_bytes: int, num_shares: int) -> int:
    """Bytes of one rank's share of a layer's pack."""
    per_rank = -(-layer_bytes // num_shares)
    return -(-per_rank // ALIGNMENT) * ALIGNMENT


@dataclass
class _Arrival:
    layer: int
    event: torch.cuda.Event | None = None
    """On the copy's stream, after the copy."""
    work: Work | None = None
    left: list[tuple[int, int]] = field(default_factory=list)
    """Stretches of bytes that have not been sent."""


class Feed:
    """Frozen layers in any order, each whole on the device when it is its turn."""

    def __init__(
        self, layouts: Sequence[Layout], *, device: torch.device, ranks: Ranks, place: Place, split: bool
    ) -> None:
        self._layouts, self._device, self._ranks, self._place = layouts, device, ranks, place
        self._num_shares = ranks.world_size if split else 1
        self.shares = [
            self._memory(share_bytes(layout.num_bytes, self._num_shares), on_host=place == "host") for layout in layouts
        ]
        """What this rank keeps of each layer; whoever loads the model fills them."""
        self._reading: torch.Tensor | None = None
        self._is_whole_on_device = self._num_shares == 1 and (place == "device" or device.type == "cpu")
        largest = 0 if self._is_whole_on_device else max(share.numel() for share in self.shares)
        self._buffer = self._memory(largest * self._num_shares, on_host=False)
        copied_first = self._num_shares > 1 and place == "host" and device.type == "cuda"
        self._staging = self._memory(largest if copied_first else 0, on_host=False)
        """Of this rank's share, on its way from host memory to the other ranks."""
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._held: int | None = None
        """The layer whose pack the buffer has, whole."""
        self._arriving: _Arrival | None = None
        self._next: int | None = None
        """The layer that comes when the buffer is released."""
        self._is_read = False
        """Whether somebody may be reading the buffer."""
        self._released: torch.cuda.Event | None = None
        self._pieces = 1

    def _memory(self, num_bytes: int, *, on_host: bool) -> torch.Tensor:
        if on_host and self._device.type == "cuda":
            return pinned.allocate(num_bytes)
        return torch.empty(num_bytes, dtype=torch.uint8, device=self._device)

    def fill(self, layer: int, read: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Take a layer's pack from `read`; where it is split, one rank reads it for all.

        `read` fills a uint8 host tensor, at least as long as the pack, and returns the stretch that it has filled.
        """
        share = self.shares[layer]
        if self._num_shares == 1:
            if share.device.type == "cpu":
                read(share)
            else:
                data = read(self._reading_buffer(share.numel()))
                share[: data.numel()].copy_(data)
            return
        reader = layer % self._num_shares
        parts = None
        if self._ranks.rank == reader:
            whole = torch.zeros(share.numel() * self._num_shares, dtype=torch.uint8, device=self._device)
            data = read(self._reading_buffer(whole.numel()))
            whole[: data.numel()].copy_(data)
            parts = list(whole.split(share.numel()))
        mine = torch.empty(share.shape, dtype=torch.uint8, device=self._device)
        self._ranks.scatter(mine, parts, source=reader)
        share.copy_(mine)

    def _reading_buffer(self, num_bytes: int) -> torch.Tensor:
        # One for all layers: a fresh gigabyte costs more in page faults than in reading.
        if self._reading is None or self._reading.numel() < num_bytes:
            if self._reading is not None:
                pinned.free(self._reading)
            self._reading = self._memory(num_bytes, on_host=True)
        return self._reading

    @property
    def moves(self) -> bool:
        """Whether layers come to where they are used, rather than lie there."""
        return not self._is_whole_on_device

    def walk(self, order: Sequence[int], *, pieces: int = 1) -> Iterator[tuple[int, Pack]]:
        """(number, pack) of each layer in this order. A pack may be read until `release`, or the next is asked for.

        A layer that comes from host memory comes in `pieces`, one at each call of `more` while the one before is in
        use, so that what else is copied to the GPU need not wait for all of it.
        """
        if self._reading is not None:
            pinned.free(self._reading)
            self._reading = None
        if self._is_whole_on_device:
            for layer in order:
                yield layer, self._pack(layer, self.shares[layer])
            return
        self._pieces = pieces
        arriving: _Arrival | None = self._send(order[0], 1)
        for layer, following in zip(order, [*order[1:], None], strict=True):
            assert arriving is not None
            while arriving.left:
                self._send_piece(arriving)
            self._wait(arriving)
            self._held, self._arriving, self._next, self._is_read = layer, None, following, True
            yield layer, self._pack(layer, self._buffer)
            self.release()
            arriving = self._arriving

    def release(self) -> None:
        """The pack that came last will not be read any more: the next layer may come in its place.

        The second time does nothing: what comes next need not wait for what the GPU was given since the first.
        """
        if not self._is_read:
            return
        self._is_read = False
        if self._stream is not None:
            self._released = torch.cuda.current_stream(self._device).record_event()
        if self._next is not None:
            self._arriving, self._next = self._send(self._next, self._pieces), None

    def more(self) -> None:
        """Let another piece of the next layer come, when the GPU is done with what it has been given so far."""
        if self._arriving and self._arriving.left:
            assert self._stream is not None
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            self._send_piece(self._arriving)

    def _pack(self, layer: int, data: torch.Tensor) -> Pack:
        layout = self._layouts[layer]
        return Pack(layout=layout, data=data[: layout.num_bytes])

    def _send(self, layer: int, pieces: int) -> _Arrival:
        share = self.shares[layer]
        whole = self._buffer[: share.numel() * self._num_shares]
        arrival = _Arrival(layer)
        if layer == self._held:  # the last one of a walk is the first one of the walk back
            return arrival
        self._held = None
        if self._stream is None:
            if self._num_shares == 1:
                whole.copy_(share)
            else:
                arrival.work = self._ranks.gather(whole, share)
            return arrival
        if self._released is not None:
            self._stream.wait_event(self._released)
        if self._num_shares == 1:
            size = -(-share.numel() // max(1, pieces))
            arrival.left = [(at, min(at + size, share.numel())) for at in range(0, share.numel(), size)]
            return arrival
        with torch.cuda.stream(self._stream):
            if self._place == "host":
                share = self._staging[: share.numel()].copy_(share, non_blocking=True)
            arrival.work = self._ranks.gather(whole, share)
            arrival.event = self._stream.record_event()
        return arrival

    def _send_piece(self, arrival: _Arrival) -> None:
        assert self._stream is not None
        start, end = arrival.left.pop(0)
        with torch.cuda.stream(self._stream):
            self._buffer[start:end].copy_(self.shares[arrival.layer][start:end], non_blocking=True)
            arrival.event = self._stream.record_event()

    def _wait(self, arrival: _Arrival) -> None:
        if arrival.work is not None:
            arrival.work.wait()
        if arrival.event is not None:
            torch.cuda.current_stream(self._device).wait_event(arrival.event)
