"""`catalog`: the instances that plans choose from, and their prices, renewed from AWS."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from heartbeat import catalog
from heartbeat.catalog import Catalog
from heartbeat.cli import screen
from heartbeat.cli.errors import UserError

PRICING_REGION = "us-east-1"
"""The Price List API answers in a few Regions only, for all of them."""
COMPONENTS = ("Training", "Hosting")
"""What of SageMaker a price is for; hosting's where an instance is not for training."""


def run(arguments: argparse.Namespace) -> int:
    known = catalog.load()
    if arguments.action == "refresh":
        _refresh(known, arguments.region)
    else:
        _show(known)
    return 0


def _refresh(known: Catalog, region: str | None) -> None:
    from heartbeat.cli.account import client

    names = list(known.instances)
    region = region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    with screen.phase("AWS Price List") as phase:
        found = listed_prices(client("pricing", PRICING_REGION), names, region=region)
        phase.detail = f"{len(found)} of {len(names)} in {region}"
    if not found:
        raise UserError(f"AWS lists no price of these instances in {region}; nothing is changed. Is --region right?")
    write(catalog.FILE, found, region=region, today=datetime.now(UTC).date())
    for name in names:
        old, new = known.get(name), found.get(name)
        was = screen.usd(old.usd_per_hour)
        if new is None:
            screen.say(f"  {name:18} {was:>8} stays: {region} has no price for it")
        elif old.usd_per_hour is None or not math.isclose(old.usd_per_hour, new, rel_tol=1e-6):
            screen.say(f"  {name:18} {was:>8} becomes {screen.usd(new)}")
    screen.say(f"  Written to {catalog.FILE}; `make deploy` brings it to the state machine.")


def listed_prices(pricing: Any, names: Sequence[str], *, region: str) -> dict[str, float]:
    """USD an hour of those instances that AWS's list has in the Region, by a client of the Price List API.

    Raises UserError where the list has two prices for one.
    """
    found: dict[str, float] = {}
    for component in COMPONENTS:
        prices: dict[str, set[float]] = {}
        for product in _products(pricing, component, region):
            name = product["product"]["attributes"].get("instanceName", "")
            if name in names:
                prices.setdefault(name, set()).update(_hourly(product))
        for name, several in prices.items():
            if len(several) > 1:
                listed = ", ".join(f"${price:g}" for price in sorted(several))
                raise UserError(f"AWS lists {listed} for {name} ({component}, {region}); nothing is changed")
            if several:
                found.setdefault(name, *several)
    return found


def _products(pricing: Any, component: str, region: str) -> Iterator[Mapping[str, Any]]:
    filters = [
        {"Type": "TERM_MATCH", "Field": "regionCode", "Value": region},
        {"Type": "TERM_MATCH", "Field": "component", "Value": component},
    ]
    pages = pricing.get_paginator("get_products").paginate(ServiceCode="AmazonSageMaker", Filters=filters)
    for page in pages:
        for product in page["PriceList"]:
            yield json.loads(product)


def _hourly(product: Mapping[str, Any]) -> Iterator[float]:
    for term in product.get("terms", {}).get("OnDemand", {}).values():
        for dimension in term["priceDimensions"].values():
            price = float(dimension["pricePerUnit"].get("USD", 0))
            if dimension["unit"].lower() in {"hrs", "hours"} and price > 0:
                yield price


def write(file: Path, usd_per_hour: Mapping[str, float], *, region: str, today: date) -> None:
    """The catalogue's file with these prices: all of them or, if anything fails, none."""
    text = catalog.with_listed_prices(file.read_text(encoding="utf-8"), usd_per_hour, region=region, today=today)
    half = file.with_suffix(".csv.new")
    half.write_text(text, encoding="utf-8")
    half.replace(file)


def _show(known: Catalog) -> None:
    today = datetime.now(UTC).date()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for number, title in enumerate(("instance", "GPUs", "GiB", "host", "GB/s", "$/h", "price")):
        table.add_column(title, justify="right" if 1 < number < 6 else "left", no_wrap=True)
    for i in known:
        link = "" if i.link_gb_per_second is None else f"{i.link_gb_per_second:g}"
        price = "unknown" if i.usd_per_hour is None else f"{i.usd_per_hour:.2f}"
        old = i.price_is_old(today)
        status = f"{i.price_status} {i.as_of}{' OLD' if old else ''}"
        row = (f"{i.num_gpus} {i.gpu}", f"{i.gpu_memory_gib:g}", f"{i.host_memory_gib:g}", link, price, status)
        table.add_row(i.instance_type, *row, style="yellow" if old else "")
    screen.console().print(table)
    regions = ", ".join(dict.fromkeys(i.region for i in known))
    screen.say(f"  GiB of one GPU and of the host, GB/s between GPUs; on-demand prices in {regions}.")
    screen.say(f"  Sources: {catalog.FILE}. `catalog refresh` asks AWS for the prices.")
