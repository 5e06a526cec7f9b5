"""CloudFormation: properties that ministack's resource handlers drop, and types that it lacks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ministack.core.iam_evaluator import validate_role_arn
from ministack.services import budgets, codebuild, secretsmanager, sns, stepfunctions
from ministack.services.cloudformation import provisioners

from local_aws import buckets
from local_aws.buckets import Properties, as_bool
from local_aws.errors import ApiError
from local_aws.sagemaker import SageMaker
from local_aws.stepfunctions import StepFunctions


def install(sagemaker: SageMaker, step_functions: StepFunctions) -> None:
    buckets.install()
    _install_topics()
    _install_roles_check()
    _install_state_machines(step_functions)
    _install_build_projects()
    _install_model_package_groups(sagemaker)
    _install_budgets()
    _install_metric_math_alarms()
    _install_custom_resource_check()
    _install_empty_secrets()


def _handlers(resource_type: str) -> dict[str, Any]:
    handlers: dict[str, Any] = provisioners._RESOURCE_HANDLERS[resource_type]
    return handlers


# --- AWS::SNS::Topic ------------------------------------------------------------------------------------------


def _install_topics() -> None:
    handlers = _handlers("AWS::SNS::Topic")
    create = handlers["create"]

    def create_with_key(logical_id: str, properties: Properties, *rest: Any) -> Any:
        result = create(logical_id, properties, *rest)
        if properties.get("KmsMasterKeyId"):
            attributes = sns._topics[result[0]].setdefault("attributes", {})
            attributes["KmsMasterKeyId"] = properties["KmsMasterKeyId"]
        return result

    handlers["create"] = create_with_key


# --- roles must exist -----------------------------------------------------------------------------------------


def _install_roles_check() -> None:
    for resource_type, member in (
        ("AWS::Lambda::Function", "Role"),
        ("AWS::StepFunctions::StateMachine", "RoleArn"),
        ("AWS::CodeBuild::Project", "ServiceRole"),
    ):
        handlers = _handlers(resource_type)
        handlers["create"] = _with_role(resource_type, member, handlers["create"], position=1)
        handlers["update"] = _with_role(resource_type, member, handlers["update"], position=2)


def _with_role(resource_type: str, member: str, handler: Any, *, position: int) -> Any:
    def checked(*arguments: Any) -> Any:
        role = arguments[position].get(member)
        problem = validate_role_arn(role) if role else f"{member} is missing"
        if problem:
            raise ValueError(f"{resource_type}: {problem}")
        return handler(*arguments)

    return checked


# --- AWS::StepFunctions::StateMachine -------------------------------------------------------------------------


def _install_state_machines(step_functions: StepFunctions) -> None:
    handlers = _handlers("AWS::StepFunctions::StateMachine")
    create, update = handlers["create"], handlers["update"]

    def verify(properties: Properties) -> None:
        definition, role = provisioners._sfn_definition(properties), properties["RoleArn"]
        try:
            step_functions.check({"definition": definition, "roleArn": role})
            step_functions.check_logging(role, _camel(properties.get("LoggingConfiguration")))
        except ApiError as error:
            raise ValueError(error.message) from error

    def create_verified(logical_id: str, properties: Properties, stack: str) -> Any:
        verify(properties)
        arn, attributes = create(logical_id, properties, stack)
        _store_logging(arn, properties)
        return arn, attributes

    def update_verified(physical_id: str, old: Properties, new: Properties, *rest: Any) -> Any:
        verify(new)
        result = update(physical_id, old, new, *rest)
        _store_logging(result[0], new)
        return result

    handlers.update(create=create_verified, update=update_verified)


def _store_logging(arn: str, properties: Properties) -> None:
    """Keep the logging and tracing configuration in the API's casing, as DescribeStateMachine answers it."""
    machine = stepfunctions._state_machines[arn]
    if "LoggingConfiguration" in properties:
        logging = _camel(properties["LoggingConfiguration"])
        logging["includeExecutionData"] = as_bool(logging.get("includeExecutionData", False))
        machine["loggingConfiguration"] = logging
    if "TracingConfiguration" in properties:
        enabled = as_bool(properties["TracingConfiguration"].get("Enabled", False))
        machine["tracingConfiguration"] = {"enabled": enabled}


def _camel(value: Any) -> Any:
    if isinstance(value, dict):
        return {key[:1].lower() + key[1:]: _camel(member) for key, member in value.items()}
    return [_camel(member) for member in value] if isinstance(value, list) else value


# --- AWS::CodeBuild::Project ----------------------------------------------------------------------------------


def _install_build_projects() -> None:
    handlers = _handlers("AWS::CodeBuild::Project")
    create, update = handlers["create"], handlers["update"]

    def create_with_logs(logical_id: str, properties: Properties, stack: str) -> Any:
        result = create(logical_id, properties, stack)
        _store_logs(result[0], properties)
        return result

    def update_with_logs(physical_id: str, old: Properties, new: Properties, *rest: Any) -> Any:
        result = update(physical_id, old, new, *rest)
        _store_logs(result[0], new)
        return result

    handlers.update(create=create_with_logs, update=update_with_logs)


def _store_logs(name: str, properties: Properties) -> None:
    logs = properties.get("LogsConfig", {}).get("CloudWatchLogs", {})
    codebuild._projects[name]["logsConfig"] = {"cloudWatchLogs": _camel(logs)}


# --- AWS::SageMaker::ModelPackageGroup ------------------------------------------------------------------------


def _install_model_package_groups(sagemaker: SageMaker) -> None:
    members = ("ModelPackageGroupName", "ModelPackageGroupDescription", "Tags")

    def create(_logical_id: str, properties: Properties, _stack: str) -> Any:
        _refuse_unknown("AWS::SageMaker::ModelPackageGroup", properties, (*members, "ModelPackageGroupPolicy"))
        request = {member: properties[member] for member in members if member in properties}
        try:
            arn = sagemaker.call("CreateModelPackageGroup", request)["ModelPackageGroupArn"]
        except ApiError as error:
            raise ValueError(error.message) from error
        attributes = {
            "ModelPackageGroupArn": arn,
            "ModelPackageGroupStatus": "Completed",
            "CreationTime": "",
        }
        return arn, attributes

    def update(physical_id: str, old: Properties, new: Properties, _stack: str) -> Any:
        if {**old, "Tags": None} != {**new, "Tags": None}:
            raise ValueError("AWS::SageMaker::ModelPackageGroup: only Tags can be updated in the embedded AWS")
        sagemaker.call("AddTags", {"ResourceArn": physical_id, "Tags": new.get("Tags", [])})
        return physical_id, {"ModelPackageGroupArn": physical_id}

    def delete(_physical_id: str, properties: Properties) -> None:
        try:
            sagemaker.call("DeleteModelPackageGroup", {"ModelPackageGroupName": properties["ModelPackageGroupName"]})
        except ApiError as error:
            raise ValueError(error.message) from error

    provisioners._RESOURCE_HANDLERS["AWS::SageMaker::ModelPackageGroup"] = {
        "create": create,
        "update": update,
        "delete": delete,
    }


def _refuse_unknown(resource_type: str, properties: Properties, known: tuple[str, ...]) -> None:
    if unknown := sorted(set(properties) - set(known)):
        raise ValueError(f"{resource_type}: {', '.join(unknown)} is not supported by the embedded AWS")


# --- AWS::Budgets::Budget -------------------------------------------------------------------------------------


def _install_budgets() -> None:
    def create(logical_id: str, properties: Properties, stack: str) -> Any:
        budget = dict(properties["Budget"])
        budget.setdefault("BudgetName", f"{stack}-{logical_id}")
        if "BudgetLimit" in budget:
            limit = budget["BudgetLimit"]
            budget["BudgetLimit"] = {"Amount": str(limit["Amount"]), "Unit": limit["Unit"]}
        notifications = [_budget_notification(n) for n in properties.get("NotificationsWithSubscribers", [])]
        request = {"AccountId": budgets.get_account_id(), "Budget": budget}
        _budget_call(budgets._create_budget, {**request, "NotificationsWithSubscribers": notifications})
        return budget["BudgetName"], {}

    def update(physical_id: str, old: Properties, new: Properties, stack: str) -> Any:
        delete(physical_id, old)
        return create(physical_id, {**new, "Budget": {**new["Budget"], "BudgetName": physical_id}}, stack)

    def delete(physical_id: str, _properties: Properties) -> None:
        _budget_call(budgets._delete_budget, {"AccountId": budgets.get_account_id(), "BudgetName": physical_id})

    provisioners._RESOURCE_HANDLERS["AWS::Budgets::Budget"] = {
        "create": create,
        "update": update,
        "delete": delete,
    }


def _budget_notification(notification: Properties) -> Properties:
    inner = dict(notification["Notification"])
    inner["Threshold"] = float(inner["Threshold"])
    return {"Notification": inner, "Subscribers": notification["Subscribers"]}


def _budget_call(operation: Callable[[Properties], Any], request: Properties) -> None:
    status, _, body = operation(request)
    if status >= 300:
        raise ValueError(f"AWS::Budgets::Budget: {body!r}")


# --- AWS::CloudWatch::Alarm -----------------------------------------------------------------------------------


def _install_metric_math_alarms() -> None:
    """Keep an alarm on metric math. It stays at INSUFFICIENT_DATA: ministack does not evaluate expressions."""
    record = provisioners._cw_metric_alarm_record
    of_one_metric = ("MetricName", "Namespace", "Statistic", "ExtendedStatistic", "Period", "Dimensions", "Unit")

    def record_any(name: str, properties: Properties) -> Any:
        metrics = properties.get("Metrics")
        if not metrics:
            return record(name, properties)
        stand_in = {key: value for key, value in properties.items() if key != "Metrics"}
        alarm = record(name, {**stand_in, "MetricName": "stand-in", "Namespace": "stand-in"})
        kept = {key: value for key, value in alarm.items() if key not in of_one_metric}
        return {**kept, "Metrics": [_metric_query(query) for query in metrics]}

    provisioners._cw_metric_alarm_record = record_any


def _metric_query(query: Properties) -> Properties:
    converted = {**query, "ReturnData": as_bool(query.get("ReturnData", True))}
    if "MetricStat" in query:
        converted["MetricStat"] = {**query["MetricStat"], "Period": int(query["MetricStat"]["Period"])}
    return converted


# --- AWS::SecretsManager::Secret ------------------------------------------------------------------------------


def _install_empty_secrets() -> None:
    """A secret whose template gives no value has none, not an empty one."""
    handlers = _handlers("AWS::SecretsManager::Secret")
    create = handlers["create"]

    def create_empty(logical_id: str, properties: Properties, *rest: Any) -> Any:
        result = create(logical_id, properties, *rest)
        if not {"SecretString", "GenerateSecretString"} & properties.keys():
            secretsmanager._secrets[result[0]]["Versions"].clear()
        return result

    handlers["create"] = create_empty


# --- Custom::S3AutoDeleteObjects ------------------------------------------------------------------------------

_SDK = "@aws-sdk/client-s3"


def _install_custom_resource_check() -> None:
    """CDK's bucket cleaner is a Node function on the SDK that Lambda brings. Without it a deploy would hang."""
    create = provisioners._custom_resource_create

    def create_if_possible(
        logical_id: str,
        properties: Properties,
        stack: str,
        resource_type: str = "AWS::CloudFormation::CustomResource",
    ) -> Any:
        folders = [folder for folder in os.environ.get("NODE_PATH", "").split(os.pathsep) if folder]
        if resource_type == "Custom::S3AutoDeleteObjects" and not any((Path(f) / _SDK).is_dir() for f in folders):
            raise ValueError(
                f"{resource_type} runs in Node and needs {_SDK}, which is not in {' or '.join(folders)}: run `npm ci`"
            )
        return create(logical_id, properties, stack, resource_type)

    provisioners._custom_resource_create = create_if_possible
