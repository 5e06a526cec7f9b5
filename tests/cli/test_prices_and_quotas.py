"""What AWS is asked about prices and quotas, and what becomes of its answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from heartbeat import catalog
from heartbeat.cli import account, quotas
from heartbeat.cli import catalog as command
from heartbeat.cli.errors import UserError

NAMES = ["ml.p4d.24xlarge", "ml.p5.4xlarge"]


@pytest.fixture
def aws() -> Iterator[tuple[Any, Stubber]]:
    client = boto3.client("pricing", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    with Stubber(client) as stub:
        yield client, stub
        stub.assert_no_pending_responses()


def product(name: str, usd: str, unit: str = "Hrs") -> str:
    """As AWS's list has it, in parts that count."""
    dimension = {"unit": unit, "pricePerUnit": {"USD": usd}}
    return json.dumps(
        {
            "product": {"attributes": {"instanceName": name}},
            "terms": {"OnDemand": {"A.B": {"priceDimensions": {"A.B.C": dimension}}}},
        }
    )


def answer(stub: Stubber, component: str, *products: str, **more: str) -> None:
    filters = [
        {"Type": "TERM_MATCH", "Field": "regionCode", "Value": "eu-west-1"},
        {"Type": "TERM_MATCH", "Field": "component", "Value": component},
    ]
    token = {"NextToken": more.pop("after")} if "after" in more else {}
    stub.add_response(
        "get_products",
        {"FormatVersion": "aws_v1", "PriceList": list(products), **more},
        {"ServiceCode": "AmazonSageMaker", "Filters": filters, **token},
    )


def test_prices_are_those_of_training_or_else_of_hosting(aws: tuple[Any, Stubber]) -> None:
    client, stub = aws
    answer(stub, "Training", product("ml.p4d.24xlarge", "24.5"), product("ml.m5.large", "0.1"), NextToken="more")
    answer(stub, "Training", product("ml.p4d.24xlarge", "0"), after="more")
    answer(stub, "Hosting", product("ml.p4d.24xlarge", "25"), product("ml.p5.4xlarge", "6.88"))
    assert command.listed_prices(client, NAMES, region="eu-west-1") == {"ml.p4d.24xlarge": 24.5, "ml.p5.4xlarge": 6.88}


def test_what_is_not_by_the_hour_is_no_price(aws: tuple[Any, Stubber]) -> None:
    client, stub = aws
    answer(stub, "Training", product("ml.p5.4xlarge", "9", unit="Quantity"))
    answer(stub, "Hosting")
    assert command.listed_prices(client, NAMES, region="eu-west-1") == {}


def test_two_prices_for_one_are_refused(aws: tuple[Any, Stubber]) -> None:
    client, stub = aws
    answer(stub, "Training", product("ml.p5.4xlarge", "7"), product("ml.p5.4xlarge", "6.5"))
    with pytest.raises(UserError, match=r"AWS lists \$6\.5, \$7 for ml\.p5\.4xlarge"):
        command.listed_prices(client, NAMES, region="eu-west-1")


def test_a_refusal_of_aws_is_passed_on(aws: tuple[Any, Stubber]) -> None:
    client, stub = aws
    stub.add_client_error("get_products", "AccessDeniedException")
    with pytest.raises(ClientError):
        command.listed_prices(client, NAMES, region="eu-west-1")


def test_the_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "instances.csv"
    file.write_bytes(catalog.FILE.read_bytes())
    command.write(file, {"ml.p5.4xlarge": 6.88}, region="eu-west-1", today=date(2027, 3, 1))
    found = catalog.parse(file.read_text().splitlines(keepends=True)).get("ml.p5.4xlarge")
    assert (found.usd_per_hour, found.price_status, found.region) == (6.88, "listed", "eu-west-1")
    file.write_text("instance_type\nbroken\n")
    with pytest.raises(catalog.CatalogError):
        command.write(file, {"ml.p5.4xlarge": 1.0}, region="eu-west-1", today=date(2027, 3, 1))
    assert file.read_text() == "instance_type\nbroken\n"
    assert [path.name for path in tmp_path.iterdir()] == ["instances.csv"]


def quota(name: str, value: float) -> dict[str, Any]:
    return {"ServiceCode": "sagemaker", "QuotaName": name, "Value": value}


@pytest.mark.parametrize(
    ("spot", "expected"), [(False, {"ml.p5.4xlarge": 2, "ml.g5.xlarge": 1}), (True, {"ml.p4d.24xlarge": 3})]
)
def test_the_accounts_quota_wins_over_the_default(spot: bool, expected: dict[str, int]) -> None:
    client = boto3.client("service-quotas", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    with Stubber(client) as stub:
        defaults = [
            quota("ml.p5.4xlarge for training job usage", 0.0),
            quota("ml.g5.xlarge for training job usage", 1.0),
            quota("ml.p5.4xlarge for endpoint usage", 7.0),
            quota("ml.p4d.24xlarge for spot training job usage", 3.0),
        ]
        asked = {"ServiceCode": "sagemaker"}
        stub.add_response("list_aws_default_service_quotas", {"Quotas": defaults}, asked)
        own = [quota("ml.p5.4xlarge for training job usage", 2.0)]
        stub.add_response("list_service_quotas", {"Quotas": own}, asked)
        found = quotas.training_quotas(client, spot=spot)
    assert found == expected


def test_the_region_may_be_named_as_other_sdks_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    account.client.cache_clear()
    assert account.client("service-quotas").meta.region_name == "eu-west-1"
    assert account.client("pricing", "us-east-1").meta.region_name == "us-east-1"
    account.client.cache_clear()


def test_credentials_are_looked_for_before_anybody_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*quotas._HINTS, "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "config"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    assert not quotas.may_ask()
    config.write_text("[default]")
    assert quotas.may_ask()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:4566")  # the demo's, which has no quotas
    assert not quotas.may_ask()
