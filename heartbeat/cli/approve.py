"""`approve`: the person's decision that a run waits for."""

from __future__ import annotations

import argparse
import json

from botocore.exceptions import ClientError

from heartbeat import layout
from heartbeat.cli import executions, screen
from heartbeat.cli.account import client, connect
from heartbeat.cli.errors import UserError
from heartbeat.failures import Name

_ANSWERED = {"TaskTimedOut", "TaskDoesNotExist", "InvalidToken"}


def run(arguments: argparse.Namespace) -> int:
    app = connect(arguments.environment)
    name = executions.name_of(executions.find(app, arguments.execution))
    approval = app.read_json(layout.Run(name).prefix + "approval.json")
    if approval is None:
        raise UserError(f"run {name} does not wait for approval; `python -m heartbeat watch {name}` shows where it is")
    stepfunctions, token = client("stepfunctions"), approval["task_token"]
    try:
        if arguments.reject:
            cause = arguments.because or "a person refused it"
            stepfunctions.send_task_failure(taskToken=token, error=Name.NOT_APPROVED.value, cause=cause)
        else:
            output = json.dumps({"approved": True, "because": arguments.because})
            stepfunctions.send_task_success(taskToken=token, output=output)
    except ClientError as error:
        if error.response["Error"]["Code"] not in _ANSWERED:
            raise
        raise UserError(f"run {name} no longer waits for approval: it was answered, or it ended") from None
    screen.say(f"{name}: {'refused; nothing is deployed' if arguments.reject else 'approved; it deploys now'}")
    return 0
