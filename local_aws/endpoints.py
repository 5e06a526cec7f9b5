"""Endpoints: deploying, updating with the old one serving, deleting, and passing invocations on."""

from __future__ import annotations

import http.client
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from local_aws.endpoint_container import NotHealthyError, Variant
from local_aws.errors import ApiError, Response, invalid
from local_aws.models import Models, Records
from local_aws.registry import Request, SageMakerAccount, list_page, name_in, now

_SUMMARY = ("EndpointName", "EndpointArn", "CreationTime", "LastModifiedTime", "EndpointStatus")
_PART_BYTES = 1 << 16
INVOKE_TIMEOUT_SECONDS = 60
"""A container must answer within this, as in SageMaker."""


@dataclass
class Endpoint:
    description: dict[str, Any]
    variants: dict[str, Variant] = field(default_factory=dict)
    deleted: bool = False

    @property
    def name(self) -> str:
        return str(self.description["EndpointName"])

    @property
    def status(self) -> str:
        return str(self.description["EndpointStatus"])


@dataclass(frozen=True)
class Invocation:
    """A container that has begun to answer."""

    answer: http.client.HTTPResponse
    dimensions: dict[str, str]
    started: float

    @property
    def headers(self) -> dict[str, str]:
        found = {
            "Content-Type": self.answer.headers.get("Content-Type", "application/octet-stream"),
            "x-Amzn-Invoked-Production-Variant": self.dimensions["VariantName"],
        }
        custom = self.answer.headers.get("X-Amzn-SageMaker-Custom-Attributes")
        return {**found, "X-Amzn-SageMaker-Custom-Attributes": custom} if custom else found

    def parts(self) -> Iterator[bytes]:
        while part := self.answer.read1(_PART_BYTES):
            yield part


class Endpoints:
    """CreateEndpoint and its family, and InvokeEndpoint."""

    def __init__(self, account: SageMakerAccount, models: Models, configs: Records) -> None:
        self._account, self._models, self._configs = account, models, configs
        self._endpoints: dict[str, Endpoint] = {}

    def create(self, request: Request) -> dict[str, Any]:
        name = name_in(request, "EndpointName")
        arn = self._account.arn("endpoint", name)
        self._configs.get(request["EndpointConfigName"])
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
            }
        )
        self._endpoints[name] = endpoint
        self._account.add_tags(arn, request.get("Tags"))
        self._deploy_in_background(endpoint, request["EndpointConfigName"])
        return {"EndpointArn": arn}

    def update(self, request: Request) -> dict[str, Any]:
        endpoint = self._get(request["EndpointName"])
        self._configs.get(request["EndpointConfigName"])
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
        endpoint = self._get(request["EndpointName"])
        if endpoint.status in ("Creating", "Updating", "RollingBack"):
            raise invalid(f'Cannot delete in-progress endpoint "{endpoint.description["EndpointArn"]}".')
        endpoint.deleted = True
        del self._endpoints[endpoint.name]
        self._account.tags.pop(endpoint.description["EndpointArn"], None)
        self._end_variants(endpoint.variants)

    def _get(self, name: str) -> Endpoint:
        if name not in self._endpoints:
            raise invalid(f'Could not find endpoint "{self._account.arn("endpoint", name)}".')
        return self._endpoints[name]

    def describe(self, request: Request) -> dict[str, Any]:
        return dict(self._get(request["EndpointName"]).description)

    def descriptions(self) -> list[dict[str, Any]]:
        return [dict(endpoint.description) for endpoint in self._endpoints.values()]

    def list(self, request: Request) -> dict[str, Any]:
        page, more = list_page(
            self.descriptions(), request, name="EndpointName", members=_SUMMARY, status="EndpointStatus"
        )
        return {"Endpoints": page, **more}

    def _deploy_in_background(self, endpoint: Endpoint, config_name: str, alarms: Sequence[str] = ()) -> None:
        arguments = (endpoint, config_name, alarms)
        threading.Thread(target=self._deploy, args=arguments, name=f"deploy {endpoint.name}", daemon=True).start()

    def _deploy(self, endpoint: Endpoint, config_name: str, alarms: Sequence[str]) -> None:
        """Start the variants of the configuration; only if all are healthy and no alarm goes off do they take over."""
        config = self._configs.get(config_name)
        fresh: dict[str, Variant] = {}
        problem = None
        try:
            for production in config["ProductionVariants"]:
                fresh[production["VariantName"]] = self._start_variant(endpoint, production)
        except NotHealthyError as failure:
            problem = str(failure)
        except (ApiError, ClientError) as error:
            problem = error.message if isinstance(error, ApiError) else str(error)
        except Exception as error:
            problem = f"Internal error of the embedded AWS: {type(error).__name__}: {error}"
        if problem is None and alarms:
            problem = self._bake(endpoint, fresh, alarms)
        with self._account.lock:
            replaced = self._settle(endpoint, config, fresh, problem)
        self._end_variants(replaced)

    def _bake(self, endpoint: Endpoint, fresh: dict[str, Variant], alarms: Sequence[str]) -> str | None:
        """Give the fresh variants the traffic and watch the alarms; takes it back and says so if one goes off."""
        served, endpoint.variants = endpoint.variants, fresh
        self._account.evaluate_alarms()
        endpoint.description["PendingDeploymentSummary"]["ProductionVariants"] = [
            {"VariantName": name, "VariantStatus": [{"Status": "Baking"}]} for name in fresh
        ]
        began = time.monotonic()
        while True:
            off = [name for name, state in self._account.alarm_states(alarms).items() if state == "ALARM"]
            if off or time.monotonic() - began > self._account.faults.now.baking_seconds:
                break
            time.sleep(0.05)
        endpoint.variants = served
        if not off:
            return None
        endpoint.description["EndpointStatus"] = "RollingBack"
        return f"One or more configured alarms went into ALARM state during the deployment: {', '.join(off)}"

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
        description["ProductionVariants"] = [_variant_summary(v) for v in config["ProductionVariants"]]
        description["EndpointStatus"] = "InService"
        return replaced

    def _start_variant(self, endpoint: Endpoint, production: dict[str, Any]) -> Variant:
        if not production.get("ModelName"):
            raise invalid("The embedded AWS has no inference components: a variant needs ModelName")
        model = self._models.get(production["ModelName"])
        folder = (
            self._account.settings.root
            / "endpoints"
            / f"{endpoint.name}-{production['VariantName']}-{time.monotonic_ns()}"
        )
        variant = Variant(
            account=self._account,
            endpoint=endpoint.name,
            production=production,
            role=model["ExecutionRoleArn"],
            container=self._models.container(model),
            folder=folder,
        )
        try:
            variant.start()
        except BaseException:
            self._end_variants({production["VariantName"]: variant})
            raise
        return variant

    def _end_variants(self, variants: dict[str, Variant]) -> None:
        for variant in variants.values():
            variant.end()
            shutil.rmtree(variant.folder, ignore_errors=True)

    def invoke(self, name: str, body: bytes, headers: dict[str, str]) -> Response:
        """Pass one invocation on. Raises ApiError (ValidationError, ModelError)."""
        invocation, failed = self._begin(name, body, headers), ""
        try:
            return 200, invocation.headers, invocation.answer.read()
        except (OSError, http.client.HTTPException) as error:
            failed = "5XX"
            raise self._no_response(name, error) from None
        finally:
            self._end(invocation, failed)

    def invoke_in_parts(
        self, name: str, body: bytes, headers: dict[str, str]
    ) -> tuple[dict[str, str], Iterator[bytes]]:
        """The same, each part of the answer as soon as the container has sent it."""
        invocation = self._begin(name, body, headers)

        def parts() -> Iterator[bytes]:
            try:
                yield from invocation.parts()
            finally:
                self._end(invocation)

        return invocation.headers, parts()

    def _begin(self, name: str, body: bytes, headers: dict[str, str]) -> Invocation:
        endpoint = self._endpoints.get(name)
        if endpoint is None or not endpoint.variants:
            raise ApiError("ValidationError", f"Endpoint {name} of account {self._account.settings.account} not found.")
        wanted = headers.get("x-amzn-sagemaker-target-variant")
        if wanted and wanted not in endpoint.variants:
            raise ApiError("ValidationError", f"Variant {wanted} not found in endpoint {name}.")
        chosen = wanted or max(endpoint.variants, key=lambda v: endpoint.variants[v].weight)
        dimensions = {"EndpointName": name, "VariantName": chosen}
        started = time.monotonic()
        try:
            answer = self._ask(name, endpoint.variants[chosen], body, headers)
        except ApiError as error:
            failed = "4XX" if 400 <= error.members["OriginalStatusCode"] < 500 else "5XX"
            self._record_end(dimensions, started, failed)
            raise
        return Invocation(answer, dimensions, started)

    def _end(self, invocation: Invocation, failed: str = "") -> None:
        invocation.answer.close()
        self._record_end(invocation.dimensions, invocation.started, failed)

    def _record_end(self, dimensions: dict[str, str], started: float, failed: str) -> None:
        """`failed` is 4XX or 5XX, or empty."""
        self._record("Invocations", 1, "Count", dimensions)
        self._record("InvocationModelErrors", int(failed != ""), "Count", dimensions)
        for kind in ("4XX", "5XX"):  # 0 or 1 for each call: their average is a share
            self._record(f"Invocation{kind}Errors", int(failed == kind), "Count", dimensions)
        self._record("ModelLatency", (time.monotonic() - started) * 1e6, "Microseconds", dimensions)

    def _record(self, metric: str, value: float, unit: str, dimensions: dict[str, str]) -> None:
        self._account.record_metric("AWS/SageMaker", metric, value, unit, dimensions)

    def _ask(self, name: str, variant: Variant, body: bytes, headers: dict[str, str]) -> http.client.HTTPResponse:
        faults = self._account.faults.now.endpoint
        time.sleep(faults.delay_seconds)
        if faults.answer_status is not None:
            raise self._model_error(name, faults.answer_status, "a fault was switched on")
        passed = {"Content-Type": headers.get("content-type", "application/octet-stream")}
        for header in ("Accept", "X-Amzn-SageMaker-Custom-Attributes", "X-Amzn-SageMaker-Inference-Id"):
            if header.lower() in headers:
                passed[header] = headers[header.lower()]
        url = f"http://127.0.0.1:{variant.port}/invocations"
        request = urllib.request.Request(url, data=body, method="POST", headers=passed)
        try:
            answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=INVOKE_TIMEOUT_SECONDS)
            return answer
        except urllib.error.HTTPError as error:
            with error:
                raise self._model_error(name, error.code, error.read().decode(errors="replace")) from None
        except OSError as error:
            raise self._no_response(name, error) from None

    def _no_response(self, name: str, error: Exception) -> ApiError:
        text = f"Your invocation timed out while waiting for a response from container primary. ({error})"
        return self._model_error(name, 0, text)

    def _model_error(self, name: str, status: int, message: str) -> ApiError:
        settings = self._account.settings
        side = "client" if 400 <= status < 500 else "server"
        return ApiError(
            "ModelError",
            f'Received {side} error ({status}) from primary with message "{message}". See https://'
            f"{settings.region}.console.aws.amazon.com/cloudwatch/home?region={settings.region}"
            f"#logEventViewer:group=/aws/sagemaker/Endpoints/{name} in account {settings.account} for more "
            "information.",
            424,
            OriginalStatusCode=status,
            OriginalMessage=message,
            LogStreamArn=settings.arn("logs", f"log-group:/aws/sagemaker/Endpoints/{name}"),
        )


def alarms_of(request: Request) -> list[str]:
    """Names of the alarms that bring the old variants back."""
    rollback = request.get("DeploymentConfig", {}).get("AutoRollbackConfiguration", {})
    return [alarm["AlarmName"] for alarm in rollback.get("Alarms", [])]


def _variant_summary(production: dict[str, Any]) -> dict[str, Any]:
    weight = production.get("InitialVariantWeight", 1.0)
    count = production.get("InitialInstanceCount", 1)
    return {
        "VariantName": production["VariantName"],
        "CurrentWeight": weight,
        "DesiredWeight": weight,
        "CurrentInstanceCount": count,
        "DesiredInstanceCount": count,
    }
