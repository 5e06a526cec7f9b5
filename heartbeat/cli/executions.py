"""Executions by name: which one a person means, and what one is doing now."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError

from heartbeat.cli.account import App, client
from heartbeat.cli.errors import UserError


def find(app: App, given: str | None) -> str:
    """ARN of the execution that is meant: a name, an ARN, or None for the latest. Raises UserError."""
    if given is None:
        latest = recent(app, 1)
        if not latest:
            raise UserError(f"environment {app.environment} has had no run yet; `python -m heartbeat run` starts one")
        return str(latest[0]["executionArn"])
    arn = given if given.startswith("arn:") else arn_of(app, given)
    describe(app, arn)
    return arn


def arn_of(app: App, name: str) -> str:
    return f"{app.state_machine_arn.replace(':stateMachine:', ':execution:')}:{name}"


def name_of(arn: str) -> str:
    return arn.rsplit(":", 1)[-1]


def describe(app: App, arn: str) -> dict[str, Any]:
    """DescribeExecution. Raises UserError with the names that there are."""
    try:
        found: dict[str, Any] = client("stepfunctions").describe_execution(executionArn=arn)
    except ClientError as error:
        if error.response["Error"]["Code"] not in {"ExecutionDoesNotExist", "InvalidArn"}:
            raise
        names = ", ".join(item["name"] for item in recent(app, 5))
        raise UserError(f"there is no run {name_of(arn)!r}; the latest are: {names or 'none'}") from None
    return found


def recent(app: App, limit: int, status: str | None = None) -> list[dict[str, Any]]:
    """The latest executions, newest first."""
    chosen = {"statusFilter": status} if status else {}
    pages = client("stepfunctions").list_executions(stateMachineArn=app.state_machine_arn, maxResults=limit, **chosen)
    found: list[dict[str, Any]] = pages["executions"]
    return found
