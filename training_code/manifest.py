"""What a quantised folder holds and what it was made from: `nf4.json`.

It is written anew after each file that is finished, so that it names finished files only.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from heartbeat.checkpoint import PACKS_MANIFEST
from training_code.environment import read_json_object, write_json
from training_code.errors import TrainingError

MANIFEST = PACKS_MANIFEST
SCHEMA = 1

_STEP_BYTES = 2**24


@dataclass(frozen=True, kw_only=True)
class Source:
    """The checkpoint that was quantised, as far as it can be told without reading it."""

    config_sha256: str
    shards: Mapping[str, int]
    """Bytes by file name"""


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    source: Source
    files: dict[str, FileRecord] = field(default_factory=dict)
    """Every finished file of the folder but the manifest itself"""

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """None where the folder has none. Raises TrainingError for one that cannot be understood."""
        path = folder / MANIFEST
        if not path.is_file():
            return None
        value = read_json_object(path)
        if value.get("schema") != SCHEMA:
            raise TrainingError(
                f"{path} has schema {value.get('schema')!r}, and this version reads {SCHEMA}: quantise the checkpoint "
                "again, into an empty folder"
            )
        try:
            return cls(source=_source(value["source"]), files={n: _record(r) for n, r in value["files"].items()})
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise TrainingError(
                f"{path} is damaged ({error}): quantise the checkpoint again, into an empty folder"
            ) from None

    def write(self, folder: Path) -> None:
        value = {"schema": SCHEMA, **asdict(self)}
        write_json(folder / MANIFEST, {**value, "files": dict(sorted(value["files"].items()))})

    def has(self, folder: Path, name: str) -> bool:
        """Whether the file was finished, and still has its size."""
        record = self.files.get(name)
        return record is not None and size_of(folder / name) == record.bytes

    def damaged(self, folder: Path) -> list[str]:
        """Files whose bytes are not those that were written. Reads them all."""
        return [
            name
            for name, record in self.files.items()
            if not self.has(folder, name) or sha256_of(folder / name) != record.sha256
        ]


def size_of(path: Path) -> int | None:
    """In bytes; None where there is no such file."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return None


def sha256_of(*paths: Path) -> str:
    """Of the files' bytes one after another."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while step := stream.read(_STEP_BYTES):
                digest.update(step)
    return digest.hexdigest()


def _source(value: Mapping[str, Any]) -> Source:
    return Source(
        config_sha256=str(value["config_sha256"]), shards={str(n): int(size) for n, size in value["shards"].items()}
    )


def _record(value: Mapping[str, Any]) -> FileRecord:
    return FileRecord(bytes=int(value["bytes"]), sha256=str(value["sha256"]))
