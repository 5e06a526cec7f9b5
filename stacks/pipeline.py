"""The run itself: roles, handlers, state machine, and the rule that cleans up after an aborted execution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aws_cdk import CfnOutput, CustomResource, Duration, Stack
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sagemaker as sagemaker
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from heartbeat import layout
from heartbeat.endpoint_record import CLEAN_UP_LIMIT
from stacks import base_weights, permissions
from stacks.bundling import stage_lambda
from stacks.endpoint_schedule import schedules, switch_graph
from stacks.registry import Registry
from stacks.rollback import rollback_alarms
from stacks.serving_image import serving_image
from stacks.settings import Settings
from stacks.state_machine import clean_up_graph, run_graph
from stacks.states import EndpointInputs, Inputs
from stacks.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Handler:
    """One Lambda function: its module in lambda/, and what it may do beyond writing its log."""

    grants: Sequence[iam.PolicyStatement]
    environment: Mapping[str, str] = field(default_factory=dict)
    minutes: int = 2
    memory_mib: int = 512


class Pipeline(Stack):
    """`state_machine`, `functions` (by module name), `rollback_alarms` and `endpoint_name`."""

    def __init__(
        self, scope: Construct, construct_id: str, *, settings: Settings, storage: Storage, registry: Registry
    ) -> None:
        super().__init__(scope, construct_id, description="HeartBeat Engine: state machine, handlers and roles")
        self._settings, self._storage, self._registry = settings, storage, registry
        self.endpoint_name = settings.endpoint_name
        self._buckets = permissions.Buckets(
            data=storage.data_bucket,
            artifacts=storage.artifact_bucket,
            key=storage.key,
            extra_datasets=settings.extra_dataset_buckets,
            extra_models=settings.model_buckets,
        )
        self._group = group = sagemaker.CfnModelPackageGroup(
            self,
            "Adapters",
            model_package_group_name=f"heartbeat-{settings.environment}",
            model_package_group_description="Adapters that passed the quality gate",
        )
        group.apply_removal_policy(settings.removal_policy)
        self._names = permissions.Names(
            environment=settings.environment,
            endpoint_name=settings.endpoint_name,
            model_package_group=group.model_package_group_name,
            scheduled=settings.schedule is not None,
            scales_to_zero=settings.endpoint_scale_to_zero,
        )
        self.rollback_alarms = rollback_alarms(self, settings)
        self._alarm_arns = [alarm.alarm_arn for alarm in self.rollback_alarms]
        self.hub_token = base_weights.token_secret(self, settings=settings, key=storage.key)
        self._serving = serving_image(self, settings.vllm_image)
        self._endpoint_role = permissions.endpoint_role(
            self,
            buckets=self._buckets,
            image_repository_arn=self._serving.repository_arn,
            alarm_arns=self._alarm_arns,
            hosts_components=settings.endpoint_scale_to_zero,
        )
        self._code = lambda_.Code.from_asset(str(stage_lambda(gate=settings.gate_path)))
        self.functions = {name: self._function(name, handler) for name, handler in self._handlers().items()}
        self.weights_machine, self.state_machine = self._state_machines()
        self._clean_up_after_abort()
        self.schedule_machine = self._schedule_machine()
        self._end_all_with_the_stack()
        for name, value in (
            ("StateMachineArn", self.state_machine.state_machine_arn),
            ("DataBucketName", storage.data_bucket.bucket_name),
            ("ArtifactBucketName", storage.artifact_bucket.bucket_name),
            ("EndpointName", self.endpoint_name),
            ("BaseModelPrefix", layout.base_model_prefix(settings.base_model, settings.weight_format)),
            ("WeightsStateMachineArn", self.weights_machine.state_machine_arn),
            ("HubTokenSecretArn", self.hub_token.attr_id),
        ):
            CfnOutput(self, name, value=value)

    def _handlers(self) -> dict[str, Handler]:
        buckets, settings = self._buckets, self._settings
        model = {"BASE_MODEL": settings.base_model, "WEIGHT_FORMAT": settings.weight_format}
        token = {"TOKEN_SECRET": self.hub_token.attr_id}
        see_token = base_weights.see_token(self.hub_token.attr_id)
        allowed = [self._storage.data_bucket.bucket_name, *settings.extra_dataset_buckets]
        models = [self._storage.artifact_bucket.bucket_name, *settings.model_buckets]
        endpoint = {
            "ENDPOINT_NAME": self.endpoint_name,
            "ENDPOINT_INSTANCES": str(settings.endpoint_instances),
            "ENDPOINT_MAX_INSTANCES": str(settings.endpoint_max_instances or 0),
            "ENDPOINT_CONCURRENCY": str(settings.endpoint_concurrency),
        }
        zero = {"SCALE_TO_ZERO": "true"} if settings.endpoint_scale_to_zero else {}
        limits = {**zero, "ENDPOINT_MAX_INSTANCES": str(settings.endpoint_max_instances or 1)} if zero else {}
        scaling = {**limits, "ENDPOINT_CONCURRENCY": endpoint["ENDPOINT_CONCURRENCY"]} if zero else {}
        alarms = {"ROLLBACK_ALARMS": ",".join(alarm.alarm_name for alarm in self.rollback_alarms)}
        return {
            "check_dataset": Handler(
                grants=[*buckets.read_datasets(), *buckets.read_models(), *buckets.write_runs()],
                environment={
                    **model,
                    "DATASET_BUCKETS": ",".join(allowed),
                    "MODEL_BUCKETS": ",".join(models),
                },
                minutes=15,
                memory_mib=1024,
            ),
            "make_plan": Handler(
                grants=[
                    *buckets.read_models(),
                    *buckets.write_runs(),
                    *permissions.read_served(self._names, buckets),
                ],
                environment={
                    **model,
                    "SERVING_INSTANCE_TYPES": ",".join(settings.serving_instance_types),
                    "VOLUME_SIZE_GIB": str(settings.volume_size_gib),
                    "ENDPOINT_INSTANCES": str(settings.endpoint_instances),
                    "ENDPOINT_UPDATE": settings.endpoint_update,
                    "ENDPOINT_HOURS_PER_MONTH": f"{settings.schedule.hours_per_month:.1f}" if settings.schedule else "",
                    **limits,
                },
            ),
            "ensure_base_weights": Handler(grants=[*buckets.read_models(), see_token], environment={**model, **token}),
            "plan_weights": Handler(
                grants=[*buckets.read(layout.BASE_MODELS), see_token],
                environment={**model, **token, "HUB_URL": settings.hub_url},
            ),
            "read_weights": Handler(grants=buckets.read(layout.BASE_MODELS)),
            "explain_weights": Handler(grants=[]),
            "read_training": Handler(grants=[*buckets.read(layout.RUNS), *buckets.write_runs()], minutes=15),
            "quality_gate": Handler(grants=[*buckets.read(layout.RUNS), *buckets.write_runs()]),
            "request_approval": Handler(grants=buckets.write_runs()),
            "gather_adapters": Handler(grants=permissions.read_served(self._names, buckets), environment=limits),
            "acceptance_check": Handler(
                grants=[
                    permissions.ask_endpoints(self._names),
                    *buckets.read_datasets(),
                    *buckets.read(layout.RUNS, layout.CHECKPOINTS),
                    *buckets.write_runs(),
                ],
                minutes=15,
            ),
            "claim_endpoint": Handler(grants=permissions.claim_endpoint(self._names, buckets), environment=zero),
            "accept_endpoint": Handler(
                grants=permissions.accept_endpoint(self._names, buckets),
                environment={**endpoint, **limits, "KEEP_PREVIOUS": str(settings.keep_previous)},
            ),
            **(
                {
                    "host_model": Handler(
                        grants=permissions.host_model(self._names, self._endpoint_role, self._alarm_arns),
                        environment={
                            **limits,
                            **alarms,
                            "ENDPOINT_NAME": self.endpoint_name,
                            "ENDPOINT_ROLE_ARN": self._endpoint_role.role_arn,
                            "SERVING_INTERNET": str(settings.serving_internet).lower(),
                        },
                    )
                }
                if zero
                else {}
            ),
            **(
                {
                    "switch_endpoint": Handler(
                        grants=permissions.switch_endpoint(self._names, buckets), environment=endpoint
                    )
                }
                if settings.schedule
                else {}
            ),
            "write_report": Handler(grants=[*buckets.read(layout.RUNS), *buckets.write_runs()]),
            "explain_failure": Handler(
                grants=[
                    *buckets.read(layout.RUNS),
                    *buckets.write_runs(),
                    *permissions.clean_up(self._names, buckets),
                    permissions.allow(["cloudwatch:DescribeAlarmHistory"], self._alarm_arns),
                ],
                environment={
                    "ENDPOINT_NAME": self.endpoint_name,
                    **scaling,
                    **alarms,
                    "BUILD_LOG_GROUP": self._registry.build_log_group.log_group_name,
                },
                minutes=15,
            ),
            "end_all": Handler(
                grants=permissions.end_all(self._names),
                environment={
                    "ENDPOINT_NAME": self.endpoint_name,
                    **zero,
                    "STATE_MACHINE_ARNS": ",".join(self._names.state_machine_arns),
                    "MODEL_PACKAGE_GROUP": "" if settings.retain_data else self._names.model_package_group,
                },
                minutes=15,
            ),
            "clean_up": Handler(
                grants=permissions.clean_up(self._names, buckets),
                environment={"ENDPOINT_NAME": self.endpoint_name, **scaling},
                minutes=15,
            ),
        }

    def _function(self, name: str, handler: Handler) -> lambda_.Function:
        id_ = "".join(word.capitalize() for word in name.split("_"))
        log_group = self._log_group(f"{id_}Log")
        role = iam.Role(
            self,
            f"{id_}Role",
            assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
            description=f"Handler {name} of HeartBeat Engine",
        )
        for statement in handler.grants:
            role.add_to_policy(statement)
        log_group.grant_write(role)
        return lambda_.Function(
            self,
            id_,
            function_name=f"HeartBeat-{self._settings.environment}-{id_}",
            description=f"HeartBeat Engine: lambda/{name}.py",
            runtime=lambda_.Runtime.PYTHON_3_13,
            architecture=lambda_.Architecture.ARM_64,
            handler=f"{name}.handler",
            code=self._code,
            role=role,
            log_group=log_group,
            timeout=Duration.minutes(handler.minutes),
            memory_size=handler.memory_mib,
            environment={
                "ARTIFACT_BUCKET": self._storage.artifact_bucket.bucket_name,
                "ENVIRONMENT": self._settings.environment,
                **handler.environment,
            },
        )

    def _state_machines(self) -> tuple[sfn.StateMachine, sfn.StateMachine]:
        """That of base weights, and that of a run."""
        settings, registry = self._settings, self._registry
        training = permissions.training_role(self, buckets=self._buckets, repository=registry.repository)
        bring = base_weights.weights_role(
            self, buckets=self._buckets, repository=registry.repository, secret_arn=self.hub_token.attr_id
        )
        inputs = Inputs(
            functions=self.functions,
            defaults={
                "dataset": layout.uri(self._storage.data_bucket.bucket_name, settings.default_dataset_key),
                "base_model": settings.base_model_uri,
                "instance_types": list(settings.instance_types),
                "max_runtime_seconds": settings.max_runtime_seconds,
                "budget_usd": settings.budget_usd,
                "use_spot": settings.use_spot,
                "endpoint_name": self.endpoint_name,
            },
            environment=settings.environment,
            artifact_bucket=self._storage.artifact_bucket.bucket_name,
            key_arn=self._storage.key.key_arn,
            repository_name=registry.repository.repository_name,
            image_tag=registry.image_tag,
            image_uri=registry.repository.repository_uri_for_tag(registry.image_tag),
            build_project=registry.build_project.project_name,
            serving_image=self._serving.uri,
            serving_internet=settings.serving_internet,
            serving_falls_back=len(settings.serving_instance_types) > 1,
            model_package_group=self._names.model_package_group,
            weights_machine=self._names.weights_machine,
            weight_format=settings.weight_format,
            training_role_arn=training.role_arn,
            endpoint_role_arn=self._endpoint_role.role_arn,
            endpoint=EndpointInputs(
                name=self.endpoint_name,
                num_instances=settings.endpoint_instances,
                scales=settings.endpoint_max_instances is not None,
                scales_to_zero=settings.endpoint_scale_to_zero,
                update=settings.endpoint_update,
                alarm_names=[alarm.alarm_name for alarm in self.rollback_alarms],
            ),
        )
        weights = self._machine(
            "Weights",
            name=self._names.weights_machine,
            comment="Brings the base weights into the bucket, packs and converts them. {} is a valid input.",
            start=base_weights.bring_graph(self, "Bring", inputs=inputs, role_arn=bring.role_arn, settings=settings),
            statements=base_weights.orchestration(
                names=self._names,
                role_arn=bring.role_arn,
                repository_arn=registry.repository.repository_arn,
                project_arn=registry.build_project.project_arn,
            ),
            timeout=Duration.days(base_weights.EXECUTION_DAYS),
        )
        run = self._machine(
            "",
            name=self._names.state_machine,
            comment="Fine-tunes Llama 4 Scout on a chat dataset and deploys it if it passed. {} is a valid input.",
            start=run_graph(self, "Run", inputs=inputs),
            statements=permissions.orchestration(
                names=self._names,
                training=training,
                endpoint=self._endpoint_role,
                repository_arn=registry.repository.repository_arn,
                project_arn=registry.build_project.project_arn,
                alarm_arns=self._alarm_arns,
            ),
            # Longer than a week's approval and a 28-day job are not told apart from a run that hangs.
            timeout=Duration.days(37),
        )
        return weights, run

    def _machine(
        self,
        id_: str,
        *,
        name: str,
        comment: str,
        start: sfn.State,
        timeout: Duration,
        statements: Sequence[iam.PolicyStatement] = (),
    ) -> sfn.StateMachine:
        role = iam.Role(
            self,
            f"{id_}StateMachineRole",
            assumed_by=permissions.service("states.amazonaws.com"),
            description="State machine of HeartBeat Engine",
        )
        for statement in statements:
            role.add_to_policy(statement)
        return sfn.StateMachine(
            self,
            f"{id_}StateMachine",
            state_machine_name=name,
            comment=comment,
            definition_body=sfn.DefinitionBody.from_chainable(start),
            query_language=sfn.QueryLanguage.JSONATA,
            role=role,
            tracing_enabled=True,
            logs=sfn.LogOptions(
                destination=self._log_group(f"{id_}StateMachineLog"),
                level=sfn.LogLevel.ALL,
                # The history has the data; the log keeps none of it, the approval's task token least of all.
                include_execution_data=False,
            ),
            timeout=timeout,
        )

    def _clean_up_after_abort(self) -> None:
        """A state machine that is stopped runs no further state: a rule starts the clean-up in its place."""
        machine = self._machine(
            "CleanUp",
            name=f"{self._names.state_machine}-CleanUp",
            comment="Ends what an aborted or timed-out run left that bills",
            start=clean_up_graph(self, "CleanUpAborted", function=self.functions["clean_up"]),
            timeout=Duration.hours(CLEAN_UP_LIMIT.total_seconds() / 3600),
        )
        events.Rule(
            self,
            "Aborted",
            description="Ends what an aborted or timed-out execution left that bills",
            event_pattern=events.EventPattern(
                source=["aws.states"],
                detail_type=["Step Functions Execution Status Change"],
                detail={
                    "status": ["ABORTED", "TIMED_OUT"],
                    "stateMachineArn": [
                        self.state_machine.state_machine_arn,
                        self.weights_machine.state_machine_arn,
                    ],
                },
            ),
            targets=[targets.SfnStateMachine(machine)],
        )

    def _schedule_machine(self) -> sfn.StateMachine | None:
        """None where the endpoint is always there."""
        plan = self._settings.schedule
        if plan is None:
            return None
        machine = self._machine(
            "Schedule",
            name=self._names.schedule_machine,
            comment='Switches the endpoint. Input: {"switch": "on"} or {"switch": "off"}.',
            start=switch_graph(self, "Switching", function=self.functions["switch_endpoint"]),
            timeout=Duration.days(1),
        )
        schedules(self, plan=plan, machine=machine, name=f"{self._names.state_machine}-endpoint")
        return machine

    def _end_all_with_the_stack(self) -> None:
        """Deleted first: while what it waits on is there, runs can be stopped and what they made can be ended."""
        function = self.functions["end_all"]
        ending = CustomResource(
            self, "WhatRunsLeft", service_token=function.function_arn, resource_type="Custom::WhatRunsLeft"
        )
        machines = [
            self.state_machine,
            self.weights_machine,
            *([self.schedule_machine] if self.schedule_machine else []),
        ]
        ending.node.add_dependency(function, *machines, self._group)

    def _log_group(self, id_: str) -> logs.LogGroup:
        """Named by CloudFormation: one that was retained does not stand in the way of the next deployment."""
        return logs.LogGroup(
            self,
            id_,
            retention=self._settings.log_retention,
            removal_policy=self._settings.removal_policy,
        )
