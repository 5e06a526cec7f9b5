"""What a checkpoint folder must hold."""

from __future__ import annotations

from typing import Any

from heartbeat.checkpoint import ALWAYS_NEEDED, WEIGHTS, WEIGHTS_INDEX, missing_files, missing_packs

WHOLE = [*ALWAYS_NEEDED, WEIGHTS]
SHARDS = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
INDEX = {"weight_map": {f"layer.{i}": SHARDS[i % 3] for i in range(9)}}


def test_one_file_of_weights_is_enough() -> None:
    assert missing_files([*WHOLE, "README.md", "original/params.json"], None) == []


def test_every_shard_of_the_index_is_needed() -> None:
    names = [*ALWAYS_NEEDED, WEIGHTS_INDEX, *SHARDS]
    assert missing_files(names, INDEX) == []
    assert missing_files(names[:-1], INDEX) == [SHARDS[2]]


def test_a_quantised_folder_is_whole_when_its_manifest_says_so() -> None:
    sizes = {"config.json": 5, "embedding.safetensors": 9, "head.safetensors": 9, "layer-000.safetensors": 7}
    sizes |= {"layer-001.safetensors": 7, "tokenizer.json": 3}
    manifest = {"files": {name: {"bytes": size, "sha256": "0"} for name, size in sizes.items()}}
    assert missing_packs({**sizes, "nf4.json": 1}, manifest, 2) == []
    assert missing_packs(sizes, manifest, 3) == ["layer-002.safetensors"]
    assert missing_packs({**sizes, "layer-001.safetensors": 6}, manifest, 2) == ["layer-001.safetensors"]
    gone = {name: size for name, size in sizes.items() if name != "tokenizer.json"}
    assert missing_packs(gone, manifest, 2) == ["tokenizer.json"]
    unfinished = {"files": {"config.json": {"bytes": 5}}}
    assert len(missing_packs(sizes, unfinished, 2)) == 4
    assert len(missing_packs(sizes, {}, 2)) == 5


def test_an_empty_folder_lacks_all() -> None:
    assert missing_files([], None) == WHOLE


def test_an_index_that_says_nothing_counts_as_missing() -> None:
    names = [*ALWAYS_NEEDED, WEIGHTS_INDEX, *SHARDS]
    silent: list[dict[str, Any] | None] = [None, {}, {"weight_map": {}}, {"weight_map": []}]
    for index in [*silent, {"weight_map": {"a": 3}}]:
        assert missing_files(names, index) == [WEIGHTS_INDEX]


def test_the_index_rules_where_there_is_one() -> None:
    assert missing_files([*WHOLE, WEIGHTS_INDEX], INDEX) == SHARDS
