"""What the parts of SageMaker share: settings, roles, images, faults, tags and naming."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from local_aws.errors import invalid
from local_aws.faults import Switchboard
from local_aws.iam import SAGEMAKER, Roles
from local_aws.images import Images
from local_aws.settings import Settings

Request = dict[str, Any]

NAME = re.compile(r"^[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}$")


@dataclass(kw_only=True)
class SageMakerAccount:
    """The state that jobs, models and endpoints have in common."""

    settings: Settings
    roles: Roles
    images: Images
    faults: Switchboard
    lock: threading.RLock = field(default_factory=threading.RLock)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)

    def arn(self, kind: str, name: str) -> str:
        return self.settings.arn("sagemaker", f"{kind}/{name.lower()}")

    def client(self, service: str, role_arn: str) -> Any:
        return self.roles.client(service, role_arn, SAGEMAKER)

    def record_metric(self, namespace: str, name: str, value: float, unit: str, dimensions: dict[str, str]) -> None:
        """Publish a metric of SageMaker's own and let the alarms look at it."""
        from ministack.services import cloudwatch

        self.roles.in_account()
        cloudwatch.record_metric(namespace, name, value, unit, dimensions)
        cloudwatch._evaluate_all_alarms()

    def evaluate_alarms(self) -> None:
        """Let the alarms see that the data of a while ago are no longer those of now."""
        from ministack.services import cloudwatch

        self.roles.in_account()
        cloudwatch._evaluate_all_alarms()

    def alarm_states(self, names: Sequence[str]) -> dict[str, str]:
        """The state of each of these alarms. Raises ApiError for one that is not there."""
        from ministack.services import cloudwatch

        self.roles.in_account()
        missing = [name for name in names if name not in cloudwatch._alarms]
        if missing:
            raise invalid(f"CloudWatch alarms {missing} do not exist.")
        return {name: cloudwatch._alarms[name]["StateValue"] for name in names}

    def add_tags(self, arn: str, tags: list[dict[str, str]] | None) -> None:
        if tags:
            self.tags.setdefault(arn, {}).update({tag["Key"]: tag["Value"] for tag in tags})

    def tag_list(self, arn: str) -> list[dict[str, str]]:
        return [{"Key": key, "Value": value} for key, value in self.tags.get(arn, {}).items()]


def now() -> float:
    return time.time()


def name_in(request: Request, member: str) -> str:
    """A resource name. Raises ApiError when it breaks SageMaker's rule."""
    value = str(request[member])
    if not NAME.match(value):
        path = member[0].lower() + member[1:]
        raise invalid(
            f"1 validation error detected: Value '{value}' at '{path}' failed to satisfy constraint: Member must "
            f"satisfy regular expression pattern: [a-zA-Z0-9](-*[a-zA-Z0-9]){{0,62}}"
        )
    return value


_EPOCH_FILTERS = {
    "CreationTimeAfter": ("CreationTime", 1),
    "CreationTimeBefore": ("CreationTime", -1),
    "LastModifiedTimeAfter": ("LastModifiedTime", 1),
    "LastModifiedTimeBefore": ("LastModifiedTime", -1),
}


def list_page(
    items: list[dict[str, Any]],
    request: Request,
    *,
    name: str,
    members: tuple[str, ...],
    status: str | None = None,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """One page of a List operation: (summaries, {"NextToken": …} or nothing).

    Honours NameContains, StatusEquals, the time filters, SortBy, SortOrder, MaxResults and NextToken.
    """
    chosen = [item for item in items if request.get("NameContains", "") in item[name]]
    if status and request.get("StatusEquals"):
        chosen = [item for item in chosen if item[status] == request["StatusEquals"]]
    for member, (key, sign) in _EPOCH_FILTERS.items():
        if member in request:
            chosen = [item for item in chosen if (item.get(key, 0) - request[member]) * sign >= 0]
    key = {"Name": name, "Status": status or name}.get(request.get("SortBy", ""), "CreationTime")
    descending = request.get("SortOrder", "Descending" if key == "CreationTime" else "Ascending")
    chosen.sort(key=lambda item: item[key], reverse=descending == "Descending")
    start = int(request.get("NextToken") or 0)
    end = start + int(request.get("MaxResults", 100))
    page = [{member: item[member] for member in members if member in item} for item in chosen[start:end]]
    return page, {"NextToken": str(end)} if end < len(chosen) else {}
