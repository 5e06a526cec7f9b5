from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.stacks.reading import Template, only, resources, text

BUCKETS = ("Data", "Artifacts", "AccessLogs")


def bucket(template: Template, name: str) -> dict[str, Any]:
    """Properties of the bucket that the stack calls `name`."""
    (found,) = (each for key, each in resources(template, "AWS::S3::Bucket").items() if key.startswith(name))
    properties: dict[str, Any] = found["Properties"]
    return properties


def rules(template: Template, name: str) -> dict[str, dict[str, Any]]:
    return {rule["Id"]: rule for rule in bucket(template, name)["LifecycleConfiguration"]["Rules"]}


@pytest.mark.parametrize("stack", ["dev-Storage", "prod-Storage"])
@pytest.mark.parametrize("name", BUCKETS)
def test_no_bucket_can_become_public(templates: Mapping[str, Template], stack: str, name: str) -> None:
    properties = bucket(templates[stack], name)
    assert properties["PublicAccessBlockConfiguration"] == {
        "BlockPublicAcls": True,
        "BlockPublicPolicy": True,
        "IgnorePublicAcls": True,
        "RestrictPublicBuckets": True,
    }
    assert properties["OwnershipControls"] == {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}


@pytest.mark.parametrize("name", BUCKETS)
def test_every_bucket_refuses_what_is_not_tls_1_2(templates: Mapping[str, Template], name: str) -> None:
    policies = resources(templates["prod-Storage"], "AWS::S3::BucketPolicy").values()
    (policy,) = (each["Properties"] for each in policies if text(each["Properties"]["Bucket"])[1:].startswith(name))
    denied = [each for each in policy["PolicyDocument"]["Statement"] if each["Effect"] == "Deny"]
    assert [each["Condition"] for each in denied] == [
        {"Bool": {"aws:SecureTransport": "false"}},
        {"NumericLessThan": {"s3:TlsVersion": 1.2}},
    ]
    arn = text(policy["Bucket"]).replace(">", ".Arn>")
    for each in denied:
        assert (each["Action"], each["Principal"]) == ("s3:*", {"AWS": "*"})
        assert [text(resource) for resource in each["Resource"]] == [arn, f"{arn}/*"]


@pytest.mark.parametrize("name", ["Data", "Artifacts"])
def test_data_is_encrypted_under_the_rotated_key(templates: Mapping[str, Template], name: str) -> None:
    template = templates["prod-Storage"]
    (key,) = resources(template, "AWS::KMS::Key")
    assert only(template, "AWS::KMS::Key")["EnableKeyRotation"] is True
    (rule,) = bucket(template, name)["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["BucketKeyEnabled"] is True
    assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
    assert text(rule["ServerSideEncryptionByDefault"]["KMSMasterKeyID"]) == f"<{key}.Arn>"


def test_the_key_is_the_accounts_alone(templates: Mapping[str, Template]) -> None:
    (statement,) = only(templates["prod-Storage"], "AWS::KMS::Key")["KeyPolicy"]["Statement"]
    assert text(statement["Principal"]["AWS"]) == "arn:<AWS::Partition>:iam::<AWS::AccountId>:root"


def test_access_logs_are_encrypted_in_the_way_that_log_delivery_can_write(templates: Mapping[str, Template]) -> None:
    (rule,) = bucket(templates["prod-Storage"], "AccessLogs")["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}


@pytest.mark.parametrize(("name", "prefix"), [("Data", "data/"), ("Artifacts", "artifacts/")])
def test_access_is_logged(templates: Mapping[str, Template], name: str, prefix: str) -> None:
    template = templates["prod-Storage"]
    logging = bucket(template, name)["LoggingConfiguration"]
    assert logging["LogFilePrefix"] == prefix
    assert text(logging["DestinationBucketName"]).startswith("<AccessLogs")


@pytest.mark.parametrize("name", ["Data", "Artifacts"])
def test_overwritten_objects_can_be_had_back_for_a_while(templates: Mapping[str, Template], name: str) -> None:
    assert bucket(templates["prod-Storage"], name)["VersioningConfiguration"] == {"Status": "Enabled"}
    assert rules(templates["prod-Storage"], name)["ExpireOldVersions"]["NoncurrentVersionExpiration"] == {
        "NoncurrentDays": 30
    }


@pytest.mark.parametrize("name", BUCKETS)
def test_no_upload_stays_half_done(templates: Mapping[str, Template], name: str) -> None:
    rule = rules(templates["prod-Storage"], name)["AbortUploads"]
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    assert "Prefix" not in rule


def test_nothing_current_expires_but_checkpoints_and_access_logs(templates: Mapping[str, Template]) -> None:
    expiring = {
        (name, rule.get("Prefix")): rule["ExpirationInDays"]
        for name in BUCKETS
        for rule in rules(templates["prod-Storage"], name).values()
        if "ExpirationInDays" in rule
    }
    assert expiring == {("Artifacts", "checkpoints/"): 14, ("AccessLogs", None): 90}


@pytest.mark.parametrize(("stack", "policy"), [("dev-Storage", "Delete"), ("prod-Storage", "Retain")])
def test_data_is_kept_or_deleted_as_the_setting_says(
    templates: Mapping[str, Template], stack: str, policy: str
) -> None:
    holding = [
        each for kind in ("AWS::S3::Bucket", "AWS::KMS::Key") for each in resources(templates[stack], kind).values()
    ]
    assert len(holding) == 4
    for each in holding:
        assert (each["DeletionPolicy"], each["UpdateReplacePolicy"]) == (policy, policy)


def test_buckets_are_emptied_only_where_they_are_deleted(templates: Mapping[str, Template]) -> None:
    assert len(resources(templates["dev-Storage"], "Custom::S3AutoDeleteObjects")) == 3
    assert not resources(templates["prod-Storage"], "Custom::S3AutoDeleteObjects")
    assert not resources(templates["prod-Storage"], "AWS::Lambda::Function")


def test_no_bucket_has_a_fixed_name(templates: Mapping[str, Template]) -> None:
    for each in resources(templates["prod-Storage"], "AWS::S3::Bucket").values():
        assert "BucketName" not in each["Properties"]
