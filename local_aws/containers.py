"""The container contract without containers: a subprocess with /opt/ml under a prefix, and its log.

The program finds its /opt/ml through the environment variable HEARTBEAT_OPT_ML. Every subprocess leads a process
group of its own, and on Linux dies with the server even when that is killed with -9.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from botocore.exceptions import ClientError

OPT_ML = "/opt/ml"
PREFIX_VARIABLE = "HEARTBEAT_OPT_ML"
SHIP_SECONDS = 0.3
"""How often new log lines are sent. A watcher polls once a second, so it never waits for us."""
MAX_EVENTS = 1000
"""Log events in one PutLogEvents (AWS allows 10,000 and 1 MB)."""

_INHERITED = ("PATH", "LANG", "LC_ALL", "TMPDIR", "OMP_NUM_THREADS", "VIRTUAL_ENV", "SYSTEMROOT")


@dataclass(frozen=True, kw_only=True)
class Command:
    """What an image runs."""

    arguments: tuple[str, ...]
    directory: Path
    environment: Mapping[str, str]


def with_this_python(words: Sequence[str]) -> tuple[str, ...]:
    """A container's command, `python` being this interpreter."""
    return (sys.executable if words[0] in ("python", "python3") else words[0], *words[1:])


class _Spawner:
    """One thread that starts every subprocess: Linux sends the parent-death signal when the *thread* ends."""

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[tuple[Callable[[], Any], queue.SimpleQueue[Any]]]
        self._requests = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="spawner", daemon=True).start()

    def _serve(self) -> None:
        while True:
            start, answer = self._requests.get()
            try:
                answer.put(start())
            except Exception as error:
                answer.put(error)

    def run(self, start: Callable[[], Any]) -> Any:
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._requests.put((start, answer))
        result = answer.get()
        if isinstance(result, Exception):
            raise result
        return result


_spawner = _Spawner()
_children: set[subprocess.Popen[Any]] = set()
_children_lock = threading.Lock()


def spawn(arguments: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """`subprocess.Popen`, in a new session, dying with the server."""
    trampoline = [sys.executable, "-I", "-S", str(Path(__file__).with_name("child.py")), str(os.getpid())]
    options["start_new_session"] = True
    process = _spawner.run(lambda: subprocess.Popen([*trampoline, *arguments], **options))
    with _children_lock:
        _children.difference_update({child for child in _children if child.poll() is not None})
        _children.add(process)
    return cast("subprocess.Popen[Any]", process)


def signal_group(process: subprocess.Popen[Any], number: int) -> None:
    """Signal the process and all that it started."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return


def end_all() -> None:
    """SIGKILL every child that is left; for the end of the server."""
    with _children_lock:
        children = list(_children)
    for child in children:
        signal_group(child, signal.SIGKILL)
    for child in children:
        child.wait(timeout=5)


def run_container(
    command: Command, *, opt_ml: Path, environment: Mapping[str, str], log: Path
) -> subprocess.Popen[Any]:
    """Start the image's command. The image's own ENV yields to `environment`, as in SageMaker."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    full = {
        **inherited,
        "HOME": str(opt_ml.parent),
        "PYTHONUNBUFFERED": "1",
        **command.environment,
        **environment,
        PREFIX_VARIABLE: str(opt_ml),
    }
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return spawn(
            command.arguments,
            cwd=command.directory,
            env=full,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def under_prefix(path: str, opt_ml: Path) -> Path:
    """Where a path of the container lies. Raises ValueError for one outside /opt/ml."""
    parts = path.rstrip("/").split("/")
    if ".." in parts or not (path.rstrip("/") + "/").startswith(OPT_ML + "/"):
        raise ValueError(f"path {path!r} must lie under {OPT_ML}: the embedded AWS has no other container path")
    return opt_ml / path.rstrip("/")[len(OPT_ML) :].lstrip("/")


class LogShipper:
    """Sends a growing file to a CloudWatch log stream while it grows.

    `on_line` is called for every line, in order. A denied call is kept in `denied` and ends the shipping.
    """

    def __init__(
        self,
        path: Path,
        *,
        logs: Any,
        group: str,
        stream: str,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        self._path, self._logs, self._group, self._stream = path, logs, group, stream
        self._on_line = on_line
        self._offset = 0
        self._stop = threading.Event()
        self.denied: ClientError | None = None
        self._thread = threading.Thread(target=self._follow, name=f"logs {stream}", daemon=True)

    def start(self) -> None:
        """Open the stream and follow the file. Raises ClientError when that is denied."""
        for create, names in (
            (self._logs.create_log_group, {}),
            (self._logs.create_log_stream, {"logStreamName": self._stream}),
        ):
            try:
                create(logGroupName=self._group, **names)
            except self._logs.exceptions.ResourceAlreadyExistsException:
                continue
        self._thread.start()

    def finish(self) -> None:
        """Send what is left and stop."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _follow(self) -> None:
        while not self._stop.wait(SHIP_SECONDS):
            self._ship(last=False)
        self._ship(last=True)

    def _ship(self, *, last: bool) -> None:
        lines = self._new_lines(last=last)
        if self._on_line is not None:
            for line in lines:
                self._on_line(line)
        for start in range(0, len(lines), MAX_EVENTS):
            now = int(time.time() * 1000)
            events = [{"timestamp": now, "message": line or " "} for line in lines[start : start + MAX_EVENTS]]
            try:
                if self.denied is None:
                    self._logs.put_log_events(logGroupName=self._group, logStreamName=self._stream, logEvents=events)
            except ClientError as error:
                self.denied = error

    def _new_lines(self, *, last: bool) -> list[str]:
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        if not last:
            data = data[: data.rfind(b"\n") + 1]  # a line that is still being written waits
        self._offset += len(data)
        return data.decode(errors="replace").splitlines()
