"""Endpoints: deploying, updating with the old one serving, deleting. Inference components have their own containers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from local_aws.endpoint_container import Variant, failure_reason, launch
from local_aws.errors import invalid
from local_aws.models import Models, Records
from local_aws.registry import Request, SageMakerAccount, list_page, name_in, now

_SUMMARY = ("EndpointName", "EndpointArn", "CreationTime", "LastModifiedTime", "EndpointStatus")


@dataclass
class Component:
    """An inference component. However many copies it has, one process at most stands for them."""

    description: dict[str, Any]
    desired: int
    """Copies that were asked for."""
    current: int = 0
    """Copies that serve."""
    copy: Variant | None = None
    calls: int = 0
    """Invocations that are being answered."""
    asked: float = field(default_factory=time.monotonic)
    """When it was last asked, or came into service."""

    @property
    def name(self) -> str:
        return str(self.description["InferenceComponentName"])

    @property
    def status(self) -> str:
        return str(self.description["InferenceComponentStatus"])


@dataclass
class Endpoint:
    description: dict[str, Any]
    hosts_components: bool
    """Its configuration names no model: containers are those of `components`."""
    productions: list[dict[str, Any]] = field(default_factory=list)
    """The ProductionVariants of the configuration that is in force."""
    variants: dict[str, Variant] = field(default_factory=dict)
    components: dict[str, Component] = field(default_factory=dict)
    deleted: bool = False

    @property
    def name(self) -> str:
        return str(self.description["EndpointName"])

    @property
    def status(self) -> str:
        return str(self.description["EndpointStatus"])


class Endpoints:
    """CreateEndpoint and its family."""

    def __init__(self, account: SageMakerAccount, models: Models, configs: Records) -> None:
        self._account, self._models, self._configs = account, models, configs
        self._endpoints: dict[str, Endpoint] = {}

    def create(self, request: Request) -> dict[str, Any]:
        name = name_in(request, "EndpointName")
        arn = self._account.arn("endpoint", name)
        config = self._configs.get(request["EndpointConfigName"])
        if name in self._endpoints:
            raise invalid(f'Cannot create already existing endpoint "{arn}".')
        endpoint = Endpoint(
            {
                "EndpointName": name,
                "EndpointArn": arn,
                "EndpointConfigName": request["EndpointConfigName"],
                "EndpointStatus": "Creating",
                "CreationTime": now(),
                "LastModifiedTime": now(),
            },
            hosts_components=hosts_components(config),
        )
        self._endpoints[name] = endpoint
        self._account.add_tags(arn, request.get("Tags"))
        self._deploy_in_background(endpoint, request["EndpointConfigName"])
        return {"EndpointArn": arn}

    def update(self, request: Request) -> dict[str, Any]:
        endpoint = self.get(request["EndpointName"])
        config = self._configs.get(request["EndpointConfigName"])
        if hosts_components(config) != endpoint.hosts_components:
            raise invalid(
                f'Endpoint "{endpoint.description["EndpointArn"]}" cannot be updated from a configuration with models '
                "to one for inference components, or the reverse."
            )
        if endpoint.status not in ("InService", "Failed"):
            raise invalid(f'Cannot update in-progress endpoint "{endpoint.description["EndpointArn"]}".')
        alarms = alarms_of(request)
        self._account.alarm_states(alarms)
        endpoint.description["EndpointStatus"] = "Updating"
        if "DeploymentConfig" in request:
            endpoint.description["LastDeploymentConfig"] = request["DeploymentConfig"]
        endpoint.description["LastModifiedTime"] = now()
        endpoint.description["PendingDeploymentSummary"] = {
            "EndpointConfigName": request["EndpointConfigName"],
            "StartTime": now(),
        }
        self._deploy_in_background(endpoint, request["EndpointConfigName"], alarms)
        return {"EndpointArn": endpoint.description["EndpointArn"]}

    def delete(self, request: Request) -> None:
        endpoint = self.get(request["EndpointName"])
        if endpoint.status in ("Creating", "Updating", "RollingBack"):
            raise invalid(f'Cannot delete in-progress endpoint "{endpoint.description["EndpointArn"]}".')
        if endpoint.components:
            raise invalid(
                f'Cannot delete endpoint "{endpoint.description["EndpointArn"]}": it has the inference components '
                f"{', '.join(endpoint.components)}. Delete them first."
            )
        endpoint.deleted = True
        del self._endpoints[endpoint.name]
        self._account.tags.pop(endpoint.description["EndpointArn"], None)
        end_variants(endpoint.variants.values())

    def get(self, name: str) -> Endpoint:
        if name not in self._endpoints:
            raise invalid(f'Could not find endpoint "{self._account.arn("endpoint", name)}".')
        return self._endpoints[name]

    def all(self) -> list[Endpoint]:
        return list(self._endpoints.values())

    def describe(self, request: Request) -> dict[str, Any]:
        return _described(self.get(request["EndpointName"]))

    def descriptions(self) -> list[dict[str, Any]]:
        return [_described(endpoint) for endpoint in self._endpoints.values()]

    def list(self, request: Request) -> dict[str, Any]:
        page, more = list_page(
            self.descriptions(), request, name="EndpointName", members=_SUMMARY, status="EndpointStatus"
        )
        return {"Endpoints": page, **more}

    def _deploy_in_background(self, endpoint: Endpoint, config_name: str, alarms: Sequence[str] = ()) -> None:
        arguments = (endpoint, config_name, alarms)
        threading.Thread(target=self._deploy, args=arguments, name=f"deploy {endpoint.name}", daemon=True).start()

    def _deploy(self, endpoint: Endpoint, config_name: str, alarms: Sequence[str]) -> None:
        """Start the variants of the configuration; only if all are healthy and no alarm goes off do they take over.

        A configuration for inference components starts nothing and takes over at once, whatever the alarms.
        """
        config = self._configs.get(config_name)
        fresh: dict[str, Variant] = {}
        problem = None
        if not endpoint.hosts_components:
            try:
                for production in config["ProductionVariants"]:
                    fresh[production["VariantName"]] = launch(
                        self._account,
                        self._models,
                        endpoint=endpoint.name,
                        production=production,
                        model_name=production["ModelName"],
                    )
            except Exception as error:
                problem = failure_reason(error)
            if problem is None and alarms:
                problem = self._bake(endpoint, fresh, alarms)
        with self._account.lock:
            replaced = self._settle(endpoint, config, fresh, problem)
        end_variants(replaced.values())

    def _bake(self, endpoint: Endpoint, fresh: dict[str, Variant], alarms: Sequence[str]) -> str | None:
        """Give the fresh variants the traffic and watch the alarms; takes it back and says so if one goes off."""
        served, endpoint.variants = endpoint.variants, fresh
        endpoint.description["PendingDeploymentSummary"]["ProductionVariants"] = [
            {"VariantName": name, "VariantStatus": [{"Status": "Baking"}]} for name in fresh
        ]
        problem = alarm_while_baking(self._account, alarms)
        endpoint.variants = served
        if problem is not None:
            endpoint.description["EndpointStatus"] = "RollingBack"
        return problem

    def _settle(
        self, endpoint: Endpoint, config: dict[str, Any], fresh: dict[str, Variant], problem: str | None
    ) -> dict[str, Variant]:
        """Record how the deployment ended; the variants to end."""
        description = endpoint.description
        description["LastModifiedTime"] = now()
        description.pop("PendingDeploymentSummary", None)
        if endpoint.deleted:
            return fresh
        if problem is not None:
            description["FailureReason"] = problem[:1024]
            description["EndpointStatus"] = "InService" if endpoint.variants else "Failed"
            return fresh
        replaced, endpoint.variants = endpoint.variants, fresh
        description.pop("FailureReason", None)
        description["EndpointConfigName"] = config["EndpointConfigName"]
        endpoint.productions = config["ProductionVariants"]
        description["EndpointStatus"] = "InService"
        return replaced


def end_variants(variants: Iterable[Variant]) -> None:
    for variant in variants:
        variant.end()


def hosts_components(config: dict[str, Any]) -> bool:
    """Whether the variants of this configuration wait for inference components; else each has a model."""
    return not any(production.get("ModelName") for production in config["ProductionVariants"])


def alarms_of(request: Request) -> list[str]:
    """Names of the alarms that bring the old variants back."""
    rollback = request.get("DeploymentConfig", {}).get("AutoRollbackConfiguration", {})
    return [alarm["AlarmName"] for alarm in rollback.get("Alarms", [])]


def alarm_while_baking(account: SageMakerAccount, alarms: Sequence[str]) -> str | None:
    """Watch the alarms while something new has the traffic; the FailureReason if one goes off."""
    account.evaluate_alarms()
    began = time.monotonic()
    while True:
        off = [name for name, state in account.alarm_states(alarms).items() if state == "ALARM"]
        if off:
            return f"One or more configured alarms went into ALARM state during the deployment: {', '.join(off)}"
        if time.monotonic() - began > account.faults.now.baking_seconds:
            return None
        time.sleep(0.05)


def _described(endpoint: Endpoint) -> dict[str, Any]:
    if not endpoint.productions:
        return dict(endpoint.description)
    variants = [_variant_summary(endpoint, production) for production in endpoint.productions]
    return {**endpoint.description, "ProductionVariants": variants}


def _variant_summary(endpoint: Endpoint, production: dict[str, Any]) -> dict[str, Any]:
    """With managed scaling a variant is taken to have one instance for each copy of its components."""
    weight = production.get("InitialVariantWeight", 1.0)
    count = production.get("InitialInstanceCount", 1)
    scaling = production.get("ManagedInstanceScaling", {})
    if scaling.get("Status") == "ENABLED":
        name = production["VariantName"]
        hosted = [c for c in endpoint.components.values() if c.description["VariantName"] == name]
        count = max(scaling.get("MinInstanceCount", 1), sum(component.current for component in hosted))
    return {
        "VariantName": production["VariantName"],
        "CurrentWeight": weight,
        "DesiredWeight": weight,
        "CurrentInstanceCount": count,
        "DesiredInstanceCount": count,
        **{key: value for key, value in production.items() if key in ("ManagedInstanceScaling", "RoutingConfig")},
    }
