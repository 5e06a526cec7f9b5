"""Requests against botocore's models, without a server."""

from __future__ import annotations

from typing import Any

import pytest

from local_aws.api_model import check
from local_aws.errors import ApiError
from local_aws.iam import sagemaker_arn
from local_aws.sagemaker import event_stream_message
from local_aws.settings import Settings


def test_a_request_that_fits_passes() -> None:
    check("sagemaker", "ListTrainingJobs", {"NameContains": "hb-", "MaxResults": 10})


@pytest.mark.parametrize(
    ("operation", "request_", "message"),
    [
        ("CreateEndpoint", {"EndpointName": "a"}, 'Missing required parameter in input: "EndpointConfigName"'),
        ("ListModels", {"Name": "a"}, 'Unknown parameter in input: "Name"'),
        ("ListModels", {"MaxResults": "10"}, "Invalid type for parameter MaxResults"),
        ("ListModels", {"MaxResults": 101}, "less than or equal to 100"),
        ("ListModels", {"SortOrder": "Up"}, r"enum value set: \[Ascending, Descending\]"),
        ("DescribeModel", {"ModelName": "a b"}, "regular expression pattern"),
        ("DescribeModel", {"ModelName": "a" * 64}, "length less than or equal to 63"),
    ],
)
def test_a_request_that_does_not_fit_is_refused(operation: str, request_: dict[str, Any], message: str) -> None:
    with pytest.raises(ApiError, match=message) as refused:
        check("sagemaker", operation, request_)
    assert refused.value.code == "ValidationException"


def test_an_unknown_operation() -> None:
    with pytest.raises(ApiError, match="CreateMagic is not an operation") as refused:
        check("sagemaker", "CreateMagic", {})
    assert refused.value.code == "UnknownOperationException"


@pytest.mark.parametrize(
    ("operation", "request_", "resource"),
    [
        ("CreateTrainingJob", {"TrainingJobName": "HB-1"}, "training-job/hb-1"),
        ("UpdateEndpoint", {"EndpointName": "E", "EndpointConfigName": "c"}, "endpoint/e"),
        ("CreateEndpointConfig", {"EndpointConfigName": "c"}, "endpoint-config/c"),
        ("CreateModel", {"ModelName": "m"}, "model/m"),
        ("CreateModelPackage", {"ModelPackageGroupName": "g"}, "model-package/g/*"),
        ("DescribeModelPackageGroup", {"ModelPackageGroupName": "g"}, "model-package-group/g"),
    ],
)
def test_resources_are_those_that_iam_checks(
    operation: str, request_: dict[str, Any], resource: str, tmp_path: Any
) -> None:
    settings = Settings(port=4566, root=tmp_path)
    expected = f"arn:aws:sagemaker:us-east-1:123456789012:{resource}"
    assert sagemaker_arn(settings, "/", f"SageMaker.{operation}", request_) == expected


def test_an_invocation_is_checked_on_its_endpoint(tmp_path: Any) -> None:
    settings = Settings(port=4566, root=tmp_path)
    arn = sagemaker_arn(settings, "/endpoints/Mine/invocations", "", {})
    assert arn.endswith(":endpoint/mine")


def test_an_event_stream_message_is_what_botocore_reads() -> None:
    from botocore.eventstream import EventStreamBuffer

    buffer = EventStreamBuffer()
    buffer.add_data(event_stream_message(b"hello"))
    (event,) = list(buffer)
    assert event.payload == b"hello"
    assert event.headers[":event-type"] == "PayloadPart"
