"""How fast Llama 4 Scout answers through the trainer's own model: `python -m benchmarks.generate --mode resident`.

The model at its real shape with random NF4 weights, prompts of one length, answers of another that nothing ends early.
Prints one JSON line with medians of several runs after a warm-up. Reading the prompts is measured as answers of one
token, and what is left of longer answers as saying the other tokens. Several GPUs:
`torchrun --nproc_per_node 4 -m benchmarks.generate --mode sharded`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch

from benchmarks import machine, random_model
from heartbeat.memory import GIB
from training_code import device as devices
from training_code.generate import cache_bytes, generate
from training_code.llama import Placement
from training_code.ranks import Ranks, end_process, join


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.new < 2:
        raise SystemExit(f"--new {arguments.new}: one token is what reading a prompt gives; ask for 2 or more")
    where = devices.of_process()
    ranks = join(where)
    measured = measure(arguments, where, ranks)
    if ranks.is_first:
        print(json.dumps(measured), flush=True)
    ranks.wait_for_all()


def measure(arguments: argparse.Namespace, where: torch.device, ranks: Ranks) -> dict[str, Any]:
    """What reading and saying took and needed."""
    dtype = devices.compute_dtype(where)
    placement = Placement(keep_dequantised=not arguments.dequantise_each_time)
    llama = random_model.of_arguments(arguments, placement, device=where, dtype=dtype, ranks=ranks)
    num_prompts, vocabulary = arguments.batch * ranks.world_size, llama.architecture.shape.vocabulary_size
    generator = torch.Generator().manual_seed(0)  # of the same prompts on every rank
    prompts = torch.randint(vocabulary, (num_prompts, arguments.prompt), generator=generator).tolist()

    def seconds(num_new: int) -> float:
        machine.synchronise(where, ranks)
        begun = time.monotonic()
        generate(
            llama,
            prompts,
            max_new_tokens=num_new,
            stop_ids=(),
            adapted=not arguments.base,
            batch_size=arguments.batch,
            ranks=ranks,
        )
        machine.synchronise(where, ranks)
        return time.monotonic() - begun

    seconds(2)  # compiles what is compiled
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    read = statistics.median(seconds(1) for _ in range(arguments.runs))
    whole = statistics.median(seconds(arguments.new) for _ in range(arguments.runs))
    step = (whole - read) / (arguments.new - 1)
    cached = arguments.batch * cache_bytes(llama.architecture, arguments.prompt + arguments.new, dtype)
    return {
        "prefill_tokens_per_second": num_prompts * arguments.prompt / read,
        "decode_tokens_per_second": num_prompts / step,
        "seconds_to_read": read,
        "seconds_per_walk": step,
        "cache_gib_per_gpu": cached / GIB,
        **machine.record(arguments, where, ranks),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    random_model.add_options(parser)
    add("--batch", type=int, default=32, help="prompts that each GPU answers together (32)")
    add("--prompt", type=int, default=512, help="tokens of a prompt (512)")
    add("--new", type=int, default=64, help="tokens of an answer (64)")
    add("--base", action="store_true", help="without the adapter")
    add("--runs", type=int, default=3, help="that count (3)")
    return parser


if __name__ == "__main__":
    main()
    end_process(0)
