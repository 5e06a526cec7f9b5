"""Folders of a bucket on a disk that could not hold them: the shapes of all files, the bodies of a few.

Of each file of weights the header is there, and behind it a hole of the right length, which takes no space. The tools
on checkpoints read headers first and bodies part by part, so they work on such a folder as on a whole one.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from training_code import commands
from training_code.bucket import Folder
from training_code.errors import TrainingError

_WEIGHTS = ".safetensors"
_LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header."""


@contextmanager
def borrowed(source: Folder, target: Folder, scratch: Path) -> Iterator[tuple[Path, Path, commands.Files]]:
    """Two local folders, of what is read and of what is made, and what moves the bodies. Nothing is left on the disk.

    Errors name the folders of the bucket in their place.
    """
    base, folder = scratch / "source", scratch / "made"
    shutil.rmtree(scratch, ignore_errors=True)  # Of an attempt before this one
    try:
        sources = _outline(source, base)
        _outline(target, folder)
        yield base, folder, _Bucket(source, target, base, folder, sources)
    except TrainingError as error:
        text = str(error).replace(str(base), source.uri.rstrip("/")).replace(str(folder), target.uri.rstrip("/"))
        raise TrainingError(text) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _Bucket(commands.Files):
    """Fetches what is read next, sends what is finished, and keeps neither."""

    def __init__(self, source: Folder, target: Folder, base: Path, folder: Path, sources: dict[Path, int]) -> None:
        self._source, self._target, self._base, self._folder = source, target, base, folder
        self._sources = sources
        self._filled: set[Path] = set()

    def num_bytes(self, parts: Sequence[tuple[Collection[Path], int]]) -> int:
        return max((sum(self._sources[file] for file in files) + made for files, made in parts), default=0)

    @contextmanager
    def reading(self, files: Collection[Path]) -> Iterator[None]:
        # Neighbouring parts share files: a body goes when it is not read next.
        for file in self._filled - set(files):
            _empty(file)
        self._filled &= set(files)
        for file in sorted(set(files) - self._filled):
            self._source.download(file.relative_to(self._base).as_posix(), file)
            self._filled.add(file)
        yield

    def finished(self, path: Path) -> None:
        self._target.send(path, path.relative_to(self._folder).as_posix())
        if path.suffix == _WEIGHTS:
            _empty(path)


def _outline(remote: Folder, local: Path) -> dict[Path, int]:
    """The folder's files on the disk, weights without their bodies. Returns the sizes of the latter."""
    local.mkdir(parents=True)
    found = {}
    for name, size in remote.sizes().items():
        path = local / name
        if "/" in name:
            continue
        if path.suffix != _WEIGHTS:
            remote.download(name, path)
            continue
        (length,) = struct.unpack("<Q", remote.head(name, _LENGTH_BYTES).ljust(_LENGTH_BYTES, b"\0"))
        with path.open("wb") as stream:
            stream.write(remote.head(name, min(_LENGTH_BYTES + length, size)))
            stream.truncate(size)
        found[path] = size
    return found


def _empty(path: Path) -> None:
    """A hole in place of the file's body."""
    with path.open("r+b") as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        (length,) = struct.unpack("<Q", stream.read(_LENGTH_BYTES))
        stream.truncate(_LENGTH_BYTES + length)
        stream.truncate(size)
