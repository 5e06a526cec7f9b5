"""The planner: what it promises, what it refuses, and what it says it does not know."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from heartbeat import calibration, catalog
from heartbeat.calibration import Calibration
from heartbeat.catalog import Catalog, UnknownInstance
from heartbeat.dataset import DatasetStats, check
from heartbeat.job import FineTuneJob
from heartbeat.plan import Plan, plan_run
from heartbeat.scout import SCOUT, ModelShape
from heartbeat.timing import Assumed
from heartbeat.workload import Workload
from tests.unit.test_dataset import assistant, line, user
from tests.unit.test_serving_plan import TINY

CATALOG = catalog.load()
STORED = calibration.stored(CATALOG)
ROOT = Path(__file__).resolve().parents[2]


def dataset(rows: int, tokens: int) -> DatasetStats:
    """Statistics of `rows` rows of `tokens` tokens each."""
    return replace(
        check([]).stats,
        rows=rows,
        valid_rows=rows,
        tokens=rows * tokens,
        supervised_tokens=rows * tokens // 3,
        longest_row_tokens=tokens,
    )


FULL = dataset(20_000, 4096)
SMALL = dataset(300, 200)


def plan(*, stats: DatasetStats = FULL, shape: ModelShape = SCOUT, **settings: Any) -> Plan:
    job = FineTuneJob.from_hyperparameters(settings.pop("job", {}))
    return plan_run(shape=shape, stats=stats, job=job, catalog=settings.pop("catalog", CATALOG), **settings)


def test_the_cards_job_runs_on_its_first_choice_sharded_and_says_the_figure_is_scaled() -> None:
    found = plan()
    first = found.candidates[0]
    assert found.feasible
    assert (first.instance_type, first.mode, first.confidence) == ("ml.p4d.24xlarge", "sharded", "scaled")
    assert first.hours_low is not None
    assert first.hours is not None
    assert first.hours_high is not None
    assert first.hours_low < first.hours < first.hours_high < 8
    assert any("not measured" in warning for warning in found.warnings)


def test_the_cards_other_choices_are_rejected_with_the_reason() -> None:
    reasons = {rejection.instance_type: " ".join(rejection.reasons) for rejection in plan().rejected}
    assert set(reasons) == {"ml.p3.8xlarge", "ml.g5.12xlarge"}
    assert "do not compute in bf16" in reasons["ml.p3.8xlarge"]
    assert "over the clock of 8.0 h" in reasons["ml.g5.12xlarge"]


def test_a_measured_step_is_planned_at_about_its_measured_rate() -> None:
    """5,089 tokens a second of real conversations (benchmarks/results), within 10%."""
    candidate = plan(stats=dataset(20_000, 600), instance_types=["ml.p5.4xlarge"], job={"MAX_STEPS": 50}).candidates[0]
    assert (candidate.mode, candidate.confidence) == ("resident", "measured")
    assert candidate.seconds_per_step == pytest.approx(64 * 600 / 5089, rel=0.1)
    assert all(source.startswith("benchmarks/results/") for source in candidate.sources)
    assert candidate.sources


def test_every_figure_shows_its_terms() -> None:
    for candidate in plan().considered:
        assert sum(candidate.memory_gib.values()) == pytest.approx(candidate.gpu_memory_needed_gib)
        assert sum(candidate.host_terms_gib.values()) == pytest.approx(candidate.host_memory_needed_gib)
        if not candidate.can_be:
            continue
        assert candidate.hours is not None
        assert sum(candidate.seconds.values()) == pytest.approx(candidate.hours * 3600)
        assert max(candidate.step_seconds.values()) == pytest.approx(candidate.seconds_per_step)
        if candidate.usd_per_hour is not None:
            assert candidate.usd_on_demand == pytest.approx(candidate.hours * candidate.usd_per_hour)


def test_the_plan_is_json() -> None:
    record = json.loads(json.dumps(plan().to_dict()))
    assert record["feasible"] is True
    assert record["candidates"][0]["memory_gib"]["weights"] > 0
    assert record["candidates"][0]["seconds"]["training"] > 0


def test_a_run_over_the_clock_is_refused_with_the_steps_that_fit() -> None:
    found = plan(instance_types=["ml.p5.4xlarge"], max_runtime_seconds=4 * 3600, job={"HELD_OUT_FRACTION": 0})
    assert not found.feasible
    assert found.refusal is not None
    assert "over the clock of 4.0 h" in found.refusal
    steps = int(found.refusal.split("MAX_STEPS=")[1].split(" ")[0])
    fits = {"HELD_OUT_FRACTION": 0, "MAX_STEPS": steps}
    assert plan(instance_types=["ml.p5.4xlarge"], max_runtime_seconds=4 * 3600, job=fits).feasible
    fits["MAX_STEPS"] += 1
    assert not plan(instance_types=["ml.p5.4xlarge"], max_runtime_seconds=4 * 3600, job=fits).feasible


def test_the_change_that_keeps_most_of_the_job_is_named() -> None:
    """Of the instances asked for, whatever their order."""
    for names in (["ml.g5.48xlarge", "ml.p5.4xlarge"], ["ml.p5.4xlarge", "ml.g5.48xlarge"]):
        refusal = plan(instance_types=names, job={"MAX_STEPS": 2000, "EVAL_EVERY_STEPS": 2000}).refusal or ""
        assert refusal.count(" instead of 2000") == 1
        assert " instead of 2000 (ml.p5.4xlarge: 8.0 h" in refusal


_EVERYTHING = "attention,shared_expert,routed_experts"


def test_what_cannot_be_there_takes_no_time_and_costs_nothing() -> None:
    """Seconds of what does not fit, or of a GPU that cannot compute it, would be a guess dressed as a number."""
    names = ["ml.p4d.24xlarge", "ml.g5.xlarge", "ml.p3.8xlarge", "ml.p5.4xlarge"]
    found = plan(instance_types=names, max_runtime_seconds=60, budget_usd=1.0)
    cannot = [c for c in found.considered if not c.can_be]
    assert {c.instance_type for c in cannot} == {"ml.p4d.24xlarge", "ml.g5.xlarge", "ml.p3.8xlarge"}
    for c in found.considered:
        unsaid = (c.hours, c.hours_low, c.hours_high, c.usd_on_demand, c.seconds_per_step, c.steps_in_time)
        assert (set(unsaid) == {None}) == (not c.can_be)
        said = " ".join(c.problems)
        assert ("clock" in said) == ("budget" in said) == c.can_be
    assert not any(c.seconds or c.step_seconds or c.assumed for c in cannot)


@pytest.mark.parametrize(
    ("job", "clock", "gib", "fix"),
    [
        ({"LORA_R": 256, "LORA_TARGETS": _EVERYTHING}, 28_800, 78.0, "LORA_R=64 instead of 256 ("),
        (
            {"LORA_R": 1, "LORA_TARGETS": _EVERYTHING},
            2_419_200,
            10.2,
            "LORA_TARGETS=attention,shared_expert instead of ",
        ),
        ({"EVAL_MAX_NEW_TOKENS": 1024}, 3600, 78.0, "EVAL_MAX_NEW_TOKENS=512 instead of 1024 ("),
        (
            {"EVAL_GENERATE_ROWS": 1000, "EVAL_MAX_NEW_TOKENS": 60, "EVAL_EVERY_STEPS": 400},
            2020,
            78.0,
            "EVAL_GENERATE_ROWS=200 instead of 1000 (",
        ),
    ],
)
def test_the_setting_that_makes_it_fit_is_named(job: dict[str, Any], clock: int, gib: float, fix: str) -> None:
    stats = replace(dataset(4000, 230), assistant_turns=4000, longest_row_tokens=4096)
    one = Catalog({"ml.p5.4xlarge": replace(CATALOG.get("ml.p5.4xlarge"), gpu_memory_gib=gib)})
    found = plan(stats=stats, catalog=one, instance_types=["ml.p5.4xlarge"], job=job, max_runtime_seconds=clock)
    assert f"What would fit: {fix}" in (found.refusal or "")


def test_where_no_change_helps_those_that_were_tried_are_named() -> None:
    one = Catalog({"ml.p5.4xlarge": CATALOG.get("ml.p5.4xlarge")})
    refusal = plan(catalog=one, instance_types=["ml.p5.4xlarge"], max_runtime_seconds=300).refusal or ""
    assert "None of the changes tried, one at a time (EVAL_EVERY_STEPS, EVAL_MAX_NEW_TOKENS, " in refusal
    old = Catalog({"ml.p3.8xlarge": CATALOG.get("ml.p3.8xlarge")})
    refusal = plan(catalog=old, instance_types=["ml.p3.8xlarge"]).refusal or ""
    assert "No setting of the job would make it fit." in refusal


def test_the_steps_that_are_said_to_end_in_time_do() -> None:
    """More steps bring more evaluations along."""
    asked: dict[str, Any] = {"stats": dataset(1280, 230), "instance_types": ["ml.p5.4xlarge"]}
    for budget in (None, 40.0):
        steps = plan(**asked, budget_usd=budget).candidates[0].steps_in_time or 0
        assert steps > 400
        assert plan(**asked, budget_usd=budget, job={"MAX_STEPS": steps}).feasible
        assert not plan(**asked, budget_usd=budget, job={"MAX_STEPS": steps + 1}).feasible


def test_conversations_that_do_not_fill_micro_batches_take_more_of_them() -> None:
    """Of rows of some 2,840 tokens a micro-batch of 8,192 holds two."""
    flat = dataset(400, 2840)
    spread = replace(flat, length_quantiles=[2740 + 200 * k // 127 for k in range(128)])
    asked: dict[str, Any] = {"instance_types": ["ml.p5.4xlarge"]}
    full, found = (plan(stats=stats, **asked).candidates[0] for stats in (flat, spread))
    assert (full.micro_batches, full.packing_efficiency) == (23, None)
    assert found.micro_batches == 32
    assert found.packing_efficiency == pytest.approx(64 * 2840 / 32 / 8192)
    assert (found.seconds_per_step or 0) > 1.02 * (full.seconds_per_step or 0)


def test_what_nobody_measured_is_said_to_be_assumed_and_can_be_given() -> None:
    found = plan(stats=dataset(1280, 230), instance_types=["ml.p5.4xlarge"])
    first = found.candidates[0]
    assert first.assumed == ("start_up", "download", "prepare_weights", "upload")
    assert first.assumed_seconds == pytest.approx(300 + 217.3 + 217.3 + 60, rel=1e-3)
    assert any("13 min of its " in w and "are assumed, not measured: start up, download" in w for w in found.warnings)
    own = Assumed(start_up_seconds=100.0, download_gb_per_second=2.0, prepare_gb_per_second=2.0, upload_seconds=10.0)
    given_all = plan(stats=dataset(1280, 230), instance_types=["ml.p5.4xlarge"], assumed=own)
    assert given_all.candidates[0].assumed == ()
    assert not any("assumed" in warning for warning in given_all.warnings)
    saved = (first.hours or 0) - (given_all.candidates[0].hours or 0)
    assert saved * 3600 == pytest.approx(200 + 217.3 + 50, rel=1e-3)


def test_tokens_that_were_not_counted_are_said_to_be_estimates() -> None:
    assert any("tokens are estimates" in warning for warning in plan().warnings)
    exact = plan(stats=replace(FULL, tokens_are_exact=True))
    assert exact.tokens_are_exact
    assert not any("estimates" in warning for warning in exact.warnings)


def test_a_run_of_over_28_days_is_told_that_no_clock_helps() -> None:
    found = plan(instance_types=["ml.p5.4xlarge"], job={"MAX_STEPS": 100_000}, max_runtime_seconds=28 * 86_400)
    assert "SageMaker ends a job after 28 days" in (found.refusal or "")


def test_of_two_that_are_as_fast_the_cheaper_is_named() -> None:
    """ml.p5en.48xlarge is a minute faster, and 15% dearer."""
    (words,) = (a for a in plan(stats=dataset(1280, 230)).alternatives if "faster" in a)
    assert words.startswith("clearly faster: ml.p5.48xlarge: ~")


def test_a_link_that_was_never_measured_is_said_to_be_taken_as_another() -> None:
    known = replace(CATALOG.get("ml.g5.12xlarge"), gpu_memory_gib=40.0)
    found = plan(
        catalog=Catalog({"ml.x": replace(known, instance_type="ml.x")}),
        instance_types=["ml.x"],
        stats=SMALL,
        job={"MODE": "sharded"},
        measured=STORED,
    )
    assert any("share of its datasheet that NVLink did" in warning for warning in found.warnings)
    assert not any("NVLink" in warning for warning in plan().warnings)


def test_a_refusal_names_other_instances_that_fit() -> None:
    refusal = plan(instance_types=["ml.g5.12xlarge"]).refusal or ""
    assert "ml.p5.4xlarge: " in refusal
    assert " h, $" in refusal


def test_evaluation_is_given_up_before_training_is() -> None:
    refusal = plan(instance_types=["ml.p5.4xlarge"], max_runtime_seconds=7 * 3600).refusal or ""
    assert "EVAL_EVERY_STEPS=400 instead of 50" in refusal


def test_micro_batches_are_what_there_is_memory_for() -> None:
    known, job = CATALOG.get("ml.p5.4xlarge"), {"MODE": "resident", "MAX_LENGTH": 2048}
    sizes = {}
    for gib in (79.0, 66.0, 64.5):
        tight = Catalog({"ml.p5.4xlarge": replace(known, gpu_memory_gib=gib)})
        stats = dataset(20_000, 2048)
        (candidate,) = plan(stats=stats, catalog=tight, instance_types=["ml.p5.4xlarge"], job=job).considered
        assert candidate.gpu_memory_needed_gib <= gib
        sizes[gib] = candidate.micro_batch_tokens
    assert list(sizes.values()) == [8192, 4096, 2048]


def test_a_mode_that_the_job_insists_on_is_given_up_before_anything_else() -> None:
    asked = {"MODE": "resident", "MAX_STEPS": 50}
    found = plan(instance_types=["ml.g5.12xlarge"], job=asked)
    assert "more than its" in (found.refusal or "")
    assert "What would fit: MODE=auto instead of resident (ml.g5.12xlarge: " in (found.refusal or "")
    assert plan(instance_types=["ml.g5.12xlarge"], job={**asked, "MODE": "auto"}).feasible


def test_how_a_step_is_written_changes_no_plan() -> None:
    """64 sequences are 64 sequences: what a GPU is given at once is not PER_DEVICE_BATCH_SIZE of them."""
    written = [
        plan(job={"PER_DEVICE_BATCH_SIZE": batch, "GRADIENT_ACCUMULATION_STEPS": 64 // batch}).considered
        for batch in (1, 2, 64)
    ]
    assert written[0] == written[1] == written[2]


def test_the_budget_is_kept() -> None:
    found = plan(budget_usd=20.0)
    assert not found.feasible
    assert "over the budget of $20.00" in (found.refusal or "")
    enough = plan(budget_usd=120.0, instance_types=["ml.p4d.24xlarge"])
    candidate = enough.candidates[0]
    assert candidate.usd_on_demand is not None
    assert candidate.usd_on_demand < 120
    assert candidate.max_runtime_seconds == int(120 / 25.25 * 3600)


def test_what_is_unknown_stays_unknown() -> None:
    known = CATALOG.get("ml.p5.4xlarge")
    blank = replace(known, instance_type="ml.x", gpu="X", peak_tflops=None, usd_per_hour=None)
    found = plan(catalog=Catalog({"ml.x": blank, "ml.p5.4xlarge": known}), stats=SMALL, instance_types=["ml.x"])
    candidate = found.candidates[0]
    assert candidate.confidence == "unknown"
    assert candidate.hours is candidate.usd_on_demand is candidate.steps_in_time is None
    assert any("nothing is known of its speed" in warning for warning in found.warnings)
    refused = plan(catalog=Catalog({"ml.x": blank}), stats=SMALL, instance_types=["ml.x"], budget_usd=10.0)
    assert "its price is unknown, so the budget of $10.00 cannot be kept" in (refused.refusal or "")


def test_an_instance_nobody_can_time_comes_last() -> None:
    blank = replace(CATALOG.get("ml.p5.4xlarge"), instance_type="ml.x", gpu="X", peak_tflops=None)
    both = Catalog({"ml.x": blank, "ml.p5.4xlarge": CATALOG.get("ml.p5.4xlarge")})
    found = plan(catalog=both, stats=SMALL, instance_types=["ml.x", "ml.p5.4xlarge"])
    assert [candidate.instance_type for candidate in found.candidates] == ["ml.p5.4xlarge", "ml.x"]


def test_spot_is_unknown_unless_given() -> None:
    found = plan(use_spot=True)
    assert found.candidates[0].usd_spot is None
    assert any("spot prices are unknown" in warning for warning in found.warnings)
    two = ["ml.p4d.24xlarge", "ml.p5.4xlarge"]
    some = plan(use_spot=True, spot_usd_per_hour={"ml.p4d.24xlarge": 10.0}, instance_types=two).warnings
    assert any("spot prices of ml.p5.4xlarge are unknown" in warning for warning in some)
    given_price = plan(use_spot=True, spot_usd_per_hour={"ml.p4d.24xlarge": 10.0}).candidates[0]
    assert given_price.usd_spot == pytest.approx((given_price.hours or 0) * 10)


def test_the_users_order_is_kept() -> None:
    wanted = ["ml.p5.48xlarge", "ml.p4d.24xlarge", "ml.p5.48xlarge"]
    assert [c.instance_type for c in plan(instance_types=wanted).candidates] == wanted[:2]
    with pytest.raises(UnknownInstance):
        plan(instance_types=["ml.p4d"])


def test_sharding_needs_several_gpus() -> None:
    assert "needs several GPUs" in (plan(instance_types=["ml.p5.4xlarge"], job={"MODE": "sharded"}).refusal or "")


def test_many_passes_over_few_rows_are_told() -> None:
    warnings = plan(stats=SMALL, job={"HELD_OUT_FRACTION": 0}).warnings
    assert any("MAX_STEPS=400 passes over these 300 training rows 85 times" in warning for warning in warnings)
    assert any("MAX_STEPS=46 passes 10 times" in warning for warning in warnings)
    assert not any("passes" in warning for warning in plan().warnings)


def test_too_few_held_out_rows_for_the_gate_are_told() -> None:
    assert any("the quality gate needs 10" in warning for warning in plan(stats=dataset(50, 200)).warnings)


def test_a_dataset_without_a_row_to_train_on_is_refused() -> None:
    stats = replace(dataset(10, 9000), over_long_rows=10, over_long_tokens=90_000)
    refusal = plan(stats=stats).refusal or ""
    assert "no row of the 10 is left to train on" in refusal
    assert "10 are over MAX_LENGTH=4096; shorten them, or raise MAX_LENGTH" in refusal
    assert "HELD_OUT_FRACTION" not in refusal


def test_a_tiny_model_plans_everywhere_and_its_hours_are_start_up() -> None:
    names = [instance.instance_type for instance in CATALOG if instance.bf16]
    found = plan(shape=TINY, stats=SMALL, instance_types=names, job={"MAX_STEPS": 60})
    assert [candidate.instance_type for candidate in found.candidates] == names
    for candidate in found.candidates:
        assert candidate.mode == "resident"
        assert candidate.hours is not None
        assert candidate.hours < 0.2
        assert candidate.seconds["start_up"] > candidate.seconds["training"]


def test_the_chosen_one_is_not_always_the_best_and_that_is_said() -> None:
    found = plan()
    assert any(a.startswith("clearly cheaper: ml.p5.4xlarge: ") and "measured" in a for a in found.alternatives)
    assert any(a.startswith("clearly faster: ml.p5") for a in found.alternatives)
    assert all("where ml.p4d.24xlarge: " in a for a in found.alternatives)
    assert not any("cheaper" in a for a in plan(instance_types=["ml.p5.4xlarge"]).alternatives)


@pytest.mark.parametrize(("rank", "figure"), [("cost", "usd_on_demand"), ("time", "hours")])
def test_the_whole_catalogue_is_ranked(rank: Any, figure: str) -> None:
    found = plan(stats=dataset(5_000, 500), rank=rank)
    figures = [getattr(candidate, figure) for candidate in found.candidates]
    assert len(figures) > 5
    assert figures == sorted(figures)
    assert len(figures) + len(found.rejected) == len(CATALOG.instances)


def test_what_is_asked_for_is_ranked_among_itself() -> None:
    names = ["ml.p5.48xlarge", "ml.p5.4xlarge"]
    assert [c.instance_type for c in plan(rank="cost", instance_types=names).candidates] == names[::-1]


def test_a_quota_of_none_is_a_refusal_and_unchecked_is_said() -> None:
    assert not plan().quotas_checked
    assert plan().candidates[0].quota is None
    found = plan(quotas={"ml.p4d.24xlarge": 0, "ml.p5.4xlarge": 2}, instance_types=["ml.p4d.24xlarge", "ml.p5.4xlarge"])
    assert found.quotas_checked
    assert [(c.instance_type, c.quota) for c in found.candidates] == [("ml.p5.4xlarge", 2)]
    assert "a quota of 0 training jobs" in " ".join(found.rejected[0].reasons)
    # What the account's list does not have, it may not run.
    assert not plan(quotas={}).feasible


def test_the_users_rate_makes_the_hours() -> None:
    found = plan(instance_types=["ml.p4d.24xlarge"], tokens_per_second={"ml.p4d.24xlarge": 20_000.0}).candidates[0]
    assert found.confidence == "given"
    assert found.seconds["training"] == pytest.approx(400 * 64 * 4096 / 20_000)
    for rate in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="must be tokens a second, above 0"):
            plan(tokens_per_second={"ml.p4d.24xlarge": rate})
    with pytest.raises(UnknownInstance):
        plan(tokens_per_second={"ml.p4": 1.0})


def test_an_old_price_is_said_to_be_old_wherever_it_is_shown() -> None:
    later = date(2027, 6, 1)
    found = plan(today=later)
    assert "OLD" in found.prices_as_of
    assert found.candidates[0].price_is_old
    assert any("OLD" in warning for warning in found.warnings)
    assert all("at an old price" in a for a in found.alternatives)
    assert "at an old price" in (plan(today=later, instance_types=["ml.g5.12xlarge"]).refusal or "")
    now = plan(today=date(2026, 11, 22))
    assert "OLD" not in now.prices_as_of
    assert not now.candidates[0].price_is_old


def test_without_measurements_no_figure_is_guessed() -> None:
    found = plan(measured=Calibration((), CATALOG))
    assert {candidate.confidence for candidate in found.considered} == {"unknown"}
    assert all(c.hours is c.usd_on_demand is c.seconds_per_step is None for c in found.considered)
    assert found.alternatives == ()


def test_a_plan_imports_nothing_heavy() -> None:
    """It runs in a Lambda, whose start everybody waits for."""
    code = "import sys; before = set(sys.modules); import heartbeat.plan; print(*(set(sys.modules) - before))"
    ran = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    tops = {name.split(".")[0] for name in ran.stdout.split()}
    assert "heartbeat" in tops
    assert tops - {"heartbeat"} <= sys.stdlib_module_names
    assert not tops & {"asyncio", "unittest", "multiprocessing", "sqlite3"}


ROWS = st.integers(20, 50_000)
TOKENS = st.integers(1, 4096)
NAMES = st.sampled_from([instance.instance_type for instance in CATALOG])


@given(ROWS, TOKENS, st.integers(0, 500), NAMES, st.sampled_from(["resident", "sharded", "streamed"]))
@example(20, 129, 1, "ml.g5.xlarge", "sharded")  # a host that has room for one micro-batch, and a step that needs two
def test_more_tokens_never_cost_less(rows: int, tokens: int, more: int, name: str, mode: str) -> None:
    longer = min(tokens + more, 4096)
    less, most = (
        plan(stats=dataset(rows, size), instance_types=[name], job={"MODE": mode}).considered[0]
        for size in (tokens, longer)
    )
    assert (less.hours or 0) <= (most.hours or 0) + 1e-9
    assert (less.usd_on_demand or 0) <= (most.usd_on_demand or 0) + 1e-9
    assert less.gpu_memory_needed_gib <= most.gpu_memory_needed_gib + 1e-9
    assert less.host_memory_needed_gib <= most.host_memory_needed_gib + 1e-9


@given(ROWS, TOKENS, st.integers(1, 500), NAMES, st.sampled_from([1, 2, 4]))
def test_more_of_anything_never_costs_less(rows: int, tokens: int, steps: int, name: str, batch: int) -> None:
    """Steps, rank of the adapter, rows of a step."""
    base = {"MAX_STEPS": steps, "WARMUP_STEPS": 0, "PER_DEVICE_BATCH_SIZE": batch}
    for more in ({"MAX_STEPS": steps + 1}, {"LORA_R": 64}, {"GRADIENT_ACCUMULATION_STEPS": 64}):
        less, most = (
            plan(stats=dataset(rows, tokens), instance_types=[name], job={**base, "MODE": "streamed", **change})
            for change in ({}, more)
        )
        assert (less.considered[0].usd_on_demand or 0) <= (most.considered[0].usd_on_demand or 0) + 1e-9


@given(
    st.integers(20, 3000),
    TOKENS,
    NAMES,
    st.floats(0, 200),
    st.floats(0, 2000),
    st.booleans(),
)
@example(200, 1000, "ml.g7e.2xlarge", 2.0, 0.0, True)  # more answers together, and as many batches of them
def test_a_bigger_machine_never_stops_fitting(
    rows: int, tokens: int, name: str, more_gpu: float, more_host: float, is_budget: bool
) -> None:
    """Nor where the clock, or the budget, is just what the smaller one takes."""
    known = CATALOG.get(name)
    bigger = replace(
        known,
        gpu_memory_gib=known.gpu_memory_gib + more_gpu,
        host_memory_gib=known.host_memory_gib + more_host,
    )
    stats = replace(dataset(rows, tokens), assistant_turns=3 * rows)
    job = {"MAX_STEPS": 20, "EVAL_GENERATE_ROWS": 1000}
    free = plan(stats=stats, instance_types=[name], job=job, max_runtime_seconds=2_419_200)
    if not free.candidates:
        return
    hours, usd = free.candidates[0].hours or 0.0, free.candidates[0].usd_on_demand or 0.0
    limits: dict[str, Any] = {"max_runtime_seconds": math.ceil(hours * 3600)}
    if is_budget:
        limits = {"budget_usd": usd * (1 + 1e-9), "max_runtime_seconds": 2_419_200}
    larger = Catalog({**CATALOG.instances, name: bigger})
    assert plan(stats=stats, instance_types=[name], job=job, catalog=larger, **limits).feasible


@given(ROWS, TOKENS, st.integers(1, 1000), st.integers(600, 86_400), st.none() | st.floats(1, 500))
def test_what_is_promised_ends_in_time_and_within_the_budget(
    rows: int, tokens: int, max_steps: int, clock: int, budget: float | None
) -> None:
    found = plan(
        stats=dataset(rows, tokens), job={"MAX_STEPS": max_steps}, max_runtime_seconds=clock, budget_usd=budget
    )
    assert found.feasible == bool(found.candidates)
    assert found.feasible == (found.refusal is None)
    for candidate in found.candidates:
        assert candidate.gpu_memory_needed_gib <= candidate.gpu_memory_gib
        assert (candidate.hours or 0) * 3600 <= clock
        assert budget is None or (candidate.usd_on_demand or 0) <= budget
        assert candidate.max_runtime_seconds <= clock


def test_rows_of_ones_own_to_judge_by_take_none_from_training() -> None:
    work = Workload.of(FineTuneJob(), replace(SMALL, own_held_out_rows=40))
    assert (work.training_rows, work.heldout_rows) == (SMALL.trainable_rows, 40)


def test_a_dataset_is_planned_with_the_max_length_that_it_was_checked_for() -> None:
    rows = [line(user("word " * 4_900), assistant(f"Answer {i}.")) for i in range(12)]
    job = FineTuneJob(max_length=8191)
    stats = check(rows, job=job).stats
    assert 4096 < stats.longest_row_tokens < 8191
    assert Workload.of(job, stats).training_rows == 11
    with pytest.raises(ValueError, match=r"checked for MAX_LENGTH=4096, and the job has 8191: check it again"):
        Workload.of(job, check(rows).stats)


def test_a_run_that_asks_for_no_answers_is_told_that_the_gate_will_refuse_it() -> None:
    asked = plan(stats=dataset(500, 200))
    silent = plan(stats=dataset(500, 200), job={"EVAL_GENERATE_ROWS": 0})
    assert [any("EVAL_GENERATE_ROWS=0" in warning for warning in one.warnings) for one in (asked, silent)] == [0, 1]


@pytest.mark.parametrize("name", ["ml.g5.xlarge", "ml.p5.4xlarge", "ml.g5.12xlarge"])
def test_more_memory_never_takes_longer(name: str) -> None:
    """Not where larger micro-batches fit, nor where the weights come to lie on the GPU: answers need room, too."""
    stats = replace(dataset(50_000, 1841), assistant_turns=50_000)
    hours = []
    for gib in range(9, 150, 3):
        grown = replace(CATALOG.get(name), gpu_memory_gib=float(gib))
        found = plan(
            stats=stats,
            catalog=Catalog({**CATALOG.instances, name: grown}),
            instance_types=[name],
            job={"MAX_LENGTH": 8191},
            max_runtime_seconds=2_419_200,
        )
        hours.append(next(c.hours for c in found.considered if c.instance_type == name))
    known = [some for some in hours if some is not None]
    assert hours[-len(known) :] == known, "what fits once fits with more memory"
    assert len(known) > 20
    assert known == sorted(known, reverse=True)
