"""Who may do what: roles that services assume, iam:PassRole, and the resource that a request names.

ministack evaluates the policies. What it lacks are credentials for a service's role outside Lambda (handed out
here only if the role's trust policy names the service) and the ARNs of SageMaker resources.
"""

from __future__ import annotations

import contextvars
import json
import secrets
import threading
import uuid
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config
from ministack.core import iam_actions, iam_evaluator, router
from ministack.core.responses import set_request_account_id, set_request_region
from ministack.services import iam as iam_service
from ministack.services import sts as sts_service

from local_aws.errors import ApiError, invalid
from local_aws.settings import Settings

SAGEMAKER = "sagemaker.amazonaws.com"
STATES = "states.amazonaws.com"
CODEBUILD = "codebuild.amazonaws.com"

_CLIENT_CONFIG = Config(
    retries={"max_attempts": 0},
    parameter_validation=False,  # the service judges the request, as it does in AWS
    s3={"addressing_style": "path"},
    max_pool_connections=64,
    read_timeout=900,
)


@dataclass(frozen=True, kw_only=True)
class Credentials:
    access_key: str
    secret_key: str
    token: str

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_SESSION_TOKEN": self.token,
        }


class Roles:
    """Sessions and boto3 clients of the roles that services assume."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._sessions: dict[tuple[str, str], Credentials] = {}
        self._clients: dict[tuple[str, str, str], Any] = {}
        self._lock = threading.RLock()
        self._boto = boto3.session.Session()

    def in_account(self) -> None:
        """ministack scopes its state by two context variables: set them in a thread of our own."""
        set_request_account_id(self.settings.account)
        set_request_region(self.settings.region)

    def assume(self, role_arn: str, principal: str, session_name: str = "") -> Credentials:
        """Credentials of the role, for the service `principal`.

        Raises ApiError (ValidationException) when the role is missing or does not trust the service.
        """
        self.in_account()
        name = role_arn.rsplit("/", 1)[-1]
        role = iam_service._roles.get(name)
        if role is None or role.get("Arn") != role_arn or not _trusts(role, principal):
            raise invalid(
                f"Could not assume role {role_arn}. Please ensure that the role exists and allows principal "
                f"'{principal}' to assume the role."
            )
        with self._lock:
            known = self._sessions.get((role_arn, principal))
            if known is None:
                known = self._open_session(role, name, session_name or principal.split(".")[0])
                self._sessions[role_arn, principal] = known
            return known

    def _open_session(self, role: Any, name: str, session_name: str) -> Credentials:
        credentials = Credentials(
            access_key="ASIA" + secrets.token_hex(8).upper(),
            secret_key=secrets.token_hex(20),
            token=secrets.token_hex(40),
        )
        session = {
            "Arn": f"arn:aws:sts::{self.settings.account}:assumed-role/{name}/{session_name}",
            "UserId": f"{role.get('RoleId', name)}:{session_name}",
            "SecretAccessKey": credentials.secret_key,
            "SessionToken": credentials.token,
        }
        sts_service.register_session(credentials.access_key, session)
        return credentials

    def client(self, service: str, role_arn: str, principal: str) -> Any:
        """A boto3 client that acts as the role. Clients are kept: they are thread-safe and slow to make."""
        credentials = self.assume(role_arn, principal)
        return self._client(
            service,
            (role_arn, principal),
            aws_access_key_id=credentials.access_key,
            aws_secret_access_key=credentials.secret_key,
            aws_session_token=credentials.token,
        )

    def service_client(self, service: str) -> Any:
        """A boto3 client of AWS itself, for what a service does without a role of the account."""
        return self._client(service, ("", ""), aws_access_key_id=self.settings.account, aws_secret_access_key="local")

    def _client(self, service: str, owner: tuple[str, str], **credentials: str) -> Any:
        with self._lock:
            client = self._clients.get((service, *owner))
            if client is None:
                client = self._boto.client(
                    service,
                    region_name=self.settings.region,
                    endpoint_url=self.settings.url,
                    config=_CLIENT_CONFIG,
                    **credentials,
                )
                client.meta.events.register("after-call", _have_request_id)
                self._clients[(service, *owner)] = client
            return client

    def require(self, role_arn: str, principal: str, action: str, resource: str) -> None:
        """Raise AccessDeniedException unless the role's policies allow the action.

        For what a service does on the account's behalf without a call that could be observed.
        """
        credentials = self.assume(role_arn, principal)
        require(credentials.access_key, action, resource, self.settings.region)


def _have_request_id(parsed: dict[str, Any], **_: Any) -> None:
    """moto's interpreter quotes the request id of every error, which ministack does not always send."""
    parsed.setdefault("ResponseMetadata", {}).setdefault("RequestId", str(uuid.uuid4()))


def _trusts(role: Any, principal: str) -> bool:
    document = role["AssumeRolePolicyDocument"]
    document = json.loads(document) if isinstance(document, str) else document
    statements = document["Statement"]
    for statement in [statements] if isinstance(statements, dict) else statements:
        named = statement.get("Principal", {})
        services = named.get("Service", []) if isinstance(named, dict) else []
        services = [services] if isinstance(services, str) else services
        if statement.get("Effect") == "Allow" and principal in services:
            return True
    return False


def require(access_key: str, action: str, resource: str, region: str, context: dict[str, Any] | None = None) -> None:
    """Raise AccessDeniedException unless the owner of the access key may do `action` on `resource`.

    Runs in a context of its own: a signature that ministack has pinned to the request is not checked again.
    """
    service = action.split(":", 1)[0]

    def evaluate() -> Any:
        iam_evaluator._signed_request.set(None)
        iam_evaluator._anonymous.set(False)
        return iam_evaluator.enforce(
            access_key, action, service, region, resource_arn=resource, service_context=context or {}
        )

    denied = contextvars.copy_context().run(evaluate)
    if denied is not None:
        principal = getattr(denied, "principal_arn", access_key)
        raise ApiError(
            "AccessDeniedException",
            f"User: {principal} is not authorized to perform: {action} on resource: {resource} because no "
            f"identity-based policy allows the {action} action",
        )


def require_pass_role(headers: dict[str, str], role_arn: str | None, service: str, region: str) -> None:
    """The caller of a request that names a role needs iam:PassRole on it for that service."""
    if role_arn:
        access_key = router.extract_access_key_id(headers, {})
        require(access_key, "iam:PassRole", role_arn, region, {"iam:PassedToService": service})


_ARN_MEMBERS = (
    ("TrainingJobName", "training-job"),
    ("InferenceComponentName", "inference-component"),  # CreateInferenceComponent names its endpoint as well
    ("ModelPackageGroupName", "model-package-group"),
    ("EndpointName", "endpoint"),
    ("EndpointConfigName", "endpoint-config"),
    ("ModelName", "model"),
)


def sagemaker_arn(settings: Settings, path: str, target: str, request: dict[str, Any]) -> str:
    """The ARN that a SageMaker request is authorised on."""
    if path.startswith("/endpoints/"):
        return settings.arn("sagemaker", f"endpoint/{path.split('/')[2].lower()}")
    if request.get("ResourceArn"):
        return str(request["ResourceArn"])
    operation = target.rsplit(".", 1)[-1]
    if operation == "CreateModelPackage" and request.get("ModelPackageGroupName"):
        return settings.arn("sagemaker", f"model-package/{_group_name(request).lower()}/*")
    for member in ("ModelPackageArn", "ModelPackageName"):
        if str(request.get(member, "")).startswith("arn:") and "ModelPackage" in operation:
            return str(request[member])
    if operation.endswith(("EndpointConfig", "EndpointConfigs")):
        members = [pair for pair in _ARN_MEMBERS if pair[0] == "EndpointConfigName"]
    else:
        members = list(_ARN_MEMBERS)
    for member, kind in members:
        if member in request:
            name = _group_name(request) if kind == "model-package-group" else str(request[member])
            return settings.arn("sagemaker", f"{kind}/{name.lower()}")
    return "*"


def _group_name(request: dict[str, Any]) -> str:
    return str(request["ModelPackageGroupName"]).rsplit("/", 1)[-1]


def install_sagemaker_actions(settings: Settings) -> None:
    """Teach ministack's request check the namespace and the ARNs of SageMaker."""
    iam_actions.SERVICE_TO_IAM_NAMESPACE["sagemaker"] = "sagemaker"
    iam_actions._BOTOCORE_SERVICE_MAP["sagemaker"] = ["sagemaker-runtime"]
    known = iam_actions.extract_resource_arn

    def extract(
        service: str,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes,
        query: dict[str, Any],
        region: str,
        account: str,
    ) -> Any:
        if service == "codebuild":
            return _codebuild_arn(settings, body) or known(service, method, path, headers, body, query, region, account)
        if service == "logs":
            return _log_arn(known(service, method, path, headers, body, query, region, account), headers, body)
        if service == "monitoring":
            return _alarm_arn(settings, headers, body) or known(
                service, method, path, headers, body, query, region, account
            )
        if service != "sagemaker":
            return known(service, method, path, headers, body, query, region, account)
        try:
            request = json.loads(body or b"{}") if not path.startswith("/endpoints/") else {}
        except ValueError:
            request = {}
        return sagemaker_arn(settings, path, headers.get("x-amz-target", ""), request)

    iam_actions.extract_resource_arn = extract


def _alarm_arn(settings: Settings, headers: dict[str, str], body: bytes) -> str | None:
    """DeleteAlarms names alarms, of which ministack knows nothing; several are authorised as all there are."""
    if headers.get("x-amz-target", "").rsplit(".", 1)[-1] != "DeleteAlarms":
        return None
    names = json.loads(body or b"{}").get("AlarmNames", [])
    return settings.arn("cloudwatch", f"alarm:{names[0]}") if len(names) == 1 else None


_STREAM_ACTIONS = frozenset({"CreateLogStream", "DeleteLogStream", "PutLogEvents", "GetLogEvents"})


def _log_arn(group: Any, headers: dict[str, str], body: bytes) -> Any:
    """Calls about a stream are authorised on the stream, which is why policies grant `log-group:NAME:*`."""
    if headers.get("x-amz-target", "").rsplit(".", 1)[-1] not in _STREAM_ACTIONS or group == "*":
        return group
    return f"{group}:log-stream:{json.loads(body or b'{}').get('logStreamName', '')}"


def _codebuild_arn(settings: Settings, body: bytes) -> str | None:
    """BatchGetBuilds and StopBuild name a build, which is authorised on its project."""
    try:
        request = json.loads(body or b"{}")
    except ValueError:
        return None
    build = request.get("id") or next(iter(request.get("ids") or []), None)
    if not isinstance(build, str) or ":" not in build:
        return None
    name = build.split(":build/")[-1].split(":")[0]
    return settings.arn("codebuild", f"project/{name}")
