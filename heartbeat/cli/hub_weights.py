"""`base-model token` and `base-model bring`: the weights come from Hugging Face into the bucket by themselves."""

from __future__ import annotations

import argparse
import getpass
import json
import sys
import time
from typing import Any

from heartbeat.base_weights import BringRequest, is_token
from heartbeat.cli import screen
from heartbeat.cli.account import App, client, connect
from heartbeat.cli.errors import Failed, UserError

_POLL_SECONDS = 2.0


def run(arguments: argparse.Namespace) -> int:
    app = connect(arguments.environment)
    return _store_token(app) if arguments.action == "token" else _bring(app, arguments)


def _store_token(app: App) -> int:
    """From the keyboard without an echo, or from a pipe. Never an argument: those are in the shell's history."""
    token = (
        getpass.getpass("Hugging Face token (not shown): ") if sys.stdin.isatty() else sys.stdin.readline()
    ).strip()
    if not is_token(token):
        raise UserError(
            "that is no token of Hugging Face, one line of 8 or more letters, digits and signs, such as hf_…; make one"
            " with read access at https://huggingface.co/settings/tokens"
        )
    client("secretsmanager").put_secret_value(SecretId=app.hub_token_secret_arn, SecretString=token)
    model = app.base_model_prefix.split("/", 1)[1].rsplit("/", 2)[0]
    screen.say(f"stored, encrypted, in {app.hub_token_secret_arn}; only the job that brings the weights may read it")
    screen.say(f"its account must have accepted the licence at https://huggingface.co/{model}")
    return 0


def _bring(app: App, arguments: argparse.Namespace) -> int:
    options = {"make": arguments.make.split(",") if arguments.make else None, "revision": arguments.revision}
    given = {name: value for name, value in options.items() if value is not None}
    BringRequest.parse(given)  # what the first state would refuse
    arn = client("stepfunctions").start_execution(stateMachineArn=app.weights_machine_arn, input=json.dumps(given))
    name = arn["executionArn"]
    screen.say(f"started {name}")
    if arguments.no_watch:
        return 0
    with screen.phase("Bring base weights") as phase:
        while (found := client("stepfunctions").describe_execution(executionArn=name))["status"] == "RUNNING":
            phase.detail = _state(name)
            time.sleep(_POLL_SECONDS)
        if found["status"] != "SUCCEEDED":
            raise Failed(found.get("cause") or f"the execution {name} is {found['status']}")
        output = json.loads(found["output"])
        phase.detail = f"{', '.join(output['made']) or 'nothing new'} at {output['uri']}"
    return 0


def _state(execution: str) -> str:
    """The state that was entered last."""
    events: list[dict[str, Any]] = client("stepfunctions").get_execution_history(
        executionArn=execution, reverseOrder=True, maxResults=20
    )["events"]
    entered = (event["stateEnteredEventDetails"]["name"] for event in events if "stateEnteredEventDetails" in event)
    return next(entered, "")
