"""Application Auto Scaling of endpoints: what a caller may register, see and end."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError

from heartbeat import requests
from tests.local_aws.conftest import Account


def test_an_endpoint_that_is_not_there_cannot_be_scaled(account: Account) -> None:
    scaling = account.client("application-autoscaling")
    with pytest.raises(ClientError, match="Could not find endpoint"):
        scaling.register_scalable_target(**requests.scalable_target(endpoint="none", least=1, most=2))
    with pytest.raises(ClientError, match="No scalable target found") as missing:
        scaling.deregister_scalable_target(**requests.scaled_variant("none"))
    assert missing.value.response["Error"]["Code"] == "ObjectNotFoundException"
    assert scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"] == []
