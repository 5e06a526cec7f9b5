"""`report`: a run's page, fetched from the artifact bucket."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from botocore.exceptions import ClientError

from heartbeat import layout
from heartbeat.cli import executions, screen
from heartbeat.cli.account import App, client, connect, is_missing
from heartbeat.cli.errors import UserError
from heartbeat.cli.watch import show_metrics

FOLDER = Path(".build/reports")


def run(arguments: argparse.Namespace) -> int:
    app = connect(arguments.environment)
    name = executions.name_of(executions.find(app, arguments.execution))
    path = download(app, name, arguments.output or FOLDER / f"{name}.html")
    show_metrics(app, name)
    screen.say(str(path))
    if arguments.open:
        webbrowser.open(path.resolve().as_uri())
    return 0


def download(app: App, name: str, path: Path) -> Path:
    """Writes the report of run `name` to `path`. Raises UserError where the run has none yet."""
    key = layout.Run(name).report
    try:
        body = client("s3").get_object(Bucket=app.artifact_bucket, Key=key)["Body"].read()
    except ClientError as error:
        if not is_missing(error):
            raise
        status = executions.describe(app, executions.arn_of(app, name))["status"]
        hint = "it is written at the end" if status == "RUNNING" else "the run ended before it could write one"
        raise UserError(f"run {name} ({status}) has no report: {hint}") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return path
