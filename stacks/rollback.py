"""The alarms that SageMaker watches while the endpoint is updated: one of them brings the old model back."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from constructs import Construct

from stacks.endpoint_metrics import EndpointMetrics
from stacks.settings import Settings

_PERIOD = cdk.Duration.minutes(1)
_ERROR_SHARE = 0.05
_SLOW_SECONDS = 30
"""Half of what InvokeEndpoint waits for an answer."""


def rollback_alarms(scope: Construct, settings: Settings) -> list[cloudwatch.Alarm]:
    """Alarms on the app's own endpoint, both fleets of an update together. No calls are no alarm.

    They tell nobody: an update that is undone fails its run, and that does. Named, so that a run can say which it was.
    """
    endpoint = EndpointMetrics(settings.endpoint_name)
    share = f"More than {_ERROR_SHARE:.0%} of a minute's calls"
    watched = (
        # SageMaker reports 0 or 1 for each call, so the average is a share.
        ("5xx", endpoint.share("Invocation5XXErrors", period=_PERIOD), _ERROR_SHARE, f"{share} were answered 5xx"),
        (
            "errors",
            endpoint.share("InvocationModelErrors", period=_PERIOD),
            _ERROR_SHARE,
            f"{share} got no good answer from the container",
        ),
        (
            "slow",
            endpoint.latency("p90", period=_PERIOD),
            _SLOW_SECONDS * 1e6,  # CloudWatch has ModelLatency in microseconds
            f"One answer in ten took longer than {_SLOW_SECONDS} s",
        ),
    )
    return [
        cloudwatch.Alarm(
            scope,
            f"Rollback{name.capitalize()}",
            alarm_name=f"HeartBeat-{settings.environment}-rollback-{name}",
            alarm_description=description,
            metric=metric,
            threshold=threshold,
            evaluation_periods=1,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
        )
        for name, metric, threshold, description in watched
    ]
