"""The dashboard of one environment: its runs, the training in them, and the endpoint."""

from __future__ import annotations

from collections.abc import Iterable

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from constructs import Construct

from heartbeat.metrics import METRICS, Metric
from stacks.endpoint_metrics import EndpointMetrics
from stacks.pipeline import Pipeline
from stacks.settings import Settings

_TRAINING_JOBS = "/aws/sagemaker/TrainingJobs"
_MINUTE = cdk.Duration.minutes(1)
_FIVE_MINUTES = cdk.Duration.minutes(5)
_WIDTH = 8  # of the dashboard's 24 columns


class Dashboard(Construct):
    """CloudWatch dashboard `HeartBeat-<environment>`."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings, pipeline: Pipeline) -> None:
        super().__init__(scope, construct_id)
        self._environment = settings.environment
        self._dashboard = cloudwatch.Dashboard(self, "Resource", dashboard_name=f"HeartBeat-{settings.environment}")
        self._add("Runs", self._runs(pipeline))
        self._add("Training", self._training())
        self._add(f"Endpoint {pipeline.endpoint_name}", self._endpoint(EndpointMetrics(pipeline.endpoint_name)))

    def _add(self, title: str, graphs: Iterable[cloudwatch.GraphWidget]) -> None:
        self._dashboard.add_widgets(cloudwatch.TextWidget(markdown=f"## {title}", width=24, height=1))
        self._dashboard.add_widgets(*graphs)  # a row of more than 24 columns wraps

    def _runs(self, pipeline: Pipeline) -> list[cloudwatch.GraphWidget]:
        machine, functions = pipeline.state_machine, pipeline.functions
        return [
            _graph(
                "Executions",
                [
                    machine.metric_started(period=_FIVE_MINUTES),
                    machine.metric_succeeded(period=_FIVE_MINUTES),
                    machine.metric_failed(period=_FIVE_MINUTES),
                    machine.metric_aborted(period=_FIVE_MINUTES),
                    machine.metric_timed_out(period=_FIVE_MINUTES),
                ],
            ),
            _graph("Duration of an execution", [machine.metric_time(period=_FIVE_MINUTES)], unit="ms"),
            _graph(
                "Errors of the functions",
                [each.metric_errors(period=_FIVE_MINUTES, label=name) for name, each in functions.items()],
            ),
            _graph(
                "Longest duration of the functions",
                [
                    each.metric_duration(period=_FIVE_MINUTES, label=name, statistic="Maximum")
                    for name, each in functions.items()
                ],
                unit="ms",
            ),
        ]

    def _training(self) -> list[cloudwatch.GraphWidget]:
        """One graph for each unit of the training log's figures, one line for each job that has them."""
        by_unit: dict[str, list[Metric]] = {}
        for metric in METRICS.values():
            by_unit.setdefault(metric.unit, []).append(metric)
        graphs = [
            _graph(
                ", ".join(metric.name for metric in metrics),
                [self._search("TrainingJobName", metric.name) for metric in metrics],
                unit=unit,
            )
            for unit, metrics in by_unit.items()
        ]
        graphs.append(
            _graph(
                "GPU use and memory of the instance",
                [self._search("Host", name) for name in ("GPUUtilization", "GPUMemoryUtilization")],
                unit="%, all GPUs together",
            )
        )
        return graphs

    def _search(self, dimension: str, metric: str) -> cloudwatch.MathExpression:
        """Each of this environment's training jobs that reports `metric`, whatever the jobs are called."""
        schema = f"{{{_TRAINING_JOBS},{dimension}}}"
        jobs = f"{dimension}=hb {dimension}={self._environment}"  # words of `hb-<environment>-…`
        terms = f'{schema} MetricName="{metric}" {jobs}'
        return cloudwatch.MathExpression(
            expression=f"SEARCH('{terms}', 'Average', {_MINUTE.to_seconds()})",
            using_metrics={},
            label="",  # CloudWatch then names each line after its job and metric
            period=_MINUTE,
        )

    def _endpoint(self, endpoint: EndpointMetrics) -> list[cloudwatch.GraphWidget]:
        return [
            _graph(
                "Calls",
                [
                    endpoint.invocations(name, period=_FIVE_MINUTES)
                    for name in ("Invocations", "Invocation4XXErrors", "Invocation5XXErrors")
                ],
            ),
            _graph(
                "Latency of the model",
                [endpoint.latency(each, period=_FIVE_MINUTES) for each in ("p50", "p90")],
                unit="µs",
            ),
            _graph(
                "GPU use and memory",
                [
                    endpoint.utilization(name, period=_FIVE_MINUTES)
                    for name in ("GPUUtilization", "GPUMemoryUtilization")
                ],
                unit="%, all GPUs together",
            ),
        ]


def _graph(title: str, metrics: list[cloudwatch.IMetric], *, unit: str = "count") -> cloudwatch.GraphWidget:
    return cloudwatch.GraphWidget(
        title=title,
        left=metrics,
        left_y_axis=cloudwatch.YAxisProps(label=unit, show_units=False, min=0),
        width=_WIDTH,
    )
