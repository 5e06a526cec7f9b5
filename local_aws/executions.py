"""One execution of a state machine in moto's interpreter: running, stopping, history, logs."""

from __future__ import annotations

import datetime
import json
import queue
import threading
import time
from dataclasses import dataclass
from typing import Any

from moto.stepfunctions.parser.api import ExecutionStartedEventDetails, HistoryEventType
from moto.stepfunctions.parser.asl.eval.environment import Environment
from moto.stepfunctions.parser.asl.eval.evaluation_details import AWSExecutionDetails
from moto.stepfunctions.parser.asl.eval.event.event_detail import EventDetails
from moto.stepfunctions.parser.asl.eval.event.event_manager import EventHistoryContext
from moto.stepfunctions.parser.asl.eval.event.logging import (
    CloudWatchLoggingConfiguration,
    CloudWatchLoggingSession,
)
from moto.stepfunctions.parser.asl.eval.program_state import ProgramEnded, ProgramError, ProgramTimedOut
from moto.stepfunctions.parser.asl.eval.states import ContextObjectData
from moto.stepfunctions.parser.asl.parse.asl_parser import AmazonStateLanguageParser


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an execution ended by itself."""

    status: str
    output: str | None = None
    error: str | None = None
    cause: str | None = None


class ExecutionLog(CloudWatchLoggingSession):  # type: ignore[misc]
    """Vended logs: written in a thread of their own, so that no state waits for them."""

    def __init__(self, execution_arn: str, configuration: Any, logs: Any) -> None:
        self.execution_arn, self.configuration, self._logs = execution_arn, configuration, logs
        self._queue: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name=f"log {execution_arn}", daemon=True)
        self._thread.start()

    def publish_history_log(self, history_log: Any) -> None:
        self._queue.put(dict(history_log))

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _write(self) -> None:
        place = {
            "logGroupName": self.configuration.log_group_name,
            "logStreamName": self.configuration.log_stream_name,
        }
        opened = False
        while (entry := self._queue.get()) is not None:
            if not opened:
                try:
                    self._logs.create_log_stream(**place)
                except self._logs.exceptions.ResourceAlreadyExistsException:
                    opened = True
                opened = True
            now = int(time.time() * 1000)
            entry["event_timestamp"] = str(_milliseconds(entry.get("event_timestamp"), now))
            message = json.dumps(entry, default=str)
            self._logs.put_log_events(logEvents=[{"timestamp": now, "message": message}], **place)


def _milliseconds(value: Any, otherwise: int) -> int:
    if isinstance(value, str):
        value = datetime.datetime.fromisoformat(value)
    return int(value.timestamp() * 1000) if isinstance(value, datetime.datetime) else otherwise


class Execution:
    """The program of one execution. `run` blocks; the rest may be called from other threads."""

    def __init__(
        self, *, record: dict[str, Any], machine: dict[str, Any], account: str, region: str, log: ExecutionLog | None
    ) -> None:
        self._record, self._machine, self._log = record, machine, log
        self._account, self._region = account, region
        self.redrive_count = 0
        self.environment = self._new_environment()

    def _new_environment(self) -> Any:
        machine, record = self._machine, self._record
        context = ContextObjectData(
            Execution={
                "Id": record["executionArn"],
                "Input": json.loads(record["input"]),
                "Name": record["name"],
                "RoleArn": machine["roleArn"],
                "StartTime": record["startDate"],
                "RedriveCount": self.redrive_count,
            },
            StateMachine={"Id": machine["stateMachineArn"], "Name": machine["name"]},
        )
        return Environment(
            aws_execution_details=AWSExecutionDetails(self._account, self._region, machine["roleArn"]),
            execution_type=machine["type"],
            context=context,
            event_history_context=EventHistoryContext.of_program_start(),
            cloud_watch_logging_session=self._log,
            activity_store={},
        )

    def run(self) -> Outcome:
        details = ExecutionStartedEventDetails(
            input=self._record["input"], inputDetails={"truncated": False}, roleArn=self._machine["roleArn"]
        )
        self.environment.event_manager.add_event(
            context=self.environment.event_history_context,
            event_type=HistoryEventType.ExecutionStarted,
            event_details=EventDetails(executionStartedEventDetails=details),
            update_source_event_id=False,
        )
        return self._evaluate(AmazonStateLanguageParser.parse(self._machine["definition"])[0])

    def redrive(self) -> Outcome:
        """Begin again at the state that failed, with its input and variables."""
        before = self.environment
        name, state_input, variables = before.entered
        self.redrive_count += 1
        self.environment = self._new_environment()
        self.environment.event_manager = before.event_manager
        self.environment.event_history_context = before.event_history_context
        self.environment.states.reset(state_input)
        self.environment.variable_store._inner_scope.update(variables)
        self.environment.event_manager.add_event(
            context=self.environment.event_history_context,
            event_type="ExecutionRedriven",
            event_details={"executionRedrivenEventDetails": {"redriveCount": self.redrive_count}},
        )
        program = AmazonStateLanguageParser.parse(self._machine["definition"])[0]
        program.start_at.start_at_name = name
        return self._evaluate(program)

    def _evaluate(self, program: Any) -> Outcome:
        program.eval(self.environment)
        state = self.environment.program_state()
        if isinstance(state, ProgramEnded):
            return Outcome(status="SUCCEEDED", output=json.dumps(self.environment.states.get_input()))
        if isinstance(state, ProgramTimedOut):
            return Outcome(status="TIMED_OUT", error="States.Timeout")
        if isinstance(state, ProgramError):
            failure = state.error or {}
            return Outcome(status="FAILED", error=failure.get("error"), cause=failure.get("cause"))
        return Outcome(status="ABORTED")

    def stop(self, error: str | None, cause: str | None) -> None:
        moment = datetime.datetime.now(datetime.UTC)
        self.environment.set_stop(stop_date=moment, error=error, cause=cause)

    def history(self) -> list[dict[str, Any]]:
        events = list(self.environment.event_manager.get_event_history())
        plain: list[dict[str, Any]] = json.loads(json.dumps(events, default=str))
        return plain

    def is_running(self) -> bool:
        return bool(self.environment.is_running())

    def close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None


def logging_configuration(machine: dict[str, Any]) -> Any:
    """moto's view of the machine's logging configuration, or None when nothing is logged."""
    configured = machine.get("loggingConfiguration") or {}
    if not configured.get("destinations"):
        return None
    return CloudWatchLoggingConfiguration.from_logging_configuration(
        machine["stateMachineArn"], {"includeExecutionData": False, **configured}
    )
