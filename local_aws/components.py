"""Inference components: models that an endpoint hosts without being made for them, in any number of copies, also none.

A copy is a container of its model. However many copies are asked for, one process at most stands for all: more would
compute the same on the same machine. Whether an instance has room for a copy is not asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from local_aws.endpoint_container import Variant, failure_reason, launch
from local_aws.endpoints import Component, Endpoints, alarm_while_baking, alarms_of
from local_aws.errors import invalid
from local_aws.models import Models
from local_aws.registry import Request, SageMakerAccount, list_page, now

_SUMMARY = (
    "CreationTime",
    "InferenceComponentArn",
    "InferenceComponentName",
    "EndpointArn",
    "EndpointName",
    "VariantName",
    "InferenceComponentStatus",
    "LastModifiedTime",
)
_NOT_SUPPORTED = (
    "Invalid request provided: Inference Components are not supported in this Endpoint. Please make sure this "
    "endpoint can deploy inference components."
)
_NO_COPY = "Inference components copy count an integer larger than 0"


@dataclass(frozen=True, kw_only=True)
class _Change:
    """What a component is to become."""

    specification: dict[str, Any]
    copies: int
    restart: bool
    """A copy that serves is replaced by one of the specification."""
    alarms: Sequence[str] = ()


class InferenceComponents:
    """CreateInferenceComponent and its family. Their names are unique in the account, whatever their endpoints."""

    def __init__(self, account: SageMakerAccount, models: Models, endpoints: Endpoints) -> None:
        self._account, self._models, self._endpoints = account, models, endpoints

    def create(self, request: Request) -> dict[str, Any]:
        name = request["InferenceComponentName"]
        arn = self._account.arn("inference-component", name)
        if self.find(name) is not None:
            raise invalid(f'Cannot create already existing inference component "{arn}".')
        endpoint = self._endpoints.get(request["EndpointName"])
        endpoint_arn = endpoint.description["EndpointArn"]
        if not endpoint.hosts_components:
            raise invalid(_NOT_SUPPORTED)
        if endpoint.status != "InService":
            raise invalid(f'Endpoint "{endpoint_arn}" is {endpoint.status}; it must be InService.')
        if request.get("VariantName") not in [production["VariantName"] for production in endpoint.productions]:
            raise invalid(f'VariantName {request.get("VariantName")} is not a variant of endpoint "{endpoint_arn}".')
        specification = self._specification(request)
        copies = request.get("RuntimeConfig", {}).get("CopyCount", 0)
        if copies < 1:
            raise invalid(_NO_COPY)
        description = {
            "InferenceComponentName": name,
            "InferenceComponentArn": arn,
            "EndpointName": endpoint.name,
            "EndpointArn": endpoint_arn,
            "VariantName": request["VariantName"],
            "Specification": specification,
            "InferenceComponentStatus": "Creating",
            "CreationTime": now(),
            "LastModifiedTime": now(),
        }
        component = endpoint.components[name] = Component(description, desired=copies)
        self._account.add_tags(arn, request.get("Tags"))
        self._begin(component, _Change(specification=specification, copies=copies, restart=True))
        return {"InferenceComponentArn": arn}

    def _specification(self, request: Request) -> dict[str, Any]:
        """What is to be hosted. Raises ApiError for what is missing and for what the embedded AWS cannot host."""
        specification: dict[str, Any] = request.get("Specification", {})
        unknown = set(specification) - {"ModelName", "StartupParameters", "ComputeResourceRequirements"}
        if unknown or "Specifications" in request:
            raise invalid("The embedded AWS hosts components of one model: Specification with ModelName only")
        for member in ("ModelName", "ComputeResourceRequirements"):
            if member not in specification:
                raise invalid(f"{member} is required in the Specification of an inference component.")
        self._models.get(specification["ModelName"])
        return specification

    def update(self, request: Request) -> dict[str, Any]:
        """While a copy serves, it does so until that of the new specification is healthy and has baked."""
        component = self._settled(request, "update")
        if not {"Specification", "Specifications", "RuntimeConfig"} & set(request):
            raise invalid("Specification or RuntimeConfig is required to update an inference component.")
        renewed = "Specification" in request or "Specifications" in request
        specification = self._specification(request) if renewed else component.description["Specification"]
        copies = request.get("RuntimeConfig", {}).get("CopyCount", component.desired)
        alarms = alarms_of(request)
        self._account.alarm_states(alarms)
        if "DeploymentConfig" in request:
            component.description["LastDeploymentConfig"] = request["DeploymentConfig"]
        self._begin(component, _Change(specification=specification, copies=copies, restart=renewed, alarms=alarms))
        return {"InferenceComponentArn": component.description["InferenceComponentArn"]}

    def update_runtime_config(self, request: Request) -> dict[str, Any]:
        component = self._settled(request, "update")
        self.set_copies(component, request["DesiredRuntimeConfig"]["CopyCount"])
        return {"InferenceComponentArn": component.description["InferenceComponentArn"]}

    def set_copies(self, component: Component, copies: int) -> None:
        """Of a component that nothing is changing. Where the first copy does not start, there stays none."""
        specification = component.description["Specification"]
        self._begin(component, _Change(specification=specification, copies=copies, restart=False))

    def delete(self, request: Request) -> None:
        component = self._settled(request, "delete")
        component.description.update(InferenceComponentStatus="Deleting", LastModifiedTime=now())
        threading.Thread(target=self._delete, args=(component,), name=f"delete {component.name}", daemon=True).start()

    def _delete(self, component: Component) -> None:
        copy, component.copy, component.current = component.copy, None, 0
        if copy is not None:
            copy.end()
        with self._account.lock:
            del self._endpoints.get(component.description["EndpointName"]).components[component.name]
            self._account.tags.pop(component.description["InferenceComponentArn"], None)

    def find(self, name: str) -> Component | None:
        return next((e.components[name] for e in self._endpoints.all() if name in e.components), None)

    def get(self, name: str) -> Component:
        component = self.find(name)
        if component is None:
            raise invalid(f'Could not find inference component "{self._account.arn("inference-component", name)}".')
        return component

    def _settled(self, request: Request, verb: str) -> Component:
        """The component of the request. Raises ApiError where something is changing it."""
        component = self.get(request["InferenceComponentName"])
        if component.status not in ("InService", "Failed"):
            arn = component.description["InferenceComponentArn"]
            raise invalid(f'Cannot {verb} in-progress inference component "{arn}".')
        return component

    def describe(self, request: Request) -> dict[str, Any]:
        component = self.get(request["InferenceComponentName"])
        runtime = {"DesiredCopyCount": component.desired, "CurrentCopyCount": component.current}
        return {**component.description, "RuntimeConfig": runtime}

    def list(self, request: Request) -> dict[str, Any]:
        hosts = self._endpoints.all()
        every = [component.description for endpoint in hosts for component in endpoint.components.values()]
        for member in ("EndpointName", "VariantName"):
            wanted = request.get(f"{member}Equals")
            every = [description for description in every if wanted in (None, description[member])]
        page, more = list_page(
            every, request, name="InferenceComponentName", members=_SUMMARY, status="InferenceComponentStatus"
        )
        return {"InferenceComponents": page, **more}

    def _begin(self, component: Component, change: _Change) -> None:
        before = (component.status, component.desired)
        if component.status != "Creating":
            component.description["InferenceComponentStatus"] = "Updating"
        component.description["LastModifiedTime"] = now()
        component.desired = change.copies
        arguments = (component, change, before)
        threading.Thread(target=self._become, args=arguments, name=f"deploy {component.name}", daemon=True).start()

    def _become(self, component: Component, change: _Change, before: tuple[str, int]) -> None:
        """Start the copy that the change needs; only if that is healthy and no alarm goes off does it take over."""
        served, fresh, problem = component.copy, None, None
        try:
            if change.copies and (served is None or change.restart):
                fresh = self._launch(component, change.specification)
            if fresh is not None and served is not None and change.alarms:
                component.copy = fresh  # it has the traffic while it bakes
                problem = alarm_while_baking(self._account, change.alarms)
        except Exception as error:
            problem = failure_reason(error)
        with self._account.lock:
            if problem is not None:
                component.copy, ended = served, fresh
            elif change.copies == 0 or fresh is not None:
                component.copy, ended = fresh, served
            else:
                component.copy, ended = served, None
            self._settle(component, change, before, problem)
        if ended is not None:
            ended.end()

    def _settle(self, component: Component, change: _Change, before: tuple[str, int], problem: str | None) -> None:
        description = component.description
        description["LastModifiedTime"] = now()
        if problem is None:
            description.pop("FailureReason", None)
            description.update(InferenceComponentStatus="InService", Specification=change.specification)
            component.current = component.desired
            component.asked = time.monotonic()
            return
        status, desired = before
        description["FailureReason"] = problem[:1024]
        description["InferenceComponentStatus"] = "InService" if status == "InService" else "Failed"
        component.desired = desired

    def _launch(self, component: Component, specification: dict[str, Any]) -> Variant:
        production = {**specification.get("StartupParameters", {}), "VariantName": component.description["VariantName"]}
        return launch(
            self._account,
            self._models,
            endpoint=component.description["EndpointName"],
            production=production,
            model_name=specification["ModelName"],
            component=component.name,
        )
