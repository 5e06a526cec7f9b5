"""Step Functions: ministack's API in front of moto's interpreter."""

from __future__ import annotations

import contextvars
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ministack import app
from ministack.core.responses import error_response_json, json_response, now_iso
from ministack.services import cloudwatch
from ministack.services import stepfunctions as service
from moto.stepfunctions.parser.asl.eval.callback import callback
from moto.stepfunctions.parser.asl.parse.asl_parser import AmazonStateLanguageParser

from local_aws import asl_engine, asl_tasks
from local_aws.errors import ApiError
from local_aws.executions import Execution, ExecutionLog, Outcome, logging_configuration
from local_aws.iam import STATES, Roles
from local_aws.settings import Settings

logger = logging.getLogger("local_aws")

_METRICS = {
    "SUCCEEDED": "ExecutionsSucceeded",
    "FAILED": "ExecutionsFailed",
    "TIMED_OUT": "ExecutionsTimedOut",
    "ABORTED": "ExecutionsAborted",
}
_REDRIVABLE = ("FAILED", "TIMED_OUT", "ABORTED")
_LOG_DELIVERY_ACTIONS = (
    "logs:CreateLogDelivery",
    "logs:GetLogDelivery",
    "logs:UpdateLogDelivery",
    "logs:DeleteLogDelivery",
    "logs:ListLogDeliveries",
    "logs:PutResourcePolicy",
    "logs:DescribeResourcePolicies",
    "logs:DescribeLogGroups",
)
_SYNC_RESOURCE = re.compile(r"^arn:aws:states:::(?P<service>[\w-]+):(?P<action>\w+)\.sync(:2)?$")


class StepFunctions:
    def __init__(self, settings: Settings, roles: Roles) -> None:
        self._settings, self._roles = settings, roles
        self._executions: dict[str, Execution] = {}

    def install(self) -> None:
        asl_engine.install(lambda name, role: self._roles.client(name, role, STATES))
        asl_tasks.install(
            lambda role, action, resource: self._roles.require(role, STATES, action, resource), self._rule_arn
        )
        service._run_execution = self._run
        service._stop_execution = self._stopping(service._stop_execution)
        service._get_execution_history = self._refreshing(service._get_execution_history)
        service._describe_execution = self._describing(service._describe_execution)
        service._send_task_success = self._task_answer(
            lambda r: callback.CallbackOutcomeSuccess(callback_id=r["taskToken"], output=r["output"])
        )
        service._send_task_failure = self._task_answer(
            lambda r: callback.CallbackOutcomeFailure(
                callback_id=r["taskToken"], error=r.get("error"), cause=r.get("cause")
            )
        )
        service._send_task_heartbeat = self._heartbeat
        service._create_state_machine = self._checking(service._create_state_machine)
        service._update_state_machine = self._checking(service._update_state_machine)
        handle = app.SERVICE_HANDLERS["states"]

        async def handle_redrive_too(
            method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, Any]
        ) -> Any:
            if headers.get("x-amz-target", "").endswith(".RedriveExecution"):
                return self._redrive(json.loads(body or b"{}"))
            return await handle(method, path, headers, body, query)

        app.SERVICE_HANDLERS["states"] = handle_redrive_too

    # --- definitions ------------------------------------------------------------------------------------------

    def check(self, request: dict[str, Any]) -> None:
        """Raise ValueError for a definition or a role that AWS would refuse."""
        definition, role = request.get("definition"), request.get("roleArn")
        if definition is not None:
            _check_definition(definition)
            if role is not None:
                self._check_managed_rules(json.loads(definition), role)

    def _check_managed_rules(self, definition: dict[str, Any], role: str) -> None:
        for state in _states(definition):
            match = _SYNC_RESOURCE.match(str(state.get("Resource", "")))
            rule = asl_tasks.MANAGED_RULES.get(f"{match['service']}:{match['action'].lower()}") if match else None
            if rule is None:
                continue
            for action in asl_tasks.MANAGED_RULE_ACTIONS:
                try:
                    self._roles.require(role, STATES, action, self._rule_arn(rule))
                except ApiError as error:
                    raise ValueError(f"'{role}' is not authorized to create managed-rule: {error.message}") from error

    def check_logging(self, role: str, configuration: dict[str, Any] | None) -> None:
        """Raise ValueError unless the role may deliver logs, which AWS asks when logging is on."""
        if not (configuration or {}).get("destinations"):
            return
        for action in _LOG_DELIVERY_ACTIONS:
            try:
                self._roles.require(role, STATES, action, "*")
            except ApiError as error:
                raise ValueError(
                    f"The state machine IAM Role is not authorized to access the Log Destination: {error.message}"
                ) from error

    def _rule_arn(self, rule: str) -> str:
        return self._settings.arn("events", f"rule/{rule}")

    def _checking(self, operation: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
        def checked(request: dict[str, Any]) -> Any:
            try:
                self.check(request)
                if request.get("roleArn"):
                    self.check_logging(request["roleArn"], request.get("loggingConfiguration"))
            except ValueError as error:
                return error_response_json("InvalidDefinition", f"Invalid State Machine Definition: {error}", 400)
            except ApiError as error:
                return error_response_json("AccessDeniedException", error.message, 400)
            return operation(request)

        return checked

    # --- executions -------------------------------------------------------------------------------------------

    def _run(self, execution_arn: str) -> None:
        """ministack's worker thread of an execution."""
        record = service._executions[execution_arn]
        machine = service._state_machines[record["stateMachineArn"]]
        execution = Execution(
            record=record,
            machine=dict(machine),
            account=self._settings.account,
            region=self._settings.region,
            log=self._log(execution_arn, machine),
        )
        self._executions[execution_arn] = execution
        self._metric("ExecutionsStarted", 1, "Count", machine)
        if record["status"] == "RUNNING":
            self._carry_through(record, machine, execution, execution.run)

    def _carry_through(
        self, record: dict[str, Any], machine: dict[str, Any], execution: Execution, work: Callable[[], Outcome]
    ) -> None:
        started = time.monotonic()
        try:
            outcome = work()
        except Exception as error:
            logger.exception("execution %s", record["executionArn"])
            outcome = Outcome(status="FAILED", error="States.Runtime", cause=f"{type(error).__name__}: {error}")
        if record["status"] == "RUNNING":  # a stopped one has its status already
            record.update(
                events=execution.history(),
                output=outcome.output,
                error=outcome.error,
                cause=outcome.cause,
                stopDate=now_iso(),
            )
            record["status"] = outcome.status
            service._emit_execution_status_event(record)
        self._metric(_METRICS[record["status"]], 1, "Count", machine)
        self._metric("ExecutionTime", (time.monotonic() - started) * 1000, "Milliseconds", machine)
        execution.close_log()

    def _log(self, execution_arn: str, machine: dict[str, Any]) -> ExecutionLog | None:
        configuration = logging_configuration(machine)
        if configuration is None:
            return None
        return ExecutionLog(execution_arn, configuration, self._roles.service_client("logs"))

    def _metric(self, name: str, value: float, unit: str, machine: dict[str, Any]) -> None:
        dimensions = {"StateMachineArn": machine["stateMachineArn"]}
        cloudwatch.record_metric("AWS/States", name, value, unit, dimensions)
        cloudwatch._evaluate_all_alarms()

    def _stopping(self, stop: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
        def stop_program(request: dict[str, Any]) -> Any:
            arn = request.get("executionArn", "")
            execution, record = self._executions.get(arn), service._executions.get(arn)
            running = record is not None and record["status"] == "RUNNING"
            if execution is not None and running:
                record["events"] = execution.history()  # what comes after the abort is not history
            answer = stop(request)
            if execution is not None and running:
                execution.stop(request.get("error"), request.get("cause"))
            return answer

        return stop_program

    def _refreshing(self, read: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
        def refresh_and_read(request: dict[str, Any]) -> Any:
            arn = request.get("executionArn", "")
            execution, record = self._executions.get(arn), service._executions.get(arn)
            if execution is not None and record is not None and record["status"] == "RUNNING":
                record["events"] = execution.history()
            return read(request)

        return refresh_and_read

    def _describing(self, describe: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
        def describe_redrive(request: dict[str, Any]) -> Any:
            status, headers, body = describe(request)
            execution = self._executions.get(request.get("executionArn", ""))
            if status == 200 and execution is not None:
                answer = json.loads(body)
                redrivable = answer["status"] in _REDRIVABLE
                answer["redriveCount"] = execution.redrive_count
                answer["redriveStatus"] = "REDRIVABLE" if redrivable else "NOT_REDRIVABLE"
                body = json.dumps(answer).encode()
            return status, headers, body

        return describe_redrive

    def _redrive(self, request: dict[str, Any]) -> Any:
        arn = request.get("executionArn", "")
        execution, record = self._executions.get(arn), service._executions.get(arn)
        if execution is None or record is None:
            return error_response_json("ExecutionDoesNotExist", f"Execution Does Not Exist: '{arn}'", 400)
        if record["status"] not in _REDRIVABLE:
            message = f"Execution is {record['status']} and cannot be redriven"
            return error_response_json("ExecutionNotRedrivable", message, 400)
        machine = service._state_machines[record["stateMachineArn"]]
        record.update(status="RUNNING", stopDate=None, error=None, cause=None)
        service._emit_execution_status_event(record)
        self._in_thread(self._carry_through, record, machine, execution, execution.redrive)
        return json_response({"redriveDate": time.time()})

    def _in_thread(self, work: Callable[..., None], *arguments: Any) -> None:
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(work, *arguments), daemon=True).start()

    # --- task tokens ------------------------------------------------------------------------------------------

    def _task_answer(self, outcome: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
        def answer(request: dict[str, Any]) -> Any:
            token = request.get("taskToken", "")
            for execution in list(self._executions.values()):
                if not execution.is_running():
                    continue
                pool = execution.environment.callback_pool_manager
                try:
                    if pool.notify(callback_id=token, outcome=outcome(request)):
                        return json_response({})
                except callback.CallbackNotifyConsumerError:
                    break
            message = "Task Timed Out: 'Provided task does not exist anymore'"
            return error_response_json("TaskTimedOut", message, 400)

        return answer

    def _heartbeat(self, request: dict[str, Any]) -> Any:
        for execution in list(self._executions.values()):
            pool = execution.environment.callback_pool_manager
            if execution.is_running() and pool.heartbeat(callback_id=request.get("taskToken", "")):
                return json_response({})
        return error_response_json("TaskTimedOut", "Task Timed Out: 'Provided task does not exist anymore'", 400)


def _states(scope: Any) -> Iterator[dict[str, Any]]:
    """Every state of a definition, those of branches and item processors too."""
    for state in scope.get("States", {}).values():
        yield state
        for inner in [*state.get("Branches", []), state.get("ItemProcessor"), state.get("Iterator")]:
            if inner:
                yield from _states(inner)


def _scopes(scope: Any) -> Iterator[dict[str, Any]]:
    yield scope
    for state in scope.get("States", {}).values():
        for inner in [*state.get("Branches", []), state.get("ItemProcessor"), state.get("Iterator")]:
            if inner:
                yield from _scopes(inner)


def _check_definition(text: str) -> None:
    """Raise ValueError for what the interpreter cannot read and for a transition into nowhere."""
    try:
        definition = json.loads(text)
    except ValueError as error:
        raise ValueError(f"INVALID_JSON_DESCRIPTION: {error}") from error
    malformed = service._validate_definition_jsonata(text)
    if malformed:
        raise ValueError(malformed)
    for scope in _scopes(definition):
        known = scope.get("States", {})
        for origin, target in _transitions(scope):
            if target not in known:
                raise ValueError(f"MISSING_TRANSITION_TARGET: Missing 'Next' target: {target} at {origin}")
    try:
        AmazonStateLanguageParser.parse(text)
    except Exception as error:  # the parser raises what its grammar raises
        raise ValueError(f"SCHEMA_VALIDATION_FAILED: {error}") from error


def _transitions(scope: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "StartAt", scope.get("StartAt")
    for name, state in scope.get("States", {}).items():
        for member in ("Next", "Default"):
            if member in state:
                yield f"/States/{name}/{member}", state[member]
        for member in ("Choices", "Catch"):
            for rule in state.get(member, []):
                yield f"/States/{name}/{member}", rule.get("Next")
