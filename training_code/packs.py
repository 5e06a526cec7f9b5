"""A frozen layer as one contiguous buffer of bytes, in memory and on disk.

One buffer is read, copied to a GPU or gathered from other GPUs in one operation; its tensors are views of it. On disk
it is the data region of a safetensors file, which begins at a multiple of the page size.

A matrix NAME in NF4 is three tensors, NAME.codes, NAME.absmax and NAME.nested; others are stored as they are. In
order: codes, then float32, then 16-bit floats, then absmax, so that every tensor is aligned without gaps (which the
format forbids).
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from training_code import nf4
from training_code.errors import TrainingError
from training_code.folder import PARTIAL

DATA_ALIGNMENT = 4096
"""Bytes; of the data region in a file."""

_CODES, ABSMAX, NESTED = ".codes", ".absmax", ".nested"
_NESTED_MULTIPLE = 4
"""Floats: what follows the nested scales begins at a multiple of 16 bytes, which matrix kernels are fastest with."""
_STEP_BYTES = 2**26
"""Hashed and written at once."""
_HEADER_LIMIT_BYTES = 100_000_000
"""Of the safetensors library."""
_DTYPES = {
    "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
    "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor within a data region."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """Byte in the data region"""
    end: int


@dataclass(frozen=True)
class Layout:
    """Where each tensor of a pack lies. Layers of the same kind have equal layouts."""

    items: tuple[tuple[str, Entry], ...]
    """In the order of their bytes"""

    @functools.cached_property
    def entries(self) -> Mapping[str, Entry]:
        return dict(self.items)

    @functools.cached_property
    def num_bytes(self) -> int:
        return max((entry.end for _, entry in self.items), default=0)

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Of the weights: a quantised one is one name."""
        parts = tuple(name + part for name in self._quantised for part in (_CODES, ABSMAX, NESTED))
        return (*self._quantised, *(name for name in self.entries if name not in parts))

    @functools.cached_property
    def _quantised(self) -> tuple[str, ...]:
        found = (name.removesuffix(_CODES) for name in self.entries if name.endswith(_CODES))
        return tuple(name for name in found if {name + ABSMAX, name + NESTED} <= self.entries.keys())

    def is_quantised(self, name: str) -> bool:
        return name + _CODES in self.entries

    def matrix_shape(self, name: str) -> tuple[int, ...]:
        """Of the weight, whether it is quantised or not. Raises KeyError for a name that is not here."""
        if not self.is_quantised(name):
            return self.entries[name].shape
        *rest, num_bytes = self.entries[name + _CODES].shape
        return (*rest, 2 * num_bytes)


@dataclass(kw_only=True)
class Pack:
    """A layer's tensors in one buffer, on any device."""

    layout: Layout
    data: torch.Tensor
    """uint8 (layout.num_bytes,)"""

    def tensor(self, name: str) -> torch.Tensor:
        """A stored tensor as a view of the buffer. Raises KeyError for a name that is not in the layout."""
        entry = self.layout.entries[name]
        return self.data[entry.start : entry.end].view(entry.dtype).view(entry.shape)

    def matrix(self, name: str, dtype: torch.dtype, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """A weight in `dtype`, dequantised where it is stored as NF4; into `out` where that is given.

        Without `out`, a weight stored in that very dtype is a view of the buffer.
        """
        if self.layout.is_quantised(name):
            return nf4.dequantize(self._quantised(name), self.layout.matrix_shape(name), dtype, out=out)
        stored = self.tensor(name)
        return stored.to(dtype) if out is None else out.copy_(stored)

    def put(self, name: str, weight: torch.Tensor) -> None:
        """Store a weight in its place, quantised there if the layout says so. It may be on another device.

        Raises ValueError for a weight of another shape, and for one that NF4 cannot hold.
        """
        if tuple(weight.shape) != self.layout.matrix_shape(name):
            raise ValueError(f"{name} has shape {tuple(weight.shape)}, the layout {self.layout.matrix_shape(name)}")
        if not self.layout.is_quantised(name):
            self.tensor(name).copy_(weight)
            return
        source, target = nf4.quantize(weight), self._quantised(name)
        target.codes.copy_(source.codes)
        target.absmax.copy_(source.absmax)
        target.nested.zero_()
        target.nested[: source.nested.numel() - 1].copy_(source.nested[:-1])
        target.nested[-1:].copy_(source.nested[-1:])

    def _quantised(self, name: str) -> nf4.Quantised:
        codes, absmax, nested = (self.tensor(name + part).view(-1) for part in (_CODES, ABSMAX, NESTED))
        return nf4.Quantised(codes=codes, absmax=absmax, nested=nested)


def plan(weights: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], *, quantise: Collection[str]) -> Layout:
    """The layout of weights of these dtypes and shapes, those named in `quantise` in NF4.

    Raises ValueError for a weight that NF4 cannot hold: its last dimension must be even, its size a multiple of 64.
    """
    parts: list[tuple[str, torch.dtype, tuple[int, ...]]] = []
    for name, (dtype, shape) in weights.items():
        if name not in quantise:
            parts.append((name, dtype, shape))
            continue
        num = prod(shape)
        if not num or num % nf4.BLOCK or shape[-1] % 2:
            raise ValueError(f"{name} of shape {shape} is not a whole number of blocks of {nf4.BLOCK}")
        num_nested = -(-nf4.nested_size(num) // _NESTED_MULTIPLE) * _NESTED_MULTIPLE
        parts.append((name + _CODES, torch.uint8, (*shape[:-1], shape[-1] // 2)))
        parts.append((name + NESTED, torch.float32, (num_nested,)))
        parts.append((name + ABSMAX, torch.uint8, (num // nf4.BLOCK,)))
    return Layout(tuple(lay_out(sorted(parts, key=_order))))


def lay_out(parts: Iterable[tuple[str, torch.dtype, tuple[int, ...]]]) -> Iterator[tuple[str, Entry]]:
    """Tensors one after another, without gaps."""
    end = 0
    for name, dtype, shape in parts:
        start, end = end, end + prod(shape) * dtype.itemsize
        yield name, Entry(dtype, shape, start, end)


def _order(part: tuple[str, torch.dtype, tuple[int, ...]]) -> tuple[int, int]:
    name, dtype, _ = part
    if name.endswith(_CODES):
        return 0, 0
    return (2, 0) if dtype.itemsize == 1 else (1, -dtype.itemsize)


def empty(layout: Layout, *, device: torch.device | str = "cpu", pin: bool = False) -> Pack:
    """A pack of unset bytes; `pin` for host memory that a GPU copies from while it computes."""
    return Pack(layout=layout, data=torch.empty(layout.num_bytes, dtype=torch.uint8, device=device, pin_memory=pin))


def build(tensors: Mapping[str, torch.Tensor], *, quantise: Collection[str]) -> Pack:
    """A pack of these weights, on the device of the first, those named in `quantise` in NF4."""
    layout = plan({name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()}, quantise=quantise)
    pack = empty(layout, device=next((t.device for t in tensors.values()), torch.device("cpu")))
    for name, tensor in tensors.items():
        pack.put(name, tensor)
    return pack


# --- files


def write(path: Path, pack: Pack, metadata: Mapping[str, str]) -> str:
    """Write atomically and durably; returns the file's SHA-256. Raises OSError, and leaves no half file then."""
    header = encode_header(pack.layout.items, metadata, alignment=DATA_ALIGNMENT)
    data = pack.data.cpu().numpy().data
    return write_atomically(path, [header, *_steps(data)])


def encode_header(items: Iterable[tuple[str, Entry]], metadata: Mapping[str, str], *, alignment: int = 8) -> bytes:
    """What a safetensors file has before its data, which begins at a multiple of `alignment` bytes."""
    header = {
        "__metadata__": dict(metadata),
        **{
            name: {"dtype": _DTYPE_NAMES[e.dtype], "shape": list(e.shape), "data_offsets": [e.start, e.end]}
            for name, e in items
        },
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % alignment)
    return struct.pack("<Q", len(text)) + text


def write_atomically(path: Path, pieces: Iterable[bytes | memoryview]) -> str:
    """Write these bytes one after another; returns their SHA-256. The file is there whole or not at all."""
    partial, digest = path.with_name(path.name + PARTIAL), hashlib.sha256()
    try:
        with partial.open("wb") as stream:
            for piece in pieces:
                digest.update(piece)
                stream.write(piece)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
        _sync_folder(path.parent)  # or the name may be lost with the power
    finally:
        partial.unlink(missing_ok=True)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _steps(data: memoryview) -> Iterator[memoryview]:
    return (data[start : start + _STEP_BYTES] for start in range(0, len(data), _STEP_BYTES))


def read_layout(path: Path) -> tuple[Layout, int]:
    """A file's layout, and the byte where its data begins. Raises TrainingError for a file that is not whole."""
    entries, data_start = read_header(path)
    return Layout(tuple(sorted(entries.items(), key=lambda item: item[1].start))), data_start


def read_header(path: Path) -> tuple[dict[str, Entry], int]:
    """The entries of any safetensors file, and the byte where its data begins; no data is read.

    Raises TrainingError for a file that is not whole: every byte must belong to one tensor.
    """
    try:
        num_bytes = path.stat().st_size
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(num_bytes, _HEADER_LIMIT_BYTES):
                raise ValueError("the header is longer than the file")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        entries = {name: _entry(name, value) for name, value in header.items()}
        end = 0
        for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
            if entry.start != end:
                raise ValueError(f"{name} begins at byte {entry.start}, and the one before it ends at {end}")
            end = entry.end
        if 8 + length + end != num_bytes:
            raise ValueError(f"{num_bytes} bytes long, and its header speaks of {8 + length + end}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise TrainingError(f"{path} is not a whole safetensors file ({error}); copy it again") from None
    return entries, 8 + length


def read_metadata(path: Path) -> dict[str, str]:
    """What its writer noted in a safetensors file that is whole."""
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        noted: dict[str, str] = json.loads(stream.read(length)).get("__metadata__", {})
    return noted


def _entry(name: str, value: Mapping[str, Any]) -> Entry:
    dtype, shape, (start, end) = _DTYPES[value["dtype"]], tuple(value["shape"]), value["data_offsets"]
    if end - start != prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} has {end - start} bytes for shape {shape}")
    return Entry(dtype, shape, start, end)


def read(path: Path, out: torch.Tensor | None = None, *, pin: bool = False) -> Pack:
    """A pack from its file, straight into its buffer.

    `out`: a uint8 host buffer of at least the pack's size to read into, of which the pack then is a view.
    Raises TrainingError for a file that is not whole, ValueError for a buffer that is too small.
    """
    layout, data_start = read_layout(path)
    if out is None:
        out = empty(layout, pin=pin).data
    if out.numel() < layout.num_bytes:
        raise ValueError(f"{path} has {layout.num_bytes} bytes of data, the buffer {out.numel()}")
    data = out[: layout.num_bytes]
    read_bytes(path, data_start, data)
    return Pack(layout=layout, data=data)


def read_bytes(path: Path, start: int, out: torch.Tensor) -> None:
    """Fill `out`, contiguous on the host, with the file's bytes from `start`. Raises TrainingError where it cannot."""
    view = out.view(-1).view(torch.uint8).numpy().data
    try:
        with path.open("rb", buffering=0) as stream:
            stream.seek(start)
            done = 0
            while done < len(view):  # Linux reads at most 2 GiB a call.
                count = stream.readinto(view[done:])
                if not count:
                    raise TrainingError(f"{path} became shorter while it was read; copy it again")
                done += count
    except OSError as error:
        raise TrainingError(f"{path} cannot be read: {error.strerror}") from None
