"""Several adapters on one endpoint: a run adds its own or replaces the one of its name, and keeps the others.

What an endpoint serves is read from its model, so there is no second record of it that could be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from heartbeat.container_settings import ContainerSettings
from heartbeat.job import SettingError


@dataclass(frozen=True, kw_only=True)
class Served:
    """The base and the adapters of one model."""

    base_uri: str
    """S3 prefix of the base model's checkpoint."""
    adapter_uris: Mapping[str, str]
    """Name -> S3 prefix."""
    max_lora_rank: int = 1

    @classmethod
    def of_model(cls, model: Mapping[str, Any]) -> Served:
        """What DescribeModel tells of a model that a run made."""
        container = model["PrimaryContainer"]
        return cls(
            base_uri=container["ModelDataSource"]["S3DataSource"]["S3Uri"],
            adapter_uris={
                source["ChannelName"]: source["S3DataSource"]["S3Uri"]
                for source in container.get("AdditionalModelDataSources") or []
            },
            max_lora_rank=int((container.get("Environment") or {}).get("SM_VLLM_MAX_LORA_RANK", 1)),
        )


@dataclass(frozen=True, kw_only=True)
class NewAdapter:
    """What a run brings to an endpoint."""

    name: str
    uri: str
    base_uri: str
    max_lora_rank: int
    """The least of vLLM's ranks that serves it."""
    container: Mapping[str, Any] = field(default_factory=dict)
    """Further ContainerSettings, by name."""

    def together(self, served: Served | None) -> tuple[dict[str, str], int]:
        """Name -> S3 prefix of all adapters, this run's first, and the rank that room is needed for.

        Raises SettingError where they are of different bases.
        """
        others = {} if served is None else {k: v for k, v in served.adapter_uris.items() if k != self.name}
        if served is not None and others and served.base_uri != self.base_uri:
            raise SettingError(
                f"adapter_name={self.name!r} is of the base {self.base_uri}, and the endpoint serves "
                f"{', '.join(sorted(others))} on {served.base_uri}; choose another endpoint_name"
            )
        adapters = {self.name: self.uri, **others}
        rank = max(self.max_lora_rank, served.max_lora_rank if served is not None and others else 1)
        return adapters, rank

    def beside(self, served: Served | None) -> tuple[dict[str, str], ContainerSettings]:
        """All adapters as `together` has them, and the settings of the container that serves them.

        Raises SettingError where they do not fit together: more than SageMaker takes, or another base.
        """
        adapters, rank = self.together(served)
        settings = ContainerSettings(**{**self.container, "adapters": tuple(adapters), "max_lora_rank": rank})
        return adapters, settings
