"""The instances that a plan chooses from: GPUs, memory, links and prices, with their source and as-of date."""

from __future__ import annotations

import csv
import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

FILE = Path(__file__).with_name("instances.csv")
LINKS = ("nvswitch", "nvlink", "pcie", "none")


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
    """From host memory, of one GPU."""
    peak_tflops: float | None
    """Of one GPU, dense, bf16."""
    bf16: bool
    """Whether the GPU computes in bf16, which the trainer and the server need."""
    usd_per_hour: float | None
    """SageMaker on-demand."""
    price_status: str
    """"unverified", or "given" where the user set it."""
    region: str
    as_of: str
    source: str
    note: str


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
        bf16=text("bf16") == "yes",
        usd_per_hour=number("usd_per_hour"),
        price_status=text("price_status"),
        region=text("region"),
        as_of=text("as_of"),
        source=text("source"),
        note=text("note"),
    )
