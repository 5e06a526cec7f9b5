"""`base-model upload`: a checkpoint folder, checked before anything is sent, put where runs find it.

`base-model token` and `bring`, by which the weights come from the hub, are in `hub_weights`.
"""

from __future__ import annotations

import argparse
import json
import threading
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from heartbeat import checkpoint, layout
from heartbeat.cli import hub_weights, screen
from heartbeat.cli.account import App, client, connect
from heartbeat.cli.errors import UserError
from heartbeat.scout import ModelShape

_PLAIN_SHARE = 0.1
_PLAIN_AT_LEAST_BYTES = 1 << 28
"""A smaller upload is over before a line about it is read."""


def run(arguments: argparse.Namespace) -> int:
    if arguments.action != "upload":
        return hub_weights.run(arguments)
    files = checkpoint_files(arguments.folder)
    app = connect(arguments.environment)
    sent = upload(app, files, force=arguments.force)
    total = screen.size(sum(path.stat().st_size for path in files.values()))
    where = layout.uri(app.artifact_bucket, app.base_model_prefix)
    kept = len(files) - sent
    screen.say(f"{screen.count(len(files), 'file')}, {total}, at {where}" + (f" ({kept} were there)" if kept else ""))
    return 0


def checkpoint_files(folder: Path) -> dict[str, Path]:
    """The checkpoint's files by name. Raises UserError where a run could not load it."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name a Hugging Face checkpoint folder")
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    index = _json(files[checkpoint.WEIGHTS_INDEX]) if checkpoint.WEIGHTS_INDEX in files else None
    missing = checkpoint.missing_files(files, index)
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise UserError(f"{folder} lacks {', '.join(missing[:5])}{more}; download the checkpoint again")
    ModelShape.from_config(_json(files["config.json"]))
    return files


def upload(app: App, files: dict[str, Path], *, force: bool = False) -> int:
    """Sends what is not there in the same size, and returns how many files that were."""
    there = {} if force else _there(app)
    wanted = {name: path for name, path in files.items() if there.get(name) != path.stat().st_size}
    with _Bar(sum(path.stat().st_size for path in wanted.values())) as bar:
        for name, path in wanted.items():
            bar.name = name
            key = app.base_model_prefix + name
            client("s3").upload_file(str(path), app.artifact_bucket, key, Callback=bar.add)
    return len(wanted)


def _there(app: App) -> dict[str, int]:
    pages = client("s3").get_paginator("list_objects_v2")
    found = pages.paginate(Bucket=app.artifact_bucket, Prefix=app.base_model_prefix)
    return {
        item["Key"].removeprefix(app.base_model_prefix): item["Size"]
        for page in found
        for item in page.get("Contents", [])
    }


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}; download the checkpoint again") from None


class _Bar:
    """Bytes sent so far: a bar in a terminal, a line for every tenth elsewhere. boto3 calls `add` from threads."""

    def __init__(self, total: int) -> None:
        self.name = ""
        self._total, self._sent, self._said = total, 0, 0.0
        self._lock = threading.Lock()
        self._progress = Progress(
            TextColumn("  {task.description:<32}"),
            BarColumn(32),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=screen.console(),
            transient=True,
            disable=not screen.console().is_terminal or not total,
        )
        self._task = self._progress.add_task("", total=total)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def add(self, num_bytes: int) -> None:
        with self._lock:
            self._sent += num_bytes
            self._progress.update(self._task, completed=self._sent, description=self.name)
            share = self._sent / self._total
            if screen.console().is_terminal or self._total < _PLAIN_AT_LEAST_BYTES:
                return
            if share - self._said >= _PLAIN_SHARE:
                self._said = share
                screen.say(f"  {share:4.0%}  {screen.size(self._sent)} of {screen.size(self._total)}  {self.name}")
