"""Where ministack is kinder than AWS, or vaguer: small corrections to single services."""

from __future__ import annotations

import json
import logging
import subprocess
import time
import types
from typing import Any

from ministack import app
from ministack.core import iam_actions, iam_evaluator, lambda_runtime
from ministack.core.responses import error_response_json, json_response
from ministack.services import cloudwatch, cloudwatch_logs, ecr, eventbridge, lambda_svc, s3

from local_aws.containers import spawn
from local_aws.settings import Settings

logger = logging.getLogger("local_aws")
_KEY_HEADER = "x-amz-server-side-encryption-aws-kms-key-id"


def install(settings: Settings) -> None:
    _trust_loopback()
    _require_kms_for_objects(settings)
    _evaluate_alarms_on_their_dimensions()
    _report_lambda_errors_as_aws()
    _import_only_what_lambda_has()
    _end_lambda_workers_with_the_server()
    _report_missing_images()
    _ask_permission_to_invoke_from_events()
    _filter_logs_by_stream_prefix()


def _trust_loopback() -> None:
    """Loopback stands for TLS, or every bucket policy that enforces aws:SecureTransport would deny all."""

    def pin(client_address: str, _secure: bool) -> None:
        iam_evaluator._request_origin.set((client_address, True))

    app.pin_request_origin = pin


# --- S3 and KMS -----------------------------------------------------------------------------------------------


def _require_kms_for_objects(settings: Settings) -> None:
    """Writing an object under a KMS key needs kms:GenerateDataKey, reading it kms:Decrypt."""
    resolve, checks = s3._resolve_sse_write_headers, iam_actions.s3_additional_checks

    def resolve_default_key(headers: dict[str, str], bucket: str) -> Any:
        if headers.get("x-amz-server-side-encryption") == "aws:kms" and not headers.get(_KEY_HEADER):
            key = s3._bucket_default_sse_headers(bucket).get(_KEY_HEADER) or "alias/aws/s3"
            headers = {**headers, _KEY_HEADER: key}
        return resolve(headers, bucket)

    def with_kms(method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, Any]) -> Any:
        needed = list(checks(method, path, headers, body, query))
        bucket, _, key = path.strip("/").partition("/")
        if not key or method not in ("PUT", "GET", "POST", "HEAD") or {"tagging", "acl"} & set(query):
            return needed
        reading, upload = method in ("GET", "HEAD"), _upload(query)
        if reading:
            actions, encryption = ["kms:Decrypt"], _stored_encryption(bucket, key)
        elif upload is not None:  # the key was named when the upload began; its parts are read back too
            actions, encryption = ["kms:GenerateDataKey", "kms:Decrypt"], s3._stored_sse_headers(upload)
        else:
            actions, encryption = ["kms:GenerateDataKey"], resolve_default_key(headers, bucket)[0]
        kms_key = (encryption or {}).get(_KEY_HEADER)
        if kms_key and "alias/aws/" not in kms_key:
            needed += [(action, _key_arn(settings, kms_key)) for action in actions]
        return needed

    s3._resolve_sse_write_headers = resolve_default_key
    iam_actions.s3_additional_checks = with_kms


def _stored_encryption(bucket: str, key: str) -> dict[str, str]:
    stored = ((s3._buckets.get(bucket) or {}).get("objects") or {}).get(key) or {}
    headers: dict[str, str] = s3._stored_sse_headers(stored)
    return headers


def _upload(query: dict[str, Any]) -> dict[str, Any] | None:
    """The multipart upload that a request belongs to."""
    upload_id = query.get("uploadId")
    upload_id = upload_id[0] if isinstance(upload_id, list) else upload_id
    upload: dict[str, Any] | None = s3._multipart_uploads.get(upload_id) if upload_id else None
    return upload


def _key_arn(settings: Settings, key: str) -> str:
    return key if key.startswith("arn:") else settings.arn("kms", f"key/{key}")


# --- CloudWatch -----------------------------------------------------------------------------------------------


_WITHOUT_DATA = {
    "notBreaching": ("OK", "Threshold Crossed: no datapoints were received, which is treated as NonBreaching."),
    "missing": ("INSUFFICIENT_DATA", "Insufficient Data: no datapoints were received."),
}
"""TreatMissingData -> what an alarm without recent data becomes, and why."""


def _evaluate_alarms_on_their_dimensions() -> None:
    """ministack merges every series of a metric; an alarm has one, that of its own dimensions. And it leaves an alarm
    as it is when data stop coming, where AWS does what TreatMissingData says."""
    evaluate = cloudwatch._evaluate_alarm

    def evaluate_own(alarm: dict[str, Any]) -> None:
        wanted = {d["Name"]: d["Value"] for d in alarm.get("Dimensions") or []}
        every = list(cloudwatch._metrics.items())
        own = {key: points for key, points in every if points and _has(points[0], wanted)}
        # The same code over a smaller store: swapping the global would lose what other threads record meanwhile.
        narrowed = types.FunctionType(evaluate.__code__, {**evaluate.__globals__, "_metrics": own})
        narrowed(alarm)
        since = time.time() - alarm.get("Period", 60) * alarm.get("EvaluationPeriods", 1)
        metric = (alarm.get("Namespace"), alarm.get("MetricName"))
        is_silent = not any(p["Timestamp"] >= since for key, points in own.items() if key[:2] == metric for p in points)
        state, reason = _WITHOUT_DATA.get(alarm.get("TreatMissingData", "missing"), (alarm["StateValue"], ""))
        if is_silent and alarm["StateValue"] != state:
            cloudwatch._record_history(alarm["AlarmName"], alarm["StateValue"], state, reason)
            alarm.update(StateValue=state, StateReason=reason, StateUpdatedTimestamp=int(time.time()))

    cloudwatch._evaluate_alarm = evaluate_own


def _has(point: dict[str, Any], dimensions: dict[str, str]) -> bool:
    return bool(point.get("Dimensions", {}) == dimensions)


# --- Lambda ---------------------------------------------------------------------------------------------------

_MARK = "\x01"
_PLAIN = '"error": str(e), "trace": traceback.format_exc()}'
_AS_AWS = (
    '"error": "\\x01" + json.dumps({"errorMessage": str(e), "errorType": type(e).__name__, '
    '"requestId": context.aws_request_id, "stackTrace": traceback.format_tb(e.__traceback__)[1:]}), '
    '"trace": traceback.format_exc()}'
)
_RUNTIME_ERRORS = {
    "Worker init failed": "Runtime.ImportModuleError",
    "Worker process died": "Runtime.ExitError",
}


def _report_lambda_errors_as_aws() -> None:
    """A Python handler's exception carries its class name and stack, as the Lambda runtime reports it."""
    script = lambda_runtime._PYTHON_WORKER_SCRIPT
    if _PLAIN not in script:
        raise RuntimeError("ministack's Python worker has changed: local_aws pins ministack 1.5.33")
    lambda_runtime._PYTHON_WORKER_SCRIPT = script.replace(_PLAIN, _AS_AWS)
    execute = lambda_svc._execute_function_warm

    def execute_and_unpack(function: Any, event: Any, request_id: str) -> Any:
        result = execute(function, event, request_id)
        body = result.get("body")
        if result.get("error") and isinstance(body, dict):
            message = str(body.get("errorMessage", ""))
            if message.startswith(_MARK):
                result["body"] = json.loads(message[len(_MARK) :])
            for beginning, error_type in _RUNTIME_ERRORS.items():
                if message.startswith(beginning):
                    body["errorType"] = error_type
        return result

    lambda_svc._execute_function_warm = execute_and_unpack


_ONLY_LAMBDA = """
import os as _os, sys as _sys

class _OnlyLambda:
    brought = {"boto3", "botocore", "s3transfer", "jmespath", "dateutil", "urllib3", "six", "snapshot_restore_py"}

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if path is not None or top in _sys.stdlib_module_names or top in self.brought:
            return None
        root = _os.environ.get("LAMBDA_TASK_ROOT", "")
        for folder in (root, *(entry for entry in _sys.path if entry.startswith(_os.path.join(root, "")))):
            own = _os.path.join(folder, top)
            if _os.path.exists(own) or _os.path.exists(own + ".py"):
                return None
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

_sys.meta_path.insert(0, _OnlyLambda())
"""


def _import_only_what_lambda_has() -> None:
    """A handler sees its own zip, the standard library and boto3; not the rest of this environment.

    A package that the zip brings for Lambda's processor is taken from this environment, if sys.path has that first.
    """
    lambda_runtime._PYTHON_WORKER_SCRIPT = _ONLY_LAMBDA + lambda_runtime._PYTHON_WORKER_SCRIPT


def _end_lambda_workers_with_the_server() -> None:
    """Lambda workers are started like every other child, so that they die with the server."""
    wrapped = types.ModuleType("subprocess")
    wrapped.__dict__.update(subprocess.__dict__)
    wrapped.__dict__["Popen"] = lambda arguments, **options: spawn(arguments, **options)
    lambda_runtime.subprocess = wrapped


# --- ECR ------------------------------------------------------------------------------------------------------


def _report_missing_images() -> None:
    """DescribeImages of an image that is not there is an error, not an empty list."""
    describe = ecr._describe_images

    def describe_or_fail(request: dict[str, Any]) -> Any:
        name = request.get("repositoryName", "")
        for image in request.get("imageIds") or []:
            if name in ecr._repositories and ecr._find_image(name, image) is None:
                wanted = ", ".join(
                    f"{member}:'{image.get(member) or 'null'}'" for member in ("imageDigest", "imageTag")
                )
                message = f"The image with imageId {{{wanted}}} does not exist within the repository with name '{name}'"
                return error_response_json("ImageNotFoundException", message, 400)
        return describe(request)

    ecr._describe_images = describe_or_fail


# --- EventBridge ----------------------------------------------------------------------------------------------


def _ask_permission_to_invoke_from_events() -> None:
    """A rule reaches a function only if the function's policy lets events.amazonaws.com in."""
    dispatch = eventbridge._dispatch_to_lambda

    def dispatch_if_allowed(arn: str, payload: str) -> Any:
        function, _, _ = lambda_svc._get_func_record_for_ref(arn)
        statements = ((function or {}).get("policy") or {}).get("Statement", [])
        if not any(_lets_events_in(statement) for statement in statements):
            logger.warning("EventBridge may not invoke %s: add an AWS::Lambda::Permission", arn)
            return None
        return dispatch(arn, payload)

    eventbridge._dispatch_to_lambda = dispatch_if_allowed


def _lets_events_in(statement: dict[str, Any]) -> bool:
    principal = statement.get("Principal", {})
    service = principal.get("Service") if isinstance(principal, dict) else principal
    return bool(statement.get("Effect") == "Allow" and service == "events.amazonaws.com")


# --- CloudWatch Logs ------------------------------------------------------------------------------------------


def _filter_logs_by_stream_prefix() -> None:
    """FilterLogEvents honours logStreamNamePrefix."""
    filter_events = cloudwatch_logs._filter_log_events

    def filter_by_prefix(request: dict[str, Any]) -> Any:
        prefix = request.get("logStreamNamePrefix")
        group = cloudwatch_logs._log_groups.get(cloudwatch_logs._resolve_log_group_name(request))
        if prefix is None or group is None:
            return filter_events(request)
        names = [name for name in group["streams"] if name.startswith(prefix)]
        if not names:
            return json_response({"events": [], "searchedLogStreams": []})
        return filter_events({**request, "logStreamNames": names})

    cloudwatch_logs._filter_log_events = filter_by_prefix
