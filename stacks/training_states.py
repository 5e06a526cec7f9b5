"""States from the image to the training job's result."""

from __future__ import annotations

import json

from aws_cdk import aws_stepfunctions as sfn

from heartbeat import requests
from stacks.states import Part, States


def ensure_image(states: States) -> Part:
    ensure = states.call(
        "Ensure image",
        "aws-sdk:ecr:describeImages",
        comment="The training image is tagged with the hash of its source: it is there, or it is built",
        arguments={
            "RepositoryName": states.inputs.repository_name,
            "ImageIds": [{"ImageTag": states.inputs.image_tag}],
        },
        catch=False,
    )
    build = states.call(
        "Build image",
        "codebuild:startBuild.sync",
        comment="CodeBuild builds and pushes it; nobody needs Docker",
        arguments={"ProjectName": states.inputs.build_project},
        seconds=3600,
    )
    ensure.add_catch(build, errors=["Ecr.ImageNotFoundException"])
    states.catch(ensure, "Ensure image")
    return Part(ensure, [ensure, build])


def train(states: States) -> Part:
    choose = sfn.Choice(states, "Choose instance", comment="The best instance of the plan that was not tried yet")
    train = _train_job(states)
    read = states.invoke(
        "Read training result",
        "read_training",
        comment="Completed, stopped with a usable adapter, no capacity, or failed",
        payload={"result": "{% $trainResult %}", "error": "{% $trainError %}"},
        assign={"training": "{% $states.result.Payload %}"},
        minutes=15,
    )
    trained = sfn.Choice(states, "Trained?", comment="No capacity or no quota: the next instance of the plan")
    sink = {"trainResult": {}, "trainError": "{% $states.errorOutput %}"}
    train.add_catch(read, errors=["States.ALL"], assign=sink)
    try_each(states, choose, train, trained, none_left="no instance of the plan could be had", outcome="$training")
    train.next(read)
    read.next(trained)
    return Part(choose, [trained])


def try_each(
    states: States, choose: sfn.Choice, job: sfn.CustomState, ended: sfn.Choice, *, none_left: str, outcome: str
) -> None:
    """Have `choose` start `job` on the plan's instances one after the other, while `ended` finds that one was not to be
    had.

    `outcome` is the variable in which the job's end is told; `none_left` begins the sentence that says what was tried.
    """
    none = sfn.Pass.jsonata(
        states,
        "No instance left",
        comment="Every instance of the plan was tried",
        assign={
            "failed": {
                "step": "Choose instance",
                "error": {
                    "Error": "NoCapacity",
                    "Cause": f"{{% '{none_left}: ' & $join($tried.(instance_type & ' (' & why & ')'), ', ') %}}",
                },
            }
        },
    )
    choose.when(
        sfn.Condition.jsonata("{% $attempt < $count($plan.candidates) %}"),
        job,
        assign={"candidate": "{% $plan.candidates[$attempt] %}", "attempt": "{% $attempt + 1 %}"},
    ).otherwise(none.next(states.explain))
    ended.when(
        sfn.Condition.jsonata(f"{{% {outcome}.outcome = 'no_capacity' %}}"),
        choose,
        assign={
            "tried": f"{{% $append($tried, [{{'instance_type': $candidate.instance_type, 'why': {outcome}.why}}]) %}}"
        },
    )


def _train_job(states: States) -> sfn.CustomState:
    body = requests.create_training_job(
        # Fresh at every evaluation: a name can be used once, also across retries and redrives.
        name="{% $runId & '-' & $string($attempt) & '-' & $substring($uuid(), 0, 8) %}",
        image=states.inputs.image_uri,
        role_arn=states.inputs.training_role_arn,
        hyperparameters="{% $candidate.hyperparameters %}",
        input_data=f"{{% $append([{_channel('training', '$run.dataset')}, {_channel('model', '$base.uri')}],"
        f" $run.held_out_dataset ? [{_channel('heldout', '$run.held_out_dataset')}] : []) %}}",
        output_uri=states.own("training"),
        checkpoint_uri=states.own("checkpoints"),
        kms_key_arn=states.inputs.key_arn,
        instance_type="{% $candidate.instance_type %}",
        volume_size="{% $candidate.volume_size_gib %}",
        stopping="{% $merge([{'MaxRuntimeInSeconds': $candidate.max_runtime_seconds},"
        " $run.use_spot ? {'MaxWaitTimeInSeconds': $candidate.max_runtime_seconds + 3600} : {}]) %}",
        use_spot="{% $run.use_spot %}",
        job_tags=states.tags(),
    )
    return states.call(
        "Train",
        "sagemaker:createTrainingJob.sync",
        comment="One SageMaker job on the chosen instance; it is stopped when the execution is",
        arguments=body,
        assign={
            "trainError": {},
            "trainResult": "{% $sift($states.result, function($v, $k) { $k in ['TrainingJobName',"
            " 'TrainingJobStatus', 'BillableTimeInSeconds', 'ResourceConfig'] }) %}",
        },
        # The stop condition, and two hours for capacity, download and upload (spot waits one of them).
        seconds="{% $candidate.max_runtime_seconds + 7200 %}",
        catch=False,
    )


def _channel(name: str, uri: str) -> str:
    """A channel as JSONata; `uri` is an expression."""
    return json.dumps(requests.channel(name, "URI")).replace('"URI"', uri)
