"""How many prompts go together, and what a plan says that their answers take."""

from __future__ import annotations

from dataclasses import replace

import pytest

from heartbeat import asking, calibration, catalog, step_work, timing
from heartbeat.dataset import check
from heartbeat.job import FineTuneJob
from heartbeat.probes import bundled
from heartbeat.scout import SCOUT
from heartbeat.timing import Timing
from heartbeat.workload import Workload
from tests.unit.test_turn_rules import FILE

CATALOG = catalog.load()
STORED = calibration.stored(CATALOG)
JOB = FineTuneJob()


def workload(job: FineTuneJob = JOB) -> Workload:
    with FILE.open("rb") as lines:
        return Workload.of(job, check(lines).stats)


WORK = workload()


def estimate(work: Workload = WORK, name: str = "ml.p5.4xlarge", mode: str = "streamed") -> Timing:
    found = timing.estimate(SCOUT, JOB, work, CATALOG.get(name), mode, STORED)
    assert found is not None
    return found


def test_a_prompt_keeps_keys_and_values_of_each_token() -> None:
    one, other = (asking.row_bytes(SCOUT, prompt_tokens=600, new_tokens=new) for new in (128, 129))
    assert other - one == 192 * 1024


@pytest.mark.parametrize(
    ("free", "rows", "together"),
    [(0.0, 10, 1), (-5.0, 10, 1), (100.0, 10, 7), (100.0, 3, 3), (1e9, 5000, asking.MOST_TOGETHER)],
)
def test_a_batch_is_what_memory_takes_and_one_at_least(free: float, rows: int, together: int) -> None:
    assert asking.rows_together(free_bytes=free, row_bytes=10.0, num_rows=rows) == together


def test_a_plan_asks_the_turns_of_the_held_out_rows_and_the_probes() -> None:
    turns = WORK.prompts - len(bundled())
    assert WORK.heldout_rows <= turns <= 5 * WORK.heldout_rows
    rows = min(WORK.heldout_rows, JOB.eval_generate_rows)
    half = workload(replace(JOB, eval_generate_rows=rows // 2))
    assert half.prompts - len(bundled()) == pytest.approx(turns / 2, abs=1)
    nothing = workload(replace(JOB, eval_generate_rows=0))
    assert nothing.prompts == 0
    assert estimate(nothing).asking is None
    assert estimate(nothing).run["answers"] == 0


def test_a_walk_brings_every_layer_once_for_all_rows() -> None:
    one, many = (
        step_work.walk(SCOUT, JOB, mode="streamed", num_gpus=1, rows=rows, tokens_kept=500) for rows in (1, 64)
    )
    assert one.host_bytes == many.host_bytes == SCOUT.layer_packs_bytes
    assert one.memory_bytes["dequantising"] == many.memory_bytes["dequantising"]
    assert sum(many.flops.values()) == pytest.approx(64 * sum(one.flops.values()))
    found = estimate().asking
    assert found is not None
    link = CATALOG.get("ml.p5.4xlarge").pcie_gb_per_second
    assert link is not None
    assert found.seconds_per_walk > SCOUT.layer_packs_bytes / (link * 1e9), "copies cannot be faster than their bus"


def test_the_run_pays_for_both_models_walks() -> None:
    time = estimate()
    found = time.asking
    assert found is not None
    assert found.walks % (2 * JOB.eval_max_new_tokens) == 0
    assert time.run["answers"] == found.seconds > found.walks * found.seconds_per_walk
    assert time.total == sum(time.run.values())
    twice = estimate(replace(WORK, max_new_tokens=2 * JOB.eval_max_new_tokens)).asking
    assert twice is not None
    assert twice.walks >= 2 * found.walks


def test_less_memory_takes_more_walks() -> None:
    roomy, tight = (estimate(name=name).asking for name in ("ml.p5.4xlarge", "ml.g5.12xlarge"))
    assert roomy is not None
    assert tight is not None
    assert tight.rows_together < roomy.rows_together


def test_more_memory_that_saves_no_batch_slows_none() -> None:
    """The batches of a round are of like size: 600 prompts are three of 200 before and after, not 256, 256 and 88."""
    known, work = CATALOG.get("ml.p5.4xlarge"), replace(WORK, prompts=600)
    asked = []
    for gib in range(78, 100):
        found = timing.estimate(SCOUT, JOB, work, replace(known, gpu_memory_gib=float(gib)), "resident", STORED)
        assert found is not None
        assert found.asking is not None
        asked.append(found.asking)
    answers = [one.seconds for one in asked]
    assert answers == sorted(answers, reverse=True)
    assert asked[-1].rows_together == 200


def test_with_a_rate_of_the_users_own_a_walk_costs_a_forward_pass_where_nothing_was_measured() -> None:
    unknown = replace(CATALOG.get("ml.p5.4xlarge"), gpu="X", peak_tflops=None)
    found = timing.estimate(SCOUT, JOB, WORK, unknown, "streamed", STORED, tokens_per_second=1000)
    assert found is not None
    assert found.asking is not None
    passes = step_work.PASSES * WORK.micro_batches_per_gpu(1)
    assert found.asking.seconds_per_walk == pytest.approx(found.seconds_per_step / passes)
