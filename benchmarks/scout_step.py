"""One optimizer step of Llama 4 Scout, as the trainer runs it: `python -m benchmarks.scout_step --mode resident`.

The whole model at its real shape with random NF4 weights, conversations of real lengths packed end to end, the loss
over all 202,048 classes, LoRA and the optimizer. Prints one JSON line with the median of several steps after a warm-up;
each step has tokens of its own. Several GPUs: `torchrun --nproc_per_node 4 -m benchmarks.scout_step --mode sharded`.

Processes may share a GPU where there are fewer of them than ranks (`--ranks-per-gpu`): NCCL allows it between processes
that it takes for those of different hosts, each with a NCCL_HOSTID and a LOCAL_RANK of 0 of its own. That shows what
such ranks need of memory and that they work together, and nothing of their speed.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine, random_model
from heartbeat.memory import GIB
from heartbeat.step_work import PASSES
from heartbeat.workload import micro_batch_sizes
from training_code import device as devices
from training_code.batches import Part, part_of
from training_code.clock import Clock
from training_code.llama import Llama, Placement
from training_code.ranks import Ranks, end_process, join
from training_code.step import train_step
from training_code.tokenizer import Encoded

RESULTS = Path(__file__).parent / "results"
MEAN_CONVERSATION_TOKENS = 600
CONVERSATION_SPREAD = 0.8
"""Of the logarithm of a conversation's length. Assumed: chat data differs."""
LAUNCHED_TOKENS, LAUNCHED_STEPS = 64, 4
FILL = 0.985
"""Of the micro-batches: a few conversations never fit exactly, and one more micro-batch for the rest would mislead."""


def main() -> None:
    arguments = parse()
    where = devices.of_process()
    if arguments.profile and where.type == "cpu":
        raise SystemExit("--profile shows a GPU's kernels, and this machine has none; leave it out")
    if arguments.memory_cap_gib and where.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(
            arguments.memory_cap_gib * GIB / torch.cuda.get_device_properties(where).total_memory, where
        )
    ranks = join(where)
    measured = measure(arguments, where, ranks)
    if ranks.is_first:
        print(json.dumps(measured), flush=True)
        if arguments.save:
            _save(measured)
    ranks.wait_for_all()


def measure(arguments: argparse.Namespace, where: torch.device, ranks: Ranks) -> dict[str, Any]:
    """What the steps took and needed."""
    dtype = devices.compute_dtype(where)
    placement = Placement(
        boundaries=arguments.boundaries,
        micro_batch_tokens=arguments.batch * arguments.max_length,
        group_size=arguments.group,
        keep_dequantised=not arguments.dequantise_each_time,
    )
    started = time.monotonic()
    llama = random_model.of_arguments(arguments, placement, device=where, dtype=dtype, ranks=ranks)
    built_seconds = time.monotonic() - started
    flat = llama.lora.flat
    optimizer = torch.optim.AdamW([flat], lr=1e-4, weight_decay=0.0, fused=True)
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    timed: list[_Timed] = []
    loss = math.nan
    for number in range(arguments.warm_up + arguments.steps):
        part = _part(arguments, llama, ranks, number)
        marks = _Marks(where)
        machine.synchronise(where, ranks)
        begun = time.monotonic()
        loss = train_step(
            llama,
            part,
            optimizer,
            seed=f"0:{number}",
            clock=Clock(limit_seconds=math.inf),
            ranks=ranks,
            mark=marks.mark,
        ).loss
        machine.synchronise(where, ranks)
        took = time.monotonic() - begun
        if ranks.is_first:
            print(f"step {number}: {took:.3f} s, loss {loss:.3f}", flush=True)
        if number >= arguments.warm_up:
            timed.append(_Timed(took, part, marks.seconds()))
    if arguments.profile:
        _profile(llama, _part(arguments, llama, ranks, 99), optimizer, ranks, arguments.profile)
    usual = _usual(timed)
    part, median = usual[0].part, statistics.median(one.seconds for one in usual)
    tokens, supervised = part.num_tokens, part.num_supervised
    starting = _launch_seconds(llama, ranks) if where.type == "cuda" and arguments.mode == "resident" else None
    flops = llama.architecture.shape.training_flops_per_token(
        context=MEAN_CONVERSATION_TOKENS if arguments.lengths == "chat" else arguments.max_length,
        lora_rank=arguments.lora_r,
        lora_targets=tuple(arguments.lora_targets.split(",")),
        supervised_share=supervised / tokens,
    )
    ceiling = _matmul_ceiling(where, dtype)
    achieved = sum(flops.values()) * tokens / median / ranks.world_size
    return {
        "tokens_per_second": tokens / median,
        "seconds_per_step": median,
        "seconds_of_steps": [one.seconds for one in timed],
        "micro_batches_of_steps": [one.part.num_batches for one in timed],
        "seconds_by_part": {name: statistics.median(one.by_part[name] for one in usual) for name in usual[0].by_part},
        "tokens_per_step": tokens,
        "supervised_share": supervised / tokens,
        "micro_batches_per_gpu": part.num_batches,
        "peak_gpu_reserved_gib": torch.cuda.max_memory_reserved(where) / GIB if where.type == "cuda" else None,
        "gpu_in_use_gib": machine.gpu_in_use_gib(where),
        "launch_seconds_per_layer": starting,
        "matmul_ceiling_tflops": ceiling / 1e12,
        "achieved_tflops": achieved / 1e12,
        "ratio_to_ceiling": achieved / ceiling,
        "built_seconds": built_seconds,
        "last_loss": loss,
        **machine.record(arguments, where, ranks),
    }


@dataclass(frozen=True)
class _Timed:
    """A step that counts."""

    seconds: float
    part: Part
    by_part: Mapping[str, float]


def _usual(timed: Sequence[_Timed]) -> list[_Timed]:
    """Those with the number of micro-batches that most steps have: rows of chance lengths fill one more now and then,
    and a small one takes as long as a full one where the processor is waited for."""
    most = statistics.mode(one.part.num_batches for one in timed)
    return [one for one in timed if one.part.num_batches == most]


def _part(arguments: argparse.Namespace, llama: Llama, ranks: Ranks, number: int) -> Part:
    """A step's conversations, as many as make the micro-batches of all ranks full."""
    chance = random.Random(number)
    capacity = llama.placement.micro_batch_tokens
    fill = FILL if arguments.lengths == "chat" else 1.0
    wanted, documents = round(capacity * arguments.micro_batches * ranks.world_size * fill), []
    vocabulary = llama.architecture.shape.vocabulary_size
    while wanted > 0:
        length = min(_length(arguments, chance), wanted)
        ids = torch.randint(vocabulary, (length,), generator=torch.Generator().manual_seed(chance.getrandbits(60)))
        answers_from = round(length * (1 - arguments.supervised))
        documents.append(Encoded(ids.tolist(), [place >= answers_from for place in range(length)]))
        wanted -= length
    return part_of(documents, capacity=capacity, rank=ranks.rank, world_size=ranks.world_size)


def _length(arguments: argparse.Namespace, chance: random.Random) -> int:
    if arguments.lengths == "full":
        return int(arguments.max_length)
    middle = math.log(MEAN_CONVERSATION_TOKENS) - CONVERSATION_SPREAD**2 / 2
    return int(min(arguments.max_length, max(16, round(chance.lognormvariate(middle, CONVERSATION_SPREAD)))))


class _Marks:
    """Time between marks of a step: on the GPU's own clock where there is one."""

    def __init__(self, where: torch.device) -> None:
        self._cuda = where.type == "cuda"
        self._marks: list[tuple[str, Any]] = []
        self.mark("start")

    def mark(self, name: str) -> None:
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((name, event))
        else:
            self._marks.append((name, time.monotonic()))

    def seconds(self) -> dict[str, float]:
        """By the mark that ends each stretch; those of one name together."""
        found: dict[str, float] = {}
        for (_, start), (name, end) in zip(self._marks, self._marks[1:], strict=False):
            seconds = start.elapsed_time(end) / 1e3 if self._cuda else end - start
            found[name] = found.get(name, 0.0) + seconds
        return found


def _profile(llama: Llama, part: Part, optimizer: torch.optim.Optimizer, ranks: Ranks, num_rows: int) -> None:
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CUDA]) as profile:
        begun = time.monotonic()
        train_step(llama, part, optimizer, seed="profile", clock=Clock(limit_seconds=math.inf), ranks=ranks)
        torch.cuda.synchronize()
        took = time.monotonic() - begun
    if not ranks.is_first:
        return
    rows = (row for row in profile.key_averages() if row.device_type.name == "CUDA")
    kernels = sorted(rows, key=lambda row: -row.self_device_time_total)
    total = sum(row.self_device_time_total for row in kernels)
    print(f"kernels and copies {total / 1e6:.3f} s in a step of {took:.3f} s", flush=True)
    for row in kernels[:num_rows]:
        share, seconds = row.self_device_time_total / total, row.self_device_time_total / 1e6
        print(f"{share:6.1%} {seconds:8.3f} s {row.count:6d} x {row.key[:100]}", flush=True)


def _launch_seconds(llama: Llama, ranks: Ranks) -> float:
    """What the processor takes to start the kernels of one layer once: of micro-batches too small to wait for."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(llama.architecture.shape.vocabulary_size, (2, LAUNCHED_TOKENS), generator=generator)
    documents = [Encoded(row.tolist(), [True] * LAUNCHED_TOKENS) for row in ids]
    part = part_of(documents, capacity=LAUNCHED_TOKENS, rank=0, world_size=1)
    found = []
    for _ in range(LAUNCHED_STEPS):
        machine.synchronise(llama.device, ranks)
        begun = time.monotonic()
        llama.accumulate(part.batches, num_batches=part.num_batches, seed="launches")
        torch.cuda.synchronize(llama.device)
        found.append((time.monotonic() - begun) / (PASSES * part.num_batches * llama.num_layers))
    return statistics.median(found[1:])


def _matmul_ceiling(where: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large product, the best that this machine does: the median of several."""
    size = 8192 if where.type == "cuda" else 512
    one, other = (torch.randn(size, size, device=where, dtype=dtype) for _ in range(2))
    out, found = torch.empty_like(one), []
    for _ in range(12):
        marks = _Marks(where)
        torch.mm(one, other, out=out)
        marks.mark("product")
        if where.type == "cuda":
            torch.cuda.synchronize()
        found.append(2 * size**3 / marks.seconds()["product"])
    return statistics.median(found[2:])


def _save(measured: dict[str, Any]) -> None:
    settings = measured["settings"]
    gpu = measured["gpu"].lower().removeprefix("nvidia ").split()[0]
    micro_batches = f"{settings['micro_batches']}x{settings['batch']}x{settings['max_length']}"
    parts = [measured["mode"], f"{measured['num_gpus']}x{gpu}", micro_batches]
    for option in ("lengths", "group", "boundaries", "lora_targets", "lora_r", "memory_cap_gib", "ranks_per_gpu"):
        if settings[option] != _parser().get_default(option):
            parts.append(f"{option}-{settings[option]}".replace(",", "-").replace("_", "-"))
    name = "-".join(parts) + ".json"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(json.dumps(measured, indent=1) + "\n")


def parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The settings of a measurement; without `given`, those of the command line."""
    arguments = _parser().parse_args(given)
    arguments.batch = arguments.batch or micro_batch_sizes(arguments.max_length)[0] // arguments.max_length
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    random_model.add_options(parser)
    add("--micro-batches", type=int, default=8, help="of a step, on each GPU (8)")
    add("--batch", type=int, help="times MAX_LENGTH that a micro-batch has (as in a job with memory for it)")
    add("--max-length", type=int, default=4096, help="tokens (4096)")
    add("--lengths", choices=("chat", "full"), default="chat", help="of conversations: like chats, or MAX_LENGTH each")
    add("--supervised", type=float, default=0.4, help="share of each conversation that the loss is taken on (0.4)")
    add("--group", type=int, default=8, help="micro-batches that go through a layer together (8)")
    add("--boundaries", choices=("device", "host"), default="host", help="where layers' inputs are kept (host)")
    add("--memory-cap-gib", type=float, help="of GPU memory, to stand for a smaller GPU")
    add("--ranks-per-gpu", type=int, default=1, help="processes that share a GPU, to stand for more GPUs (1)")
    add("--warm-up", type=int, default=2, help="steps before those that count (2)")
    add("--steps", type=int, default=3, help="steps that count (3)")
    add("--profile", type=int, metavar="N", help="print the N kernels that take longest in one more step")
    add("--save", action="store_true", help="keep the result in benchmarks/results")
    return parser


if __name__ == "__main__":
    main()
    end_process(0)
