"""InvokeEndpoint: an invocation is passed on to a variant or to a copy of an inference component."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from local_aws.endpoint_container import Variant
from local_aws.endpoints import Component, Endpoint, Endpoints
from local_aws.errors import ApiError, Response
from local_aws.registry import SageMakerAccount

COMPONENT_HEADER = "x-amzn-sagemaker-inference-component"
_PART_BYTES = 1 << 16
_NO_HEADER = (
    "Inference Component Name header is required for endpoints to which you plan to deploy inference components. "
    "Please include Inference Component Name header or consider using SageMaker models."
)
_NEEDLESS_HEADER = (
    "Inference Component Name header is not allowed for endpoints to which you dont plan to deploy inference "
    "components. Please remove the Inference Component Name header and try again."
)
_NO_CAPACITY = (
    "Inference Component has no capacity to process this request. ApplicationAutoScaling may be in-progress (if "
    "configured) or try to increase the capacity by invoking UpdateInferenceComponentRuntimeConfig API."
)


@dataclass(frozen=True)
class Target:
    """Who is asked, and under which dimensions its metrics are recorded."""

    variant: Variant
    dimensions: tuple[dict[str, str], ...]
    component: Component | None = None


@dataclass(frozen=True)
class Invocation:
    """A container that has begun to answer."""

    answer: http.client.HTTPResponse
    target: Target
    started: float

    @property
    def headers(self) -> dict[str, str]:
        found = {
            "Content-Type": self.answer.headers.get("Content-Type", "application/octet-stream"),
            "x-Amzn-Invoked-Production-Variant": self.target.variant.production["VariantName"],
        }
        custom = self.answer.headers.get("X-Amzn-SageMaker-Custom-Attributes")
        return {**found, "X-Amzn-SageMaker-Custom-Attributes": custom} if custom else found

    def parts(self) -> Iterator[bytes]:
        while part := self.answer.read1(_PART_BYTES):
            yield part


class Invocations:
    """InvokeEndpoint and InvokeEndpointWithResponseStream."""

    def __init__(self, account: SageMakerAccount, endpoints: Endpoints) -> None:
        self._account, self._endpoints = account, endpoints

    def invoke(self, name: str, body: bytes, headers: dict[str, str]) -> Response:
        """Pass one invocation on. Raises ApiError (ValidationError, ModelError)."""
        invocation, failed = self._begin(name, body, headers), ""
        try:
            return 200, invocation.headers, invocation.answer.read()
        except (OSError, http.client.HTTPException) as error:
            failed = "5XX"
            raise self._no_response(invocation.target.variant, error) from None
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
        endpoint = next((one for one in self._endpoints.all() if one.name == name), None)
        if endpoint is None or not (endpoint.variants or endpoint.hosts_components):
            raise ApiError("ValidationError", f"Endpoint {name} of account {self._account.settings.account} not found.")
        pick = self._component if endpoint.hosts_components else self._variant
        target, started = pick(endpoint, headers), time.monotonic()
        try:
            answer = self._ask(target.variant, body, headers)
        except ApiError as error:
            failed = "4XX" if 400 <= error.members["OriginalStatusCode"] < 500 else "5XX"
            self._record_end(target, started, failed)
            raise
        return Invocation(answer, target, started)

    def _variant(self, endpoint: Endpoint, headers: dict[str, str]) -> Target:
        if headers.get(COMPONENT_HEADER):
            raise ApiError("ValidationError", _NEEDLESS_HEADER)
        variants, wanted = endpoint.variants, headers.get("x-amzn-sagemaker-target-variant")
        if wanted and wanted not in variants:
            raise ApiError("ValidationError", f"Variant {wanted} not found in endpoint {endpoint.name}.")
        chosen = wanted or max(variants, key=lambda v: variants[v].weight)
        return Target(variants[chosen], ({"EndpointName": endpoint.name, "VariantName": chosen},))

    def _component(self, endpoint: Endpoint, headers: dict[str, str]) -> Target:
        wanted = headers.get(COMPONENT_HEADER)
        if not wanted:
            raise ApiError("ValidationError", _NO_HEADER)
        of_component = {"InferenceComponentName": wanted}
        with self._account.lock:  # a copy is not ended between being chosen and being counted as busy
            component = endpoint.components.get(wanted)
            if component is None:
                raise ApiError("ValidationError", f"Inference Component {wanted} is not on endpoint {endpoint.name}.")
            copy = component.copy
            if copy is not None:
                component.calls += 1
        if copy is None:
            self._record("NoCapacityInvocationFailures", 1, "Count", of_component)
            raise ApiError("ValidationError", _NO_CAPACITY)
        of_variant = {"EndpointName": endpoint.name, "VariantName": copy.production["VariantName"]}
        return Target(copy, (of_variant, of_component), component)

    def _end(self, invocation: Invocation, failed: str = "") -> None:
        invocation.answer.close()
        self._record_end(invocation.target, invocation.started, failed)

    def _record_end(self, target: Target, started: float, failed: str) -> None:
        """`failed` is 4XX or 5XX, or empty."""
        if target.component is not None:
            with self._account.lock:
                target.component.calls -= 1
                target.component.asked = time.monotonic()
        for dimensions in target.dimensions:
            self._record("Invocations", 1, "Count", dimensions)
            self._record("InvocationModelErrors", int(failed != ""), "Count", dimensions)
            for kind in ("4XX", "5XX"):  # 0 or 1 for each call: their average is a share
                self._record(f"Invocation{kind}Errors", int(failed == kind), "Count", dimensions)
            self._record("ModelLatency", (time.monotonic() - started) * 1e6, "Microseconds", dimensions)

    def _record(self, metric: str, value: float, unit: str, dimensions: dict[str, str]) -> None:
        self._account.record_metric("AWS/SageMaker", metric, value, unit, dimensions)

    def _ask(self, variant: Variant, body: bytes, headers: dict[str, str]) -> http.client.HTTPResponse:
        faults = self._account.faults.now.endpoint
        timeout = faults.invoke_timeout_seconds
        time.sleep(min(faults.delay_seconds, timeout))
        if faults.delay_seconds >= timeout:
            raise self._no_response(variant, TimeoutError("timed out"))
        if faults.dies_when_called:
            variant.die()
        if faults.answer_status is not None:
            raise self._model_error(variant, faults.answer_status, "a fault was switched on")
        passed = {"Content-Type": headers.get("content-type", "application/octet-stream")}
        for header in ("Accept", "X-Amzn-SageMaker-Custom-Attributes", "X-Amzn-SageMaker-Inference-Id"):
            if header.lower() in headers:
                passed[header] = headers[header.lower()]
        url = f"http://127.0.0.1:{variant.port}/invocations"
        request = urllib.request.Request(url, data=body, method="POST", headers=passed)
        try:
            answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=timeout - faults.delay_seconds)
            return answer
        except urllib.error.HTTPError as error:
            with error:
                raise self._model_error(variant, error.code, error.read().decode(errors="replace")) from None
        except OSError as error:
            raise self._no_response(variant, error) from None

    def _no_response(self, variant: Variant, error: Exception) -> ApiError:
        text = f"Your invocation timed out while waiting for a response from container primary. ({error})"
        return self._model_error(variant, 0, text)

    def _model_error(self, variant: Variant, status: int, message: str) -> ApiError:
        settings = self._account.settings
        side = "client" if 400 <= status < 500 else "server"
        return ApiError(
            "ModelError",
            f'Received {side} error ({status}) from primary with message "{message}". See https://'
            f"{settings.region}.console.aws.amazon.com/cloudwatch/home?region={settings.region}"
            f"#logEventViewer:group={variant.log_group} in account {settings.account} for more "
            "information.",
            424,
            OriginalStatusCode=status,
            OriginalMessage=message,
            LogStreamArn=settings.arn("logs", f"log-group:{variant.log_group}"),
        )
