"""A base model's checkpoint folder, loaded into memory with its weights frozen.

This version holds every weight in memory in the device's compute type. A model that does not fit is refused with
the sizes, before a byte of it is read.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from training_code.environment import read_json_object
from training_code.errors import TrainingError
from training_code.experts import route_sparsely

if TYPE_CHECKING:
    from transformers import Llama4ForCausalLM

GIB = 2**30
LOADABLE_SHARE_OF_MEMORY = 0.9
"""Of the memory that is free; the rest is for activations and the process itself."""

_MULTIMODAL_PREFIX = "language_model."
_NOT_TEXT = ("vision_model.", "multi_modal_projector.")


@dataclass(frozen=True)
class StoredTensor:
    """Where a weight lies in a checkpoint folder."""

    file: Path
    key: str
    shape: tuple[int, ...]


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compute_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the device computes in it; else f32, since Llama 4 overflows f16."""
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


def load_base(folder: Path, device: torch.device, dtype: torch.dtype) -> Llama4ForCausalLM:
    """The text model of a Llama 4 checkpoint folder, frozen, in evaluation mode.

    Raises TrainingError for another architecture, a checkpoint with missing, broken or misshapen files, and a model
    that is larger than the device's free memory.
    """
    text_config = read_text_config(folder)
    stored = stored_tensors(folder)
    refuse_if_too_large(stored, device, dtype)

    # Imported here because it takes seconds, and a wrong folder should be refused at once.
    from transformers import Llama4TextConfig
    from transformers.models.llama4.modeling_llama4 import Llama4ForCausalLM, Llama4TextRotaryEmbedding

    config = Llama4TextConfig(**text_config)
    with torch.device("meta"):
        model = Llama4ForCausalLM(config)
    _check_names_and_shapes(model, stored, folder)
    for name, tensor in _read(stored, device, dtype):
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, nn.Parameter(tensor, requires_grad=False))
    # Its frequencies are computed, not stored: the meta device has none.
    model.model.rotary_emb = Llama4TextRotaryEmbedding(config=config).to(device)
    route_sparsely(model)
    return model.eval()


def read_text_config(folder: Path) -> dict[str, Any]:
    """The language model's part of config.json. Raises TrainingError for another architecture."""
    path = folder / "config.json"
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
    return text


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The language model's tensors by the names that transformers' Llama4ForCausalLM gives them."""
    tensors: dict[str, StoredTensor] = {}
    for file in _weight_files(folder):
        for key, shape in _header(file).items():
            if key.startswith(_NOT_TEXT):
                continue
            tensors[key.removeprefix(_MULTIMODAL_PREFIX)] = StoredTensor(file, key, shape)
    return tensors


def refuse_if_too_large(stored: Mapping[str, StoredTensor], device: torch.device, dtype: torch.dtype) -> None:
    num_parameters = sum(prod(tensor.shape) for tensor in stored.values())
    needed = num_parameters * dtype.itemsize
    free = _free_bytes(device)
    if needed > free * LOADABLE_SHARE_OF_MEMORY:
        where = "GPU memory" if device.type == "cuda" else "memory"
        raise TrainingError(
            f"the base model has {num_parameters / 1e9:.1f} B parameters, {needed / GIB:.1f} GiB as "
            f"{str(dtype).removeprefix('torch.')}, and {free / GIB:.1f} GiB of {where} are free; "
            "choose an instance with more memory"
        )


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    host = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
    free = int(host.split()[1]) * 1024
    try:  # A container may be held to less than the host has.
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except OSError:
        return free
    return free if limit == "max" else min(free, int(limit) - used)


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = sorted({folder / name for name in read_json_object(index).get("weight_map", {}).values()})
    else:
        files = sorted(folder.glob("*.safetensors"))
    missing = [file.name for file in files if not file.is_file()]
    if not files or missing:
        what = ", ".join(missing) if missing else "*.safetensors"
        raise TrainingError(f"{folder} lacks {what}; copy the whole checkpoint folder")
    return files


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes by name. A header is read without mapping the file: a folder of 217 GB is checked in milliseconds."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > file.stat().st_size:
                raise ValueError("the header is longer than the file")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if end != file.stat().st_size:
            raise ValueError(f"{file.stat().st_size} bytes long, and its header speaks of {end}")
        return {key: tuple(entry["shape"]) for key, entry in header.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise TrainingError(f"{file} is not a whole safetensors file ({error}); copy it again") from None


def _check_names_and_shapes(model: nn.Module, stored: Mapping[str, StoredTensor], folder: Path) -> None:
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for name, shape in expected.items():
        if name not in stored:
            raise TrainingError(f"{folder} has no tensor {name}, which its config.json calls for")
        if stored[name].shape != shape:
            raise TrainingError(
                f"{stored[name].file}: {name} has shape {stored[name].shape}; config.json calls for {shape}"
            )
    unknown = stored.keys() - expected.keys()
    if unknown:
        raise TrainingError(f"{folder} has a tensor {min(unknown)} that its config.json does not call for")


def _read(
    stored: Mapping[str, StoredTensor], device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[str, torch.Tensor]]:
    for file in sorted({tensor.file for tensor in stored.values()}):
        try:
            with safe_open(str(file), framework="pt", device=str(device)) as opened:
                for name, tensor in stored.items():
                    if tensor.file == file:
                        yield name, opened.get_tensor(tensor.key).to(dtype)
        except SafetensorError as error:
            raise TrainingError(f"{file} is not a whole safetensors file ({error}); copy it again") from None
