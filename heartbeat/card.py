"""The claims that this project started from, held against arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from heartbeat import calibration, dataset
from heartbeat.candidates import Candidate, Request
from heartbeat.catalog import Catalog, load
from heartbeat.durations import about
from heartbeat.job import FineTuneJob
from heartbeat.memory import GIB
from heartbeat.scout import QUANTISED_PARTS, SCOUT, ModelShape
from heartbeat.timing import ASSUMED

INSTANCE_TYPES = ("ml.p4d.24xlarge", "ml.p3.8xlarge", "ml.g5.12xlarge")
"""The card's order of preference."""

HOURS, DOLLARS = (4, 8), (200, 400)
"""What the card says that its job takes and costs."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim, what it computes to, and how."""

    claim: str
    computed: str
    arithmetic: str
    holds: bool


def card_truth_table(shape: ModelShape = SCOUT, catalog: Catalog | None = None) -> tuple[Claim, ...]:
    """The card's claims of the model's size, and of what its job takes and costs on three instances, computed."""
    known = catalog or load()
    return (*_of_the_model(shape, known), *_of_the_job(shape, known))


def _of_the_model(shape: ModelShape, catalog: Catalog) -> tuple[Claim, ...]:
    parts = shape.parameters
    total, active = shape.total_parameters, shape.active_parameters
    nf4 = shape.bytes_by_part("nf4")
    quantised = sum(parts[part] for part in QUANTISED_PARTS)
    nf4_bytes = shape.bytes_nf4
    bf16_rest = nf4_bytes - sum(nf4[part] for part in QUANTISED_PARTS)
    gpus = {instance.gpu: instance.gpu_memory_gib for instance in catalog}
    in_bf16 = [gpu for gpu, gib in gpus.items() if gib * GIB >= shape.bytes_bf16]
    in_nf4 = [gpu for gpu, gib in gpus.items() if gib * GIB >= nf4_bytes]
    return (
        Claim(
            claim="17 B parameters",
            computed=f"{total / 1e9:.1f} B, of which a token uses {active / 1e9:.1f} B",
            arithmetic=(
                f"{parts['routed_experts'] / 1e9:.1f} B routed experts ({shape.num_moe_layers} layers x "
                f"{shape.num_experts} experts x 3 x {shape.hidden_size} x {shape.expert_size}) + "
                f"{parts['shared_experts'] / 1e9:.1f} B shared experts + {parts['attention'] / 1e9:.1f} B attention + "
                f"{(parts['embedding'] + parts['head']) / 1e9:.1f} B embedding and head + "
                f"{parts['vision'] / 1e9:.1f} B vision"
            ),
            holds=total < 18e9,
        ),
        Claim(
            claim="34 GB in fp16",
            computed=f"{shape.bytes_bf16 / 1e9:.0f} GB",
            arithmetic=f"{total / 1e9:.1f} B parameters x 2 bytes: every expert is stored, also those a token skips",
            holds=shape.bytes_bf16 < 35e9,
        ),
        Claim(
            claim="17 GB in 4 bit",
            computed=f"{nf4_bytes / 1e9:.1f} GB ({nf4_bytes / GIB:.1f} GiB), the text model alone",
            arithmetic=(
                f"{quantised / 1e9:.1f} B x 0.516 bytes (4 bits and double-quantised scales) + "
                f"{bf16_rest / 1e9:.1f} GB of embedding, head, norms and routers in bf16"
            ),
            holds=nf4_bytes < 18e9,
        ),
        Claim(
            claim="no sharding needed, fits most GPU instances",
            computed=f"in bf16 {_holders(in_bf16, len(gpus))}; in 4 bit {_holders(in_nf4, len(gpus))}",
            arithmetic=(
                f"{shape.bytes_bf16 / GIB:.0f} GiB in bf16 and {nf4_bytes / GIB:.1f} GiB in 4 bit, before "
                f"activations and optimizer, against {', '.join(f'{gib:g}' for gib in sorted(set(gpus.values())))} "
                "GiB of one GPU"
            ),
            holds=2 * len(in_nf4) > len(gpus),
        ),
    )


def _holders(gpus: list[str], num_kinds: int) -> str:
    return f"{len(gpus)} of {num_kinds} kinds of GPU hold it alone" + (f" ({', '.join(gpus)})" if gpus else "")


def _of_the_job(shape: ModelShape, catalog: Catalog) -> tuple[Claim, ...]:
    """Of nothing but its steps of full sequences: no row is held out, and no answer is asked for."""
    job = FineTuneJob(held_out_fraction=0.0, eval_generate_rows=0)
    runs = _runs(job, shape, catalog)
    able = [run for run in runs if not run.problems]
    prices = "; ".join(dict.fromkeys(run.price_note for run in runs))
    tokens = job.max_steps * job.global_batch_size * job.max_length
    return (
        Claim(
            claim=f"{HOURS[0]}-{HOURS[1]} h",
            computed=_each(runs, _hours),
            arithmetic=(
                f"{job.max_steps} steps x {job.global_batch_size} sequences x {job.max_length:,} tokens = "
                f"{tokens / 1e6:.0f} M tokens; {_each(runs, _sum_of_hours)}"
            ),
            holds=all(run.hours is not None and HOURS[0] <= run.hours <= HOURS[1] for run in runs),
        ),
        Claim(
            claim=f"${DOLLARS[0]}-{DOLLARS[1]}",
            computed=_each(runs, _dollars),
            arithmetic=f"{_each(runs, _product_of_dollars)}; prices {prices}",
            holds=all(run.usd_on_demand is not None and DOLLARS[0] <= run.usd_on_demand <= DOLLARS[1] for run in runs),
        ),
        Claim(
            claim=f"runs on {', '.join(map(_short, INSTANCE_TYPES))}",
            computed=f"on {len(able)} of {len(runs)} within {about(job.max_runtime_seconds)}",
            arithmetic=_each(runs, _verdict),
            holds=len(able) == len(runs),
        ),
    )


def _runs(job: FineTuneJob, shape: ModelShape, catalog: Catalog) -> list[Candidate]:
    """This job with full sequences, as often as it looks at one, on each of the card's instances in its best mode."""
    rows = job.max_steps * job.global_batch_size
    stats = replace(
        dataset.check(()).stats,
        rows=rows,
        valid_rows=rows,
        tokens=rows * job.max_length,
        supervised_tokens=rows * job.max_length,
        longest_row_tokens=job.max_length,
    )
    request = Request(
        shape=shape,
        stats=stats,
        job=job,
        catalog=catalog,
        max_runtime_seconds=job.max_runtime_seconds,
        budget_usd=None,
        spot_usd_per_hour={},
        tokens_per_second={},
        quotas=None,
        calibration=calibration.stored(catalog),
        assumed=ASSUMED,
        today=datetime.now(UTC).date(),
    )
    return [request.best(catalog.get(name)) for name in INSTANCE_TYPES]


def _each(runs: Sequence[Candidate], say: Callable[[Candidate], str]) -> str:
    return "; ".join(f"{_short(run.instance_type)} {said}" for run in runs if (said := say(run)))


def _short(instance_type: str) -> str:
    """As the card writes it: `p4d`, `g5.12xlarge`."""
    return instance_type.removeprefix("ml.").removesuffix(".24xlarge")


def _hours(run: Candidate) -> str:
    return "cannot run it" if run.hours is None else f"{run.guess}{run.hours:.1f} h"


def _sum_of_hours(run: Candidate) -> str:
    if run.hours is None or run.seconds_per_step is None:
        return ""
    rest = run.hours * 3600 - run.seconds["training"]
    steps = f"{run.seconds['training'] / run.seconds_per_step:.0f} x {run.guess}{run.seconds_per_step:.1f} s"
    return f"{steps} + {rest / 60:.0f} min of start and end (assumed)"


def _dollars(run: Candidate) -> str:
    return "cannot run it" if run.usd_on_demand is None else f"{run.guess}${run.usd_on_demand:,.0f}"


def _product_of_dollars(run: Candidate) -> str:
    if run.hours is None or run.usd_per_hour is None:
        return ""
    return f"{run.guess}{run.hours:.2f} h x ${run.usd_per_hour:,.2f}"


def _verdict(run: Candidate) -> str:
    return ", ".join(run.problems) or f"{run.mode}, {run.gpu_memory_needed_gib:.1f} of {run.gpu_memory_gib:g} GiB"
