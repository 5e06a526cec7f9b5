"""Where the tuned model can be served, and what that costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from typing import Any

from heartbeat.catalog import Catalog, Instance
from heartbeat.memory import GIB
from heartbeat.scout import WEIGHT_BYTES, ModelShape
from heartbeat.timing import ASSUMED, Assumed

HOURS_PER_MONTH = 730
GPU_SHARE = 0.9
"""Of a GPU's memory that vLLM uses: its `gpu_memory_utilization` default."""
RUNTIME_GIB = 3.0
"""Activations, CUDA graphs and NCCL's buffers on each GPU. Unverified."""
SERVED_FORMATS = ("bf16", "fp8", "int4")
"""Of weights, as vLLM serves them: the largest first."""
DAYS_PER_MONTH = HOURS_PER_MONTH / 24
ENGINE_SECONDS = 180.0
"""vLLM compiles the model and captures CUDA graphs. Unverified."""


@dataclass(frozen=True, kw_only=True)
class ServingPlan:
    """The endpoint's instance, or why there is none. None is unknown, or, with a refusal, not to be had."""

    instance_type: str | None
    fallbacks: Sequence[str]
    """Of the instances asked for, those that can take its place where it cannot be had: as many GPUs to split over."""
    tensor_parallel: int
    """GPUs that the weights are split over."""
    weight_format: str
    usd_per_hour: float | None
    usd_per_month: float | None
    """Of 730 hours: an endpoint bills while it exists, asked or not."""
    usd_per_month_awake: float | None
    """Of `busy_hours_per_day`, for an endpoint that is off in between. Before it answers again it must start and load
    the weights."""
    busy_hours_per_day: float
    cold_start_seconds: Mapping[str, float]
    """From nothing to the first answer, by what takes them: assumed rates, computed from the weights' bytes."""
    usd_per_cold_start: float | None
    """An instance bills while it starts."""
    max_model_len: int
    concurrency: int
    adapters: int
    """Served at the same time."""
    max_lora_rank: int
    price_is_old: bool
    gpu_memory_needed_gib: float
    """On each of those GPUs."""
    gpu_memory_gib: float
    memory_gib: Mapping[str, float]
    """The terms of `gpu_memory_needed_gib`."""
    rejected: Mapping[str, str]
    """Instances that do not do, and why."""
    refusal: str | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan_serving(
    *,
    shape: ModelShape,
    catalog: Catalog,
    instance_types: Sequence[str] | None = None,
    weight_format: str = "bf16",
    max_model_len: int = 8192,
    concurrency: int = 4,
    adapters: int = 1,
    max_lora_rank: int = 16,
    busy_hours_per_day: float = 24.0,
    assumed: Assumed = ASSUMED,
    today: date | None = None,
) -> ServingPlan:
    """The first of `instance_types` (the cheapest of the catalogue where None) that can serve the model.

    It must hold the weights, the keys and values of `concurrency` conversations of `max_model_len` tokens, and
    `adapters` adapters of ranks up to `max_lora_rank`. `today` tells which prices are old.
    `assumed`: what a start takes.

    Raises ValueError for an unknown format, a size below 1 or a day of other than 0 to 24 hours, UnknownInstance for a
    type the catalogue lacks.
    """
    if weight_format not in WEIGHT_BYTES:
        raise ValueError(f"weight_format={weight_format!r} must be one of {', '.join(WEIGHT_BYTES)}")
    sizes = {
        "max_model_len": max_model_len,
        "concurrency": concurrency,
        "adapters": adapters,
        "max_lora_rank": max_lora_rank,
    }
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    if not 0 <= busy_hours_per_day <= 24:
        raise ValueError(f"busy_hours_per_day={busy_hours_per_day:g} must be between 0 and 24")
    asked = _Ask(
        shape=shape,
        max_model_len=max_model_len,
        concurrency=concurrency,
        adapters=adapters,
        max_lora_rank=max_lora_rank,
        busy_hours_per_day=busy_hours_per_day,
        assumed=assumed,
        today=today if today is not None else datetime.now(UTC).date(),
    )
    if instance_types:
        wanted = [catalog.get(name) for name in dict.fromkeys(instance_types)]
    else:
        wanted = sorted(catalog, key=lambda i: math.inf if i.usd_per_hour is None else i.usd_per_hour)
    rejected: dict[str, str] = {}
    for number, instance in enumerate(wanted, start=1):
        plan = _on(instance, asked, weight_format)
        if plan.refusal is None:
            # Nobody gets a dearer instance than the cheapest without having asked for it.
            rest = [_on(other, asked, weight_format) for other in wanted[number:]] if instance_types else []
            alike = [p.instance_type for p in rest if not p.refusal and p.tensor_parallel == plan.tensor_parallel]
            return replace(plan, rejected=rejected, fallbacks=[name for name in alike if name])
        rejected[instance.instance_type] = plan.refusal
    last = _on(wanted[-1], asked, weight_format)
    if instance_types:
        reasons = "; ".join(f"{name} {why}" for name, why in rejected.items())
        refusal = f"the model in {weight_format} fits no instance asked for: {reasons}."
    else:
        nearest = min((_on(i, asked, weight_format) for i in wanted if i.bf16), key=_fullness, default=last)
        refusal = (
            f"the model in {weight_format} fits no instance of the catalogue; the nearest, {nearest.instance_type}, "
            f"{nearest.refusal}."
        )
    hint = _what_would_fit(asked, catalog, weight_format)
    return replace(
        last,
        instance_type=None,
        usd_per_hour=None,
        usd_per_month=None,
        usd_per_month_awake=None,
        usd_per_cold_start=None,
        rejected=rejected,
        refusal=f"{refusal} {hint}",
    )


@dataclass(frozen=True, kw_only=True)
class _Ask:
    """What the endpoint is to do."""

    shape: ModelShape
    max_model_len: int
    concurrency: int
    adapters: int
    max_lora_rank: int
    busy_hours_per_day: float
    assumed: Assumed
    today: date

    def memory_terms(self, weight_format: str, tensor_parallel: int) -> dict[str, float]:
        """GiB on each GPU: its share of the weights, of the conversations' keys and values and of the adapters, and the
        runtime."""
        weights = sum(self.shape.bytes_by_part(weight_format).values())
        tokens = self.max_model_len * self.concurrency
        # Fewer KV heads than GPUs are copied, not split.
        kv_split = min(tensor_parallel, self.shape.num_key_value_heads)
        slot = adapter_slot_bytes(self.shape, self.max_lora_rank, tensor_parallel)
        return {
            "weights": weights / tensor_parallel / GIB,
            "keys_and_values": self.shape.kv_cache_bytes_per_token * tokens / kv_split / GIB,
            "adapters": self.adapters * slot / GIB,
            "runtime": RUNTIME_GIB,
        }


def adapter_slot_bytes(shape: ModelShape, rank: int, tensor_parallel: int) -> float:
    """Bytes on each GPU that vLLM reserves for one adapter of this rank in bf16, computed from its layers' code.

    Room is reserved for every matrix that could be adapted, whatever an adapter is on, routed experts included (a vLLM
    that adapts none of those needs less). Of a matrix whose outputs are split over the GPUs each has all of A and its
    part of B; of one whose inputs are split, its part of A and all of B (vllm/lora/layers).
    """
    hidden, moe, dense = shape.hidden_size, shape.num_moe_layers, shape.num_layers - shape.num_moe_layers
    # A of query, key, value, gate and up, B of output and down: as wide as the hidden states.
    whole = hidden * (4 * shape.num_layers + 3 * (moe * (1 + shape.num_experts) + dense))
    split = shape.num_layers * (2 * shape.query_size + 2 * shape.key_value_size)
    split += 3 * (moe * (1 + shape.num_experts) * shape.expert_size + dense * shape.dense_size)
    return 2 * rank * (whole + split / tensor_parallel)


def cold_start_seconds(shape: ModelShape, weight_format: str, assumed: Assumed = ASSUMED) -> dict[str, float]:
    """What an endpoint that has no instance does before it answers, and the seconds that each takes.

    The rates are those of a training job's start (heartbeat.timing) and as unverified.
    """
    weights_gb = sum(shape.bytes_by_part(weight_format).values()) / 1e9
    around = assumed.seconds(weights_gb)
    return {
        "start_up": around["start_up"],
        "download": around["download"],
        "load": around["prepare_weights"],
        "engine": ENGINE_SECONDS,
    }


def _on(instance: Instance, asked: _Ask, weight_format: str) -> ServingPlan:
    split = _tensor_parallel(instance.num_gpus, asked.shape)
    terms = asked.memory_terms(weight_format, split)
    needed, usable = sum(terms.values()), instance.gpu_memory_gib * GPU_SHARE
    refusal = None
    if not instance.bf16:
        refusal = f"has GPUs ({instance.gpu}) that do not compute in bf16"
    elif needed > usable:
        where = f"each of {split} GPUs" if split > 1 else "its GPU"
        refusal = f"needs {needed:,.1f} GiB on {where}, {needed - usable:,.1f} more than {usable:.1f} usable"
    price, cold_start = instance.usd_per_hour, cold_start_seconds(asked.shape, weight_format, asked.assumed)
    return ServingPlan(
        instance_type=instance.instance_type,
        fallbacks=(),
        tensor_parallel=split,
        weight_format=weight_format,
        usd_per_hour=price,
        usd_per_month=None if price is None else price * HOURS_PER_MONTH,
        usd_per_month_awake=None if price is None else price * asked.busy_hours_per_day * DAYS_PER_MONTH,
        busy_hours_per_day=asked.busy_hours_per_day,
        cold_start_seconds=cold_start,
        usd_per_cold_start=None if price is None else price * sum(cold_start.values()) / 3600,
        max_model_len=asked.max_model_len,
        concurrency=asked.concurrency,
        adapters=asked.adapters,
        max_lora_rank=asked.max_lora_rank,
        price_is_old=price is not None and instance.price_is_old(asked.today),
        gpu_memory_needed_gib=needed,
        gpu_memory_gib=instance.gpu_memory_gib,
        memory_gib=terms,
        rejected={},
        refusal=refusal,
    )


def _tensor_parallel(num_gpus: int, shape: ModelShape) -> int:
    """The most GPUs that vLLM can split this model over: a divisor of its heads, and of or by its KV heads."""
    heads, kv_heads = shape.num_attention_heads, shape.num_key_value_heads
    return max(n for n in range(1, num_gpus + 1) if heads % n == 0 and (kv_heads % n == 0 or n % kv_heads == 0))


def _what_would_fit(asked: _Ask, catalog: Catalog, weight_format: str) -> str:
    """The cheapest instance that would do, in this format or a smaller one."""
    formats = [weight_format, *(f for f in SERVED_FORMATS if WEIGHT_BYTES[f] < WEIGHT_BYTES[weight_format])]
    found = []
    for name in formats:
        plans = [_on(instance, asked, name) for instance in catalog]
        fit = [plan for plan in plans if plan.refusal is None and plan.usd_per_hour is not None]
        if fit:
            cheapest = min(fit, key=lambda plan: plan.usd_per_hour or 0.0)
            old = ", an old price" if cheapest.price_is_old else ""
            found.append(f"{cheapest.instance_type} in {name} (${cheapest.usd_per_hour:,.2f} an hour{old})")
    if not found:
        return f"Nothing in the catalogue does; {_most_tokens(asked, catalog, weight_format)}."
    return f"What would fit: {'; '.join(found)}."


def _fullness(plan: ServingPlan) -> float:
    return plan.gpu_memory_needed_gib / plan.gpu_memory_gib


def _most_tokens(asked: _Ask, catalog: Catalog, weight_format: str) -> str:
    """Of keys and values, the most that any instance has room for; where none has, what else can be lowered."""
    room: dict[str, int] = {}
    for instance in catalog:
        if instance.bf16:
            split = _tensor_parallel(instance.num_gpus, asked.shape)
            terms = asked.memory_terms(weight_format, split)
            free = instance.gpu_memory_gib * GPU_SHARE - sum(terms.values()) + terms["keys_and_values"]
            per_token = terms["keys_and_values"] / (asked.max_model_len * asked.concurrency)
            room[instance.instance_type] = math.floor(free / per_token)
    name, tokens = max(room.items(), key=lambda item: item[1], default=("", 0))
    if tokens < 1:
        return "lower the adapters, or their rank"
    conversations = tokens // asked.max_model_len
    lower = (
        f"concurrency to {conversations:,}" if conversations else f"max_model_len to {tokens:,} and concurrency to 1"
    )
    return f"lower {lower}: {name} has room for {tokens:,} tokens of conversations in {weight_format}"
