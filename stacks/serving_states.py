"""States from the registry to an accepted endpoint."""

from __future__ import annotations

from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import aws_stepfunctions_tasks as tasks

from heartbeat import requests
from stacks.states import Part, States

POLLS = 160
"""About 75 minutes of 30-second polls: SageMaker gives download and start-up 60 minutes each at the most, and an
endpoint that needs more than this is not going to come."""


def deploy(states: States) -> Part:
    register = _register_model(states)
    gather, model, config = _gather_adapters(states), _create_model(states), _create_endpoint_config(states)
    find = states.call(
        "Find endpoint",
        "aws-sdk:sagemaker:describeEndpoint",
        comment="Is there an endpoint of this name already?",
        arguments={"EndpointName": "{% $run.endpoint_name %}"},
        assign={
            "previousConfig": "{% $states.result.EndpointConfigName %}",
            "endpointStatus": "{% $states.result.EndpointStatus %}",
        },
        catch=False,
    )
    deploy = sfn.Choice(states, "Deploy endpoint", comment="Create, or update beside the one that serves")
    create, update = _create_endpoint(states), _update_endpoint(states)
    busy = _problem(
        states,
        "Endpoint is not ready",
        "{% 'endpoint ' & $run.endpoint_name & ' is ' & $endpointStatus & ' and cannot be updated: wait, or"
        " delete it with: aws sagemaker delete-endpoint --endpoint-name ' & $run.endpoint_name %}",
    )
    # SageMaker has one error for all: not found is told by its text, the rest is a failure.
    find.add_catch(
        deploy,
        errors=["SageMaker.SageMakerException"],
        assign={
            "endpointStatus": "{% $contains($states.errorOutput.Cause, 'Could not find') ? 'Absent' :"
            " $states.errorOutput.Cause %}"
        },
    )
    states.catch(find, "Find endpoint")
    register.next(gather).next(model).next(config).next(find).next(deploy)
    deploy.when(sfn.Condition.jsonata("{% $endpointStatus = 'Absent' %}"), create)
    deploy.when(sfn.Condition.jsonata("{% $endpointStatus = 'InService' %}"), update)
    deploy.otherwise(busy)
    wait = _wait_for_endpoint(states)
    create.next(wait.first)
    update.next(wait.first)
    return Part(register, wait.last)


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
            "image": states.inputs.serving_image,
            "adapter": {
                "name": "{% $run.adapter_name %}",
                "uri": "{% $training.adapter_uri %}",
                "base_uri": "{% $base.uri %}",
                "max_lora_rank": "{% $plan.serving.max_lora_rank %}",
                "container": "{% $plan.serving.container %}",
            },
        },
        assign={"container": "{% $states.result.Payload.container %}"},
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
            pools="{% $plan.serving.instance_pools %}" if states.inputs.serving_falls_back else None,
            config_tags=states.tags(),
        ),
    )


def _create_endpoint(states: States) -> sfn.CustomState:
    return states.call(
        "Create endpoint",
        "aws-sdk:sagemaker:createEndpoint",
        comment="The first deployment under this name",
        arguments=requests.create_endpoint(
            name="{% $run.endpoint_name %}", config="{% $servingName %}", endpoint_tags=states.tags()
        ),
    )


def _update_endpoint(states: States) -> sfn.CustomState:
    return states.call(
        "Update endpoint",
        "aws-sdk:sagemaker:updateEndpoint",
        comment="The old model serves until the new one is healthy",
        arguments=requests.update_endpoint(name="{% $run.endpoint_name %}", config="{% $servingName %}"),
    )


def _wait_for_endpoint(states: States) -> Part:
    wait = sfn.Wait.jsonata(
        states,
        "Wait for endpoint",
        comment="Short at first, then every 30 seconds",
        time=sfn.WaitTime.seconds("{% $min([30, $power(2, $polls)]) %}"),
        assign={"polls": "{% $polls + 1 %}"},
    )
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
    accept = states.invoke(
        "Acceptance check",
        "acceptance_check",
        comment="Through InvokeEndpoint: it answers, and the adapter changes the answers",
        payload={
            "endpoint_name": "{% $run.endpoint_name %}",
            "adapter_name": "{% $run.adapter_name %}",
            "dataset": "{% $run.dataset %}",
        },
        assign={"accepted": "{% $states.result.Payload %}"},
        minutes=15,
    )
    failed = _problem(
        states,
        "Endpoint did not come",
        "{% 'endpoint ' & $run.endpoint_name & ' is ' & $endpointStatus & ' after ' & $string($polls) &"
        " ' looks. ' & $endpointReason %}",
    )
    wait.next(read).next(serving)
    serving.when(
        sfn.Condition.jsonata("{% $endpointStatus = 'InService' and $endpointConfig = $servingName %}"),
        accept,
    )
    serving.when(
        sfn.Condition.jsonata(
            f"{{% $endpointStatus in ['Creating', 'Updating', 'SystemUpdating', 'RollingBack'] and $polls < {POLLS} %}}"
        ),
        wait,
    )
    serving.otherwise(failed)
    return Part(wait, [accept])


def _problem(states: States, name: str, cause: str) -> sfn.Pass:
    state = sfn.Pass.jsonata(
        states,
        name,
        comment="The reason, for Explain failure",
        assign={"failed": {"step": "Wait for endpoint", "error": {"Error": "EndpointFailed", "Cause": cause}}},
    )
    state.next(states.explain)
    return state
