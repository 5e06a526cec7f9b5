"""The state machine of one run: from the dataset to an accepted endpoint, or to a sentence that says why not.

JSONata throughout. Values that later states need are variables ($run, $plan, …), so that no state has to carry
another's data in its output. Every task that fails leaves $failed behind and goes to `Explain failure`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aws_cdk import Aws, Duration
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import aws_stepfunctions_tasks as tasks
from constructs import Construct

from heartbeat import layout, requests

LAMBDA_FAULTS = (
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.TooManyRequestsException",
    "Lambda.ClientExecutionTimeoutException",
)
"""Faults of the service itself, before or instead of the handler's answer."""

POLLS = 160
"""About 75 minutes of 30-second polls: SageMaker gives download and start-up 60 minutes each at the most, and an
endpoint that needs more than this is not going to come."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the graph refers to."""

    functions: Mapping[str, lambda_.IFunction]
    defaults: Mapping[str, Any]
    """Of the execution's input; see heartbeat.execution.RunRequest."""
    environment: str
    artifact_bucket: str
    key_arn: str
    repository_name: str
    image_tag: str
    image_uri: str
    build_project: str
    serving_image: str
    model_package_group: str
    training_role_arn: str
    endpoint_role_arn: str


class RunGraph(Construct):
    """States of a run. `start` is the first of them."""

    def __init__(self, scope: Construct, id_: str, *, inputs: Inputs) -> None:
        super().__init__(scope, id_)
        self._in = inputs
        self._explain = self._explain_failure()
        self.start = self._begin()
        check, plan = self._check_dataset(), self._plan()
        image, weights = self._ensure_image(), self._ensure_base_weights()
        train, gate = self._train(), self._quality_gate()
        deploy, report = self._deploy(), self._report()

        self.start.next(check).next(plan).next(image.first)
        image.then(weights)
        weights.next(train.first)
        train.then(gate)
        gate.next(
            sfn.Choice(self, "Deploy?", comment="Train only, ask a person first, or go straight on")
            .when(sfn.Condition.jsonata("{% $run.deploy = false %}"), report)
            .when(sfn.Condition.jsonata("{% $run.approve %}"), self._wait_for_approval().next(deploy.first))
            .otherwise(deploy.first)
        )
        deploy.then(report)

    # The pieces, in the order in which a run meets them.

    def _begin(self) -> sfn.Pass:
        return sfn.Pass.jsonata(
            self,
            "Start",
            comment="Names of this run, and empty values for what later states fill in",
            assign={
                "execution": {
                    "name": "{% $states.context.Execution.Name %}",
                    "arn": "{% $states.context.Execution.Id %}",
                },
                "runId": f"{{% 'hb-{self._in.environment}-'"
                " & $substring($hash($states.context.Execution.Id, 'SHA-256'), 0, 12) %}",
                "run": {"endpoint_name": self._in.defaults["endpoint_name"]},
                "failed": {},
                "training": {},
                "previousConfig": None,
                "attempt": 0,
                "tried": [],
                "polls": 0,
            },
        )

    def _check_dataset(self) -> tasks.LambdaInvoke:
        return self._lambda(
            "Check dataset",
            "check_dataset",
            comment="The input and every line of the dataset, before anything is spent",
            payload={"input": "{% $states.context.Execution.Input %}", "defaults": dict(self._in.defaults)},
            assign={
                "run": "{% $states.result.Payload.run %}",
                "dataset": "{% $states.result.Payload.dataset %}",
            },
            minutes=15,
        )

    def _plan(self) -> tasks.LambdaInvoke:
        return self._lambda(
            "Plan",
            "make_plan",
            comment="Memory, hours and dollars on each instance asked for; refuses what cannot work",
            payload={"run": "{% $run %}", "dataset": "{% $dataset %}"},
            assign={"plan": "{% $states.result.Payload %}"},
        )

    def _ensure_image(self) -> Part:
        ensure = self._task(
            "Ensure image",
            "aws-sdk:ecr:describeImages",
            comment="The training image is tagged with the hash of its source: it is there, or it is built",
            arguments={
                "RepositoryName": self._in.repository_name,
                "ImageIds": [{"ImageTag": self._in.image_tag}],
            },
            catch=False,
        )
        build = self._task(
            "Build image",
            "codebuild:startBuild.sync",
            comment="CodeBuild builds and pushes it; nobody needs Docker",
            arguments={"ProjectName": self._in.build_project},
            seconds=3600,
        )
        ensure.add_catch(build, errors=["Ecr.ImageNotFoundException"])
        self._catch(ensure, "Ensure image")
        return Part(ensure, [ensure, build])

    def _ensure_base_weights(self) -> tasks.LambdaInvoke:
        return self._lambda(
            "Ensure base weights",
            "ensure_base_weights",
            comment="Every file of the checkpoint is there before an instance is started for it",
            payload={},
            assign={"base": "{% $states.result.Payload %}"},
        )

    def _train(self) -> Part:
        choose = sfn.Choice(self, "Choose instance", comment="The best instance of the plan that was not tried yet")
        none_left = sfn.Pass.jsonata(
            self,
            "No instance left",
            comment="Every instance of the plan was tried",
            assign={
                "failed": {
                    "step": "Choose instance",
                    "error": {
                        "Error": "NoCapacity",
                        "Cause": "{% 'no instance of the plan could be had: '"
                        " & $join($tried.(instance_type & ' (' & why & ')'), ', ') %}",
                    },
                }
            },
        )
        train = self._train_job()
        read = self._lambda(
            "Read training result",
            "read_training",
            comment="Completed, stopped with a usable adapter, no capacity, or failed",
            payload={"result": "{% $trainResult %}", "error": "{% $trainError %}"},
            assign={"training": "{% $states.result.Payload %}"},
            minutes=15,
        )
        trained = sfn.Choice(self, "Trained?", comment="No capacity or no quota: the next instance of the plan")
        sink = {"trainResult": None, "trainError": "{% $states.errorOutput %}"}
        train.add_catch(read, errors=["States.ALL"], assign=sink)
        choose.when(
            sfn.Condition.jsonata("{% $attempt < $count($plan.candidates) %}"),
            train,
            assign={"candidate": "{% $plan.candidates[$attempt] %}", "attempt": "{% $attempt + 1 %}"},
        ).otherwise(none_left.next(self._explain))
        train.next(read)
        read.next(trained)
        trained.when(
            sfn.Condition.jsonata("{% $training.outcome = 'no_capacity' %}"),
            choose,
            assign={
                "tried": "{% $append($tried, [{'instance_type': $candidate.instance_type, 'why': $training.why}]) %}"
            },
        )
        return Part(choose, [trained])

    def _train_job(self) -> sfn.CustomState:
        body = requests.create_training_job(
            # Fresh at every evaluation: a name can be used once, also across retries and redrives.
            name="{% $runId & '-' & $string($attempt) & '-' & $substring($uuid(), 0, 8) %}",
            image=self._in.image_uri,
            role_arn=self._in.training_role_arn,
            hyperparameters="{% $candidate.hyperparameters %}",
            dataset_uri="{% $run.dataset %}",
            base_model_uri="{% $base.uri %}",
            output_uri=self._own("training"),
            checkpoint_uri=self._own("checkpoints"),
            kms_key_arn=self._in.key_arn,
            instance_type="{% $candidate.instance_type %}",
            volume_size="{% $candidate.volume_size_gib %}",
            stopping="{% $merge([{'MaxRuntimeInSeconds': $candidate.max_runtime_seconds},"
            " $run.use_spot ? {'MaxWaitTimeInSeconds': $candidate.max_runtime_seconds + 3600} : {}]) %}",
            use_spot="{% $run.use_spot %}",
            job_tags=self._tags(),
        )
        return self._task(
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

    def _quality_gate(self) -> tasks.LambdaInvoke:
        return self._lambda(
            "Quality gate",
            "quality_gate",
            comment="Only an adapter that beats its base on held-out rows goes on",
            payload={},
            assign={"gate": "{% $states.result.Payload %}"},
        )

    def _wait_for_approval(self) -> tasks.LambdaInvoke:
        state = tasks.LambdaInvoke.jsonata(
            self,
            "Wait for approval",
            comment="A person decides: python -m heartbeat approve",
            lambda_function=self._in.functions["request_approval"],
            integration_pattern=sfn.IntegrationPattern.WAIT_FOR_TASK_TOKEN,
            payload=sfn.TaskInput.from_object(
                {"execution": "{% $execution %}", "task_token": "{% $states.context.Task.Token %}"}
            ),
            task_timeout=sfn.Timeout.duration(Duration.days(7)),
            retry_on_service_exceptions=False,
        )
        self._retry(state, LAMBDA_FAULTS)
        self._catch(state, "Wait for approval")
        return state

    def _deploy(self) -> Part:
        register = self._register_model()
        model, config = self._create_model(), self._create_endpoint_config()
        find = self._task(
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
        deploy = sfn.Choice(self, "Deploy endpoint", comment="Create, or update beside the one that serves")
        create, update = self._create_endpoint(), self._update_endpoint()
        busy = self._endpoint_problem(
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
        self._catch(find, "Find endpoint")
        register.next(model).next(config).next(find).next(deploy)
        deploy.when(sfn.Condition.jsonata("{% $endpointStatus = 'Absent' %}"), create)
        deploy.when(sfn.Condition.jsonata("{% $endpointStatus = 'InService' %}"), update)
        deploy.otherwise(busy)
        wait = self._wait_for_endpoint()
        create.next(wait.first)
        update.next(wait.first)
        return Part(register, wait.last)

    def _register_model(self) -> sfn.CustomState:
        return self._task(
            "Register model",
            "aws-sdk:sagemaker:createModelPackage",
            comment="One version in the model registry for each adapter that passed",
            arguments=requests.create_model_package(
                group=self._in.model_package_group,
                description="{% 'Adapter of execution ' & $execution.name %}",
                image=self._in.serving_image,
                adapter_uri="{% $training.adapter_uri %}",
                approval="Approved",
                metadata={
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

    def _create_model(self) -> sfn.CustomState:
        return self._task(
            "Create model",
            "aws-sdk:sagemaker:createModel",
            comment="Base weights and adapter, for the serving image",
            arguments=requests.create_model(
                name="{% $servingName %}",
                role_arn=self._in.endpoint_role_arn,
                primary_container=requests.container(
                    image=self._in.serving_image,
                    base_model_uri="{% $base.uri %}",
                    adapter_uri="{% $training.adapter_uri %}",
                    environment="{% $plan.serving.environment %}",
                ),
                model_tags=self._tags(),
            ),
        )

    def _create_endpoint_config(self) -> sfn.CustomState:
        return self._task(
            "Create endpoint config",
            "aws-sdk:sagemaker:createEndpointConfig",
            comment="The instance that the plan chose for serving",
            arguments=requests.create_endpoint_config(
                name="{% $servingName %}",
                model="{% $servingName %}",
                instance_type="{% $plan.serving.instance_type %}",
                config_tags=self._tags(),
            ),
        )

    def _create_endpoint(self) -> sfn.CustomState:
        return self._task(
            "Create endpoint",
            "aws-sdk:sagemaker:createEndpoint",
            comment="The first deployment under this name",
            arguments=requests.create_endpoint(
                name="{% $run.endpoint_name %}", config="{% $servingName %}", endpoint_tags=self._tags()
            ),
        )

    def _update_endpoint(self) -> sfn.CustomState:
        return self._task(
            "Update endpoint",
            "aws-sdk:sagemaker:updateEndpoint",
            comment="The old model serves until the new one is healthy",
            arguments=requests.update_endpoint(name="{% $run.endpoint_name %}", config="{% $servingName %}"),
        )

    def _wait_for_endpoint(self) -> Part:
        wait = sfn.Wait.jsonata(
            self,
            "Wait for endpoint",
            comment="Short at first, then every 30 seconds",
            time=sfn.WaitTime.seconds("{% $min([30, $power(2, $polls)]) %}"),
            assign={"polls": "{% $polls + 1 %}"},
        )
        read = self._task(
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
        serving = sfn.Choice(self, "In service?", comment="With this run's configuration, and not for ever")
        accept = self._lambda(
            "Acceptance check",
            "acceptance_check",
            comment="Through InvokeEndpoint: it answers, and the adapter changes the answers",
            payload={"endpoint_name": "{% $run.endpoint_name %}", "dataset": "{% $run.dataset %}"},
            assign={"accepted": "{% $states.result.Payload %}"},
            minutes=15,
        )
        failed = self._endpoint_problem(
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
                "{% $endpointStatus in ['Creating', 'Updating', 'SystemUpdating', 'RollingBack']"
                f" and $polls < {POLLS} %}}"
            ),
            wait,
        )
        serving.otherwise(failed)
        return Part(wait, [accept])

    def _report(self) -> tasks.LambdaInvoke:
        """Also the way to success: an accepted endpoint is not taken down for want of a page."""
        state = self._lambda(
            "Report",
            "write_report",
            comment="A page for people, a record for machines, in the run's folder",
            payload={"state": self._state()},
            assign={"report": "{% $states.result.Payload.report %}"},
            catch=False,
        )
        done = sfn.Succeed.jsonata(
            self,
            "Done",
            comment="Trained, passed, and serving where that was asked for",
            outputs={
                "endpoint_name": "{% $run.deploy ? $run.endpoint_name : null %}",
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

    def _explain_failure(self) -> tasks.LambdaInvoke:
        state = self._lambda(
            "Explain failure",
            "explain_failure",
            comment="Ends what bills, says what happened and what to do next",
            payload={
                "step": "{% $failed.step %}",
                "error": "{% $failed.error %}",
                "run_id": "{% $runId %}",
                "endpoint_name": "{% $run.endpoint_name %}",
                "previous_config": "{% $previousConfig %}",
                "state": self._state(),
            },
            assign={"explained": "{% $states.result.Payload %}"},
            minutes=15,
            catch=False,
        )
        state.next(
            sfn.Fail.jsonata(
                self,
                "Failed",
                comment="Error is one of heartbeat.failures.Name; Cause says what to do",
                error="{% $explained.error %}",
                cause="{% $explained.cause %}",
            )
        )
        unexplained = sfn.Fail.jsonata(
            self,
            "Unexplained failure",
            comment="The explanation failed too: what AWS said of the first failure, as it is",
            error="{% $failed.error.Error %}",
            cause="{% $failed.step & ': ' & $failed.error.Cause & ' (and Explain failure: ' &"
            " $unexplained.Cause & '). Look for endpoints and jobs named ' & $runId & ' that still bill.' %}",
        )
        state.add_catch(unexplained, errors=["States.ALL"], assign={"unexplained": "{% $states.errorOutput %}"})
        return state

    # What the states share.

    def _state(self) -> dict[str, str]:
        """What the report shows of the execution beside the files of the run's folder."""
        return {
            "run": "{% $run %}",
            "training": "{% $training %}",
            "tried": "{% $tried %}",
            "started": "{% $states.context.Execution.StartTime %}",
        }

    def _own(self, part: str) -> str:
        """JSONata for the URI of one folder of this run."""
        folder = getattr(layout.Run("' & $execution.name & '"), part)
        return f"{{% 's3://{self._in.artifact_bucket}/{folder}' %}}"

    def _tags(self) -> list[dict[str, str]]:
        return requests.tags(environment=self._in.environment, run="{% $execution.name %}")

    def _endpoint_problem(self, name: str, cause: str) -> sfn.Pass:
        state = sfn.Pass.jsonata(
            self,
            name,
            comment="The reason, for Explain failure",
            assign={"failed": {"step": "Wait for endpoint", "error": {"Error": "EndpointFailed", "Cause": cause}}},
        )
        state.next(self._explain)
        return state

    def _lambda(
        self,
        name: str,
        function: str,
        *,
        comment: str,
        payload: Mapping[str, Any],
        assign: Mapping[str, Any],
        minutes: int = 2,
        catch: bool = True,
    ) -> tasks.LambdaInvoke:
        state = tasks.LambdaInvoke.jsonata(
            self,
            name,
            comment=comment,
            lambda_function=self._in.functions[function],
            payload=sfn.TaskInput.from_object({"execution": "{% $execution %}", **payload}),
            assign=assign,
            task_timeout=sfn.Timeout.duration(Duration.minutes(minutes)),
            retry_on_service_exceptions=False,
        )
        self._retry(state, LAMBDA_FAULTS)
        if catch:
            self._catch(state, name)
        return state

    def _task(
        self,
        name: str,
        resource: str,
        *,
        comment: str,
        arguments: Mapping[str, Any],
        assign: Mapping[str, Any] | None = None,
        seconds: int | str = 60,
        catch: bool = True,
    ) -> sfn.CustomState:
        """A task that calls a service. The CDK's own task constructs lack fields that the requests need, and write
        a broken AddTags grant for a job name in JSONata; stacks/permissions.py grants what these call."""
        state = sfn.CustomState(
            self,
            name,
            state_json={
                "Type": "Task",
                "Comment": comment,
                "Resource": f"arn:{Aws.PARTITION}:states:::{resource}",
                "Arguments": dict(arguments),
                "TimeoutSeconds": seconds,
                **({"Assign": dict(assign)} if assign else {}),
            },
        )
        self._retry(state, _faults(resource))
        if catch:
            self._catch(state, name)
        return state

    @staticmethod
    def _retry(state: sfn.CustomState | tasks.LambdaInvoke, errors: Sequence[str]) -> None:
        state.add_retry(
            errors=list(errors),
            interval=Duration.seconds(2),
            backoff_rate=2,
            max_attempts=4,
            max_delay=Duration.seconds(30),
            jitter_strategy=sfn.JitterType.FULL,
        )

    def _catch(self, state: sfn.CustomState | tasks.LambdaInvoke, name: str) -> None:
        state.add_catch(
            self._explain,
            errors=["States.ALL"],
            assign={"failed": {"step": name, "error": "{% $states.errorOutput %}"}},
        )


@dataclass(frozen=True)
class Part:
    """Some states that belong together: where they begin, and which of them go on to what comes next."""

    first: sfn.State
    last: Sequence[Any]

    def then(self, following: sfn.IChainable) -> None:
        for state in self.last:
            if isinstance(state, sfn.Choice):
                state.otherwise(following)
            else:
                state.next(following)


def _faults(resource: str) -> list[str]:
    """Throttling and service faults of one integration, by the names that Step Functions gives them."""
    if resource.startswith("sagemaker:"):
        # The optimised integration has one name for throttling, denial and bad requests; the attempts are few.
        return ["SageMaker.AmazonSageMakerException", "SageMaker.ThrottlingException"]
    if resource.startswith("codebuild:"):
        return ["CodeBuild.AWSCodeBuildException", "CodeBuild.ThrottlingException"]
    prefix = {"ecr": "Ecr", "sagemaker": "SageMaker"}[resource.split(":")[1]]
    return [f"{prefix}.ThrottlingException", f"{prefix}.ServerException", f"{prefix}.SdkClientException"]
