"""The checks that every synth must pass, and the two ways to accept a finding with a reason."""

from __future__ import annotations

import aws_cdk as cdk
import jsii
from cdk_nag import AwsSolutionsChecks
from constructs import IConstruct

_WILDCARD_RESOURCE = "AwsSolutions-IAM5[Resource::"
_ACCEPTED = "heartbeat:accepted-wildcards"


def acknowledge(construct: IConstruct, reasons: dict[str, str]) -> None:
    """Accepts findings of `construct` and what is below it.

    `reasons` maps a finding, such as `AwsSolutions-IAM5[Resource::*]`, to why it may stand.
    """
    cdk.Validations.of(construct).acknowledge(
        *(cdk.Acknowledgment(id=finding, reason=reason) for finding, reason in reasons.items())
    )


def accept_wildcards(construct: IConstruct, reasons: dict[str, str]) -> None:
    """Accepts wildcard resources in policies of `construct` and what is below it.

    `reasons` maps the end of a resource, such as `/datasets/*`, to why it may be a wildcard. A finding's own id
    holds the resource as it is written after references between stacks are resolved, too late to acknowledge it.
    """
    construct.node.add_metadata(_ACCEPTED, reasons)


@jsii.implements(cdk.IPolicyValidationPlugin)
class Checks:
    """cdk-nag's AwsSolutions rules, less the findings that are accepted."""

    def __init__(self, app: cdk.App) -> None:
        self._app = app
        self._rules = AwsSolutionsChecks(app)

    @property
    def name(self) -> str:
        return self._rules.name

    @property
    def rule_ids(self) -> list[str] | None:
        return self._rules.rule_ids

    @property
    def version(self) -> str | None:
        return self._rules.version

    def validate(self, context: cdk.IPolicyValidationContext) -> cdk.PolicyValidationPluginReport:
        left = []
        for violation in self._rules.validate(context).violations:
            resources = [each for each in violation.violating_resources if not self._accepted(violation, each)]
            if resources:
                left.append(
                    cdk.PolicyViolation(
                        rule_name=violation.rule_name,
                        description=violation.description,
                        severity=violation.severity,
                        violating_resources=resources,
                    )
                )
        return cdk.PolicyValidationPluginReport(success=not left, violations=left)

    def _accepted(self, violation: cdk.PolicyViolation, resource: cdk.PolicyViolatingResource) -> bool:
        if not violation.rule_name.startswith(_WILDCARD_RESOURCE):
            return False
        arn = violation.rule_name.removeprefix(_WILDCARD_RESOURCE).removesuffix("]")
        endings = self._endings(resource.construct_path or "") - {"*"}  # which would accept all: acknowledge it
        return any(arn.endswith(ending) for ending in endings)

    def _endings(self, path: str) -> set[str]:
        """The endings that are accepted on the construct at `path` or above it."""
        endings: set[str] = set()
        node: IConstruct | None = self._app
        for name in path.split("/"):
            node = node.node.try_find_child(name) if node else None
            if node:
                for entry in node.node.metadata:
                    if entry.type == _ACCEPTED:
                        endings.update(entry.data)
        return endings
