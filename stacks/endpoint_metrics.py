"""CloudWatch metrics of a SageMaker endpoint that the stacks do not own: the runs create it by name."""

from __future__ import annotations

from dataclasses import dataclass

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch

from heartbeat.requests import VARIANT


@dataclass(frozen=True)
class EndpointMetrics:
    """The metrics of the one variant of endpoint `name`."""

    name: str

    def invocations(self, metric: str, *, period: cdk.Duration) -> cloudwatch.Metric:
        """A count of AWS/SageMaker: `Invocations`, `Invocation4XXErrors`, `Invocation5XXErrors`."""
        return self._metric("AWS/SageMaker", metric, "Sum", period)

    def share(self, metric: str, *, period: cdk.Duration) -> cloudwatch.Metric:
        """The share of calls that count for such a metric, 0 to 1."""
        return self._metric("AWS/SageMaker", metric, "Average", period)

    def latency(self, statistic: str, *, period: cdk.Duration) -> cloudwatch.Metric:
        """Time in the container, in microseconds."""
        return self._metric("AWS/SageMaker", "ModelLatency", statistic, period)

    def utilization(self, metric: str, *, period: cdk.Duration) -> cloudwatch.Metric:
        """Per cent, of all devices together: `GPUUtilization`, `GPUMemoryUtilization`, `CPUUtilization`."""
        return self._metric("/aws/sagemaker/Endpoints", metric, "Average", period)

    def idle(self, *, period: cdk.Duration) -> cloudwatch.MathExpression:
        """1 in a period in which the endpoint's instances ran and nobody called, 0 where somebody did.

        Instances report their CPU for as long as they bill, an endpoint that is gone reports nothing; so an
        endpoint that does not exist has no data here rather than a 1.
        """
        return cloudwatch.MathExpression(
            expression="IF(running > 0 AND FILL(called, 0) == 0, 1, 0)",
            using_metrics={
                "running": self._metric("/aws/sagemaker/Endpoints", "CPUUtilization", "SampleCount", period),
                "called": self.invocations("Invocations", period=period),
            },
            label="running without a call",
            period=period,
        )

    def _metric(self, namespace: str, name: str, statistic: str, period: cdk.Duration) -> cloudwatch.Metric:
        return cloudwatch.Metric(
            namespace=namespace,
            metric_name=name,
            statistic=statistic,
            period=period,
            dimensions_map={"EndpointName": self.name, "VariantName": VARIANT},
        )
