"""A base model's folder: a Hugging Face checkpoint, or what `training_code.quantize` makes of one.

Opening reads headers only, and checks that every tensor which config.json calls for is there in its shape: a folder
of 217 GB is refused in milliseconds. Weights are read layer by layer.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch

from heartbeat.checkpoint import EMBEDDING_FILE, HEAD_FILE, layer_file
from heartbeat.scout import ModelShape, UnsupportedModelError
from training_code import nf4, packs
from training_code.architecture import Architecture
from training_code.environment import read_json_object
from training_code.errors import TrainingError
from training_code.manifest import MANIFEST, FileRecord, Manifest, sha256_of, size_of
from training_code.packs import Entry, Layout, Pack
from training_code.weight_names import (
    EMBEDDING,
    HEAD,
    NORM,
    NOT_QUANTISED,
    expected_shapes,
    layer_shapes,
    shapes_outside_layers,
    text_name,
)

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
_FLOATS = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where a weight lies in a folder."""

    file: Path
    key: str
    entry: Entry
    data_start: int
    """Byte of the file where its data region begins"""

    def read(self, out: torch.Tensor | None = None) -> torch.Tensor:
        """Its value on the host; into `out`, contiguous and of its dtype, where that is given."""
        if out is None:
            out = torch.empty(self.entry.shape, dtype=self.entry.dtype)
        packs.read_bytes(self.file, self.data_start + self.entry.start, out)
        return out


@dataclass(frozen=True, kw_only=True)
class BaseModel(ABC):
    """The text model of a folder. Its methods may be called from several threads at once."""

    folder: Path
    text_config: dict[str, Any]
    architecture: Architecture
    stored: Mapping[str, StoredTensor]
    """By the names of transformers' Llama4ForCausalLM. Of a quantised folder: what lies outside the layers."""
    records: Mapping[str, FileRecord] = field(default_factory=dict)
    """Of files with weights, by name, where a manifest has them."""

    @property
    def num_layers(self) -> int:
        return self.architecture.shape.num_layers

    @property
    @abstractmethod
    def is_quantised(self) -> bool: ...

    @property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256 that tells these weights from others without reading them, as far as that can be told."""

    @abstractmethod
    def layer_layout(self, number: int, *, quantise: bool, dtype: torch.dtype | None = None) -> Layout:
        """Of the pack that `layer` gives for the same arguments, without reading it."""

    @abstractmethod
    def layer(
        self,
        number: int,
        *,
        quantise: bool,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        out: torch.Tensor | None = None,
    ) -> Pack:
        """A layer's weights on the host, under their names within the layer.

        `quantise`: the projections as NF4, computed on `device` (the host). `dtype`: of the other weights; None as
        they are stored. A quantised folder gives what it holds, whatever these are. `out`: a uint8 host buffer to
        read into, at least as long as the layout. Raises TrainingError for files that cannot be read.
        """

    def layer_bytes(self, number: int, *, quantise: bool, dtype: torch.dtype | None = None) -> int:
        return self.layer_layout(number, quantise=quantise, dtype=dtype).num_bytes

    def embedding(self) -> torch.Tensor:
        """(vocabulary, hidden), as stored, on the host."""
        return self.stored[EMBEDDING].read()

    def head(self) -> torch.Tensor:
        """(vocabulary, hidden); the embedding where config.json ties them."""
        return self.stored[HEAD if HEAD in self.stored else EMBEDDING].read()

    def final_norm(self) -> torch.Tensor:
        """(hidden,)"""
        return self.stored[NORM].read()


class Checkpoint(BaseModel):
    """As Hugging Face publishes it."""

    @property
    def is_quantised(self) -> bool:
        return False

    @property
    def digest(self) -> str:
        """Of its files' sizes, and of where each weight lies in them."""
        files = sorted((file.name, size_of(file)) for file in {stored.file for stored in self.stored.values()})
        places = sorted((name, stored.file.name, stored.entry.start) for name, stored in self.stored.items())
        return _digest([files, places])

    def layer_layout(self, number: int, *, quantise: bool, dtype: torch.dtype | None = None) -> Layout:
        names = layer_shapes(self.architecture, number)
        weights = {
            name: (dtype or self._stored(number, name).entry.dtype, self._stored(number, name).entry.shape)
            for name in names
        }
        try:
            return packs.plan(weights, quantise=[name for name in names if quantise and name not in NOT_QUANTISED])
        except ValueError as error:
            raise TrainingError(f"{self.folder} cannot be quantised to NF4: layer {number}'s {error}") from None

    def layer(
        self,
        number: int,
        *,
        quantise: bool,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        out: torch.Tensor | None = None,
    ) -> Pack:
        layout = self.layer_layout(number, quantise=quantise, dtype=dtype)
        pack = packs.empty(layout) if out is None else Pack(layout=layout, data=out[: layout.num_bytes])
        for name in layer_shapes(self.architecture, number):
            stored = self._stored(number, name)
            if layout.is_quantised(name):
                self._quantise(pack, name, stored, device)
            elif layout.entries[name].dtype == stored.entry.dtype:
                stored.read(pack.tensor(name))
            else:
                pack.put(name, stored.read())
        return pack

    def _stored(self, number: int, name: str) -> StoredTensor:
        return self.stored[f"model.layers.{number}.{name}"]

    def _quantise(self, pack: Pack, name: str, stored: StoredTensor, device: torch.device | None) -> None:
        try:
            pack.put(name, stored.read().to(device or "cpu"))
        except ValueError as error:
            raise TrainingError(f"{stored.file}: {stored.key}: {error}; copy the checkpoint again") from None


class QuantisedFolder(BaseModel):
    """As `training_code.quantize` writes it: a file for each layer, one for the embedding, one for norm and head."""

    @property
    def is_quantised(self) -> bool:
        return True

    @property
    def digest(self) -> str:
        """Of its files' digests."""
        return _digest(sorted((name, record.sha256) for name, record in self.records.items()))

    def layer_layout(self, number: int, *, quantise: bool = True, dtype: torch.dtype | None = None) -> Layout:
        del quantise, dtype
        return packs.read_layout(self.folder / layer_file(number))[0]

    def layer(
        self,
        number: int,
        *,
        quantise: bool = True,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        out: torch.Tensor | None = None,
    ) -> Pack:
        del quantise, dtype, device
        return packs.read(self.folder / layer_file(number), out)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def open_base(folder: Path) -> BaseModel:
    """Raises TrainingError for a folder that is not a whole Llama 4: another architecture, files that are missing,
    cut short or unfinished, tensors that are missing, unknown or of another shape.
    """
    manifest = Manifest.read(folder)
    text_config = read_text_config(folder)
    architecture = Architecture.from_config(text_config)
    if manifest is not None:
        return _open_quantised(folder, text_config, architecture, manifest)
    stored = _stored_tensors(checkpoint_files(folder))
    if architecture.shape.tied_embeddings:
        stored.pop(HEAD, None)
    _check(folder, expected_shapes(architecture), stored)
    return Checkpoint(folder=folder, text_config=text_config, architecture=architecture, stored=stored)


def read_text_config(folder: Path) -> dict[str, Any]:
    """The language model's part of config.json. Raises TrainingError for another architecture."""
    path = folder / CONFIG
    if not path.is_file():
        raise TrainingError(
            f"{path} is missing: the `model` channel must hold a Hugging Face checkpoint folder of a Llama 4 model "
            "(config.json, tokenizer.json, *.safetensors)"
        )
    config = read_json_object(path)
    text: Any = config.get("text_config", config)
    if not isinstance(text, dict) or text.get("model_type") != "llama4_text":
        found = config.get("model_type")
        raise TrainingError(f"{path} describes a model of type {found!r}; this trainer trains Llama 4 only")
    if text.get("num_experts_per_tok", 1) != 1:
        raise TrainingError(f"{path}: num_experts_per_tok={text['num_experts_per_tok']} must be 1, as in Llama 4")
    try:
        ModelShape.from_config(config)
    except UnsupportedModelError as error:
        raise TrainingError(f"{folder}: {error}") from None
    return text


def checkpoint_files(folder: Path) -> list[Path]:
    """A checkpoint's shards, by name. Raises TrainingError where one is missing."""
    index = folder / INDEX
    if index.is_file():
        weight_map = read_json_object(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise TrainingError(f"{index} has no weight_map of file names; copy it again")
        files = sorted({folder / name for name in weight_map.values()})
    else:
        files = sorted(folder.glob("*.safetensors"))
    missing = [file.name for file in files if not file.is_file()]
    if not files or missing:
        what = ", ".join(missing) if missing else "*.safetensors"
        raise TrainingError(f"{folder} lacks {what}; copy the whole checkpoint folder")
    if folder / layer_file(0) in files:
        raise TrainingError(f"{folder} lacks {MANIFEST}, and was quantised; copy the whole folder")
    return files


def _stored_tensors(files: Iterable[Path]) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        entries, data_start = packs.read_header(file)
        for key, entry in entries.items():
            name = text_name(key)
            if name is None:
                continue
            if name in tensors:
                raise TrainingError(f"{file} has {name}, as {tensors[name].file.name} has; copy the checkpoint again")
            tensors[name] = StoredTensor(file=file, key=key, entry=entry, data_start=data_start)
    return tensors


def _check(folder: Path, expected: Mapping[str, tuple[int, ...]], stored: Mapping[str, StoredTensor]) -> None:
    for name, shape in expected.items():
        if name not in stored:
            raise TrainingError(f"{folder} has no tensor {name}, which its config.json calls for")
        entry = stored[name].entry
        if entry.shape != shape:
            raise TrainingError(f"{stored[name].file}: {name} has shape {entry.shape}; config.json calls for {shape}")
        if entry.dtype not in _FLOATS:
            raise TrainingError(
                f"{stored[name].file}: {name} is {str(entry.dtype).removeprefix('torch.')}; use the checkpoint in "
                "bfloat16"
            )
    unknown = stored.keys() - expected.keys()
    if unknown:
        raise TrainingError(f"{folder} has a tensor {min(unknown)} that its config.json does not call for")


def _open_quantised(
    folder: Path, text_config: dict[str, Any], architecture: Architecture, manifest: Manifest
) -> QuantisedFolder:
    again = f"run `python -m training_code.quantize SRC {folder}` again, and it makes what is not there"
    layers = [layer_file(number) for number in range(architecture.shape.num_layers)]
    files = [CONFIG, EMBEDDING_FILE, HEAD_FILE, *layers]
    missing = [name for name in files if name not in manifest.files]
    if missing:
        raise TrainingError(
            f"{folder} is unfinished: {len(missing)} of {len(files)} files are still to be made, {missing[0]} the "
            f"first; {again}"
        )
    if sha256_of(folder / CONFIG) != manifest.files[CONFIG].sha256:
        raise TrainingError(f"{folder / CONFIG} was changed after the checkpoint was quantised; copy the folder again")
    for name in files:
        size, recorded = size_of(folder / name), manifest.files[name].bytes
        if size != recorded:
            what = "is missing" if size is None else f"is {size} bytes long, and {MANIFEST} says {recorded}"
            raise TrainingError(f"{folder / name} {what}: copy the folder again, or {again}")
    for number, name in enumerate(layers):
        _check_layer(folder / name, layer_shapes(architecture, number))
    stored = _stored_tensors([folder / EMBEDDING_FILE, folder / HEAD_FILE])
    _check(folder, shapes_outside_layers(architecture), stored)
    return QuantisedFolder(
        folder=folder,
        text_config=text_config,
        architecture=architecture,
        stored=stored,
        records={name: manifest.files[name] for name in files if name != CONFIG},
    )


def _check_layer(file: Path, expected: Mapping[str, tuple[int, ...]]) -> None:
    layout, _ = packs.read_layout(file)
    found = {name: layout.matrix_shape(name) for name in layout.names}
    different = [name for name, shape in expected.items() if found.get(name) != shape]
    different += found.keys() - expected.keys()
    for name in layout.names:
        if layout.is_quantised(name):
            size = layout.entries[name + packs.ABSMAX].shape
            if size != (prod(found[name]) // nf4.BLOCK,):
                different.append(name)
    if different:
        raise TrainingError(
            f"{file} does not fit {CONFIG}: {different[0]} has shape {found.get(different[0])}, and "
            f"{expected.get(different[0])} is called for; quantise the checkpoint again, into an empty folder"
        )
