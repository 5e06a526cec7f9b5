"""Base weights that come by themselves: the token's secret, the job's role, and a state machine of their own.

The main state machine starts it where weights are missing; from the console it runs with `{}`.
"""

from __future__ import annotations

from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from heartbeat import layout, requests
from heartbeat.base_weights import STARTED_BY
from stacks import permissions, training_states
from stacks.nag import acknowledge
from stacks.settings import Settings
from stacks.states import Inputs, Part, States

EXECUTION_DAYS = 29
"""Longer than a job may run."""


def token_secret(scope: Construct, *, settings: Settings, key: kms.IKey) -> secretsmanager.CfnSecret:
    """The hub's token, empty until `python -m heartbeat base-model token` fills it.

    CDK's own Secret would make up a value, and an empty one says that there is no token. CloudFormation names it: a
    deleted name stays taken for days.
    """
    secret = secretsmanager.CfnSecret(
        scope,
        "HubToken",
        description="Hugging Face token that base weights are brought with: python -m heartbeat base-model token",
        kms_key_id=key.key_arn,
    )
    secret.apply_removal_policy(settings.removal_policy)
    acknowledge(secret, {"AwsSolutions-SMG4": "The token is made at Hugging Face, which nothing here can rotate."})
    return secret


def weights_role(
    scope: Construct, *, buckets: permissions.Buckets, repository: ecr.IRepository, secret_arn: str
) -> iam.Role:
    """The job's: the only one that may read the token and write base weights."""
    return permissions.sagemaker_role(
        scope,
        "Weights",
        *buckets.read(layout.BASE_MODELS),
        *buckets.write(layout.BASE_MODELS),
        permissions.allow(["secretsmanager:GetSecretValue"], [secret_arn]),
        *permissions.logs_and_metrics("TrainingJobs"),
        *permissions.pull(repository.repository_arn),
    )


def see_token(secret_arn: str) -> iam.PolicyStatement:
    """Whether the secret has a value, not the value."""
    return permissions.allow(["secretsmanager:DescribeSecret"], [secret_arn])


def orchestration(
    *, names: permissions.Names, role_arn: str, repository_arn: str, project_arn: str
) -> list[iam.PolicyStatement]:
    """What the state machine's own tasks call."""
    return [
        *permissions.ensure_image(repository_arn, project_arn),
        permissions.run_jobs(names),
        permissions.pass_to_sagemaker(role_arn),
        permissions.managed_rules(
            "StepFunctionsGetEventsForSageMakerTrainingJobsRule", "StepFunctionsGetEventForCodeBuildStartBuildRule"
        ),
    ]


def bring_graph(scope: Construct, id_: str, *, inputs: Inputs, role_arn: str, settings: Settings) -> sfn.State:
    """The first state; the others hang on it."""
    states = States(scope, id_, inputs=inputs)
    states.explain = _explain_failure(states)
    start = sfn.Pass.jsonata(
        states,
        "Start",
        comment="Names of this execution, and empty values for what later states fill in",
        assign={
            "execution": {
                "name": "{% $states.context.Execution.Name %}",
                "arn": "{% $states.context.Execution.Id %}",
            },
            "runId": f"{{% 'hb-{inputs.environment}-'"
            " & $substring($hash($states.context.Execution.Id, 'SHA-256'), 0, 12) %}",
            "failed": {},
            "attempt": 0,
            "tried": [],
        },
    )
    plan = states.invoke(
        "Plan weights",
        "plan_weights",
        comment="What is not there yet, whether there is a token, the instances and the stop condition",
        payload={"input": "{% $states.context.Execution.Input %}"},
        assign={"plan": "{% $states.result.Payload %}"},
    )
    done = sfn.Succeed.jsonata(
        states,
        "Done",
        comment="All that was asked for is in the bucket",
        outputs={"uri": "{% $plan.uri %}", "made": "{% $plan.make %}"},
    )
    image = training_states.ensure_image(states)
    choose = sfn.Choice(states, "Choose instance", comment="The next of the plan that was not tried yet")
    image.then(choose)
    start.next(plan).next(
        sfn.Choice(states, "All there?", comment="Nothing is brought twice")
        .when(sfn.Condition.jsonata("{% $count($plan.make) = 0 %}"), done)
        .otherwise(image.first)
    )
    bring = _bring(states, role_arn, settings)
    read = states.invoke(
        "Read result",
        "read_weights",
        comment="Every file is there; or no capacity, stopped too early, or failed",
        payload={
            "plan": "{% $plan %}",
            "result": "{% $jobResult %}",
            "error": "{% $jobError %}",
            "max_runtime_seconds": "{% $candidate.max_runtime_seconds %}",
        },
        assign={"outcome": "{% $states.result.Payload %}"},
    )
    bring.add_catch(read, errors=["States.ALL"], assign={"jobResult": {}, "jobError": "{% $states.errorOutput %}"})
    bring.next(read)
    brought = sfn.Choice(states, "Brought?", comment="No capacity or no quota: the next instance")
    none_left = "no instance to bring weights on could be had"
    training_states.try_each(states, choose, bring, brought, none_left=none_left, outcome="$outcome")
    read.next(brought.otherwise(done))
    return start


def _bring(states: States, role_arn: str, settings: Settings) -> sfn.CustomState:
    body = requests.bring_weights_job(
        name="{% $runId & '-' & $string($attempt) & '-' & $substring($uuid(), 0, 8) %}",
        image=states.inputs.image_uri,
        role_arn=role_arn,
        hyperparameters="{% $plan.hyperparameters %}",
        output_uri=layout.uri(states.inputs.artifact_bucket, f"{layout.base_model_root(settings.base_model)}jobs/"),
        kms_key_arn=states.inputs.key_arn,
        instance_type="{% $candidate.instance_type %}",
        volume_size="{% $candidate.volume_size_gib %}",
        max_runtime_seconds="{% $candidate.max_runtime_seconds %}",
        job_tags=states.tags(),
    )
    return states.call(
        "Bring weights",
        "sagemaker:createTrainingJob.sync",
        comment="One SageMaker job without a GPU: from the hub into the bucket, then packs and FP8",
        arguments=body,
        assign={
            "jobError": {},
            "jobResult": "{% $sift($states.result, function($v, $k) { $k in ['TrainingJobName',"
            " 'TrainingJobStatus'] }) %}",
        },
        # The stop condition, and an hour for capacity and the image.
        seconds="{% $candidate.max_runtime_seconds + 3600 %}",
        catch=False,
    )


def _explain_failure(states: States) -> sfn.State:
    state = states.invoke(
        "Explain failure",
        "explain_weights",
        comment="Says what happened and what to do next",
        payload={"step": "{% $failed.step %}", "error": "{% $failed.error %}", "run_id": "{% $runId %}"},
        assign={"explained": "{% $states.result.Payload %}"},
        catch=False,
    )
    state.next(states.failed())
    state.add_catch(
        sfn.Fail.jsonata(
            states,
            "Unexplained failure",
            comment="The explanation failed too: what AWS said of the first failure, as it is",
            error="{% $failed.error.Error %}",
            cause="{% $failed.step & ': ' & $failed.error.Cause %}",
        ),
        errors=["States.ALL"],
    )
    return state


def ensure(states: States, *, plan: sfn.State) -> Part:
    """The main state machine's part: look, and have them brought where they are not there.

    Then it goes on at `plan`: only with a checkpoint is its shape known, and what it is trained with by default.
    """
    look = states.invoke(
        "Ensure base weights",
        "ensure_base_weights",
        comment="Every file of the checkpoint is there before an instance is started for it",
        payload={"run": "{% $run %}", "brought": "{% $brought %}"},
        assign={"base": "{% $states.result.Payload %}"},
    )
    bring = states.call(
        "Bring base weights",
        "states:startExecution.sync:2",
        comment="The other state machine fetches them with the stored token, once",
        arguments={
            "StateMachineArn": permissions.arn("states", f"stateMachine:{states.inputs.weights_machine}"),
            "Input": {
                "make": list(dict.fromkeys(["bf16", states.inputs.weight_format])),
                STARTED_BY: "{% $states.context.Execution.Id %}",
            },
        },
        assign={"brought": True},
        seconds=EXECUTION_DAYS * 24 * 3600,
    )
    bring.next(plan)
    there = sfn.Choice(states, "Weights there?", comment="They are brought once; the look after that is the last").when(
        sfn.Condition.jsonata("{% $base.there = false %}"), bring
    )
    look.next(there)
    return Part(look, [there])
