"""What a person is told, and shows: alarms and the monthly budget to one topic, and a dashboard."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_budgets as budgets
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from stacks.dashboard import Dashboard
from stacks.endpoint_metrics import EndpointMetrics
from stacks.pipeline import Pipeline
from stacks.registry import Registry
from stacks.settings import Settings

_PERIOD = cdk.Duration.minutes(5)
_IDLE_HOURS = 24
# InvokeEndpoint gives up after 60 s; half of it is late enough to look and early enough to act.
_SLOW_SECONDS = 30
_BUDGET_ALERTS = (("ACTUAL", 80), ("ACTUAL", 100), ("FORECASTED", 100))
_PUBLISHERS = ("cloudwatch.amazonaws.com", "budgets.amazonaws.com")


class Monitoring(cdk.Stack):
    """Alarms on the runs and on the default endpoint; the dashboard; the budget. All alerts go to `topic`."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        registry: Registry,
        pipeline: Pipeline,
    ) -> None:
        super().__init__(scope, construct_id, description="HeartBeat Engine: alarms, dashboard and budget")
        self.topic = self._topic(settings)
        self._alarm_on_runs(registry, pipeline)
        self._alarm_on_endpoint(EndpointMetrics(pipeline.endpoint_name))
        Dashboard(self, "Dashboard", settings=settings, pipeline=pipeline)
        if settings.monthly_budget_usd is not None:
            self._budget(settings.environment, settings.monthly_budget_usd)

    def _topic(self, settings: Settings) -> sns.Topic:
        key = kms.Key(
            self,
            "Key",
            description=f"HeartBeat {settings.environment}: alerts",
            enable_key_rotation=True,
            removal_policy=cdk.RemovalPolicy.DESTROY,  # alerts are not kept, so neither is their key
        )
        topic = sns.Topic(self, "Alerts", master_key=key, enforce_ssl=True, display_name="HeartBeat Engine")
        of_this_account = {"StringEquals": {"aws:SourceAccount": self.account}}
        for service in _PUBLISHERS:
            publisher = iam.ServicePrincipal(service, conditions=of_this_account)
            key.add_to_resource_policy(
                iam.PolicyStatement(
                    principals=[publisher], actions=["kms:Decrypt", "kms:GenerateDataKey*"], resources=["*"]
                )
            )
            topic.add_to_resource_policy(
                iam.PolicyStatement(principals=[publisher], actions=["sns:Publish"], resources=[topic.topic_arn])
            )
        if settings.alarm_email is not None:
            topic.add_subscription(subscriptions.EmailSubscription(settings.alarm_email))
        return topic

    def _alarm_on_runs(self, registry: Registry, pipeline: Pipeline) -> None:
        machine = pipeline.state_machine
        self._alarm("RunFailed", machine.metric_failed(period=_PERIOD), "A run failed; its Cause says why")
        self._alarm("RunTimedOut", machine.metric_timed_out(period=_PERIOD), "A run hit the execution's limit")
        self._alarm("RunThrottled", machine.metric_throttled(period=_PERIOD), "Step Functions slowed a run down")
        if pipeline.schedule_machine:
            self._alarm(
                "EndpointNotSwitched",
                pipeline.schedule_machine.metric_failed(period=_PERIOD),
                "The endpoint could not be switched on or off; the execution's Cause says why",
            )
        self._alarm(
            "ImageBuildFailed",
            registry.build_project.metric_failed_builds(period=_PERIOD),
            "The training image could not be built",
        )
        for name, function in pipeline.functions.items():
            self._alarm(
                f"{function.node.id}Errors",
                function.metric_errors(period=_PERIOD),
                f"lambda/{name}.py raised an error",
            )

    def _alarm_on_endpoint(self, endpoint: EndpointMetrics) -> None:
        self._alarm(
            "EndpointErrors",
            endpoint.invocations("Invocation5XXErrors", period=_PERIOD),
            "The endpoint answered 5xx",
        )
        self._alarm(
            "EndpointSlow",
            endpoint.latency("p90", period=_PERIOD),
            f"One answer in ten takes longer than {_SLOW_SECONDS} s",
            threshold=_SLOW_SECONDS * 1e6,  # CloudWatch has ModelLatency in microseconds
            periods=3,
        )
        self._alarm(
            "EndpointIdle",
            endpoint.idle(period=cdk.Duration.hours(1)),
            f"The endpoint bills but nobody has called it for {_IDLE_HOURS} h: delete it if it is not needed",
            periods=_IDLE_HOURS,
        )

    def _alarm(
        self,
        name: str,
        metric: cloudwatch.IMetric,
        description: str,
        *,
        threshold: float = 1,
        periods: int = 1,
    ) -> None:
        """Alarms when `metric` is at or above `threshold` in each of `periods`; no data is no alarm."""
        alarm = cloudwatch.Alarm(
            self,
            name,
            alarm_description=description,
            metric=metric,
            threshold=threshold,
            evaluation_periods=periods,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
        )
        alarm.add_alarm_action(actions.SnsAction(self.topic))

    def _budget(self, environment: str, usd: float) -> None:
        """Monthly cost of everything with the environment's tag: the stacks, training jobs and endpoints.

        AWS Budgets sees a tag only after it was activated as a cost allocation tag in the billing console.
        """
        subscriber = budgets.CfnBudget.SubscriberProperty(subscription_type="SNS", address=self.topic.topic_arn)
        budget = budgets.CfnBudget(
            self,
            "MonthlyBudget",
            budget=budgets.CfnBudget.BudgetDataProperty(
                budget_type="COST",
                time_unit="MONTHLY",
                budget_limit=budgets.CfnBudget.SpendProperty(amount=usd, unit="USD"),
                cost_filters={"TagKeyValue": [f"user:heartbeat:environment${environment}"]},
            ),
            notifications_with_subscribers=[
                budgets.CfnBudget.NotificationWithSubscribersProperty(
                    notification=budgets.CfnBudget.NotificationProperty(
                        notification_type=kind,
                        comparison_operator="GREATER_THAN",
                        threshold=percent,
                        threshold_type="PERCENTAGE",
                    ),
                    subscribers=[subscriber],
                )
                for kind, percent in _BUDGET_ALERTS
            ],
        )
        budget.node.add_dependency(self.topic)  # and its policy: alerts can be published from the start
