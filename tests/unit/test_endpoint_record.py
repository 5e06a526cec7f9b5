"""Who holds an endpoint, and which configurations are kept."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from heartbeat.endpoint_record import CLEAN_UP_LIMIT, EndpointRecord, gives_way

NOW = datetime(2026, 11, 23, tzinfo=UTC)
BEFORE = EndpointRecord(accepted=("b", "a"), unaccepted=("failed",))


def test_a_record_survives_its_file() -> None:
    record = EndpointRecord(holder="arn", previous_config="b", accepted=("b", "a"), unaccepted=("c",))
    assert EndpointRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_a_claim_that_is_made_twice_is_one() -> None:
    claimed = BEFORE.claimed("arn", "c")
    assert claimed.unaccepted == ("c", "failed")
    assert claimed.claimed("arn", "c") == claimed


@pytest.mark.parametrize(
    ("keep_previous", "accepted", "dropped"),
    [
        (0, ("c",), ["a", "failed", "b"]),
        (1, ("c", "b"), ["a", "failed"]),
        (2, ("c", "b", "a"), ["failed"]),
        (9, ("c", "b", "a"), ["failed"]),
    ],
)
def test_what_is_kept_behind_an_accepted_one(keep_previous: int, accepted: tuple[str, ...], dropped: list[str]) -> None:
    record = EndpointRecord(**{**vars(BEFORE.claimed("arn", "c")), "previous_config": "b"})
    later = record.with_accepted("c", keep_previous=keep_previous)
    assert later == EndpointRecord(accepted=accepted)
    assert record.dropped(later) == dropped


def test_what_served_before_is_kept_although_no_run_accepted_it() -> None:
    record = EndpointRecord(holder="arn", previous_config="by hand", accepted=("a",), unaccepted=("c",))
    later = record.with_accepted("c", keep_previous=1)
    assert later.accepted == ("c", "by hand")
    assert record.dropped(later) == ["a"]


def test_letting_go_forgets_only_what_was_deleted() -> None:
    record = BEFORE.claimed("arn", "hb-1-x")
    assert record.released() == EndpointRecord(accepted=("b", "a"), unaccepted=("hb-1-x", "failed"))
    assert record.released(deleted="hb-1").unaccepted == ("failed",)


def test_who_comes_next_is_not_on_the_way_back() -> None:
    back = EndpointRecord(holder="arn", previous_config="b", going_back=True)
    assert EndpointRecord.from_dict(json.loads(json.dumps(back.to_dict()))).going_back
    assert not back.released().going_back
    assert not back.claimed("another", "c").going_back


@pytest.mark.parametrize(
    ("status", "stopped", "expected"),
    [
        ("RUNNING", None, False),
        ("PENDING_REDRIVE", None, False),
        ("SUCCEEDED", NOW, True),
        ("FAILED", NOW, True),
        ("ABORTED", NOW - timedelta(minutes=5), False),  # its clean-up is on its way
        ("TIMED_OUT", NOW - timedelta(minutes=5), False),
        ("ABORTED", NOW - CLEAN_UP_LIMIT - timedelta(seconds=1), True),
    ],
)
def test_when_a_holder_gives_way(status: str, stopped: datetime | None, expected: bool) -> None:
    assert gives_way(status, stopped, NOW) == expected


def test_what_sleeps_is_forgotten_when_another_is_accepted() -> None:
    asleep = EndpointRecord(accepted=("b", "a"), asleep="b")
    assert EndpointRecord.from_dict(json.loads(json.dumps(asleep.to_dict()))) == asleep
    old = {name: value for name, value in asleep.to_dict().items() if name != "asleep"}
    assert EndpointRecord.from_dict(old) == EndpointRecord(accepted=("b", "a")), (
        "a record of before there were schedules"
    )
    claimed = asleep.claimed("arn", "c")
    assert claimed.asleep == claimed.released(deleted="c").asleep == "b"
    later = claimed.with_accepted("c", keep_previous=1)
    assert later == EndpointRecord(accepted=("c", "b"))
