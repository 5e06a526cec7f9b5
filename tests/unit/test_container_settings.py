"""The serving container's settings: what is refused, and what the image's start script makes of the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from heartbeat.container_settings import ContainerSettings
from heartbeat.job import SettingError

SETTINGS: dict[str, Any] = {"tensor_parallel_size": 8, "max_model_len": 8192, "adapters": ("stanley", "canary")}


def words(environment: Mapping[str, str]) -> list[str]:
    """The command line that AWS's image makes of its environment, by the rules in heartbeat/container_settings.py."""
    found = []
    for name, value in environment.items():
        if not name.startswith("SM_VLLM_") or value == "false":
            continue
        found.append("--" + name.removeprefix("SM_VLLM_").lower().replace("_", "-"))
        if value.startswith("["):
            found += json.loads(value)
        elif value != "true":
            found.append(value)
    return found


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tensor_parallel_size": 0}, "tensor_parallel_size=0 must be at least 1"),
        ({"max_model_len": -1}, "max_model_len=-1 must be at least 1"),
        ({"max_num_seqs": 0}, "max_num_seqs=0 must be at least 1"),
        ({"max_lora_rank": 20}, "max_lora_rank=20 is not a rank that vLLM takes; use one of 1, 8, 16"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization=1.5 must be above 0 and at most 1"),
        ({"images_per_prompt": -1}, "images_per_prompt=-1"),
        ({"adapters": ("base",)}, "adapter_name='base' must be"),
        ({"adapters": ("Stanley",)}, "lower-case letters"),
        ({"adapters": ("a/b",)}, "adapter_name='a/b'"),
        ({"adapters": ("a--b",)}, "adapter_name='a--b'"),
        ({"adapters": ("a" * 33,)}, "must be 1 to 32"),
        ({"adapters": ("a", "a")}, "names an adapter twice"),
        ({"adapters": tuple("abcdef")}, "are 6, and SageMaker takes 5"),
    ],
)
def test_what_cannot_be_served_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        ContainerSettings(**{**SETTINGS, **changed})


def test_several_adapters_are_several_words() -> None:
    line = words(ContainerSettings(**SETTINGS).environment())
    at = line.index("--lora-modules")
    folder = "/opt/ml/additional-model-data-sources"
    assert line[at + 1 : at + 3] == [f"stanley={folder}/stanley", f"canary={folder}/canary"]
    assert line[line.index("--max-loras") + 1] == "2"
    assert line[line.index("--chat-template") + 1] == f"{folder}/stanley/chat_template.jinja"


def test_a_base_without_adapters_has_no_word_of_them() -> None:
    line = words(ContainerSettings(**{**SETTINGS, "adapters": ()}).environment())
    assert not [word for word in line if "lora" in word or "template" in word]


def test_every_value_is_text_within_sagemakers_limits() -> None:
    environment = ContainerSettings(**{**SETTINGS, "adapters": tuple("abcde")}).environment()
    # CreateModel's Environment: at most 100 entries, 1,024 characters a value.
    assert len(environment) <= 100
    assert all(isinstance(value, str) and 0 < len(value) <= 1024 for value in environment.values())
