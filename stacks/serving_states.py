"""States from the registry to an accepted endpoint."""

from __future__ import annotations

import json

from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import aws_stepfunctions_tasks as tasks

from heartbeat import requests
from stacks.states import Part, States

POLLS = 1000
"""More than 8 hours of 30-second polls, the most that SageMaker lets an update take (see heartbeat.requests): for an
endpoint that it forgets."""
TURNS = 480
"""4 hours of 30-second waits for another run's deployment, at the end of which the run is refused. Nothing bills
meanwhile."""


def deploy(states: States) -> Part:
    register, claim = _register_model(states), _claim_endpoint(states)
    gather, model = _gather_adapters(states), _create_model(states)
    serve = _host_model(states) if states.inputs.endpoint.scales_to_zero else _serve_model(states)
    turn = sfn.Choice(states, "Our turn?", comment="One run at a time changes an endpoint")
    pause = sfn.Wait.jsonata(
        states,
        "Wait for turn",
        comment="Another run deploys to this endpoint",
        time=sfn.WaitTime.seconds(_pause("$turns")),
        assign={"turns": "{% $turns + 1 %}"},
    )
    refused = _problem(
        states,
        "Endpoint is taken",
        error="EndpointBusy",
        cause="{% $claim.busy & '.' & ($turns > 0 ? ' Asked ' & $string($turns + 1) & ' times.' : '') %}",
    )
    # Claimed before its adapters are read: what another run adds meanwhile would be lost.
    register.next(claim).next(turn)
    turn.when(sfn.Condition.jsonata("{% $claim.claimed %}"), gather)
    turn.when(sfn.Condition.jsonata(f"{{% $run.wait_for_endpoint and $turns < {TURNS} %}}"), pause.next(claim))
    turn.otherwise(refused)
    gather.next(model).next(serve.first)
    return Part(register, serve.last)


def _serve_model(states: States) -> Part:
    """States that create or update an endpoint whose variant has the model."""
    config, create, update = _create_endpoint_config(states), _create_endpoint(states), _update_endpoint(states)
    wait = _wait_for_endpoint(states)
    deploy = sfn.Choice(states, "Deploy endpoint", comment="Create, or update beside the one that serves")
    not_ready = _problem(
        states,
        "Endpoint is not ready",
        cause="{% 'endpoint ' & $run.endpoint_name & ' is ' & $claim.status & ' and cannot be updated: wait, or"
        " delete it with: aws sagemaker delete-endpoint --endpoint-name ' & $run.endpoint_name %}",
    )
    config.next(deploy)
    deploy.when(sfn.Condition.jsonata("{% $claim.status = 'Absent' %}"), create)
    deploy.when(sfn.Condition.jsonata("{% $claim.status = 'InService' %}"), update)
    deploy.otherwise(not_ready)
    create.next(wait.first)
    update.next(wait.first)
    return Part(config, wait.last)


def _host_model(states: States) -> Part:
    """States that make the model the endpoint's inference component."""
    host = states.invoke(
        "Host model",
        "host_model",
        comment="The next step to the model as the endpoint's inference component; there is no .sync for it",
        payload={
            "endpoint_name": "{% $run.endpoint_name %}",
            "model": "{% $servingName %}",
            "instance_type": "{% $plan.serving.instance_type %}",
            "tags": _endpoint_tags(states),
            "asked": "{% $asked %}",
        },
        assign={
            "hosted": "{% $states.result.Payload %}",
            "asked": "{% $states.result.Payload.asked %}",
            "updateBegan": "{% $updateBegan = '' ? $states.context.State.EnteredTime : $updateBegan %}",
        },
    )
    begin = sfn.Pass.jsonata(states, "Deploy endpoint", comment="Nothing is asked yet", assign={"asked": "{% '' %}"})
    wait, hosted = _wait(states), sfn.Choice(states, "In service?", comment="With this run's model, and not for ever")
    failed = _problem(
        states,
        "Endpoint did not come",
        cause="{% $hosted.said & ', after ' & $string($polls) & ' looks' %}",
    )
    accept = _accept(states)
    begin.next(host).next(hosted)
    hosted.when(sfn.Condition.jsonata("{% $hosted.done %}"), accept.first)
    hosted.when(sfn.Condition.jsonata(f"{{% $polls < {POLLS} %}}"), wait.next(host))
    hosted.otherwise(failed)
    return Part(begin, accept.last)


def _pause(count: str) -> str:
    """JSONata for seconds to wait: short at first, then half a minute."""
    return f"{{% $min([30, $power(2, $min([5, {count}]))]) %}}"


def _claim_endpoint(states: States) -> tasks.LambdaInvoke:
    return states.invoke(
        "Claim endpoint",
        "claim_endpoint",
        comment="For this run alone; notes what serves now, to go back to",
        payload={"endpoint_name": "{% $run.endpoint_name %}", "config": "{% $servingName %}"},
        assign={"claim": "{% $states.result.Payload %}"},
    )


def _register_model(states: States) -> sfn.CustomState:
    return states.call(
        "Register model",
        "aws-sdk:sagemaker:createModelPackage",
        comment="One version in the model registry for each adapter that passed",
        arguments=requests.create_model_package(
            group=states.inputs.model_package_group,
            description="{% 'Adapter of execution ' & $execution.name %}",
            image=states.inputs.serving_image,
            adapter_uri="{% $training.adapter_uri %}",
            approval="Approved",
            metadata={
                "adapter_name": "{% $run.adapter_name %}",
                "base_model": "{% $base.uri %}",
                "dataset": "{% $run.dataset %}",
                "dataset_sha256": "{% $dataset.sha256 %}",
                "training_job": "{% $training.job_name %}",
            },
        ),
        assign={
            "modelPackage": "{% $states.result.ModelPackageArn %}",
            "servingName": "{% $runId & '-' & $substring($uuid(), 0, 8) %}",
        },
    )


def _gather_adapters(states: States) -> tasks.LambdaInvoke:
    return states.invoke(
        "Gather adapters",
        "gather_adapters",
        comment="This run's adapter beside those that the endpoint serves already",
        payload={
            "endpoint_name": "{% $run.endpoint_name %}",
            **({"instance_type": "{% $plan.serving.instance_type %}"} if states.inputs.endpoint.scales_to_zero else {}),
            "image": states.inputs.serving_image,
            "adapter": {
                "name": "{% $run.adapter_name %}",
                "uri": "{% $training.adapter_uri %}",
                "base_uri": "{% $base.uri %}",
                "max_lora_rank": "{% $plan.serving.max_lora_rank %}",
                "container": "{% $plan.serving.container %}",
            },
        },
        assign={
            "container": "{% $states.result.Payload.container %}",
            "adapters": "{% $states.result.Payload.names %}",
        },
    )


def _create_model(states: States) -> sfn.CustomState:
    return states.call(
        "Create model",
        "aws-sdk:sagemaker:createModel",
        comment="Base weights and adapters, for the serving image",
        arguments=requests.create_model(
            name="{% $servingName %}",
            role_arn=states.inputs.endpoint_role_arn,
            primary_container="{% $container %}",
            internet=states.inputs.serving_internet,
            model_tags=states.tags(),
        ),
    )


def _create_endpoint_config(states: States) -> sfn.CustomState:
    return states.call(
        "Create endpoint config",
        "aws-sdk:sagemaker:createEndpointConfig",
        comment="The instance that the plan chose for serving",
        arguments=requests.create_endpoint_config(
            name="{% $servingName %}",
            model="{% $servingName %}",
            instance_type="{% $plan.serving.instance_type %}",
            num_instances=states.inputs.endpoint.num_instances,
            pools="{% $plan.serving.instance_pools %}" if states.inputs.serving_falls_back else None,
            config_tags=_endpoint_tags(states),  # an endpoint that is made of it again has them too
        ),
    )


def _create_endpoint(states: States) -> sfn.CustomState:
    return states.call(
        "Create endpoint",
        "aws-sdk:sagemaker:createEndpoint",
        comment="The first deployment under this name",
        arguments=requests.create_endpoint(
            name="{% $run.endpoint_name %}", config="{% $servingName %}", endpoint_tags=_endpoint_tags(states)
        ),
    )


def _update_endpoint(states: States) -> sfn.CustomState:
    endpoint = states.inputs.endpoint
    alarms = json.dumps({"Alarms": [{"AlarmName": name} for name in endpoint.alarm_names]})
    return states.call(
        "Update endpoint",
        "aws-sdk:sagemaker:updateEndpoint",
        comment="The old model serves until the new one does; alarms bring it back",
        arguments=requests.update_endpoint(
            name="{% $run.endpoint_name %}",
            config="{% $servingName %}",
            deployment_config=requests.deployment(
                update=endpoint.update,
                # The stack has alarms for its own endpoint; it cannot know the others that a run may name.
                rollback=f"{{% $run.endpoint_name = '{endpoint.name}' ? {alarms} : {{}} %}}",
            ),
            retain_count=endpoint.scales,
        ),
        assign={"updateBegan": "{% $states.context.State.EnteredTime %}"},
    )


def _endpoint_tags(states: States) -> list[dict[str, str]]:
    dollars = {name: f"{{% $plan.serving.{name} %}}" for name in ("usd_per_hour", "usd_per_month")}
    return states.tags(**dollars)


def _wait_for_endpoint(states: States) -> Part:
    wait = _wait(states)
    read = states.call(
        "Read endpoint",
        "aws-sdk:sagemaker:describeEndpoint",
        comment="There is no .sync for endpoints: ask",
        arguments={"EndpointName": "{% $run.endpoint_name %}"},
        assign={
            "endpointStatus": "{% $states.result.EndpointStatus %}",
            "endpointConfig": "{% $states.result.EndpointConfigName %}",
            "endpointReason": "{% $exists($states.result.FailureReason) ? $states.result.FailureReason : '' %}",
        },
    )
    serving = sfn.Choice(states, "In service?", comment="With this run's configuration, and not for ever")
    accept = _accept(states)
    failed = _problem(
        states,
        "Endpoint did not come",
        cause="{% 'endpoint ' & $run.endpoint_name & ' is ' & $endpointStatus & ' after ' & $string($polls) &"
        " ' looks. ' & $endpointReason %}",
    )
    rolled_back = _problem(
        states,
        "Endpoint was rolled back",
        error="RolledBack",
        cause="{% 'SageMaker went back from ' & $servingName & ' to ' & $endpointConfig & ', which serves again. ' &"
        " $endpointReason %}",
    )
    wait.next(read).next(serving)
    serving.when(
        sfn.Condition.jsonata("{% $endpointStatus = 'InService' and $endpointConfig = $servingName %}"),
        accept.first,
    )
    serving.when(sfn.Condition.jsonata("{% $endpointStatus = 'InService' %}"), rolled_back)
    serving.when(
        sfn.Condition.jsonata(
            f"{{% $endpointStatus in ['Creating', 'Updating', 'SystemUpdating', 'RollingBack'] and $polls < {POLLS} %}}"
        ),
        wait,
    )
    serving.otherwise(failed)
    return Part(wait, accept.last)


def _wait(states: States) -> sfn.Wait:
    return sfn.Wait.jsonata(
        states,
        "Wait for endpoint",
        comment="Short at first, then every 30 seconds",
        time=sfn.WaitTime.seconds(_pause("$polls")),
        assign={"polls": "{% $polls + 1 %}"},
    )


def _accept(states: States) -> Part:
    accept = states.invoke(
        "Acceptance check",
        "acceptance_check",
        comment="Through InvokeEndpoint: the adapter changes the answers, held-out rows are answered as in training",
        payload={
            "endpoint_name": "{% $run.endpoint_name %}",
            **({"component": "{% $run.endpoint_name %}"} if states.inputs.endpoint.scales_to_zero else {}),
            "adapter_name": "{% $run.adapter_name %}",
            "adapters": "{% $adapters %}",
            "max_model_len": "{% $plan.serving.container.max_model_len %}",
            "dataset": "{% $run.dataset %}",
        },
        assign={"accepted": "{% $states.result.Payload %}"},
        minutes=15,
    )
    keep = states.invoke(
        "Accept endpoint",
        "accept_endpoint",
        comment="Lets go of the endpoint, and deletes what is too old to go back to",
        payload={
            "endpoint_name": "{% $run.endpoint_name %}",
            "config": "{% $servingName %}",
            "tags": _endpoint_tags(states),
        },
        assign={"endpoint": "{% $states.result.Payload %}"},
        catch=False,
    )
    untidy = sfn.Pass.jsonata(
        states,
        "Accepted, not tidied",
        comment="An accepted endpoint is not taken down for what is left beside it; the record says what is",
    )
    keep.add_catch(untidy, errors=["States.ALL"], assign={"endpoint": {"problem": "{% $states.errorOutput.Cause %}"}})
    accept.next(keep)
    return Part(accept, [keep, untidy])


def _problem(states: States, name: str, *, cause: str, error: str = "EndpointFailed") -> sfn.Pass:
    state = sfn.Pass.jsonata(
        states,
        name,
        comment="The reason, for Explain failure",
        assign={"failed": {"step": "Wait for endpoint", "error": {"Error": error, "Cause": cause}}},
    )
    state.next(states.explain)
    return state
