"""What a Hugging Face checkpoint folder must hold; asked before anything is paid for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

ALWAYS_NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
PACKS_MANIFEST = "nf4.json"
EMBEDDING_FILE, HEAD_FILE = "embedding.safetensors", "head.safetensors"
"""Of a quantised folder; the final norm is in the head's."""


def layer_file(number: int) -> str:
    """The name of a layer's file in a quantised folder."""
    return f"layer-{number:03}.safetensors"


def missing_files(names: Collection[str], index: Mapping[str, Any] | None) -> list[str]:
    """What a checkpoint folder lacks to be loaded; empty where it is whole.

    `names` are paths relative to the folder; `index` is its model.safetensors.index.json as parsed, None
    where there is none. An index that lists no shards counts as missing: what it should list is not known.
    """
    missing = [name for name in ALWAYS_NEEDED if name not in names]
    if index is not None or WEIGHTS_INDEX in names:
        shards = _shards(index or {}) or [WEIGHTS_INDEX]
        missing += [name for name in shards if name not in names or name == WEIGHTS_INDEX]
    elif WEIGHTS not in names:
        missing.append(WEIGHTS)
    return missing


def missing_packs(sizes: Mapping[str, int], manifest: Mapping[str, Any], num_layers: int) -> list[str]:
    """What a folder that `training_code.quantize` makes lacks: files that are not there in the size that its manifest
    (PACKS_MANIFEST as parsed) has, or that the manifest does not name yet. `sizes`: bytes by name."""
    noted = manifest.get("files")
    noted = noted if isinstance(noted, Mapping) else {}
    needed = ["config.json", EMBEDDING_FILE, HEAD_FILE, *map(layer_file, range(num_layers))]

    def is_there(name: str) -> bool:
        record = noted.get(name)
        return isinstance(record, Mapping) and name in sizes and record.get("bytes") == sizes[name]

    return [name for name in dict.fromkeys([*needed, *noted]) if not is_there(name)]


def _shards(index: Mapping[str, Any]) -> list[str]:
    weight_map = index.get("weight_map")
    files = weight_map.values() if isinstance(weight_map, Mapping) else ()
    return sorted({name for name in files if isinstance(name, str)})
