"""The app's endpoint on and off by the clock: two schedules, and the state machine that they start."""

from __future__ import annotations

import json

from aws_cdk import Duration
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_scheduler as scheduler
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import aws_stepfunctions_tasks as tasks
from constructs import Construct

from heartbeat.endpoint_schedule import EndpointSchedule
from stacks import permissions
from stacks.states import LAMBDA_FAULTS, States

BY_HAND_MINUTES = 240
"""How long an execution that a person starts tries."""


def switch_graph(scope: Construct, id_: str, *, function: lambda_.IFunction) -> sfn.State:
    """Switches until it is done. Input: `{"switch": "on"}` or "off", and for how many `minutes` to try."""
    within = Construct(scope, id_)
    start = sfn.Pass.jsonata(
        within,
        "Begin",
        comment="How long to try",
        assign={
            "switch": "{% $states.input.switch %}",
            "minutes": f"{{% $exists($states.input.minutes) ? $states.input.minutes : {BY_HAND_MINUTES} %}}",
            "polls": 0,
        },
    )
    switch = tasks.LambdaInvoke.jsonata(
        within,
        "Switch",
        comment="Deletes the endpoint, or makes it again; not while a run deploys to it",
        lambda_function=function,
        payload=sfn.TaskInput.from_object(
            {"execution": {"arn": "{% $states.context.Execution.Id %}"}, "switch": "{% $switch %}"}
        ),
        assign={
            "done": "{% $states.result.Payload.done %}",
            "said": "{% $states.result.Payload.said %}",
            "polls": "{% $polls + 1 %}",
        },
        task_timeout=sfn.Timeout.duration(Duration.minutes(2)),
        retry_on_service_exceptions=False,
    )
    States.retry(switch, LAMBDA_FAULTS)
    switch.add_retry(errors=["InputInvalid"], max_attempts=0)
    # A call of AWS's that is refused for the moment is no reason to let an endpoint bill all night.
    switch.add_retry(
        errors=["States.ALL"],
        interval=Duration.seconds(30),
        backoff_rate=2,
        max_attempts=6,
        max_delay=Duration.minutes(10),
        jitter_strategy=sfn.JitterType.FULL,
    )
    wait = sfn.Wait.jsonata(
        within,
        "Wait",
        comment="Short at first, then every minute",
        time=sfn.WaitTime.seconds("{% $min([60, $power(2, $min([6, $polls]))]) %}"),
    )
    ended = sfn.Choice(within, "Done?", comment="Or tried for long enough")
    switched = sfn.Succeed.jsonata(
        within, "Switched", comment="What the endpoint is now", outputs={"said": "{% $said %}"}
    )
    ended.when(sfn.Condition.jsonata("{% $done %}"), switched)
    ended.when(sfn.Condition.jsonata("{% $polls < $minutes %}"), wait.next(switch))
    ended.otherwise(
        sfn.Fail.jsonata(
            within,
            "Not switched",
            comment="An alarm tells of it",
            error="EndpointFailed",
            cause="{% $said & ' after ' & $string($minutes) & ' minutes; switching it ' & $switch & ' is given up' %}",
        )
    )
    start.next(switch).next(ended)
    return start


def schedules(scope: Construct, *, plan: EndpointSchedule, machine: sfn.IStateMachine, name: str) -> None:
    """Starts `machine` at both times, off also on the other days: a run may have deployed on one of them."""
    role = iam.Role(
        scope,
        "ScheduleRole",
        assumed_by=permissions.service("scheduler.amazonaws.com"),
        description="Starts the state machine that switches the endpoint of HeartBeat Engine",
    )
    role.add_to_policy(permissions.allow(["states:StartExecution"], [machine.state_machine_arn]))
    on_minutes = round(60 * plan.hours_per_day)
    # Neither tries for so long that it would undo what the other has done since.
    for switch, time, days, minutes in (
        ("on", plan.on, ",".join(plan.days), on_minutes),
        ("off", plan.off, "*", 24 * 60 - on_minutes),
    ):
        hour, minute = (int(part) for part in time.split(":"))
        scheduler.CfnSchedule(
            scope,
            f"Schedule{switch.capitalize()}",
            name=f"{name}-{switch}",
            description=f"The endpoint {switch} at {time} {plan.time_zone}",
            schedule_expression=f"cron({minute} {hour} ? * {days} *)",
            schedule_expression_timezone=plan.time_zone,
            flexible_time_window=scheduler.CfnSchedule.FlexibleTimeWindowProperty(mode="OFF"),
            target=scheduler.CfnSchedule.TargetProperty(
                arn=machine.state_machine_arn,
                role_arn=role.role_arn,
                input=json.dumps({"switch": switch, "minutes": minutes}),
            ),
        )
