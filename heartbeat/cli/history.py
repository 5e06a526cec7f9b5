"""An execution's history, folded into the few rows that a person looks at."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from heartbeat.failures import read_cause

Event = Mapping[str, Any]

_LONGEST = 90

EXPLAIN = "Explain failure"
_SHOWN = ("TaskState", "WaitState", "ParallelState", "MapState")
_PART_OF = {
    "Read endpoint": "Wait for endpoint",
    "Host model": "Wait for endpoint",
    "Wait for turn": "Claim endpoint",
}
"""States of a loop that are shown as one row, under the name of one of them."""


@dataclass
class Row:
    """A state that was entered, and what became of it."""

    name: str
    entered: datetime
    exited: datetime | None = None
    error: str | None = None
    """Name of the last error in it, where it has not succeeded since."""
    why: str = ""
    """What the service said of it, in one line."""
    tries: int = 0
    fatal: bool = False
    """Its error ended the run."""

    @property
    def running(self) -> bool:
        return self.exited is None

    def seconds(self, now: datetime) -> float:
        return max(0.0, ((self.exited or now) - self.entered).total_seconds())


@dataclass
class History:
    """Rows in order. Feed it each event once; `last_id` is the newest that it has seen."""

    rows: list[Row] = field(default_factory=list)
    last_id: int = 0

    @property
    def current(self) -> Row | None:
        """The state that the execution is in, or None between two."""
        return self.rows[-1] if self.rows and self.rows[-1].running else None

    def row(self, name: str) -> Row | None:
        """The latest row of a state."""
        return next((row for row in reversed(self.rows) if row.name == name), None)

    def add(self, events: Iterable[Event]) -> None:
        for event in events:
            if event["id"] > self.last_id:
                self.last_id = event["id"]
                self._add(event)

    def _add(self, event: Event) -> None:
        kind: str = event["type"]
        if kind.endswith("StateEntered"):
            self._enter(kind, event["stateEnteredEventDetails"]["name"], event["timestamp"])
        elif kind.endswith("StateExited"):
            self._exit(event["stateExitedEventDetails"]["name"], event["timestamp"])
        elif kind in {"ExecutionFailed", "ExecutionAborted", "ExecutionTimedOut"}:
            self._end(event["timestamp"])
        elif row := self.current:
            details = _details(event)
            if "error" in details:
                row.error, row.why = str(details["error"]), said(details.get("cause"))
            elif kind.endswith(("Scheduled", "Succeeded")):
                row.error, row.why = None, ""
                row.tries += kind.endswith("Scheduled")

    def _enter(self, kind: str, name: str, when: datetime) -> None:
        if name == EXPLAIN and self.rows:
            self.rows[-1].fatal = True
        if not kind.startswith(_SHOWN):
            return
        first = _PART_OF.get(name, name)
        if self.rows and self.rows[-1].name == first and first in _PART_OF.values():
            self.rows[-1].exited = None
        else:
            self.rows.append(Row(name=first, entered=when))

    def _exit(self, name: str, when: datetime) -> None:
        row = self.current
        if row and row.name == _PART_OF.get(name, name):
            row.exited = when

    def _end(self, when: datetime) -> None:
        if row := self.current:
            row.exited = when
            row.fatal = True


def _details(event: Event) -> Mapping[str, Any]:
    """The one member that holds what the event is about."""
    found = (value for key, value in event.items() if key.endswith("EventDetails"))
    return next((value for value in found if isinstance(value, Mapping)), {})


def said(cause: str | None) -> str:
    """The first sentence of a Cause, without the envelope that AWS puts around it; "" where it has none."""
    found = read_cause(cause)
    text = str(found.get("FailureReason") or found.get("errorMessage") or ("" if found else cause or ""))
    first = text.strip().split("\n")[0].split(" (Service:")[0].split(' "arn:')[0]
    return first if len(first) <= _LONGEST else f"{first[: _LONGEST - 1]}…"


def short(error: str) -> str:
    """`Ecr.ImageNotFoundException` -> `image not found`; "" for an error whose name says nothing."""
    service, _, name = error.rpartition(".")
    name = name.removesuffix("Exception")
    if name == "TaskFailed" or (service and name.endswith(service)):
        return ""
    return re.sub(r"(?<!^)(?=[A-Z][a-z])", " ", name).lower()
