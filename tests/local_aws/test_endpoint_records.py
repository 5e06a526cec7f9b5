"""The records of endpoints, written by many at once through S3's conditional writes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

import aws
import endpoint_records
from heartbeat.endpoint_record import EndpointRecord
from tests.local_aws.conftest import Account

pytestmark = pytest.mark.usefixtures("handlers_signed_in")


def test_no_write_is_lost(account: Account) -> None:
    name = account.name("endpoint")
    configs = [f"config-{number}" for number in range(6)]

    def add(config: str) -> None:
        endpoint_records.change(name, lambda record: replace(record, unaccepted=(*record.unaccepted, config)))

    aws.client("s3")  # made once: boto3's session is not for many threads
    with ThreadPoolExecutor(len(configs)) as pool:
        list(pool.map(add, configs))
    assert sorted(endpoint_records.read(name).unaccepted) == configs


def test_of_many_claims_one_counts(account: Account) -> None:
    name = account.name("endpoint")

    def claim(execution: str) -> str | None:
        def claimed(record: EndpointRecord) -> EndpointRecord:
            return record if record.holder else record.claimed(execution, f"config of {execution}")

        return endpoint_records.change(name, claimed).holder

    aws.client("s3")
    with ThreadPoolExecutor(6) as pool:
        holders = set(pool.map(claim, [f"arn-{number}" for number in range(6)]))
    assert len(holders) == 1
    assert endpoint_records.read(name).holder in holders


def test_a_change_that_fails_leaves_the_record(account: Account) -> None:
    name = account.name("endpoint")
    kept = endpoint_records.change(name, lambda record: record.claimed("arn", "config"))
    with pytest.raises(ZeroDivisionError):
        endpoint_records.change(name, lambda _: 1 // 0)  # type: ignore[arg-type, return-value]
    assert endpoint_records.read(name) == kept
    assert endpoint_records.read(account.name("other")) == EndpointRecord()


@pytest.mark.parametrize(
    ("holder", "says"),
    [
        ("HeartBeat-dev:nightly", "run nightly is deploying to endpoint {} (python -m heartbeat watch nightly)"),
        ("HeartBeat-dev-Schedule:x", "endpoint {} is being switched on or off"),
    ],
)
def test_who_holds_an_endpoint_is_said_until_it_has_ended(
    account: Account, monkeypatch: pytest.MonkeyPatch, holder: str, says: str
) -> None:
    name = account.name("endpoint")
    arn = f"arn:aws:states:us-east-1:123456789012:execution:{holder}"
    endpoint_records.change(name, lambda record: record.claimed(arn, "config"))
    with monkeypatch.context() as running:
        running.setattr(endpoint_records, "_gives_way", lambda _: False)
        with pytest.raises(endpoint_records.HeldError) as held:
            endpoint_records.claim(name, "another", lambda record: record.claimed("another", "other"))
        assert str(held.value) == says.format(name)
        assert endpoint_records.claim(name, arn, lambda _: EndpointRecord()).holder == arn, "its own is not made anew"
    taken = endpoint_records.claim(name, "another", lambda record: record.claimed("another", "other"))
    assert (taken.holder, taken.unaccepted) == ("another", ("other", "config")), (
        "Step Functions knows no such execution"
    )
