"""Faults and speed-ups that a test or a demo switches on: `PUT /_heartbeat/faults` replaces all, `GET` reads."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field, fields
from typing import Any

from local_aws.errors import ApiError

PATH = "/_heartbeat/faults"


@dataclass(frozen=True, kw_only=True)
class EndpointFaults:
    crash_on_start: bool = False
    """A new container exits at once."""
    never_healthy: bool = False
    """/ping of a new container is never asked."""
    answer_status: int | None = None
    """/invocations answers this HTTP status, whatever the container would say."""
    delay_seconds: float = 0.0
    """Wait before an invocation is passed on."""
    invoke_timeout_seconds: float = 60.0
    """A container must answer within this, delay included; 60 s in SageMaker."""
    dies_when_called: bool = False
    """A container that was in service is killed by its next invocation."""
    adapter_strength: float = 1.0
    """The lora_alpha of a new container's adapters is multiplied by this: live, but not what was trained. At 0 it does
    nothing, which is what comes of an adapter whose keys vLLM does not know."""
    adapter_missing: bool = False
    """The folders of a new container's adapters are empty."""


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Raises ValueError on an unknown name or a value that cannot work."""

    capacity: tuple[str, ...] = ()
    """Instance types for which a job starts and then fails with CapacityError."""
    quota: tuple[str, ...] = ()
    """Instance types for which CreateTrainingJob raises ResourceLimitExceeded."""
    runtime_scale: float = 1.0
    """MaxRuntimeInSeconds is multiplied by this."""
    term_grace_seconds: float = 120.0
    """Between SIGTERM and SIGKILL of a job."""
    baking_seconds: float = 1.0
    """Most that an endpoint's update waits after traffic has moved, whatever its deployment configuration says."""
    scale_in_seconds: float | None = None
    """An inference component that is scaled goes to its least number of copies when nobody has asked it for so long,
    whatever its policy's ScaleInCooldown says."""
    endpoint: EndpointFaults = field(default_factory=EndpointFaults)
    throttle: dict[str, int] = field(default_factory=dict)
    """SageMaker operation -> how many of its next calls raise ThrottlingException."""

    def __post_init__(self) -> None:
        if self.runtime_scale <= 0:
            raise ValueError(f"runtime_scale={self.runtime_scale} must be above 0")
        if self.term_grace_seconds < 0:
            raise ValueError(f"term_grace_seconds={self.term_grace_seconds} must not be negative")

    @classmethod
    def from_json(cls, text: bytes) -> Faults:
        given = json.loads(text or b"{}")
        if not isinstance(given, dict):
            raise TypeError("faults must be a JSON object")
        _refuse_unknown(given, cls)
        endpoint = given.pop("endpoint", {})
        _refuse_unknown(endpoint, EndpointFaults)
        for name in ("capacity", "quota"):
            given[name] = tuple(given.get(name, ()))
        return cls(endpoint=EndpointFaults(**endpoint), **given)

    def to_dict(self) -> dict[str, Any]:
        result = {f.name: getattr(self, f.name) for f in fields(self)}
        result["endpoint"] = {f.name: getattr(self.endpoint, f.name) for f in fields(self.endpoint)}
        return result


def _refuse_unknown(given: dict[str, Any], kind: type) -> None:
    known = {f.name for f in fields(kind)}
    if unknown := sorted(set(given) - known):
        raise ValueError(f"unknown fault {', '.join(unknown)}; there are {', '.join(sorted(known))}")


class Switchboard:
    """The faults in force, read by every service at the moment it acts."""

    def __init__(self) -> None:
        self.now = Faults()
        self._lock = threading.Lock()

    def handle(self, method: str, body: bytes) -> tuple[int, bytes]:
        if method == "PUT":
            try:
                faults = Faults.from_json(body)
            except (ValueError, TypeError) as error:
                return 400, json.dumps({"error": str(error)}).encode()
            with self._lock:
                self.now = faults
        elif method != "GET":
            return 405, b'{"error": "PUT replaces the faults, GET reads them"}'
        return 200, json.dumps(self.now.to_dict()).encode()

    def throttle(self, operation: str) -> None:
        """Raise ThrottlingException if the operation has some left."""
        with self._lock:
            left = self.now.throttle.get(operation, 0)
            if left <= 0:
                return
            self.now.throttle[operation] = left - 1
        raise ApiError("ThrottlingException", "Rate exceeded")
