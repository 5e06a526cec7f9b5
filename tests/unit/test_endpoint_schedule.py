from __future__ import annotations

import pytest

from heartbeat.endpoint_schedule import DAYS, EndpointSchedule
from heartbeat.job import SettingError


def test_hours_of_a_month_are_those_that_bill() -> None:
    weekdays = EndpointSchedule.from_mapping({"on": "07:00", "off": "20:30"})
    assert (weekdays.days, weekdays.time_zone, weekdays.hours_per_day) == (DAYS[:5], "UTC", 13.5)
    assert weekdays.hours_per_month == pytest.approx(13.5 * 5 * 52.14 / 12, rel=1e-3)
    always = EndpointSchedule.from_mapping({"on": "00:00", "off": "23:59", "days": "MON-SUN"})
    assert 729 < always.hours_per_month < 730


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("mon-fri", DAYS[:5]),
        ("SAT, sun", DAYS[5:]),
        ("TUE,MON-TUE", DAYS[:2]),
        ("WED", ("WED",)),
    ],
)
def test_days_are_ranges_and_lists(text: str, days: tuple[str, ...]) -> None:
    assert EndpointSchedule.from_mapping({"on": "07:00", "off": "08:00", "days": text}).days == days


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"off": "20:00"}, "needs on as a time"),
        ({"on": "7:00", "off": "20:00"}, "needs on as a time"),
        ({"on": "07:00", "off": "24:00"}, "needs off as a time"),
        ({"on": "20:00", "off": "07:00"}, "off later than on"),
        ({"on": "07:00", "off": "07:00"}, "off later than on"),
        ({"on": "07:00", "off": "20:00", "days": "FRI-MON"}, "like MON-FRI"),
        ({"on": "07:00", "off": "20:00", "days": "daily"}, "like MON-FRI"),
        ({"on": "07:00", "off": "20:00", "days": ""}, "like MON-FRI"),
        ({"on": "07:00", "off": "20:00", "time_zone": "Mars/Olympus"}, "Mars/Olympus"),
        ({"on": "07:00", "off": "20:00", "timezone": "UTC"}, "'timezone'"),
    ],
)
def test_what_cannot_work_is_refused_by_its_name(given: dict[str, str], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        EndpointSchedule.from_mapping(given)
