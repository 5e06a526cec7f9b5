"""Adapters beside each other on one endpoint."""

from __future__ import annotations

from typing import Any

import pytest

from heartbeat import requests
from heartbeat.adapters import NewAdapter, Served
from heartbeat.job import SettingError

BASE = "s3://artifacts/base-models/m/bf16/"
CONTAINER = {"tensor_parallel_size": 8, "max_model_len": 8192}


def new(name: str, run: str = "r", **changes: Any) -> NewAdapter:
    values = {"name": name, "uri": f"s3://artifacts/runs/{run}/", "base_uri": BASE, "max_lora_rank": 16}
    return NewAdapter(**{**values, "container": CONTAINER, **changes})


def deployed(adapter: NewAdapter, served: Served | None) -> Served:
    """What the endpoint serves after a run brought this adapter, read back from its model."""
    uris, settings = adapter.beside(served)
    container = requests.container(
        image="vllm:1", base_model_uri=adapter.base_uri, adapter_uris=uris, environment=settings.environment()
    )
    return Served.of_model({"PrimaryContainer": container})


def test_the_first_one_is_alone() -> None:
    served = deployed(new("stanley"), None)
    assert served == Served(base_uri=BASE, adapter_uris={"stanley": "s3://artifacts/runs/r/"}, max_lora_rank=16)


def test_another_name_is_added_and_the_same_name_is_replaced() -> None:
    two = deployed(new("canary", "second", max_lora_rank=8), deployed(new("stanley", "first"), None))
    assert two.adapter_uris == {"canary": "s3://artifacts/runs/second/", "stanley": "s3://artifacts/runs/first/"}
    assert two.max_lora_rank == 16  # the other one's
    again = deployed(new("canary", "third"), two)
    assert again.adapter_uris == {"canary": "s3://artifacts/runs/third/", "stanley": "s3://artifacts/runs/first/"}


def test_a_rank_is_not_kept_for_an_adapter_that_is_replaced() -> None:
    assert deployed(new("stanley"), deployed(new("stanley", max_lora_rank=512), None)).max_lora_rank == 16


def test_adapters_of_different_bases_do_not_mix() -> None:
    served = deployed(new("stanley"), None)
    with pytest.raises(SettingError, match=r"serves stanley on s3://.*choose another endpoint_name"):
        new("canary", base_uri="s3://artifacts/base-models/other/bf16/").beside(served)
    # Alone on its endpoint it may change its base.
    assert deployed(new("stanley", base_uri="s3://a/b/"), served).base_uri == "s3://a/b/"


def test_a_sixth_adapter_is_refused() -> None:
    served = None
    for name in "abcde":
        served = deployed(new(name), served)
    with pytest.raises(SettingError, match="SageMaker takes 5"):
        new("f").beside(served)
    assert set(deployed(new("e", "later"), served).adapter_uris) == set("abcde")
