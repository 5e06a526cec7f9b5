"""The scaling of inference components: their bounds, what an alarm asks for, and the way in when nobody asks."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ministack.services import cloudwatch

from local_aws.components import InferenceComponents
from local_aws.endpoints import Component
from local_aws.registry import Request, SageMakerAccount

LOOK_SECONDS = 1.0
"""How often components are looked at. An alarm does not wait for it."""
DEFAULT_COOLDOWN_SECONDS = 300
"""Application Auto Scaling's for SageMaker, where a policy says nothing."""


@dataclass(frozen=True, kw_only=True)
class ScaledComponent:
    """A scalable target, as far as it decides on copies."""

    name: str
    least: int
    most: int
    steps: dict[str, Request]
    """StepScalingPolicyConfiguration by policy ARN."""
    cooldown_seconds: float | None
    """ScaleInCooldown of its target tracking; None where nothing scales it in."""
    since: float
    """When its target tracking began, on the monotonic clock."""


class ComponentScaler:
    """Changes the copies of the components that `targets` names, in a thread that lives as long as there are some."""

    def __init__(
        self, account: SageMakerAccount, components: InferenceComponents, targets: Callable[[], list[ScaledComponent]]
    ) -> None:
        self._account, self._components, self._targets = account, components, targets
        self._asked: queue.SimpleQueue[str] = queue.SimpleQueue()
        """ARNs of policies that an alarm asks to act; empty to look at once."""
        self._running = False
        self._activities: dict[str, tuple[float, int]] = {}
        """Policy ARN -> when it last acted, and on how many copies."""
        self._answered: dict[str, float] = {}
        """Alarm -> the time of the newest data point that it has acted on."""

    def look(self) -> None:
        """Look at the targets at once, and from then on. The account's lock is held."""
        if not self._running:
            self._running = True
            threading.Thread(target=self._run, name="component scaling", daemon=True).start()
        self._asked.put("")

    def listen(self) -> None:
        """Act when an alarm goes off, and again for each data point that keeps it there.

        CloudWatch repeats the actions that are scaling policies once a minute. Data of before a component went to
        zero do not wake it again.
        """
        dispatch, evaluate = cloudwatch._dispatch_alarm_actions, cloudwatch._evaluate_alarm

        def dispatch_to_policies(alarm: dict[str, Any], old: str, new: str, reason: str) -> None:
            dispatch(alarm, old, new, reason)
            if new == "ALARM":
                self._act(alarm)

        def evaluate_and_repeat(alarm: dict[str, Any]) -> None:
            evaluate(alarm)
            if alarm["StateValue"] == "ALARM" and _newest(alarm) > self._answered.get(alarm["AlarmName"], 0):
                self._act(alarm)

        cloudwatch._dispatch_alarm_actions = dispatch_to_policies
        cloudwatch._evaluate_alarm = evaluate_and_repeat

    def _act(self, alarm: dict[str, Any]) -> None:
        self._answered[alarm["AlarmName"]] = _newest(alarm)
        for action in alarm.get("AlarmActions") or [] if alarm.get("ActionsEnabled", True) else []:
            self._asked.put(action)

    def _run(self) -> None:
        while True:
            arn = ""
            with contextlib.suppress(queue.Empty):
                arn = self._asked.get(timeout=LOOK_SECONDS)
            with self._account.lock:
                targets = self._targets()
                if not targets:
                    self._running = False
                    return
                for target in targets:
                    self._hold(target, arn)

    def _hold(self, target: ScaledComponent, arn: str) -> None:
        component = self._components.find(target.name)
        if component is None or component.status != "InService":  # what is changing is looked at again
            return
        copies = component.desired
        if arn in target.steps:
            copies = self._stepped(arn, target.steps[arn], copies)
        elif self._is_idle(target, component):
            copies = target.least
        copies = min(max(copies, target.least), target.most)
        if copies != component.desired:
            self._components.set_copies(component, copies)

    def _stepped(self, arn: str, policy: Request, copies: int) -> int:
        """While the policy cools down, what it has added before counts: it adds to the copies that it then found."""
        adjustment = int(policy["StepAdjustments"][0]["ScalingAdjustment"])
        acted, found = self._activities.get(arn, (0.0, copies))
        cooling = arn in self._activities and time.monotonic() - acted < policy.get(
            "Cooldown", DEFAULT_COOLDOWN_SECONDS
        )
        if not cooling:
            self._activities[arn], found = (time.monotonic(), copies), copies
        if policy["AdjustmentType"] == "ExactCapacity":
            return adjustment
        if adjustment < 0 and cooling:
            return copies
        return max(copies, found + adjustment) if adjustment > 0 else found + adjustment

    def _is_idle(self, target: ScaledComponent, component: Component) -> bool:
        if target.cooldown_seconds is None or component.calls:
            return False
        seconds = self._account.faults.now.scale_in_seconds
        if seconds is None:
            seconds = target.cooldown_seconds
        return time.monotonic() - max(component.asked, target.since) >= seconds


def _newest(alarm: dict[str, Any]) -> float:
    """The time of the newest data point of an alarm's metric; 0 where there is none."""
    dimensions = cloudwatch._dims_key(cloudwatch._dims_from_list(alarm.get("Dimensions") or []))
    points = cloudwatch._metrics.get((alarm.get("Namespace"), alarm.get("MetricName"), dimensions)) or []
    return max((float(point["Timestamp"]) for point in points), default=0.0)
