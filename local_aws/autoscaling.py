"""Application Auto Scaling of endpoint variants and of inference components.

Of variants, targets and policies are kept and checked; nothing is ever scaled. Components are: their copies are held
within the target's bounds, an alarm whose action is a step policy changes them, and a component with target tracking
that nobody has asked for ScaleInCooldown seconds goes to MinCapacity. Target tracking adds no copies: one process
stands for all of them.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import Any

from ministack import app
from ministack.core import router

from local_aws import api_model
from local_aws.component_scaling import DEFAULT_COOLDOWN_SECONDS, ComponentScaler, ScaledComponent
from local_aws.components import InferenceComponents
from local_aws.endpoints import Endpoints
from local_aws.errors import ApiError, Response, invalid, json_answer
from local_aws.iam import require
from local_aws.registry import Request, SageMakerAccount, now

_SERVICE = "application-autoscaling"
_KEY = ("ServiceNamespace", "ResourceId", "ScalableDimension")
_DIMENSIONS = {
    "endpoint": "sagemaker:variant:DesiredInstanceCount",
    "inference-component": "sagemaker:inference-component:DesiredCopyCount",
}


class AutoScaling:
    def __init__(self, account: SageMakerAccount, endpoints: Endpoints, components: InferenceComponents) -> None:
        self._account, self._endpoints, self._components = account, endpoints, components
        self._scaler = ComponentScaler(account, components, self._scaled_components)
        self._targets: dict[tuple[str, ...], dict[str, Any]] = {}
        self._policies: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
        self._began: dict[str, float] = {}
        """Policy ARN -> when it was put, on the monotonic clock."""

    def install(self) -> None:
        app.SERVICE_REGISTRY[_SERVICE] = {"module": _SERVICE}
        app.SERVICE_HANDLERS[_SERVICE] = self.handle
        router.SERVICE_PATTERNS[_SERVICE] = {
            "target_prefixes": ["AnyScaleFrontendService"],
            "host_patterns": [r"application-autoscaling\."],
        }
        self._scaler.listen()

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
        known = self._targets.get(_key(request), {})
        target = {
            "CreationTime": now(),
            "RoleARN": self._account.settings.arn("iam", "role/aws-service-role/sagemaker"),
            **known,
            **request,
        }
        self._check(target)
        self._targets[_key(request)] = target
        self._look(request)
        return {"ScalableTargetARN": self._account.settings.arn(_SERVICE, "scalable-target/local")}

    def _check(self, target: Request) -> None:
        """Raise ApiError unless there is what is to be scaled, and it can have so many instances or copies."""
        kind, _, path = target["ResourceId"].partition("/")
        if target["ScalableDimension"] != _DIMENSIONS.get(kind):
            raise invalid("Unsupported service namespace, resource type or scalable dimension")
        if "SuspendedState" in target:
            raise invalid("The embedded AWS does not suspend scaling")
        for member in ("MinCapacity", "MaxCapacity"):
            if member not in target:
                raise invalid(f"{member} is required for a scalable target that is not registered yet")
        if not 0 <= target["MinCapacity"] <= target["MaxCapacity"]:
            raise invalid("MinCapacity must be between 0 and MaxCapacity")
        if kind == "inference-component":
            self._components.get(path)
            return
        if target["MinCapacity"] == 0:
            raise invalid("MinCapacity must be at least 1: only inference components can have no copy")
        name, _, variant = path.partition("/variant/")
        found = self._endpoints.describe({"EndpointName": name})
        if variant not in [item["VariantName"] for item in found.get("ProductionVariants", [])]:
            raise invalid(f"{target['ResourceId']} is not a variant that can be scaled")

    def _deregister(self, request: Request) -> dict[str, Any]:
        if self._targets.pop(_key(request), None) is None:
            raise ApiError("ObjectNotFoundException", f"No scalable target found for {request['ResourceId']}")
        self._policies.pop(_key(request), None)
        return {}

    def _put_policy(self, request: Request) -> dict[str, Any]:
        if _key(request) not in self._targets:
            raise ApiError("ObjectNotFoundException", f"No scalable target found for {request['ResourceId']}")
        _check_policy(request)
        policies, name = self._policies.setdefault(_key(request), {}), request["PolicyName"]
        policy_id = f"{uuid.uuid4()}:resource/sagemaker/{request['ResourceId']}:policyName/{name}"
        arn = self._account.settings.arn("autoscaling", f"scalingPolicy:{policy_id}")
        policies[name] = {"PolicyARN": arn, "CreationTime": now(), **policies.get(name, {}), **request}
        arn = policies[name]["PolicyARN"]
        self._began[arn] = time.monotonic()
        self._look(request)
        return {"PolicyARN": arn, "Alarms": []}

    def _look(self, request: Request) -> None:
        if request["ScalableDimension"] == _DIMENSIONS["inference-component"]:
            self._scaler.look()

    def _scaled_components(self) -> list[ScaledComponent]:
        every = [(key, target) for key, target in self._targets.items() if key[1].startswith("inference-component/")]
        return [self._scaled_component(key, target) for key, target in every]

    def _scaled_component(self, key: tuple[str, ...], target: Request) -> ScaledComponent:
        policies = list(self._policies.get(key, {}).values())
        tracking = [policy for policy in policies if policy["PolicyType"] == "TargetTrackingScaling"]
        ways_in = [policy["TargetTrackingScalingPolicyConfiguration"] for policy in tracking]
        cooldowns = [
            way.get("ScaleInCooldown", DEFAULT_COOLDOWN_SECONDS) for way in ways_in if not way.get("DisableScaleIn")
        ]
        return ScaledComponent(
            name=target["ResourceId"].split("/")[1],
            least=target["MinCapacity"],
            most=target["MaxCapacity"],
            steps={p["PolicyARN"]: p["StepScalingPolicyConfiguration"] for p in policies if p not in tracking},
            cooldown_seconds=max(cooldowns, default=None),
            since=max((self._began[policy["PolicyARN"]] for policy in tracking), default=0.0),
        )

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


def _check_policy(request: Request) -> None:
    """Raise ApiError for what a policy lacks, and for what the embedded AWS does not scale by."""
    kind = request.get("PolicyType")
    if kind == "StepScaling":
        steps = request.get("StepScalingPolicyConfiguration", {})
        known = steps.get("AdjustmentType") in ("ChangeInCapacity", "ExactCapacity")
        if not known or len(steps.get("StepAdjustments", [])) != 1:
            raise invalid("The embedded AWS has step policies of one step: ChangeInCapacity or ExactCapacity")
        return
    if kind != "TargetTrackingScaling" or "TargetTrackingScalingPolicyConfiguration" not in request:
        raise invalid("The embedded AWS has StepScaling and TargetTrackingScaling, each with its configuration")
    metric = request["TargetTrackingScalingPolicyConfiguration"].get("PredefinedMetricSpecification", {})
    of_component = request["ScalableDimension"] == _DIMENSIONS["inference-component"]
    fitting = "SageMakerInferenceComponent" if of_component else "SageMakerVariant"
    if not metric.get("PredefinedMetricType", fitting).startswith(fitting):
        raise invalid(f"{metric['PredefinedMetricType']} is not a metric of {request['ResourceId']}")
