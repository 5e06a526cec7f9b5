"""The state machine of one run: from the dataset to an accepted endpoint, or to a sentence that says why not.

JSONata throughout. Values that later states need are variables ($run, $plan, …), so that no state has to carry
another's data in its output. Every task that fails leaves $failed behind and goes to `Explain failure`.
"""

from __future__ import annotations

from aws_cdk import Duration
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import aws_stepfunctions_tasks as tasks
from constructs import Construct

from stacks import base_weights, serving_states, training_states
from stacks.states import LAMBDA_FAULTS, Inputs, States, wait_for_sagemaker


def run_graph(scope: Construct, id_: str, *, inputs: Inputs) -> sfn.State:
    """The first state of a run; the others hang on it."""
    states = States(scope, id_, inputs=inputs)
    states.explain = _explain_failure(states)
    start = _begin(states)
    image, train, deploy = (
        training_states.ensure_image(states),
        training_states.train(states),
        serving_states.deploy(states),
    )
    plan, gate, report = _plan(states), _quality_gate(states), _report(states)
    weights = base_weights.ensure(states, plan=plan)

    start.next(_check_dataset(states)).next(plan).next(image.first)
    image.then(weights.first)
    weights.then(train.first)
    train.then(gate)
    gate.next(
        sfn.Choice(states, "Deploy?", comment="Train only, ask a person first, or go straight on")
        .when(sfn.Condition.jsonata("{% $run.deploy = false %}"), report)
        .when(sfn.Condition.jsonata("{% $run.approve %}"), _wait_for_approval(states).next(deploy.first))
        .otherwise(deploy.first)
    )
    deploy.then(report)
    return start


def clean_up_graph(scope: Construct, id_: str, *, function: lambda_.IFunction) -> sfn.State:
    """The one state that cleans up after an aborted execution. A state machine of its own, since a function that an
    event calls is called three times at the most, and an endpoint's update may take longer."""
    state = tasks.LambdaInvoke.jsonata(
        scope,
        id_,
        state_name="Clean up",
        comment="Ends what the aborted execution left; waits for an endpoint that is being changed",
        lambda_function=function,
        payload=sfn.TaskInput.from_text("{% $states.input %}"),
        task_timeout=sfn.Timeout.duration(Duration.minutes(15)),
        retry_on_service_exceptions=False,
    )
    States.retry(state, LAMBDA_FAULTS)
    wait_for_sagemaker(state)
    return state


def _begin(states: States) -> sfn.Pass:
    return sfn.Pass.jsonata(
        states,
        "Start",
        comment="Names of this run, and empty values for what later states fill in",
        assign={
            "execution": {
                "name": "{% $states.context.Execution.Name %}",
                "arn": "{% $states.context.Execution.Id %}",
            },
            "runId": f"{{% 'hb-{states.inputs.environment}-'"
            " & $substring($hash($states.context.Execution.Id, 'SHA-256'), 0, 12) %}",
            "run": {"endpoint_name": states.inputs.defaults["endpoint_name"]},
            "failed": {},
            "training": {},
            "endpoint": {},
            "updateBegan": "{% '' %}",
            "brought": False,
            "attempt": 0,
            "tried": [],
            "polls": 0,
            "turns": 0,
        },
    )


def _check_dataset(states: States) -> tasks.LambdaInvoke:
    return states.invoke(
        "Check dataset",
        "check_dataset",
        comment="The input and every line of the dataset, before anything is spent",
        payload={"input": "{% $states.context.Execution.Input %}", "defaults": dict(states.inputs.defaults)},
        assign={
            "run": "{% $states.result.Payload.run %}",
            "dataset": "{% $states.result.Payload.dataset %}",
        },
        minutes=15,
    )


def _plan(states: States) -> tasks.LambdaInvoke:
    return states.invoke(
        "Plan",
        "make_plan",
        comment="Memory, hours and dollars on each instance asked for; refuses what cannot work",
        payload={"run": "{% $run %}", "dataset": "{% $dataset %}"},
        assign={"plan": "{% $states.result.Payload %}"},
    )


def _quality_gate(states: States) -> tasks.LambdaInvoke:
    return states.invoke(
        "Quality gate",
        "quality_gate",
        comment="Only an adapter that beats its base on held-out rows goes on",
        payload={},
        assign={"gate": "{% $states.result.Payload %}"},
    )


def _wait_for_approval(states: States) -> tasks.LambdaInvoke:
    state = tasks.LambdaInvoke.jsonata(
        states,
        "Wait for approval",
        comment="A person decides: python -m heartbeat approve",
        lambda_function=states.inputs.functions["request_approval"],
        integration_pattern=sfn.IntegrationPattern.WAIT_FOR_TASK_TOKEN,
        payload=sfn.TaskInput.from_object(
            {"execution": "{% $execution %}", "task_token": "{% $states.context.Task.Token %}"}
        ),
        task_timeout=sfn.Timeout.duration(Duration.days(7)),
        retry_on_service_exceptions=False,
    )
    states.retry(state, LAMBDA_FAULTS)
    states.catch(state, "Wait for approval")
    return state


def _report(states: States) -> tasks.LambdaInvoke:
    """Also the way to success: an accepted endpoint is not taken down for want of a page."""
    state = states.invoke(
        "Report",
        "write_report",
        comment="A page for people, a record for machines, in the run's folder",
        payload={"state": states.for_report()},
        assign={"report": "{% $states.result.Payload.report %}"},
        catch=False,
    )
    done = sfn.Succeed.jsonata(
        states,
        "Done",
        comment="Trained, passed, and serving where that was asked for",
        outputs={
            "endpoint_name": "{% $run.deploy ? $run.endpoint_name : null %}",
            "adapter_name": "{% $run.adapter_name %}",
            "adapter": "{% $training.adapter_uri %}",
            "training_job": "{% $training.job_name %}",
            "instance_type": "{% $training.instance_type %}",
            "stopped_early": "{% $training.stopped_early %}",
            "report": "{% $report %}",
        },
    )
    state.add_catch(
        done,
        errors=["States.ALL"],
        assign={"report": "{% 'not written: ' & $states.errorOutput.Cause %}"},
    )
    state.next(done)
    return state


def _explain_failure(states: States) -> tasks.LambdaInvoke:
    state = states.invoke(
        "Explain failure",
        "explain_failure",
        comment="Ends what bills, says what happened and what to do next",
        payload={
            "step": "{% $failed.step %}",
            "error": "{% $failed.error %}",
            "run_id": "{% $runId %}",
            "endpoint_name": "{% $run.endpoint_name %}",
            "update_began": "{% $updateBegan %}",
            "state": states.for_report(),
        },
        assign={"explained": "{% $states.result.Payload %}"},
        minutes=15,
        catch=False,
    )
    wait_for_sagemaker(state)
    state.next(states.failed())
    unexplained = sfn.Fail.jsonata(
        states,
        "Unexplained failure",
        comment="The explanation failed too: what AWS said of the first failure, as it is",
        error="{% $failed.error.Error %}",
        cause="{% $failed.step & ': ' & $failed.error.Cause & ' (and Explain failure: ' &"
        " $unexplained.Cause & '). Look for endpoints and jobs named ' & $runId & ' that still bill.' %}",
    )
    state.add_catch(unexplained, errors=["States.ALL"], assign={"unexplained": "{% $states.errorOutput %}"})
    return state
