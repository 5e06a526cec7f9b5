"""`run`: upload a dataset, start an execution, watch it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from heartbeat import dataset, layout
from heartbeat.cli import executions, screen, source
from heartbeat.cli.account import App, client, connect
from heartbeat.cli.errors import UserError
from heartbeat.cli.watch import watch
from heartbeat.execution import RunRequest
from heartbeat.job import FineTuneJob, resolve
from heartbeat.plan import INSTANCE_TYPES


def run(arguments: argparse.Namespace) -> int:
    given = execution_input(arguments)
    app = connect(arguments.environment)
    job = _job(given, app)
    local = {field: source.file(name) for field, name in _files(arguments).items() if not _is_in_s3(name)}
    for field, path in local.items():
        given[field] = upload_dataset(app, path, job)
    arn = start(app, given, arguments.name)
    if arguments.no_watch:
        screen.say(f"Started {executions.name_of(arn)}; to follow it: python -m heartbeat watch")
        return 0
    return 0 if watch(app, arn)["status"] == "SUCCEEDED" else 1


def execution_input(arguments: argparse.Namespace) -> dict[str, Any]:
    """The execution's input of these options; local files are left out, since they have no address yet."""
    given = _json_input(arguments.input)
    settings = source.settings(arguments.settings)
    files = _files(arguments)
    options = {
        **files,
        "instance_types": source.instances(arguments.instances),
        "hyperparameters": {**(given.get("hyperparameters") or {}), **settings} if settings else None,
        "max_runtime_seconds": arguments.max_runtime_seconds,
        "budget_usd": arguments.budget,
        "use_spot": True if arguments.spot else None,
        "deploy": False if arguments.no_deploy else None,
        "endpoint_name": arguments.endpoint,
        "adapter_name": arguments.adapter,
        "approve": True if arguments.approve else None,
    }
    chosen = {**given, **{name: value for name, value in options.items() if value is not None}}
    return {name: value for name, value in chosen.items() if name not in files or _is_in_s3(files[name])}


def _files(arguments: argparse.Namespace) -> dict[str, str]:
    """Those that the options name, by their fields of the input."""
    named = {"dataset": arguments.dataset, "held_out_dataset": arguments.held_out}
    return {field: name for field, name in named.items() if name}


def _is_in_s3(name: str) -> bool:
    return name.startswith("s3://")


def start(app: App, given: dict[str, Any], name: str | None) -> str:
    """Starts an execution and returns its ARN. Raises UserError for a name that was used."""
    chosen = {"name": name} if name else {}
    try:
        answer = client("stepfunctions").start_execution(
            stateMachineArn=app.state_machine_arn, input=json.dumps(given), **chosen
        )
    except ClientError as error:
        if error.response["Error"]["Code"] not in {"ExecutionAlreadyExists", "InvalidName"}:
            raise
        raise UserError(
            f"--name {name}: {error.response['Error'].get('Message')}; give one that was not used in 90 days, of"
            " letters, digits, - and _, or leave it out"
        ) from None
    return str(answer["executionArn"])


def upload_dataset(app: App, path: Path, job: FineTuneJob) -> str:
    """Checks a file as for this job and puts it into the data bucket; returns its URI."""
    with screen.phase("Check dataset") as phase:
        found = dataset.check(source.lines(str(path)), job=job)
        phase.detail = screen.count(found.stats.rows, "row")
    if not found.ok:
        raise UserError(f"{path} cannot be trained on: {found.describe(limit=2)}; `check` shows all")
    key = layout.DATASETS + path.name
    with screen.phase("Upload dataset") as phase:
        client("s3").upload_file(str(path), app.data_bucket, key)
        phase.detail = layout.uri(app.data_bucket, key)
    return layout.uri(app.data_bucket, key)


def _json_input(text: str | None) -> dict[str, Any]:
    if not text:
        return {}
    if text.startswith("@"):
        text = source.file(text[1:]).read_text(encoding="utf-8")
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"--input is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError('--input must be a JSON object, such as {"budget_usd": 60}')
    return found


def _job(given: dict[str, Any], app: App) -> FineTuneJob:
    """The job of this input, without the defaults of its base weights, which the run's first state reads.

    Raises what that state would, before anything is uploaded or started.
    """
    defaults = {
        "dataset": layout.uri(app.data_bucket, layout.DEFAULT_DATASET),
        "instance_types": INSTANCE_TYPES,
        "endpoint_name": app.endpoint_name,
    }
    request = RunRequest.parse(given, defaults)
    job, _ = resolve(("the command line", request.hyperparameters))
    return job
