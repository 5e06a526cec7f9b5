"""SageMaker's API: requests are authorised, checked against the API's model and dispatched."""

from __future__ import annotations

import asyncio
import json
import struct
import zlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from ministack import app
from ministack.core import router
from ministack.core.responses import StreamingResponse

from local_aws import api_model
from local_aws.components import InferenceComponents
from local_aws.endpoints import Endpoints, alarms_of, hosts_components
from local_aws.errors import ApiError, Response, invalid, json_answer
from local_aws.iam import SAGEMAKER, require, require_pass_role, sagemaker_arn
from local_aws.invocations import COMPONENT_HEADER, Invocations
from local_aws.models import ModelPackages, Models, Records
from local_aws.registry import Request, SageMakerAccount
from local_aws.training import TrainingJobs

Operation = Callable[[Request], dict[str, Any] | None]


class SageMaker:
    def __init__(self, account: SageMakerAccount) -> None:
        self._account = account
        self.training = TrainingJobs(account)
        self.packages = ModelPackages(account)
        self.models = Models(account, self.packages)
        self.configs = Records(
            account,
            kind="endpoint-config",
            label="endpoint configuration",
            member="EndpointConfigName",
            arn_member="EndpointConfigArn",
        )
        self.endpoints = Endpoints(account, self.models, self.configs)
        self.components = InferenceComponents(account, self.models, self.endpoints)
        self.invocations = Invocations(account, self.endpoints)
        self._operations: dict[str, Operation] = {
            "CreateTrainingJob": self.training.create,
            "DescribeTrainingJob": self.training.describe,
            "StopTrainingJob": self.training.stop,
            "ListTrainingJobs": self.training.list,
            "CreateModel": self.models.create,
            "DescribeModel": self.models.describe,
            "DeleteModel": self.models.delete,
            "ListModels": lambda request: _listed("Models", self.models.list(request)),
            "CreateModelPackageGroup": self.packages.create_group,
            "DescribeModelPackageGroup": self.packages.describe_group,
            "DeleteModelPackageGroup": self.packages.delete_group,
            "ListModelPackageGroups": self.packages.list_groups,
            "CreateModelPackage": self.packages.create,
            "DescribeModelPackage": self.packages.describe,
            "UpdateModelPackage": self.packages.update,
            "DeleteModelPackage": self.packages.delete,
            "ListModelPackages": self.packages.list,
            "CreateEndpointConfig": self._create_config,
            "DescribeEndpointConfig": self.configs.describe,
            "DeleteEndpointConfig": self.configs.delete,
            "ListEndpointConfigs": lambda request: _listed("EndpointConfigs", self.configs.list(request)),
            "CreateEndpoint": self.endpoints.create,
            "UpdateEndpoint": self.endpoints.update,
            "DescribeEndpoint": self.endpoints.describe,
            "DeleteEndpoint": self.endpoints.delete,
            "ListEndpoints": self.endpoints.list,
            "CreateInferenceComponent": self.components.create,
            "UpdateInferenceComponent": self.components.update,
            "UpdateInferenceComponentRuntimeConfig": self.components.update_runtime_config,
            "DescribeInferenceComponent": self.components.describe,
            "DeleteInferenceComponent": self.components.delete,
            "ListInferenceComponents": self.components.list,
            "AddTags": self._add_tags,
            "ListTags": self._list_tags,
            "DeleteTags": self._delete_tags,
            "Search": self._search,
        }

    def call(self, operation: str, request: Request) -> dict[str, Any]:
        """Run one operation. Raises ApiError."""
        self._account.faults.throttle(operation)
        api_model.check("sagemaker", operation, request)
        handler = self._operations.get(operation)
        if handler is None:
            raise ApiError("UnknownOperationException", f"{operation} is not supported by the embedded AWS")
        if operation == "CreateModel":  # pulls an image through HTTP: must not hold the lock meanwhile
            return handler(request) or {}
        with self._account.lock:
            return handler(request) or {}

    def _create_config(self, request: Request) -> dict[str, Any]:
        if hosts_components(request):
            role = request.get("ExecutionRoleArn")
            if not role:
                raise invalid("ExecutionRoleArn is required when a production variant has no ModelName.")
            self._account.roles.assume(role, SAGEMAKER)
            return self.configs.create(request)
        if request.get("EnableNetworkIsolation"):
            raise invalid("EnableNetworkIsolation is only supported for inference component endpoints.")
        for production in request["ProductionVariants"]:
            if "ManagedInstanceScaling" in production:
                raise invalid("ManagedInstanceScaling is only supported for inference component endpoints.")
            if not production.get("ModelName"):
                raise invalid("ModelName is required for all production variants, or for none of them.")
            self.models.get(production["ModelName"])
        return self.configs.create(request)

    def _add_tags(self, request: Request) -> dict[str, Any]:
        self._account.add_tags(request["ResourceArn"], request["Tags"])
        return {"Tags": self._account.tag_list(request["ResourceArn"])}

    def _list_tags(self, request: Request) -> dict[str, Any]:
        return {"Tags": self._account.tag_list(request["ResourceArn"])}

    def _delete_tags(self, request: Request) -> None:
        tags = self._account.tags.get(request["ResourceArn"], {})
        for key in request["TagKeys"]:
            tags.pop(key, None)

    def _search(self, request: Request) -> dict[str, Any]:
        """Search over jobs, packages and endpoints by Equals, NotEquals and Contains, and by Tags.KEY."""
        kinds = {
            "TrainingJob": (self.training.descriptions, "TrainingJobArn"),
            "ModelPackage": (self.packages.descriptions, "ModelPackageArn"),
            "Endpoint": (self.endpoints.descriptions, "EndpointArn"),
        }
        kind = request["Resource"]
        if kind not in kinds:
            raise invalid(f"The embedded AWS searches {', '.join(kinds)} only, not {kind}")
        descriptions, arn_member = kinds[kind]
        expression = request.get("SearchExpression", {})
        if set(expression) - {"Filters", "Operator"}:
            raise invalid("The embedded AWS searches with Filters only")
        combine = any if expression.get("Operator") == "Or" else all
        results = []
        for item in descriptions():
            tags = self._account.tags.get(item[arn_member], {})
            fields = {**item, **{f"Tags.{key}": value for key, value in tags.items()}}
            if combine(_satisfies(fields, condition) for condition in expression.get("Filters", [])):
                results.append({kind: {**item, "Tags": self._account.tag_list(item[arn_member])}})
        return {"Results": results[: request.get("MaxResults", 100)]}

    async def handle(
        self, _method: str, path: str, headers: dict[str, str], body: bytes, _query: dict[str, Any]
    ) -> tuple[int, dict[str, str], Any]:
        """ministack's handler of the service: the control plane and the runtime."""
        try:
            if path.startswith("/endpoints/"):
                return await asyncio.to_thread(self._runtime, path, headers, body)
            return await asyncio.to_thread(self._control, path, headers, body)
        except ApiError as error:
            return error.response()

    def _runtime(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], Any]:
        _, _, name, action = path.split("/", 3)
        streamed = action == "invocations-response-stream"
        if component := headers.get(COMPONENT_HEADER):  # ministack has checked the endpoint's ARN only
            operation = "InvokeEndpointWithResponseStream" if streamed else "InvokeEndpoint"
            arn = self._account.arn("inference-component", component)
            access_key = router.extract_access_key_id(headers, {})
            require(access_key, f"sagemaker:{operation}", arn, self._account.settings.region)
        if action == "invocations":
            return self.invocations.invoke(name, body, headers)
        if streamed:
            found, parts = self.invocations.invoke_in_parts(name, body, headers)
            found["X-Amzn-SageMaker-Content-Type"] = found.pop("Content-Type")
            found["Content-Type"] = "application/vnd.amazon.eventstream"
            return 200, found, StreamingResponse(_sender(parts))
        raise ApiError("UnknownOperationException", f"{path} is not supported by the embedded AWS", 404)

    def _control(self, path: str, headers: dict[str, str], body: bytes) -> Response:
        operation = headers.get("x-amz-target", "").rsplit(".", 1)[-1]
        try:
            request = json.loads(body or b"{}")
        except ValueError:
            raise ApiError("SerializationException", "the body is not JSON") from None
        settings = self._account.settings
        role = request.get("RoleArn") or request.get("ExecutionRoleArn")
        require_pass_role(headers, role, SAGEMAKER, settings.region)
        if request.get("Tags") and operation.startswith("Create"):  # tagging on create is an action of its own
            arn = sagemaker_arn(settings, path, operation, request)
            access_key = router.extract_access_key_id(headers, {})
            require(access_key, "sagemaker:AddTags", arn, settings.region)
        for alarm in alarms_of(request):
            access_key = router.extract_access_key_id(headers, {})
            require(
                access_key, "cloudwatch:DescribeAlarms", settings.arn("cloudwatch", f"alarm:{alarm}"), settings.region
            )
        return json_answer(self.call(operation, request))

    def install(self) -> None:
        """Put the service behind ministack's router."""
        app.SERVICE_REGISTRY["sagemaker"] = {"module": "sagemaker"}
        app.SERVICE_HANDLERS["sagemaker"] = self.handle
        router.SERVICE_PATTERNS["sagemaker"] = {
            "target_prefixes": ["SageMaker."],
            "host_patterns": [r"api\.sagemaker\.", r"runtime\.sagemaker\."],
        }


def _listed(member: str, listed: tuple[list[dict[str, Any]], dict[str, str]]) -> dict[str, Any]:
    page, more = listed
    return {member: page, **more}


def _satisfies(fields: dict[str, Any], condition: dict[str, Any]) -> bool:
    value, wanted = str(fields.get(condition["Name"], "")), str(condition.get("Value", ""))
    operator = condition.get("Operator", "Equals")
    if operator == "Contains":
        return wanted in value
    return bool((value == wanted) == (operator != "NotEquals"))


def _sender(parts: Iterator[bytes]) -> Callable[[Callable[[dict[str, Any]], Awaitable[None]], object], Awaitable[None]]:
    """Sends each part of an answer when it comes, as an ASGI response in its own right."""

    async def run(send: Callable[[dict[str, Any]], Awaitable[None]], _receive: object) -> None:
        while part := await asyncio.to_thread(next, parts, b""):
            await send({"type": "http.response.body", "body": event_stream_message(part), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return run


def event_stream_message(payload: bytes) -> bytes:
    """One PayloadPart event in AWS's event stream encoding."""
    pairs = {":message-type": "event", ":event-type": "PayloadPart", ":content-type": "application/octet-stream"}
    headers = b""
    for name, value in pairs.items():
        headers += bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
    return message + struct.pack(">I", zlib.crc32(message))
