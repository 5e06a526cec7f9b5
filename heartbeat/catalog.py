"""The instances that a plan chooses from: GPUs, memory, links and prices, with their source and as-of date."""

from __future__ import annotations

import csv
import difflib
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Literal, cast, get_args

FILE = Path(__file__).with_name("instances.csv")
LINKS = ("nvswitch", "nvlink", "pcie", "none")
OLD_AFTER_DAYS = 90
"""A price that is older is said to be old wherever it is shown."""
PRICE_SOURCE = "AWS Price List API"
PriceStatus = Literal["unverified", "listed", "given"]
"""Read or recalled; from AWS's price list; the user's own."""


class CatalogError(ValueError):
    """A catalogue file that cannot be read; the message names the line and the column."""


class UnknownInstance(LookupError):  # noqa: N818 - what the handlers and the CLI call it
    """An instance type that the catalogue does not have; the message has the nearest names."""


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One instance type. None is unknown."""

    instance_type: str
    gpu: str
    num_gpus: int
    gpu_memory_gib: float
    """Of one GPU."""
    host_memory_gib: float
    link: str
    """How the GPUs are connected: one of LINKS."""
    link_gb_per_second: float | None
    """Between GPUs, of one GPU in one direction."""
    pcie_gb_per_second: float | None
    """From host memory, of one GPU when all of them copy at once."""
    peak_tflops: float | None
    """Of one GPU, dense, bf16."""
    memory_gb_per_second: float | None
    """Of one GPU's own memory, datasheet."""
    bf16: bool
    """Whether the GPU computes in bf16, which the trainer and the server need."""
    usd_per_hour: float | None
    """SageMaker training, on-demand."""
    price_status: PriceStatus
    region: str
    """Of the price."""
    as_of: str
    """Of the price: a day, or a month where no more is known."""
    source: str
    """Of everything but the price."""
    price_source: str
    note: str

    def price_is_old(self, today: date) -> bool:
        """Whether nobody has looked at the price for OLD_AFTER_DAYS; a month counts from its first day."""
        return self.price_status != "given" and (today - _day(self.as_of)).days > OLD_AFTER_DAYS

    def price_note(self, today: date) -> str:
        """`unverified, us-east-1, as of 2026-11`, and that it is old where it is."""
        if self.price_status == "given":
            return "as you gave it"
        old = f", OLD: over {OLD_AFTER_DAYS} days" if self.price_is_old(today) else ""
        return f"{self.price_status}, {self.region}, as of {self.as_of}{old}"


@dataclass(frozen=True)
class Catalog:
    """All known instances by type, in the file's order."""

    instances: Mapping[str, Instance]

    def __iter__(self) -> Iterator[Instance]:
        return iter(self.instances.values())

    def get(self, instance_type: str) -> Instance:
        """Raises UnknownInstance, with the nearest names."""
        found = self.instances.get(instance_type)
        if found is None:
            near = difflib.get_close_matches(instance_type, self.instances, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(self.instances)}"
            raise UnknownInstance(f"{instance_type!r} is not in the catalogue; {hint}")
        return found

    def with_prices(self, usd_per_hour: Mapping[str, float]) -> Catalog:
        """The catalogue with the user's own prices. Raises UnknownInstance, or ValueError for no price."""
        changed = dict(self.instances)
        for name, price in usd_per_hour.items():
            if not (math.isfinite(price) and price >= 0):
                raise ValueError(f"the price of {name} is {price}; it must be USD an hour, 0 or more")
            changed[name] = replace(self.get(name), usd_per_hour=price, price_status="given")
        return Catalog(changed)


def with_listed_prices(text: str, usd_per_hour: Mapping[str, float], *, region: str, today: date) -> str:
    """The catalogue's file with these prices of AWS's list, everything else as it was, comments included.

    A row without a price among them keeps the one it has, with its date. Raises CatalogError.
    """
    parse(text.splitlines(keepends=True))
    comments = [line for line in text.splitlines(keepends=True) if line.startswith("#")]
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    written = io.StringIO()
    writer = csv.DictWriter(written, fieldnames=rows.fieldnames or (), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        price = usd_per_hour.get(row["instance_type"])
        if price is not None:
            row |= {
                "usd_per_hour": f"{price:g}",
                "price_status": "listed",
                "region": region,
                "as_of": today.isoformat(),
                "price_source": PRICE_SOURCE,
            }
        writer.writerow(row)
    return "".join(comments) + written.getvalue()


@lru_cache(maxsize=1)
def load() -> Catalog:
    """The catalogue that HeartBeat comes with."""
    with FILE.open(encoding="utf-8", newline="") as lines:
        return parse(lines)


def parse(lines: Iterable[str]) -> Catalog:
    """A catalogue from CSV with a header; lines that begin with # are comments. Raises CatalogError."""
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if not line.startswith("#")]
    rows = csv.DictReader(line for _, line in numbered)
    instances: dict[str, Instance] = {}
    for (number, _), row in zip(numbered[1:], rows, strict=True):
        instance = _instance(number, row)
        if instance.instance_type in instances:
            raise CatalogError(f"line {number}: {instance.instance_type} is there twice; keep one")
        instances[instance.instance_type] = instance
    if not instances:
        raise CatalogError("the catalogue has no instances")
    return Catalog(instances)


def _instance(line: int, row: Mapping[str, str | None]) -> Instance:
    def text(column: str) -> str:
        value = row.get(column)
        if value is None:
            raise CatalogError(f"line {line}: column {column} is missing")
        return value.strip()

    def number(column: str) -> float | None:
        value = text(column)
        try:
            found = float(value) if value else None
        except ValueError:
            found = math.nan
        if found is not None and not (math.isfinite(found) and found >= 0):
            raise CatalogError(f"line {line}: {column}={value!r} must be a number, or empty for unknown")
        return found

    def known(column: str) -> float:
        found = number(column)
        if not found:
            raise CatalogError(f"line {line}: {column} must be known and above 0")
        return found

    link = text("link")
    if link not in LINKS:
        raise CatalogError(f"line {line}: link={link!r} must be one of {', '.join(LINKS)}")
    status = text("price_status")
    if status not in get_args(PriceStatus):
        raise CatalogError(f"line {line}: price_status={status!r} must be one of {', '.join(get_args(PriceStatus))}")
    try:
        _day(text("as_of"))
    except ValueError:
        raise CatalogError(f"line {line}: as_of={text('as_of')!r} must be a month or a day, such as 2026-11") from None
    return Instance(
        instance_type=text("instance_type"),
        gpu=text("gpu"),
        num_gpus=int(known("num_gpus")),
        gpu_memory_gib=known("gpu_memory_gib"),
        host_memory_gib=known("host_memory_gib"),
        link=link,
        link_gb_per_second=number("link_gb_per_second"),
        pcie_gb_per_second=number("pcie_gb_per_second"),
        peak_tflops=number("peak_tflops"),
        memory_gb_per_second=number("memory_gb_per_second"),
        bf16=text("bf16") == "yes",
        usd_per_hour=number("usd_per_hour"),
        price_status=cast(PriceStatus, status),
        region=text("region"),
        as_of=text("as_of"),
        source=text("source"),
        price_source=text("price_source"),
        note=text("note"),
    )


def _day(as_of: str) -> date:
    return date.fromisoformat(as_of if len(as_of) > len("2026-11") else f"{as_of}-01")
