"""Application Auto Scaling of endpoint variants: targets and policies are kept and checked; nothing is ever scaled."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from ministack import app
from ministack.core import router

from local_aws import api_model
from local_aws.endpoints import Endpoints
from local_aws.errors import ApiError, Response, json_answer
from local_aws.iam import require
from local_aws.registry import Request, SageMakerAccount, now

_SERVICE = "application-autoscaling"
_KEY = ("ServiceNamespace", "ResourceId", "ScalableDimension")


class AutoScaling:
    def __init__(self, account: SageMakerAccount, endpoints: Endpoints) -> None:
        self._account, self._endpoints = account, endpoints
        self._targets: dict[tuple[str, ...], dict[str, Any]] = {}
        self._policies: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}

    def install(self) -> None:
        app.SERVICE_REGISTRY[_SERVICE] = {"module": _SERVICE}
        app.SERVICE_HANDLERS[_SERVICE] = self.handle
        router.SERVICE_PATTERNS[_SERVICE] = {
            "target_prefixes": ["AnyScaleFrontendService"],
            "host_patterns": [r"application-autoscaling\."],
        }

    async def handle(
        self, _method: str, _path: str, headers: dict[str, str], body: bytes, _query: dict[str, Any]
    ) -> Response:
        try:
            return await asyncio.to_thread(self._answer, headers, json.loads(body or b"{}"))
        except ApiError as error:
            return error.response()

    def _answer(self, headers: dict[str, str], request: Request) -> Response:
        operation = headers.get("x-amz-target", "").rsplit(".", 1)[-1]
        operations = {
            "RegisterScalableTarget": self._register,
            "DeregisterScalableTarget": self._deregister,
            "DescribeScalableTargets": self._describe_targets,
            "PutScalingPolicy": self._put_policy,
            "DescribeScalingPolicies": self._describe_policies,
        }
        if operation not in operations:
            raise ApiError("UnknownOperationException", f"{operation} is not supported by the embedded AWS")
        api_model.check(_SERVICE, operation, request)
        settings = self._account.settings
        resource = "*" if operation.startswith("Describe") else settings.arn(_SERVICE, "scalable-target/local")
        context = {f"{_SERVICE}:service-namespace": request["ServiceNamespace"]}
        key = router.extract_access_key_id(headers, {})
        require(key, f"{_SERVICE}:{operation}", resource, settings.region, context)
        with self._account.lock:
            return json_answer(operations[operation](request))

    def _register(self, request: Request) -> dict[str, Any]:
        _, name, _, variant = request["ResourceId"].split("/")
        found = self._endpoints.describe({"EndpointName": name})
        if variant not in [item["VariantName"] for item in found.get("ProductionVariants", [])]:
            raise ApiError("ValidationException", f"{request['ResourceId']} is not a variant that can be scaled")
        known = self._targets.get(_key(request), {})
        self._targets[_key(request)] = {
            "CreationTime": now(),
            "RoleARN": self._account.settings.arn("iam", "role/aws-service-role/sagemaker"),
            **known,
            **request,
        }
        return {"ScalableTargetARN": self._account.settings.arn(_SERVICE, "scalable-target/local")}

    def _deregister(self, request: Request) -> dict[str, Any]:
        if self._targets.pop(_key(request), None) is None:
            raise ApiError("ObjectNotFoundException", f"No scalable target found for {request['ResourceId']}")
        self._policies.pop(_key(request), None)
        return {}

    def _put_policy(self, request: Request) -> dict[str, Any]:
        if _key(request) not in self._targets:
            raise ApiError("ObjectNotFoundException", f"No scalable target found for {request['ResourceId']}")
        arn = self._account.settings.arn("autoscaling", f"scalingPolicy:local:policyName/{request['PolicyName']}")
        policy = {**request, "PolicyARN": arn, "CreationTime": now()}
        self._policies.setdefault(_key(request), {})[request["PolicyName"]] = policy
        return {"PolicyARN": arn, "Alarms": []}

    def _describe_targets(self, request: Request) -> dict[str, Any]:
        wanted = request.get("ResourceIds")
        targets = self._targets.values()
        return {"ScalableTargets": [item for item in targets if not wanted or item["ResourceId"] in wanted]}

    def _describe_policies(self, request: Request) -> dict[str, Any]:
        found = [policy for policies in self._policies.values() for policy in policies.values()]
        wanted = request.get("ResourceId")
        return {"ScalingPolicies": [item for item in found if wanted in (None, item["ResourceId"])]}


def _key(request: Request) -> tuple[str, ...]:
    return tuple(request[name] for name in _KEY)
