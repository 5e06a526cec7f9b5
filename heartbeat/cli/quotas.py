"""How many training jobs the account may run on each instance type, where there are credentials to ask with."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from heartbeat.cli.account import is_local

_HINTS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
)
_QUOTA = {
    False: re.compile(r"(ml\.\S+) for training job usage"),
    True: re.compile(r"(ml\.\S+) for spot training job usage"),
}


def may_ask() -> bool:
    """Whether there may be credentials of a real account: read from the environment and files, at no cost."""
    files = (
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
        os.environ.get("AWS_CONFIG_FILE", "~/.aws/config"),
    )
    return not is_local() and (
        any(os.environ.get(name) for name in _HINTS) or any(Path(file).expanduser().is_file() for file in files)
    )


def training_quotas(service_quotas: Any, *, spot: bool) -> dict[str, int]:
    """Jobs at a time by instance type, by a client of Service Quotas: the account's own, or else AWS's default."""
    found: dict[str, int] = {}
    for operation in ("list_aws_default_service_quotas", "list_service_quotas"):
        for page in service_quotas.get_paginator(operation).paginate(ServiceCode="sagemaker"):
            for quota in page["Quotas"]:
                if named := _QUOTA[spot].fullmatch(quota["QuotaName"]):
                    found[named[1]] = int(quota["Value"])
    return found
