"""`demo`: the unchanged app, deployed into an AWS on this machine, from an empty account to an answer."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shlex
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.table import Table
from rich.text import Text

from heartbeat import requests
from heartbeat.cli import base_model, cdk, embedded, executions, report, screen
from heartbeat.cli.account import App, client, connect
from heartbeat.cli.demo_question import ask
from heartbeat.cli.embedded import Embedded
from heartbeat.cli.errors import Failed, UserError
from heartbeat.cli.run import start
from heartbeat.cli.watch import watch

ROOT = cdk.ROOT
FOLDER = ROOT / ".build" / "demo"
SESSION = FOLDER / "session.json"
PAGE = FOLDER / "report.html"
ENVIRONMENT_FILE = FOLDER / "environment.sh"
CHECKPOINT = ROOT / "examples" / "tiny_base" / "checkpoint"
GATE = "examples/tiny_base/gate.toml"
DATASET = ROOT / "examples" / "stanley" / "stanley.jsonl"


def run(arguments: argparse.Namespace) -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with _alone():
        return _stop() if arguments.stop else _demo(keep=arguments.keep)


def _stop() -> int:
    server = embedded.load(SESSION)
    if server:
        with screen.phase("Stop") as phase:
            server.stop()
            phase.detail = server.url
    else:
        screen.say("No demo is running.")
    _clean()
    return 0


def _demo(*, keep: bool) -> int:
    if server := embedded.load(SESSION):
        raise UserError(f"a demo is still running at {server.url}; `make demo-stop` ends it")
    cdk.command()  # says at once what is missing
    _clean()
    PAGE.unlink(missing_ok=True)
    (FOLDER / "logs").mkdir(exist_ok=True)
    started, server, kept = time.monotonic(), None, False
    screen.say("HeartBeat Engine on this machine: the unchanged CDK app, a tiny Llama 4, no account, no Docker, no GPU")
    screen.say()
    try:
        server = _start_server(keep=keep)
        _use(server)
        _deploy()
        app, arn = _train()
        _ask(app, arn)
        page = report.download(app, executions.name_of(arn), PAGE)
        kept = keep
    except KeyboardInterrupt:
        screen.say("\n  Interrupted: everything is stopped and removed.")
        raise
    finally:
        if server and not kept:
            server.stop()
            _clean()
    screen.say()
    screen.say(f"  Report  {_short(page)}")
    if kept:
        server.save(SESSION)
        _say_how_to_use(server)
    else:
        screen.say(f"  Everything is stopped and removed again. {screen.duration(time.monotonic() - started)} in all.")
    return 0


def _start_server(*, keep: bool) -> Embedded:
    with screen.phase("Embedded AWS") as phase:
        server = embedded.start(FOLDER / "aws", FOLDER / "logs" / "aws.log", keep=keep)
        phase.detail = server.url
    return server


def _use(server: Embedded) -> None:
    """Points this process, and all that it starts, at the server."""
    clean = {**embedded.scrubbed(os.environ), **embedded.client_environment(server.url)}
    os.environ.clear()
    os.environ.update(clean)


def _deploy() -> None:
    with screen.phase("cdk bootstrap") as phase:
        target = f"aws://{embedded.ACCOUNT}/{embedded.REGION}"
        # Where there is no cdk.json: the account is prepared for any app, and this one need not be synthesised twice.
        _cdk(phase, "bootstrap", target, folder=FOLDER)
        phase.detail = target
    with screen.phase("cdk deploy --all") as phase:
        phase.detail = "synthesising the templates"
        gate = f"heartbeat.dev.gate_file={GATE}"
        _cdk(
            phase,
            *("deploy", "--all", "--require-approval", "never"),
            *("--context", gate, "--output", str(FOLDER / "cdk.out")),
        )
        phase.detail = _deployed()


def _cdk(phase: screen.Phase, *arguments: str, folder: Path = ROOT) -> None:
    def tell(stage: str) -> None:
        phase.detail = stage

    log = FOLDER / "logs" / f"cdk-{arguments[0]}.log"
    cdk.run_quietly(*arguments, folder=folder, environment=os.environ, log=log, tell=tell)


def _deployed() -> str:
    templates = sorted((FOLDER / "cdk.out").glob("HeartBeat-*.template.json"))
    resources = sum(len(json.loads(path.read_text())["Resources"]) for path in templates)
    return f"{screen.count(len(templates), 'stack')}, {screen.count(resources, 'resource')}"


def _train() -> tuple[App, str]:
    """Uploads what a run needs, starts it with {} and follows it. Raises Failed where it fails."""
    app = connect("dev")
    with screen.phase("Upload") as phase:
        files = base_model.checkpoint_files(CHECKPOINT)
        base_model.upload(app, files)
        client("s3").upload_file(str(DATASET), app.data_bucket, f"datasets/{DATASET.name}")
        weights = screen.size(sum(path.stat().st_size for path in files.values()))
        phase.detail = f"tiny Llama 4 ({weights}), {DATASET.name}"
    screen.say()
    arn = start(app, {}, "demo")
    outcome = watch(app, arn, hints=False)
    if outcome["status"] != "SUCCEEDED":
        page = report.download(app, executions.name_of(arn), PAGE)
        raise Failed(f"the run failed, as shown above. Report: {_short(page)}; logs: {_short(FOLDER)}/logs")
    return app, arn


def _ask(app: App, arn: str) -> None:
    """A question that the run has not trained on, to both models, through the public API."""
    screen.say()
    screen.say("  A question that was held out of the training, through InvokeEndpoint:")
    screen.say()
    for who, text in ask(app, executions.name_of(arn), DATASET):
        said = Table.grid(padding=(0, 1))
        said.add_column(width=13)
        said.add_column(overflow="fold")
        said.add_row(f"    {who}", Text(text, style="bold" if who == requests.TUNED_NAME else ""))
        screen.console().print(said)


def _say_how_to_use(server: Embedded) -> None:
    variables = embedded.client_environment(server.url)
    lines = ["unset AWS_PROFILE AWS_SESSION_TOKEN", *(f"export {k}={shlex.quote(v)}" for k, v in variables.items())]
    ENVIRONMENT_FILE.write_text("\n".join(lines) + "\n")
    python = ".venv/bin/python -m heartbeat"
    screen.say(f"  It is still running, at {server.url}. In a terminal, in this folder:")
    screen.say()
    for line, what in (
        (f"source {_short(ENVIRONMENT_FILE)}", "points AWS clients at it, with credentials that open nothing else"),
        (f"{python} chat", "talk to Stanley"),
        (f"{python} run MAX_STEPS=30", "another run; watch shows it again"),
        (f"{python} status", "what runs"),
        ("make demo-stop", "ends all of it"),
    ):
        screen.say(f"    {line:<46} # {what}")


def _clean() -> None:
    """Removes what only a running demo needs; logs and report stay."""
    for path in (FOLDER / "aws", FOLDER / "cdk.out"):
        shutil.rmtree(path, ignore_errors=True)
    for path in (SESSION, ENVIRONMENT_FILE):
        path.unlink(missing_ok=True)


@contextmanager
def _alone() -> Iterator[None]:
    """One demo at a time in this checkout; and an end from outside is one in order, like Ctrl-C."""
    with (FOLDER / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another demo is at work in {FOLDER}; wait for it, or end it") from None
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)
        yield


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
