"""The catalogue of instances: complete, sourced, and honest about what it does not know."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from heartbeat import catalog
from heartbeat.catalog import CatalogError, UnknownInstance

HEADER = (
    "instance_type,gpu,num_gpus,gpu_memory_gib,host_memory_gib,link,link_gb_per_second,pcie_gb_per_second,"
    "peak_tflops,memory_gb_per_second,bf16,usd_per_hour,price_status,region,as_of,source,price_source,note"
)
ROW = "ml.x.large,G,1,24,64,none,,32,,,yes,,unverified,us-east-1,2026-11,a page,a page,"


def test_the_cards_instances_are_known_with_their_prices() -> None:
    known = catalog.load()
    prices = {name: known.get(name).usd_per_hour for name in ("ml.p4d.24xlarge", "ml.p3.8xlarge", "ml.g5.12xlarge")}
    assert prices == {"ml.p4d.24xlarge": 25.25, "ml.p3.8xlarge": 14.69, "ml.g5.12xlarge": 7.09}


def test_every_row_says_where_it_is_from() -> None:
    for instance in catalog.load():
        assert instance.instance_type.startswith("ml.")
        assert instance.source
        assert instance.price_source
        assert instance.memory_gb_per_second
        assert instance.region == "us-east-1"
        assert instance.as_of == "2026-11"
        assert instance.price_status == "unverified"
        assert (instance.link == "none") == (instance.num_gpus == 1)


def test_an_empty_field_is_unknown() -> None:
    instance = catalog.parse(["# a comment\n", HEADER + "\n", ROW + "\n"]).get("ml.x.large")
    assert instance.usd_per_hour is None
    assert instance.peak_tflops is None


def test_an_unknown_instance_has_near_names() -> None:
    with pytest.raises(UnknownInstance, match=r"'ml.p4d.24xl' is not in the catalogue; did you mean ml.p4d.24xl"):
        catalog.load().get("ml.p4d.24xl")


def test_the_users_price_wins() -> None:
    known = catalog.load().with_prices({"ml.p5.4xlarge": 5.5})
    assert known.get("ml.p5.4xlarge").usd_per_hour == 5.5
    assert known.get("ml.p5.4xlarge").price_status == "given"
    assert catalog.load().get("ml.p5.4xlarge").usd_per_hour == 7.91
    with pytest.raises(UnknownInstance):
        known.with_prices({"ml.p9": 1.0})
    with pytest.raises(ValueError, match="USD an hour, 0 or more"):
        known.with_prices({"ml.p5.4xlarge": float("nan")})


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (ROW.replace(",24,", ",lots,"), "line 2: gpu_memory_gib='lots' must be a number"),
        (ROW.replace(",24,", ",,"), "line 2: gpu_memory_gib must be known"),
        (ROW.replace("none", "string"), "line 2: link='string' must be one of"),
        (ROW.replace("2026-11", "lately"), "line 2: as_of='lately' must be a month or a day"),
        (ROW.replace("unverified", "sure"), "line 2: price_status='sure' must be one of unverified, listed, given"),
        ("ml.x.large,G,1", "line 2: column link is missing"),
    ],
)
def test_a_broken_row_is_named(row: str, words: str) -> None:
    with pytest.raises(CatalogError) as caught:
        catalog.parse([HEADER + "\n", row + "\n"])
    assert words in str(caught.value)


def test_a_double_row_is_refused() -> None:
    with pytest.raises(CatalogError, match=r"line 3: ml\.x\.large is there twice"):
        catalog.parse([HEADER, ROW, ROW])


@pytest.mark.parametrize(
    ("as_of", "today", "old"),
    [
        ("2026-11", date(2027, 1, 30), False),
        ("2026-11", date(2027, 1, 31), True),
        ("2026-11-20", date(2027, 2, 18), False),
        ("2026-11-20", date(2027, 2, 19), True),
    ],
)
def test_a_price_is_old_after_90_days(as_of: str, today: date, old: bool) -> None:
    instance = replace(catalog.load().get("ml.p5.4xlarge"), as_of=as_of)
    assert instance.price_is_old(today) is old
    assert ("OLD" in instance.price_note(today)) is old
    assert not replace(instance, price_status="given").price_is_old(today)


def test_listed_prices_change_the_price_and_where_it_is_from_and_nothing_else() -> None:
    before = catalog.FILE.read_text()
    today = date(2027, 3, 1)
    after = catalog.with_listed_prices(before, {"ml.p5.4xlarge": 6.88}, region="eu-west-1", today=today)
    changed = [(old, new) for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]
    assert len(changed) == 1
    known = catalog.parse(after.splitlines(keepends=True))
    found = known.get("ml.p5.4xlarge")
    assert (found.usd_per_hour, found.price_status, found.region, found.as_of, found.price_source) == (
        6.88,
        "listed",
        "eu-west-1",
        "2027-03-01",
        "AWS Price List API",
    )
    was = catalog.load().get("ml.p5.4xlarge")
    assert (found.source, found.note, found.peak_tflops) == (was.source, was.note, was.peak_tflops)
    assert catalog.with_listed_prices(before, {}, region="us-east-1", today=today) == before
