"""What is remembered of an endpoint between runs: who may change it, what it served, what may be deleted.

The record lies in the artifact bucket (layout.endpoint_record) and is only ever written on condition that nobody else
has written it since it was read. So of two runs one gets the claim.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

CLEAN_UP_LIMIT = timedelta(hours=12)
"""The clean-up of an aborted execution has ended by then: it waits for an update to end, which may take 8 hours."""


@dataclass(frozen=True, kw_only=True)
class EndpointRecord:
    """The state of one endpoint. Configurations are named; a model has its configuration's name. Of an endpoint that
    scales to zero models are named: it has one configuration for all of them."""

    holder: str | None = None
    """ARN of the execution that may change the endpoint; None while nobody does."""
    previous_config: str | None = None
    """What served when the holder came, and what it goes back to; None where there was no endpoint."""
    accepted: tuple[str, ...] = ()
    """Configurations that passed the acceptance check and still exist, the latest first."""
    unaccepted: tuple[str, ...] = ()
    """Those of runs that began and were not accepted, or not yet."""
    asleep: str | None = None
    """What the endpoint will be made of again, while it is off by its schedule."""
    going_back: bool = False
    """Whether the holder's clean-up has asked for `previous_config` of an endpoint that scales to zero, and waits."""

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> EndpointRecord:
        return cls(
            holder=found["holder"],
            previous_config=found["previous_config"],
            accepted=tuple(found["accepted"]),
            unaccepted=tuple(found["unaccepted"]),
            asleep=found.get("asleep"),
            going_back=found.get("going_back", False),
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def claimed(self, execution_arn: str, config: str) -> EndpointRecord:
        """Held by this execution, which is about to deploy `config`."""
        unaccepted = (config, *(name for name in self.unaccepted if name != config))
        return replace(self, holder=execution_arn, previous_config=None, unaccepted=unaccepted, going_back=False)

    def released(self, *, deleted: str | None = None) -> EndpointRecord:
        """Held by nobody. Configurations that begin with `deleted` are gone."""
        kept = tuple(name for name in self.unaccepted if deleted is None or not name.startswith(deleted))
        return replace(self, holder=None, previous_config=None, unaccepted=kept, going_back=False)

    def with_accepted(self, config: str, *, keep_previous: int) -> EndpointRecord:
        """Released, with `config` as the latest of `keep_previous` + 1 that are kept."""
        former = self.accepted
        if self.previous_config is not None and self.previous_config not in former:
            former = (self.previous_config, *former)  # it served, however it came to
        kept = (config, *(name for name in former if name != config))[: keep_previous + 1]
        return EndpointRecord(accepted=kept)

    def dropped(self, later: EndpointRecord) -> list[str]:
        """Configurations of this record that `later` has no more, in the order in which they were made."""
        known = (self.previous_config, *self.unaccepted, *self.accepted)
        names = dict.fromkeys(name for name in known if name is not None)
        return [name for name in reversed(names) if name not in later.accepted]


def gives_way(status: str, stopped: datetime | None, now: datetime) -> bool:
    """Whether an execution of this status holds an endpoint no longer, although the record says so.

    One that was aborted or timed out still has its clean-up before it, which lets go of the endpoint itself.
    """
    if status in {"ABORTED", "TIMED_OUT"}:
        return stopped is not None and now - stopped > CLEAN_UP_LIMIT
    return status in {"SUCCEEDED", "FAILED"}
