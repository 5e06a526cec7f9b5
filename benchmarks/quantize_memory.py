"""Host memory and speed of the tools that walk a whole checkpoint: `python -m benchmarks.quantize_memory`.

Writes some layers of Scout's true shape with random weights in bf16, 4.4 GB each, and an adapter on them; then runs
`training_code.quantize` and `training_code.merge` as anybody would, on the CPU, and prints one JSON line for each: the
most memory that the process had, whatever it was for, and source bytes a second. What a tool holds at a time is part of
one layer, so more layers take no more; the vocabulary is cut, since embedding and head are copied in the same way.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from benchmarks import random_model
from heartbeat.memory import GIB
from training_code import adapter, packs
from training_code.architecture import Architecture
from training_code.base_files import CONFIG
from training_code.lora_weights import LoraWeights
from training_code.weight_names import expected_shapes

VOCABULARY = 4096
TARGETS = ("attention", "shared_expert")
RANK = 16
CODE = """
import sys
from pathlib import Path
from training_code import {tool}

def say_most():
    # Of this program alone; getrusage also counts what its parent had when it started it.
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(line for line in lines if line.startswith("VmHWM:")).split()[1], file=sys.stderr)

say_most()
status = {tool}.main()
say_most()
sys.exit(status)
"""
"""Prints, in KiB, the most memory that it had before its work and after."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="on the disk that counts (the system's for temporary files)")
    parser.add_argument("--layers", type=int, default=1, help="of 48; 10 GB of files for each (1)")
    parser.add_argument("--tiny", action="store_true", help="of a small model, to see that the benchmark works")
    arguments = parser.parse_args()
    model = random_model.TINY if arguments.tiny else random_model.SCOUT
    config = {**model, "num_hidden_layers": arguments.layers, "vocab_size": VOCABULARY}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as made:
        root = Path(made)
        _write_base(root / "base", config)
        _write_adapter(root / "adapter", config)
        for tool, folders in (("quantize", ("base", "nf4")), ("merge", ("base", "adapter", "merged"))):
            measured = _run(tool, [root / folder for folder in folders])
            print(json.dumps({"tool": tool, "layers": arguments.layers, **measured}), flush=True)


def _run(tool: str, folders: list[Path]) -> dict[str, float]:
    started = time.monotonic()
    command = [sys.executable, "-c", CODE.format(tool=tool), *map(str, folders)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()
    _, status, used = os.wait4(process.pid, 0)
    seconds, process.returncode = time.monotonic() - started, os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"training_code.{tool} ended with {process.returncode}: {said}")
    before, after = said.split()
    num_bytes = sum(file.stat().st_size for file in folders[0].iterdir())
    return {
        "source_gb": num_bytes / 1e9,
        "seconds": seconds,
        "mb_per_second": num_bytes / 1e6 / seconds,
        "peak_host_gib": int(after) * 1024 / GIB,
        "of_the_imports_gib": int(before) * 1024 / GIB,
        "processor_seconds": used.ru_utime + used.ru_stime,
    }


def _write_base(folder: Path, config: dict[str, Any]) -> None:
    """One file for each layer, as large checkpoints are published, and one for the rest."""
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps(config))
    shapes = expected_shapes(Architecture.from_config(config))
    prefixes = [f"model.layers.{number}." for number in range(config["num_hidden_layers"])]
    files: dict[str, list[str]] = {}
    for name in shapes:
        of_layer = (number for number, prefix in enumerate(prefixes) if name.startswith(prefix))
        files.setdefault(f"model-{next(of_layer, len(prefixes)):02}.safetensors", []).append(name)
    for file, names in files.items():
        entries = dict(packs.lay_out((name, torch.bfloat16, shapes[name]) for name in names))
        header = packs.encode_header(entries.items(), {})
        packs.write_atomically(folder / file, chain([header], _random(shapes[name] for name in names)))
    index = {"weight_map": {name: file for file, names in files.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _random(shapes: Iterator[tuple[int, ...]]) -> Iterator[memoryview]:
    generator = torch.Generator().manual_seed(0)
    for shape in shapes:
        weight = torch.empty(shape, dtype=torch.bfloat16).normal_(0, random_model.WEIGHT_SIZE, generator=generator)
        yield weight.view(-1).view(torch.uint8).numpy().data


def _write_adapter(folder: Path, config: dict[str, Any]) -> None:
    architecture = Architecture.from_config(config)
    lora = LoraWeights(architecture, TARGETS, rank=RANK, alpha=RANK, dropout=0, seed=0, device=torch.device("cpu"))
    lora.flat.detach().normal_(0, random_model.WEIGHT_SIZE)
    adapter.save(folder, lora, architecture, targets=TARGETS, rank=RANK, alpha=RANK, dropout=0)


if __name__ == "__main__":
    main()
