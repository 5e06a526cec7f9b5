"""When the app's endpoint exists: from a time of day to another, on some days, in one time zone.

An endpoint bills for as long as it exists. Off means deleted, on means made again of the configuration that served.
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass

from heartbeat.job import SettingError

DAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
WEEKS_PER_MONTH = 730 / 168
"""Of a month of 730 hours, which AWS's price lists count with."""
_TIME = re.compile(r"(?:[01]\d|2[0-3]):[0-5]\d")
_FIELDS = ("on", "off", "days", "time_zone")


@dataclass(frozen=True, kw_only=True)
class EndpointSchedule:
    """Both times as HH:MM, `off` later than `on` of the same day. Days of DAYS. Raises SettingError."""

    on: str
    off: str
    days: tuple[str, ...] = DAYS[:5]
    time_zone: str = "UTC"

    @classmethod
    def from_mapping(cls, given: Mapping[str, str]) -> EndpointSchedule:
        """`{"on": "07:00", "off": "20:00", "days": "MON-FRI", "time_zone": "America/Toronto"}`; the last two may be
        left out. Raises SettingError that names the field."""
        if unknown := sorted(set(given) - set(_FIELDS)):
            raise SettingError(f"has the field {unknown[0]!r}; there are {', '.join(_FIELDS)}")
        for name in ("on", "off"):
            if not _TIME.fullmatch(given.get(name, "")):
                raise SettingError(f"needs {name} as a time from 00:00 to 23:59, like 07:30")
        if given["on"] >= given["off"]:
            raise SettingError("must have off later than on: it is on during the day and off at night")
        zone = given.get("time_zone", "UTC")
        # A machine without a list of time zones knows UTC only; EventBridge will tell.
        known = zoneinfo.available_timezones()
        if known and zone not in known:
            raise SettingError(f"has the time_zone {zone!r}, which is none; give a name like America/Toronto")
        return cls(on=given["on"], off=given["off"], days=_days(given.get("days", "MON-FRI")), time_zone=zone)

    @property
    def hours_per_day(self) -> float:
        return (_minutes(self.off) - _minutes(self.on)) / 60

    @property
    def hours_per_month(self) -> float:
        """Of an endpoint that is made and deleted on time."""
        return self.hours_per_day * len(self.days) * WEEKS_PER_MONTH


def _days(text: str) -> tuple[str, ...]:
    found: set[str] = set()
    for part in text.upper().replace(" ", "").split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last or first) not in DAYS or DAYS.index(last or first) < DAYS.index(first):
            raise SettingError(f"has days={text!r}; give days from MON to SUN, like MON-FRI or TUE,THU")
        found |= set(DAYS[DAYS.index(first) : DAYS.index(last or first) + 1])
    return tuple(day for day in DAYS if day in found)


def _minutes(time: str) -> int:
    hours, minutes = time.split(":")
    return int(hours) * 60 + int(minutes)
