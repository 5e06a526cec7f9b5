"""Application Auto Scaling: what a caller may register, see and end. test_components.py has what scales."""

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


def test_what_cannot_be_registered(account: Account) -> None:
    scaling = account.client("application-autoscaling")
    component = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": "inference-component/none",
        "ScalableDimension": "sagemaker:inference-component:DesiredCopyCount",
    }
    with pytest.raises(ClientError, match="Could not find inference component"):
        scaling.register_scalable_target(**component, MinCapacity=0, MaxCapacity=1)
    with pytest.raises(ClientError, match="MaxCapacity is required"):
        scaling.register_scalable_target(**component, MinCapacity=0)
    with pytest.raises(ClientError, match="between 0 and MaxCapacity"):
        scaling.register_scalable_target(**component, MinCapacity=2, MaxCapacity=1)
    with pytest.raises(ClientError, match="Unsupported service namespace, resource type or scalable dimension"):
        scaling.register_scalable_target(**{**component, "ResourceId": "endpoint"})
    with pytest.raises(ClientError, match="only inference components can have no copy"):
        scaling.register_scalable_target(**requests.scalable_target(endpoint="none", least=0, most=2))
