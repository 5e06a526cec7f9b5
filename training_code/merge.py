"""Add an adapter to its base model: `python -m training_code.merge BASE ADAPTER DST [--dtype bf16|fp8]`.

DST is a checkpoint with BASE's shards, keys, config and tokenizer, vision tensors included, that needs no adapter when
it is served. It is written shard by shard, and a shard piece by piece, so that the host holds one expert's matrix or
one layer's projection at a time. W + B A alpha / rank is computed in float32 and rounded once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from training_code import adapter, commands, fp8, packs
from training_code.adapter import Adapter
from training_code.base_files import CONFIG, INDEX, Checkpoint, StoredTensor, checkpoint_files, open_base
from training_code.environment import read_json_object, write_json
from training_code.errors import TrainingError
from training_code.folder import only_process_in
from training_code.manifest import sha256_of
from training_code.packs import Entry
from training_code.weight_names import text_name

DTYPES = ("bf16", "fp8")

_NOTHING = Adapter(rank=1, alpha=1.0, target_modules="", matrices={})
_MERGED_FROM = "merged_from"
"""Noted in each shard: what it was made of, so that a run that was ended can go on."""
_STEP_NUMBERS = 2**25
"""Of a tensor that is only copied or rounded: read and written at once."""
_EXPERT = re.compile(r"(?P<experts>.*\.feed_forward\.experts)\.(?P<number>\d+)\.(?P<part>gate|up|down)_proj")
_STACK = re.compile(r"(?P<experts>.*\.feed_forward\.experts)\.(?P<part>gate_up|down)_proj")


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Tensors of the new shard that are made of one of the old."""

    tensors: Sequence[tuple[str, torch.dtype, tuple[int, ...]]]
    values: Callable[[], Iterator[torch.Tensor]]
    """Their values one after another, in pieces"""


def merge(base_folder: Path, adapter_folder: Path, folder: Path, *, dtype: str | None) -> None:
    """`dtype`: "bf16", "fp8", or None for that of each tensor in the base.

    Raises TrainingError for files that are not whole or do not belong together, and before anything is written for
    an adapter with a matrix that the base has no weight for, or without one that it says it is for.
    """
    base = _open(base_folder)
    lora = adapter.read(adapter_folder)
    _refuse_what_does_not_fit(lora, base, adapter_folder)
    _write(base_folder, lora, adapter_folder, folder, dtype, commands.LOCAL)
    print(f"{folder} is finished: {len(lora.matrices)} matrices were added")


def convert(base_folder: Path, folder: Path, *, dtype: str, files: commands.Files = commands.LOCAL) -> None:
    """The base in another `dtype`, "bf16" or "fp8", with nothing added. Raises TrainingError as `merge` does."""
    _open(base_folder)
    _write(base_folder, _NOTHING, None, folder, dtype, files)
    print(f"{folder} is finished")


def _open(folder: Path) -> Checkpoint:
    base = open_base(folder)
    if not isinstance(base, Checkpoint):
        raise TrainingError(f"{folder} is quantised, which loses precision; give the checkpoint it was made from")
    return base


def _write(
    base_folder: Path,
    lora: Adapter,
    adapter_folder: Path | None,
    folder: Path,
    dtype: str | None,
    files: commands.Files,
) -> None:
    shards = checkpoint_files(base_folder)
    identity = _identity(base_folder, shards, adapter_folder, dtype)
    with only_process_in(folder):
        plans = {shard: _parts(shard, lora, dtype) for shard in shards}
        finished = {shard for shard in shards if _is_finished(folder / shard.name, identity)}
        _refuse_foreign_files(folder, finished)
        commands.refuse_too_small_a_disk(
            folder,
            files.num_bytes([([shard], _num_bytes(parts)) for shard, parts in plans.items() if shard not in finished]),
        )
        progress = commands.Progress(sum(shard.stat().st_size for shard in shards))
        for shard, parts in plans.items():
            if shard in finished:
                progress.skip(shard.stat().st_size)
                continue
            with files.reading([shard]):
                packs.write_atomically(folder / shard.name, _file(parts, identity))
            files.finished(folder / shard.name)
            progress.advance(shard.stat().st_size, shard.name)
        # The config last: without it nobody takes the folder for a model.
        for name in _write_small_files(base_folder, adapter_folder, folder, dtype, plans):
            files.finished(folder / name)


# --- what is made of each tensor


def _parts(shard: Path, lora: Adapter, dtype: str | None) -> list[_Part]:
    entries, data_start = packs.read_header(shard)
    return [
        _part(StoredTensor(file=shard, key=key, entry=entry, data_start=data_start), lora, dtype)
        for key, entry in sorted(entries.items(), key=lambda item: item[1].start)
    ]


def _part(stored: StoredTensor, lora: Adapter, dtype: str | None) -> _Part:
    name = text_name(stored.key)
    if name is None:
        return _copied(stored, stored.entry.dtype)
    out = stored.entry.dtype if dtype is None else torch.bfloat16
    if _STACK.fullmatch(name):
        return _experts_in_fp8(stored, name, lora) if dtype == "fp8" else _experts(stored, name, lora, out)
    module = name.removesuffix(".weight")
    if dtype == "fp8" and fp8.is_quantised(name):
        return _in_fp8(stored, module, lora)
    return _merged(stored, module, out, lora) if module in lora.matrices else _copied(stored, out)


def _copied(stored: StoredTensor, dtype: torch.dtype) -> _Part:
    def values() -> Iterator[torch.Tensor]:
        num = prod(stored.entry.shape)
        for start in range(0, num, _STEP_NUMBERS):
            yield _read(stored, start, min(_STEP_NUMBERS, num - start)).to(dtype)

    return _Part(tensors=[(stored.key, dtype, stored.entry.shape)], values=values)


def _merged(stored: StoredTensor, module: str, dtype: torch.dtype, lora: Adapter) -> _Part:
    def values() -> Iterator[torch.Tensor]:
        yield (stored.read().float() + lora.update(module)).to(dtype)

    return _Part(tensors=[(stored.key, dtype, stored.entry.shape)], values=values)


def _in_fp8(stored: StoredTensor, module: str, lora: Adapter) -> _Part:
    def values() -> Iterator[torch.Tensor]:
        weight = stored.read().float()
        yield from fp8.quantise(weight + lora.update(module) if module in lora.matrices else weight)

    return _Part(tensors=_fp8_tensors(stored.key.removesuffix(".weight"), stored.entry.shape), values=values)


def _experts(stored: StoredTensor, name: str, lora: Adapter, dtype: torch.dtype) -> _Part:
    def values() -> Iterator[torch.Tensor]:
        for number in range(stored.entry.shape[0]):
            yield _expert(stored, name, number, lora).to(dtype)

    return _Part(tensors=[(stored.key, dtype, stored.entry.shape)], values=values)


def _experts_in_fp8(stored: StoredTensor, name: str, lora: Adapter) -> _Part:
    """A stack (experts, inputs, outputs) as matrices (outputs, inputs) of their own: gate, up or down of each."""
    num_experts, num_inputs, num_outputs = stored.entry.shape
    prefix, _, last = stored.key.rpartition(".")
    projections = ["gate_proj", "up_proj"] if last == "gate_up_proj" else ["down_proj"]
    shape = (num_outputs // len(projections), num_inputs)

    def values() -> Iterator[torch.Tensor]:
        for number in range(num_experts):
            for matrix in _expert(stored, name, number, lora).t().chunk(len(projections)):
                yield from fp8.quantise(matrix)

    tensors = [
        tensor
        for number in range(num_experts)
        for projection in projections
        for tensor in _fp8_tensors(f"{prefix}.{number}.{projection}", shape)
    ]
    return _Part(tensors=tensors, values=values)


def _fp8_tensors(module: str, shape: tuple[int, ...]) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
    return [(f"{module}.weight", fp8.DTYPE, shape), (f"{module}.weight_scale", torch.float32, (shape[0], 1))]


def _expert(stored: StoredTensor, name: str, number: int, lora: Adapter) -> torch.Tensor:
    """One expert's matrix of a stack, (inputs, outputs) in float32, with what the adapter adds to it."""
    _, num_inputs, num_outputs = stored.entry.shape
    size = num_inputs * num_outputs
    weight = _read(stored, number * size, size).view(num_inputs, num_outputs).float()
    match = _STACK.fullmatch(name)
    assert match is not None
    parts = match["part"].split("_")  # gate and up lie side by side
    for part, columns in zip(parts, weight.chunk(len(parts), dim=1), strict=True):
        module = f"{match['experts']}.{number}.{part}_proj"
        if module in lora.matrices:
            columns.add_(lora.update(module).t())
    return weight


def _read(stored: StoredTensor, first: int, count: int) -> torch.Tensor:
    """Of the flattened tensor: `count` numbers from the `first`."""
    values = torch.empty(count, dtype=stored.entry.dtype)
    start = stored.data_start + stored.entry.start + first * values.itemsize
    packs.read_bytes(stored.file, start, values)
    return values


# --- what goes together


def _refuse_what_does_not_fit(lora: Adapter, base: Checkpoint, folder: Path) -> None:
    for module, (lora_a, lora_b) in lora.matrices.items():
        shape = _module_shape(module, base)
        if shape is None:
            raise TrainingError(f"{folder} has a matrix for {module}, which {base.folder} has no weight for")
        found = (lora_b.shape[0], lora_a.shape[1])
        if found != shape:
            raise TrainingError(
                f"{folder} is not an adapter of {base.folder}: {module} is {shape[0]} x {shape[1]}, and the adapter's "
                f"{found[0]} x {found[1]}"
            )
    missing = adapter.modules(base.architecture, lora.target_modules) - lora.matrices.keys()
    if missing:
        raise TrainingError(f"{folder} lacks {min(missing)}, which its {adapter.CONFIG} says that it is for")


def _module_shape(module: str, base: Checkpoint) -> tuple[int, int] | None:
    """(outputs, inputs) of what the base has under an adapter's name for it; None where it has nothing."""
    match = _EXPERT.fullmatch(module)
    if match is None:
        stored = base.stored.get(f"{module}.weight")
        return (
            None if stored is None or len(stored.entry.shape) != 2 else (stored.entry.shape[0], stored.entry.shape[1])
        )
    is_down = match["part"] == "down"
    stored = base.stored.get(f"{match['experts']}.{'down' if is_down else 'gate_up'}_proj")
    if stored is None or int(match["number"]) >= stored.entry.shape[0]:
        return None
    _, num_inputs, num_outputs = stored.entry.shape
    return num_outputs if is_down else num_outputs // 2, num_inputs


def _identity(base: Path, shards: Sequence[Path], adapter_folder: Path | None, dtype: str | None) -> str:
    """A digest of what the result depends on."""
    files = [[shard.name, shard.stat().st_size] for shard in shards]
    added = [] if adapter_folder is None else [adapter_folder / adapter.WEIGHTS]
    digests = [sha256_of(path) for path in (base / CONFIG, *added)]
    scale = None if adapter_folder is None else read_json_object(adapter_folder / adapter.CONFIG).get("lora_alpha")
    return hashlib.sha256(json.dumps([files, digests, scale, dtype]).encode()).hexdigest()


def _is_finished(path: Path, identity: str) -> bool:
    if not path.is_file():
        return False
    try:
        packs.read_header(path)
    except TrainingError:
        return False
    return packs.read_metadata(path).get(_MERGED_FROM) == identity


def _refuse_foreign_files(folder: Path, finished: set[Path]) -> None:
    ours = {shard.name for shard in finished}
    foreign = sorted(file.name for file in folder.glob("*.safetensors") if file.name not in ours)
    if foreign:
        raise TrainingError(
            f"{folder} holds {foreign[0]}, which was not made of this base, adapter and dtype; give an empty folder"
        )


# --- files


def _file(parts: Sequence[_Part], identity: str) -> Iterator[bytes | memoryview]:
    yield packs.encode_header(_entries(parts), {"format": "pt", _MERGED_FROM: identity})
    for part in parts:
        for value in part.values():
            yield value.contiguous().view(-1).view(torch.uint8).numpy().data


def _entries(parts: Sequence[_Part]) -> list[tuple[str, Entry]]:
    return list(packs.lay_out(tensor for part in parts for tensor in part.tensors))


def _num_bytes(parts: Sequence[_Part]) -> int:
    return max((entry.end for _, entry in _entries(parts)), default=0)


def _write_small_files(
    base: Path, adapter_folder: Path | None, folder: Path, dtype: str | None, plans: Mapping[Path, Sequence[_Part]]
) -> list[str]:
    """Their names, in the order in which they were written."""
    files = {file.name: file for file in commands.small_files(base)}
    template = None if adapter_folder is None else adapter_folder / adapter.CHAT_TEMPLATE
    if template is not None and template.is_file():  # The format that it was trained in
        files[template.name] = template
    written = [name for name in files if name != CONFIG]
    for name in written:
        packs.write_atomically(folder / name, [files[name].read_bytes()])
    if (base / INDEX).is_file():
        weight_map = {name: shard.name for shard, parts in plans.items() for name, _ in _entries(parts)}
        total = sum(_num_bytes(parts) for parts in plans.values())
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})
        written.append(INDEX)
    write_json(folder / CONFIG, _config(read_json_object(base / CONFIG), dtype))
    return [*written, CONFIG]


def _config(config: dict[str, Any], dtype: str | None) -> dict[str, Any]:
    if dtype is None:
        return config
    for part in (config, config.get("text_config")):
        for key in ("dtype", "torch_dtype"):
            if isinstance(part, dict) and key in part:
                part[key] = "bfloat16"
    return config | ({"quantization_config": fp8.quantization_config()} if dtype == "fp8" else {})


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training_code.merge",
        description="Add a LoRA adapter to the weights of its base model, shard by shard.",
        epilog="A run that was ended goes on where it stopped when it is started again.",
    )
    parser.add_argument("base", type=Path, metavar="BASE", help="the checkpoint's folder, not quantised")
    parser.add_argument("adapter", type=Path, metavar="ADAPTER", help="the adapter's folder")
    parser.add_argument("folder", type=Path, metavar="DST", help="where to write")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="of the language model's weights; fp8 is for serving with vLLM. By default each stays as it is",
    )
    given = parser.parse_args(arguments)
    return commands.run(lambda: merge(given.base, given.adapter, given.folder, dtype=given.dtype))


if __name__ == "__main__":
    sys.exit(main())
