"""AWS::S3::Bucket: the properties that ministack's handler drops, handed to the S3 API that each belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import botocore.serialize
from ministack.services import s3
from ministack.services.cloudformation import provisioners

from local_aws.api_model import service_model

Properties = dict[str, Any]
"""The properties of a resource, as the template has them."""


def install() -> None:
    handlers = provisioners._RESOURCE_HANDLERS["AWS::S3::Bucket"]
    create, update, delete = handlers["create"], handlers["update"], handlers["delete"]

    def create_all(logical_id: str, properties: Properties, stack: str) -> Any:
        name, attributes = create(logical_id, properties, stack)
        _apply_bucket(name, properties)
        return name, attributes

    def update_all(physical_id: str, old: Properties, new: Properties, stack: str) -> Any:
        result = update(physical_id, old, new, stack)
        _apply_bucket(result[0], new)
        return result

    def delete_empty(physical_id: str, properties: Properties) -> Any:
        if (s3._buckets.get(physical_id) or {}).get("objects"):
            raise ValueError("The bucket you tried to delete is not empty (Service: S3, Status Code: 409)")
        return delete(physical_id, properties)

    handlers.update(create=create_all, update=update_all, delete=delete_empty)


def _apply_bucket(name: str, properties: Properties) -> None:
    """Hand the properties that have an API of their own to that API."""
    for member, (apply, body) in _BUCKET_PROPERTIES.items():
        if member not in properties:
            continue
        value = properties[member]
        if member == "LoggingConfiguration":
            value = {"DestinationBucketName": name, **value}
        status, _, answer = apply(name, body(value))
        if status >= 300:
            raise ValueError(f"AWS::S3::Bucket {member}: {answer!r}")


def _xml(operation: str, **parameters: Any) -> bytes:
    model = service_model("s3").operation_model(operation)
    serializer = botocore.serialize.create_serializer("rest-xml")
    body = serializer.serialize_to_request({"Bucket": "bucket", **parameters}, model)["body"]
    return body if isinstance(body, bytes) else body.encode()


def as_bool(value: Any) -> bool:
    """A template may write a boolean as text."""
    return str(value).lower() == "true"


def _tagging(tags: list[Properties]) -> bytes:
    pairs = [{"Key": tag["Key"], "Value": str(tag["Value"])} for tag in tags]
    return _xml("PutBucketTagging", Tagging={"TagSet": pairs})


def _encryption(value: Properties) -> bytes:
    rules = []
    for rule in value["ServerSideEncryptionConfiguration"]:
        converted = {"ApplyServerSideEncryptionByDefault": rule["ServerSideEncryptionByDefault"]}
        if "BucketKeyEnabled" in rule:
            converted["BucketKeyEnabled"] = as_bool(rule["BucketKeyEnabled"])
        rules.append(converted)
    return _xml("PutBucketEncryption", ServerSideEncryptionConfiguration={"Rules": rules})


def _lifecycle(value: Properties) -> bytes:
    rules = [_lifecycle_rule(rule) for rule in value["Rules"]]
    return _xml("PutBucketLifecycleConfiguration", LifecycleConfiguration={"Rules": rules})


def _lifecycle_rule(rule: Properties) -> Properties:
    known = {
        "Id",
        "Status",
        "Prefix",
        "ExpirationInDays",
        "ExpiredObjectDeleteMarker",
        "NoncurrentVersionExpiration",
        "NoncurrentVersionTransitions",
        "Transitions",
        "AbortIncompleteMultipartUpload",
    }
    if unknown := sorted(set(rule) - known):
        raise ValueError(f"AWS::S3::Bucket lifecycle rule: {', '.join(unknown)} is not supported by the embedded AWS")
    converted: Properties = {"Status": rule["Status"], "Filter": {"Prefix": rule.get("Prefix", "")}}
    if "Id" in rule:
        converted["ID"] = rule["Id"]
    if "ExpirationInDays" in rule:
        converted["Expiration"] = {"Days": int(rule["ExpirationInDays"])}
    if "ExpiredObjectDeleteMarker" in rule:
        converted["Expiration"] = {"ExpiredObjectDeleteMarker": as_bool(rule["ExpiredObjectDeleteMarker"])}
    if "NoncurrentVersionExpiration" in rule:
        limits = rule["NoncurrentVersionExpiration"].items()
        converted["NoncurrentVersionExpiration"] = {key: int(value) for key, value in limits}
    if "NoncurrentVersionTransitions" in rule:
        converted["NoncurrentVersionTransitions"] = [
            {"StorageClass": step["StorageClass"], "NoncurrentDays": int(step["TransitionInDays"])}
            for step in rule["NoncurrentVersionTransitions"]
        ]
    if "Transitions" in rule:
        converted["Transitions"] = [
            {"StorageClass": step["StorageClass"], "Days": int(step["TransitionInDays"])}
            for step in rule["Transitions"]
        ]
    if "AbortIncompleteMultipartUpload" in rule:
        days = int(rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"])
        converted["AbortIncompleteMultipartUpload"] = {"DaysAfterInitiation": days}
    return converted


def _public_access(value: Properties) -> bytes:
    blocks = {key: as_bool(blocked) for key, blocked in value.items()}
    return _xml("PutPublicAccessBlock", PublicAccessBlockConfiguration=blocks)


def _ownership(value: Properties) -> bytes:
    return _xml("PutBucketOwnershipControls", OwnershipControls=value)


def _access_logs(value: Properties) -> bytes:
    target = {
        "TargetBucket": value["DestinationBucketName"],
        "TargetPrefix": value.get("LogFilePrefix", ""),
    }
    return _xml("PutBucketLogging", BucketLoggingStatus={"LoggingEnabled": target})


_BUCKET_PROPERTIES: dict[str, tuple[Callable[[str, bytes], Any], Callable[[Any], bytes]]] = {
    "Tags": (lambda name, body: s3._put_bucket_tagging(name, body), _tagging),
    "BucketEncryption": (lambda name, body: s3._put_bucket_encryption(name, body), _encryption),
    "LifecycleConfiguration": (lambda name, body: s3._put_bucket_lifecycle(name, body), _lifecycle),
    "PublicAccessBlockConfiguration": (lambda name, body: s3._put_public_access_block(name, body), _public_access),
    "OwnershipControls": (lambda name, body: s3._put_bucket_ownership_controls(name, body), _ownership),
    "LoggingConfiguration": (lambda name, body: s3._put_bucket_logging(name, body), _access_logs),
}
