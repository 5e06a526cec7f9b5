"""moto's Amazon States Language interpreter, completed.

moto ships LocalStack's interpreter with parts left out: JSONata does not evaluate, role credentials are ignored,
names are not converted between an API's and Step Functions' casing. This module puts them in. It patches moto
5.2.5, which is pinned.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys
from collections.abc import Callable
from typing import Any

import botocore.session
from moto.stepfunctions.parser.api import EvaluationFailedEventDetails, HistoryEventType
from moto.stepfunctions.parser.asl.component.common.error_name.custom_error_name import CustomErrorName
from moto.stepfunctions.parser.asl.component.common.error_name.error_equals_decl import ErrorEqualsDecl
from moto.stepfunctions.parser.asl.component.common.error_name.failure_event import (
    FailureEvent,
    FailureEventException,
)
from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name import StatesErrorName
from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name_type import (
    StatesErrorNameType,
)
from moto.stepfunctions.parser.asl.component.common.string.string_expression import StringJSONata
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service import (
    StateTaskService,
)
from moto.stepfunctions.parser.asl.component.state.state import CommonStateField
from moto.stepfunctions.parser.asl.eval.event.event_detail import EventDetails
from moto.stepfunctions.parser.asl.eval.variable_store import VariableStore
from moto.stepfunctions.parser.asl.utils import boto_client as moto_clients
from moto.stepfunctions.parser.asl.utils.encoding import to_json_str

from local_aws import jsonata

ClientOf = Callable[[str, str], Any]
"""(boto service name, role ARN) -> a client that acts as the role."""

_UNCATCHABLE = {"States.Runtime", "States.DataLimitExceeded"}
"""Errors that States.ALL does not match (Amazon States Language, "Errors")."""

_client_of: ClientOf | None = None


def role_client(region: str, service: str, state_credentials: Any = None) -> Any:
    """In place of moto's `boto_client_for`. There is one Region."""
    del region
    if _client_of is None:
        raise RuntimeError("asl_engine.install was not called")
    return _client_of(service, state_credentials.role_arn)


def install(client_of: ClientOf) -> None:
    global _client_of
    _client_of = client_of
    logging.getLogger("moto.stepfunctions").setLevel(logging.CRITICAL)  # it logs every failure that a Catch awaits
    _rebind(moto_clients.boto_client_for, role_client)
    StringJSONata._eval_body = _evaluate_jsonata
    # A Fail state may rethrow States.TaskFailed, which moto refuses.
    CustomErrorName.__init__ = lambda self, error_name: setattr(self, "error_name", error_name)
    ErrorEqualsDecl._eval_body = _error_equals
    StateTaskService._normalise_parameters = _to_api_names
    StateTaskService._normalise_response = _from_api_names
    CommonStateField._eval_body = _remembering_entry(CommonStateField._eval_body)
    VariableStore.get_assigned_variables = _assigned_variables


def _rebind(old: Any, new: Any) -> None:
    """Replace a function in every moto module that imported it by name."""
    for module in list(sys.modules.values()):
        if not getattr(module, "__name__", "").startswith("moto.stepfunctions"):
            continue
        for name, value in list(vars(module).items()):
            if value is old:
                setattr(module, name, new)


# --- JSONata --------------------------------------------------------------------------------------------------


def _evaluate_jsonata(self: Any, env: Any) -> None:
    try:
        env.stack.append(jsonata.evaluate(self.expression, _bindings(env)))
        return
    except jsonata.UndefinedError:
        cause = f"The JSONata expression '{self.expression}' returned nothing (undefined)."
    except Exception as error:  # the language raises what its functions raise
        cause = f"The JSONata expression '{self.expression}' threw an error: {error}"
    name = StatesErrorNameType.StatesQueryEvaluationError
    details = EvaluationFailedEventDetails(error=name.to_name(), cause=cause)
    failure = FailureEventException(
        FailureEvent(
            env=env,
            error_name=StatesErrorName(typ=name),
            event_type=HistoryEventType.EvaluationFailed,
            event_details=EventDetails(evaluationFailedEventDetails=details),
        )
    )
    env.event_manager.add_event(
        context=env.event_history_context,
        event_type=HistoryEventType.EvaluationFailed,
        event_details=EventDetails(evaluationFailedEventDetails=failure.get_evaluation_failed_event_details()),
    )
    raise failure


def _bindings(env: Any) -> dict[str, Any]:
    """The variables in scope, and $states."""
    states = {
        name: value
        for name, value in env.states._states_data.items()
        if name not in ("result", "errorOutput") or value is not None
    }
    variables = {**env.variable_store._outer_scope, **env.variable_store._inner_scope}
    return {**variables, "states": json.loads(to_json_str(states))}


def _assigned_variables(self: Any) -> dict[str, str]:
    """The variables that a state has set, each as JSON text (moto leaves quotes in texts unescaped)."""
    return {name: json.dumps(self.get(name)) for name in self._declaration_tracing}


# --- errors ---------------------------------------------------------------------------------------------------


def _error_equals(self: Any, env: Any) -> None:
    error = env.stack.pop()
    name = error.error_name if error is not None else None
    listed = {known.error_name for known in self.error_names}
    matches = name in listed
    if "States.ALL" in listed:
        matches = name not in _UNCATCHABLE
    elif "States.TaskFailed" in listed:  # any failure of a task but a timeout
        matches = matches or not isinstance(error, StatesErrorName)
    env.stack.append(matches)


# --- entering states ------------------------------------------------------------------------------------------


def _remembering_entry(evaluate: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Before a top-level state runs, keep where a redrive would begin again."""

    def remember_and_evaluate(self: Any, env: Any) -> None:
        if not env.is_frame():
            env.entered = (self.name, env.states.get_input(), dict(env.variable_store._inner_scope))
        evaluate(self, env)

    return remember_and_evaluate


# --- names of an API's members --------------------------------------------------------------------------------


def _operation(task: Any, service: str | None, action: str | None) -> Any:
    model = botocore.session.get_session().get_service_model(task._get_boto_service_name(service))
    wanted = (action or task.resource.api_action).replace("_", "").lower()
    name = next((known for known in model.operation_names if known.lower() == wanted), None)
    if name is None:
        raise ValueError(f"{task.resource.resource_arn}: there is no such operation in the API")
    return model.operation_model(name)


def _to_api_names(
    self: Any, parameters: dict[str, Any], boto_service_name: str | None = None, service_action_name: str | None = None
) -> None:
    shape = _operation(self, boto_service_name, service_action_name).input_shape
    if shape is not None:
        self._to_boto_request(parameters, shape)


def _from_api_names(
    self: Any, response: Any, boto_service_name: str | None = None, service_action_name: str | None = None
) -> None:
    shape = _operation(self, boto_service_name, service_action_name).output_shape
    if shape is not None:
        self._from_boto_response(response, shape)


def iso_dates(value: Any) -> Any:
    """Timestamps as aws-sdk integrations give them: ISO 8601 text."""
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if isinstance(value, dict):
        return {key: iso_dates(member) for key, member in value.items()}
    return [iso_dates(member) for member in value] if isinstance(value, list) else value


def epoch_dates(value: Any) -> Any:
    """Timestamps as optimised integrations give them: milliseconds since 1970."""
    if isinstance(value, datetime.datetime):
        return int(value.timestamp() * 1000)
    if isinstance(value, dict):
        return {key: epoch_dates(member) for key, member in value.items()}
    return [epoch_dates(member) for member in value] if isinstance(value, list) else value
