"""Quantise a checkpoint to NF4 once: `python -m training_code.quantize SRC DST`.

Layer by layer, so that the host holds one layer's pack and one tensor of the checkpoint at a time. DST then is a base
model's folder like SRC, at 54.7 GiB rather than 202 for Llama 4 Scout, and loads at the disk's speed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from heartbeat.checkpoint import EMBEDDING_FILE, HEAD_FILE, layer_file
from training_code import commands, packs
from training_code.base_files import CONFIG, BaseModel, checkpoint_files, open_base
from training_code.errors import TrainingError
from training_code.folder import only_process_in
from training_code.manifest import MANIFEST, FileRecord, Manifest, Source, sha256_of
from training_code.packs import Layout, Pack
from training_code.weight_names import EMBEDDING, layer_shapes, shapes_outside_layers


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A file to be made."""

    name: str
    layout: Layout
    source_bytes: int
    files: frozenset[Path]
    """That it is made of"""
    make: Callable[[], Pack]


def quantize(source: Path, folder: Path, *, device: torch.device, files: commands.Files = commands.LOCAL) -> None:
    """Make in `folder` what is not there yet of the checkpoint in `source`.

    Raises TrainingError for a checkpoint that is not whole, a folder of another one, a disk that is too small;
    OSError where a file cannot be written. What is finished stays, and is not made again.
    """
    base = open_base(source)
    if base.is_quantised:
        raise TrainingError(f"{source} is quantised already; give the checkpoint it was made from")
    with only_process_in(folder):
        manifest = _manifest(source, folder)
        for file in commands.small_files(source):
            _copy(file, folder, manifest)
            files.finished(folder / file.name)
        parts = _parts(base, device)
        missing = [part for part in parts if not manifest.has(folder, part.name)]
        commands.refuse_too_small_a_disk(
            folder, files.num_bytes([(part.files, part.layout.num_bytes) for part in missing])
        )
        progress = commands.Progress(sum(part.source_bytes for part in parts))
        progress.skip(sum(part.source_bytes for part in parts if part not in missing))
        if len(missing) < len(parts):
            print(f"{len(parts) - len(missing)} of {len(parts)} files are there already", flush=True)
        for part in missing:
            path = folder / part.name
            with files.reading(part.files):
                digest = packs.write(path, part.make(), {"format": "pt", "made_by": "training_code.quantize"})
            manifest.files[part.name] = FileRecord(bytes=path.stat().st_size, sha256=digest)
            files.finished(path)
            manifest.write(folder)
            files.finished(folder / MANIFEST)
            progress.advance(part.source_bytes, part.name)
    open_base(folder)
    print(f"{folder} is finished: {sum(record.bytes for record in manifest.files.values()) / commands.GB:.2f} GB")


def verify(folder: Path) -> None:
    """Read every file of a quantised folder and compare digests. Damaged ones are struck off the manifest.

    Raises TrainingError for a folder that was not quantised or is not finished, and where a file is damaged.
    """
    manifest = Manifest.read(folder)
    if manifest is None:
        raise TrainingError(f"{folder} has no {MANIFEST}; give a folder that training_code.quantize made")
    damaged = manifest.damaged(folder)
    if damaged:
        for name in damaged:
            del manifest.files[name]
        manifest.write(folder)
        raise TrainingError(
            f"{folder}: {', '.join(damaged)} {'is' if len(damaged) == 1 else 'are'} not as written; "
            f"run `python -m training_code.quantize SRC {folder}`, and it makes anew what is damaged"
        )
    open_base(folder)
    print(f"{folder}: {len(manifest.files)} files are as they were written")


def identity(source: Path) -> Source:
    """What tells a checkpoint from another one without reading it."""
    return Source(
        config_sha256=sha256_of(source / CONFIG),
        shards={file.name: file.stat().st_size for file in checkpoint_files(source)},
    )


def _manifest(source: Path, folder: Path) -> Manifest:
    """The folder's own, or a new one. Raises TrainingError for a folder of anything else."""
    found, current = Manifest.read(folder), identity(source)
    if found is None:
        foreign = sorted(folder.glob("*.safetensors"))
        if foreign:
            raise TrainingError(f"{foreign[0]} was not made by this program; give an empty folder")
        manifest = Manifest(source=current)
        manifest.write(folder)
        return manifest
    if found.source != current:
        raise TrainingError(
            f"{folder} was begun with another checkpoint than {source} is ({_difference(found.source, current)}); "
            "give another folder, or empty this one"
        )
    return found


def _difference(before: Source, now: Source) -> str:
    if before.config_sha256 != now.config_sha256:
        return f"{CONFIG} differs"
    name = min(n for n in {*before.shards, *now.shards} if before.shards.get(n) != now.shards.get(n))
    return f"{name} had {before.shards.get(name, 'no')} bytes, and has {now.shards.get(name, 'no')}"


def _copy(file: Path, folder: Path, manifest: Manifest) -> None:
    content = file.read_bytes()
    digest = packs.write_atomically(folder / file.name, [content])
    manifest.files[file.name] = FileRecord(bytes=len(content), sha256=digest)


def _parts(base: BaseModel, device: torch.device) -> list[_Part]:
    outside = list(shapes_outside_layers(base.architecture))
    parts = [
        _plain_part(EMBEDDING_FILE, [EMBEDDING], base),
        _plain_part(HEAD_FILE, [name for name in outside if name != EMBEDDING], base),
    ]
    for number in range(base.num_layers):
        names = [f"model.layers.{number}.{name}" for name in layer_shapes(base.architecture, number)]
        parts.append(
            _Part(
                name=layer_file(number),
                layout=base.layer_layout(number, quantise=True),
                source_bytes=_stored_bytes(names, base),
                files=_files(names, base),
                make=lambda number=number: base.layer(number, quantise=True, device=device),  # type: ignore[misc]
            )
        )
    return parts


def _plain_part(name: str, weights: Sequence[str], base: BaseModel) -> _Part:
    stored = {weight: base.stored[weight] for weight in weights}
    layout = packs.plan({weight: (s.entry.dtype, s.entry.shape) for weight, s in stored.items()}, quantise=())

    def make() -> Pack:
        pack = packs.empty(layout)
        for weight, tensor in stored.items():
            tensor.read(pack.tensor(weight))
        return pack

    return _Part(
        name=name,
        layout=layout,
        source_bytes=_stored_bytes(weights, base),
        files=_files(weights, base),
        make=make,
    )


def _files(names: Sequence[str], base: BaseModel) -> frozenset[Path]:
    return frozenset(base.stored[name].file for name in names)


def _stored_bytes(names: Sequence[str], base: BaseModel) -> int:
    entries = [base.stored[name].entry for name in names]
    return sum(prod(entry.shape) * entry.dtype.itemsize for entry in entries)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training_code.quantize",
        usage="%(prog)s [--device DEVICE] SRC DST\n       %(prog)s --verify DST",
        description="Quantise a Llama 4 checkpoint to NF4 with double quantisation, layer by layer.",
        epilog="A run that was ended goes on where it stopped when it is started again.",
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="SRC DST", help="the checkpoint's folder, and the one to write"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="what computes; by default a GPU where there is one")
    parser.add_argument("--verify", action="store_true", help="compare every file of DST with its digest")
    given = parser.parse_args(arguments)
    if len(given.folders) != (1 if given.verify else 2):
        parser.error("give SRC and DST, or --verify and DST")
    if given.verify:
        return commands.run(lambda: verify(given.folders[0]))
    source, folder = given.folders
    return commands.run(lambda: quantize(source, folder, device=commands.device(given.device)))


if __name__ == "__main__":
    sys.exit(main())
