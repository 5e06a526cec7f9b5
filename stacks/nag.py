"""Acknowledges a cdk-nag finding next to the construct that it is about."""

from __future__ import annotations

import aws_cdk as cdk
from constructs import IConstruct


def acknowledge(construct: IConstruct, reasons: dict[str, str]) -> None:
    """Accepts findings of `construct` and what is below it.

    `reasons` maps a finding, such as `AwsSolutions-IAM5[Resource::*]`, to why it may stand.
    """
    cdk.Validations.of(construct).acknowledge(
        *(cdk.Acknowledgment(id=finding, reason=reason) for finding, reason in reasons.items())
    )
