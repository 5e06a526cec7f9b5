"""Where the model can be served."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartbeat import catalog
from heartbeat.catalog import UnknownInstance
from heartbeat.scout import SCOUT
from heartbeat.serving_plan import adapter_slot_bytes, plan_serving

CATALOG = catalog.load()
EIGHT = ("ml.p4d.24xlarge",)
"""With eight GPUs."""
TINY = replace(
    SCOUT,
    num_layers=4,
    num_moe_layers=4,
    hidden_size=64,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_size=16,
    num_experts=4,
    expert_size=128,
    vocabulary_size=512,
    vision_parameters=0,
)


def test_bf16_fits_the_cards_first_choice() -> None:
    plan = plan_serving(shape=SCOUT, catalog=CATALOG, instance_types=["ml.p4d.24xlarge"])
    assert plan.refusal is None
    assert (plan.instance_type, plan.tensor_parallel, plan.usd_per_hour) == ("ml.p4d.24xlarge", 8, 25.25)
    assert plan.usd_per_month == pytest.approx(25.25 * 730)
    assert plan.memory_gib["weights"] * 8 == pytest.approx(217.3e9 / 2**30, rel=1e-3)


@pytest.mark.parametrize(
    ("weight_format", "instance_type", "fits"),
    [
        ("bf16", "ml.g6e.12xlarge", False),
        ("fp8", "ml.g6e.12xlarge", True),
        ("fp8", "ml.g5.48xlarge", True),
        ("fp8", "ml.g5.12xlarge", False),
        ("int4", "ml.g5.12xlarge", True),
        ("int4", "ml.p5.4xlarge", True),
        ("int4", "ml.g5.xlarge", False),
    ],
)
def test_what_fits_in_which_format(weight_format: str, instance_type: str, fits: bool) -> None:
    plan = plan_serving(shape=SCOUT, catalog=CATALOG, instance_types=[instance_type], weight_format=weight_format)
    assert (plan.refusal is None) == fits


def test_instances_that_were_named_stand_in_for_each_other_where_they_are_alike() -> None:
    named = ["ml.g5.12xlarge", "ml.p4de.24xlarge", "ml.g7e.12xlarge", "ml.g6e.12xlarge", "ml.p4d.24xlarge"]
    plan = plan_serving(shape=SCOUT, catalog=CATALOG, instance_types=named)
    # g5.12xlarge does not hold it, and the others with less than 8 GPUs would need other settings in the container.
    assert (plan.instance_type, plan.fallbacks) == ("ml.p4de.24xlarge", ["ml.p4d.24xlarge"])
    assert not plan_serving(shape=SCOUT, catalog=CATALOG).fallbacks


def test_left_to_itself_it_takes_the_cheapest_and_says_why_not_the_others() -> None:
    plan = plan_serving(shape=SCOUT, catalog=CATALOG)
    assert plan.instance_type == "ml.p4d.24xlarge"
    assert "ml.g5.xlarge" in plan.rejected
    assert "do not compute in bf16" in plan.rejected["ml.p3.8xlarge"]
    json.dumps(plan.to_dict())


def test_a_tiny_model_takes_the_smallest_instance() -> None:
    plan = plan_serving(shape=TINY, catalog=CATALOG)
    assert (plan.instance_type, plan.tensor_parallel) == ("ml.g6.xlarge", 1)
    # 4 heads cannot be split over 8 GPUs.
    assert plan_serving(shape=TINY, catalog=CATALOG, instance_types=["ml.p4d.24xlarge"]).tensor_parallel == 4


def test_a_refusal_says_by_how_much_and_what_would_fit() -> None:
    plan = plan_serving(shape=SCOUT, catalog=CATALOG, instance_types=["ml.g6e.12xlarge"])
    assert plan.instance_type is None
    assert plan.usd_per_hour is None
    assert plan.refusal is not None
    assert "GiB on each of 4 GPUs, 15.8 more than 39.9 usable" in plan.refusal
    assert "ml.p4d.24xlarge in bf16 ($25.25 an hour)" in plan.refusal
    assert " in int4 " in plan.refusal


def test_more_conversations_need_more_until_nothing_does() -> None:
    one = plan_serving(shape=SCOUT, catalog=CATALOG, concurrency=1)
    many = plan_serving(shape=SCOUT, catalog=CATALOG, concurrency=4, max_model_len=8192)
    assert many.memory_gib["keys_and_values"] == pytest.approx(4 * one.memory_gib["keys_and_values"])
    endless = plan_serving(shape=SCOUT, catalog=CATALOG, concurrency=10_000)
    assert endless.refusal is not None
    most = int(endless.refusal.split("lower concurrency to ")[1].split(":")[0].replace(",", ""))
    assert plan_serving(shape=SCOUT, catalog=CATALOG, concurrency=most).refusal is None
    assert plan_serving(shape=SCOUT, catalog=CATALOG, concurrency=most + 1).refusal is not None


def test_what_nothing_serves_is_refused_by_the_nearest_alone() -> None:
    for weight_format in ("bf16", "fp8", "int4"):
        plan = plan_serving(
            shape=SCOUT, catalog=CATALOG, weight_format=weight_format, max_model_len=131_072, concurrency=64
        )
        refusal = plan.refusal or ""
        assert "fits no instance of the catalogue; the nearest, ml.p5en.48xlarge, needs " in refusal
        assert refusal.count("ml.") == 2
        assert "asked for" not in refusal
    one = plan_serving(shape=SCOUT, catalog=CATALOG, max_model_len=8_000_000, concurrency=1).refusal or ""
    tokens = int(one.split("lower max_model_len to ")[1].split(" ")[0].replace(",", ""))
    assert plan_serving(shape=SCOUT, catalog=CATALOG, max_model_len=tokens, concurrency=1).refusal is None
    adapters = plan_serving(shape=SCOUT, catalog=CATALOG, adapters=1000).refusal or ""
    assert "lower the adapters, or their rank" in adapters
    single = plan_serving(shape=SCOUT, catalog=CATALOG, instance_types=["ml.g5.xlarge"]).refusal or ""
    assert " GiB on its GPU, " in single


def test_a_slot_on_one_gpu_has_room_for_every_matrix() -> None:
    everything = SCOUT.lora_parameters(16, ("attention", "shared_expert", "routed_experts"))
    assert adapter_slot_bytes(SCOUT, 16, 1) == 2 * everything
    # Two of Scout's layers dense: their three matrices in place of 17 experts'.
    dense = replace(SCOUT, num_moe_layers=46)
    narrower = 2 * 3 * (SCOUT.hidden_size + SCOUT.dense_size - 17 * (SCOUT.hidden_size + SCOUT.expert_size))
    assert adapter_slot_bytes(dense, 16, 1) == 2 * (everything + 16 * narrower)


@given(st.integers(1, 512), st.sampled_from((1, 2, 4, 8)), st.integers(1, 5))
def test_adapters_need_room_that_gpus_share_in_part(rank: int, gpus: int, adapters: int) -> None:
    slot = adapter_slot_bytes(SCOUT, rank, gpus)
    assert slot < adapter_slot_bytes(SCOUT, rank + 1, gpus)
    # A of one half of the matrices and B of the other are whole on every GPU.
    assert adapter_slot_bytes(SCOUT, rank, 1) / gpus <= slot <= adapter_slot_bytes(SCOUT, rank, 1)
    plan = plan_serving(shape=SCOUT, catalog=CATALOG, instance_types=EIGHT, max_lora_rank=rank, adapters=adapters)
    assert plan.memory_gib["adapters"] == pytest.approx(adapters * adapter_slot_bytes(SCOUT, rank, 8) / 2**30)


def test_adapters_of_a_high_rank_do_not_fit_everywhere() -> None:
    plan = partial(plan_serving, shape=SCOUT, catalog=CATALOG, instance_types=EIGHT, adapters=5)
    assert plan().refusal is None
    refusal = plan(max_lora_rank=64).refusal
    assert refusal is not None
    assert "ml.p4d.24xlarge needs" in refusal


def test_wrong_asks_are_refused() -> None:
    with pytest.raises(ValueError, match="weight_format='fp16' must be one of bf16"):
        plan_serving(shape=SCOUT, catalog=CATALOG, weight_format="fp16")
    with pytest.raises(ValueError, match="concurrency=0"):
        plan_serving(shape=SCOUT, catalog=CATALOG, concurrency=0)
    with pytest.raises(ValueError, match="adapters=0 must be at least 1"):
        plan_serving(shape=SCOUT, catalog=CATALOG, adapters=0)
    with pytest.raises(UnknownInstance):
        plan_serving(shape=SCOUT, catalog=CATALOG, instance_types=["ml.p4"])


def test_an_endpoint_that_sleeps_pays_for_the_hours_it_is_awake() -> None:
    plan = plan_serving(shape=SCOUT, catalog=CATALOG, busy_hours_per_day=6)
    assert plan.usd_per_month_awake == pytest.approx((plan.usd_per_month or 0) / 4)
    always = plan_serving(shape=SCOUT, catalog=CATALOG)
    assert always.usd_per_month_awake == pytest.approx(always.usd_per_month)
    with pytest.raises(ValueError, match="busy_hours_per_day=25 must be between 0 and 24"):
        plan_serving(shape=SCOUT, catalog=CATALOG, busy_hours_per_day=25)


def test_waking_brings_every_weight_and_bills_meanwhile() -> None:
    plan = plan_serving(shape=SCOUT, catalog=CATALOG, instance_types=["ml.p4d.24xlarge"])
    # 217 GB at 1 GB/s, twice: from S3, and onto the GPUs.
    assert plan.cold_start_seconds["download"] == plan.cold_start_seconds["load"] == pytest.approx(217.3, rel=0.01)
    assert plan.usd_per_cold_start == pytest.approx(25.25 / 3600 * sum(plan.cold_start_seconds.values()))
    smaller = plan_serving(shape=SCOUT, catalog=CATALOG, weight_format="int4")
    assert sum(smaller.cold_start_seconds.values()) < sum(plan.cold_start_seconds.values())
    assert plan_serving(shape=SCOUT, catalog=CATALOG, instance_types=["ml.g5.xlarge"]).usd_per_cold_start is None


def test_an_old_price_of_an_endpoint_is_said_to_be_old() -> None:
    later = date(2027, 6, 1)
    assert plan_serving(shape=SCOUT, catalog=CATALOG, today=later).price_is_old
    assert not plan_serving(shape=SCOUT, catalog=CATALOG, today=date(2026, 11, 22)).price_is_old
    refusal = plan_serving(shape=SCOUT, catalog=CATALOG, instance_types=["ml.g5.xlarge"], today=later).refusal or ""
    assert "an hour, an old price)" in refusal
