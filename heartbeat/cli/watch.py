"""`watch`: follow a run to its end."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

from heartbeat import layout
from heartbeat.cli import executions, metric_table, notes, screen
from heartbeat.cli.account import App, client, connect, pause_seconds
from heartbeat.cli.history import History
from heartbeat.cli.training_log import TrainingLog
from heartbeat.cli.watch_view import LiveView, PlainView, View
from heartbeat.failures import read_cause


def run(arguments: argparse.Namespace) -> int:
    app = connect(arguments.environment)
    arn = executions.find(app, arguments.execution)
    outcome = watch(app, arn)
    return 0 if outcome["status"] == "SUCCEEDED" else 1


def watch(app: App, arn: str, *, hints: bool = True) -> dict[str, Any]:
    """Shows a run until it ends, and how it ended. Returns DescribeExecution's answer.

    Interrupting it ends the watching, not the run.
    """
    screen.say(f"Run {executions.name_of(arn)} ({app.environment})")
    screen.say()
    try:
        outcome = Watch(app, arn).follow(LiveView() if screen.console().is_terminal else PlainView())
    except KeyboardInterrupt:
        if hints:
            screen.say(f"\nThe run goes on. To look again: python -m heartbeat watch {executions.name_of(arn)}")
            screen.say(f"To end it: aws stepfunctions stop-execution --execution-arn {arn}")
        raise
    show_metrics(app, executions.name_of(arn))
    screen.say()
    for text in conclusion(outcome, hints=hints):
        screen.say(text)
    return outcome


def show_metrics(app: App, name: str) -> None:
    """The table of the metrics that the gate judged, where the run came that far."""
    try:
        metric_table.show(app.read_json(layout.Run(name).gate))
    except (ClientError, KeyError, TypeError, ValueError):
        return  # beside the outcome: a file that cannot be read is not shown


@dataclass
class Watch:
    """What is known of a run in progress."""

    app: App
    arn: str
    history: History = field(default_factory=History)
    notes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.training = TrainingLog(self.app, self.arn)
        self.name = executions.name_of(self.arn)

    def follow(self, view: View) -> dict[str, Any]:
        """Looks again and again, until the run has ended."""
        with view:
            while True:
                # In this order: what ended the run is then in the history that is read after it.
                outcome = executions.describe(self.app, self.arn)
                ended = outcome["status"] != "RUNNING"
                self.look()
                view.show(self, datetime.now(UTC), ended=ended)
                if ended:
                    return outcome
                view.wait(pause_seconds(), self)

    def look(self) -> None:
        self.history.add(self._new_events())
        train = self.history.row("Train")
        if train and (train.running or not self.training.progress.job):
            self.training.update()
        for name, (file, describe) in notes.SOURCES.items():
            row = self.history.row(name)
            if row and not row.running and name not in self.notes:
                self.notes[name] = self._note(file, describe)

    def _new_events(self) -> list[dict[str, Any]]:
        """Events that the history has not seen, oldest first: read from the end, since a long run has thousands."""
        new: list[dict[str, Any]] = []
        pages = client("stepfunctions").get_paginator("get_execution_history")
        for page in pages.paginate(executionArn=self.arn, reverseOrder=True):
            for event in page["events"]:
                if event["id"] <= self.history.last_id:
                    return new[::-1]
                new.append(event)
        return new[::-1]

    def _note(self, file: str, describe: Any) -> str:
        try:
            found = self.app.read_json(layout.Run(self.name).prefix + file)
            return describe(found) if found else ""
        except (ClientError, KeyError, TypeError, ValueError):
            return ""  # a remark beside a state: a file that cannot be read is none


def conclusion(outcome: dict[str, Any], *, hints: bool = True) -> list[str]:
    """The lines that a run ends with; `hints`: and what can be done with it now."""
    name = outcome["name"]
    took = (outcome.get("stopDate", outcome["startDate"]) - outcome["startDate"]).total_seconds()
    if outcome["status"] != "SUCCEEDED":
        cause = outcome.get("cause") or "the execution was ended from outside; its clean-up rule ends what bills"
        # Where even the explanation failed, the Cause is the service's own JSON.
        said = read_cause(cause).get("errorMessage") or cause
        error = outcome.get("error") or outcome["status"].capitalize().replace("_", " ")
        return [f"{error} after {screen.duration(took)}", *(f"  {text}" for text in str(said).splitlines())]
    output = json.loads(outcome.get("output") or "{}")
    early = ", stopped at its limit with a usable adapter" if output.get("stopped_early") else ""
    endpoint = output.get("endpoint_name")
    lines = [f"Done in {screen.duration(took)}{early}: {f'{endpoint} answers' if endpoint else 'the adapter passed'}."]
    if hints:
        lines += ["  python -m heartbeat chat"] if endpoint else []
        lines += [f"  python -m heartbeat report {name} --open", f"  adapter: {output.get('adapter')}"]
    return lines
