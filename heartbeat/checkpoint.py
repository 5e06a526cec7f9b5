"""What a Hugging Face checkpoint folder must hold; asked before anything is paid for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

ALWAYS_NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"


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


def _shards(index: Mapping[str, Any]) -> list[str]:
    weight_map = index.get("weight_map")
    files = weight_map.values() if isinstance(weight_map, Mapping) else ()
    return sorted({name for name in files if isinstance(name, str)})
