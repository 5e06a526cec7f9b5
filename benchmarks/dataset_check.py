"""Throughput and memory of the dataset check on one core: `python -m benchmarks.dataset_check --megabytes 10 1000`.

Each size and mode runs in a process of its own, which reads a file and prints one line of JSON. Rows are made of the
sentences of examples/stanley, seeded: one to four questions of two, before half of the answers a call and its result,
answers of one to five; a quarter declares tools. As in the chats of one product, system prompts (5), tools (one list)
and results (1,465) come again and again, questions and answers hardly: of 69,218 each in 50 MB, 67,583 and 57,050 are
different. The counter remembers the tokens of headers and of first turns only. `--file` measures a file of yours.
Seconds are of the processor; a busy machine still costs some, since processes take the caches from each other.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import processor
from heartbeat import dataset, json_lines
from heartbeat.cli import vocabulary
from heartbeat.row_rules import ROLES

ROOT = Path(__file__).resolve().parent.parent
STANLEY = ROOT / "examples" / "stanley" / "stanley.jsonl"
RESULTS = Path(__file__).parent / "results"
MODES = ("plain", "near", "tokens", "all")
"""What is done beyond the rules: nothing, near-duplicates, exact token counts, both."""


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.file, arguments.measure)), flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        for megabytes in [0] if arguments.file else arguments.megabytes:
            file = arguments.file or write(Path(folder) / f"{megabytes}.jsonl", megabytes)
            for mode in arguments.modes:
                command = [sys.executable, "-m", "benchmarks.dataset_check", "--file", str(file), "--measure", mode]
                line = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
                print(line, end="", flush=True)
                if arguments.save:
                    RESULTS.mkdir(exist_ok=True)
                    with (RESULTS / "dataset_check.jsonl").open("a") as results:
                        results.write(line)
            if not arguments.file:
                file.unlink()


def measure(file: Path, mode: str) -> dict[str, Any]:
    """One pass over `file`. Loading the vocabulary is not counted in its seconds, but in its memory."""
    counter = vocabulary.counter() if mode in ("tokens", "all") else None
    started = time.process_time()
    with file.open("rb") as opened:
        found = dataset.check(json_lines.lines(opened), counter=counter, near_duplicates=mode in ("near", "all"))
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "mode": mode,
        "megabytes": round(found.stats.bytes / 1e6, 1),
        "rows": found.stats.rows,
        "bytes_per_row": round(found.stats.bytes / max(found.stats.rows, 1)),
        "findings": found.counts,
        "cpu_seconds": round(seconds, 2),
        "megabytes_per_cpu_second": round(found.stats.bytes / 1e6 / seconds, 1),
        "peak_mib": round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1),
        "python": platform.python_version(),
        "machine": processor.name(),
        "json_megabytes_per_cpu_second": _json_speed(file),
        "date": datetime.now(UTC).date().isoformat(),
    }


def write(file: Path, megabytes: int) -> Path:
    size = 0
    with file.open("wb") as written:
        for line in rows(seed=megabytes):
            size += written.write(line)
            if size >= megabytes * 1e6:
                return file
    return file


def rows(seed: int) -> Iterator[bytes]:
    """Endless rows of chat, no two alike."""
    sample = [json.loads(line) for line in STANLEY.read_bytes().splitlines()]
    messages = [message for row in sample for message in row["messages"]]
    said = {role: [m["content"] for m in messages if m["role"] == role and m.get("content")] for role in ROLES}
    calls = [call["function"] for m in messages for call in m.get("tool_calls") or ()]
    tools = next(row["tools"] for row in sample if row.get("tools"))
    known = {tool["function"]["name"] for tool in tools}
    calls = [call for call in calls if call["name"] in known]
    pick = random.Random(seed)
    while True:
        row: dict[str, Any] = {"messages": [{"role": "system", "content": pick.choice(said["system"])}]}
        for _ in range(pick.randint(1, 4)):
            row["messages"].append({"role": "user", "content": " ".join(pick.choices(said["user"], k=2))})
            if pick.random() < 0.5:
                call = {"id": "c1", "type": "function", "function": pick.choice(calls)}
                row["messages"].append({"role": "assistant", "content": None, "tool_calls": [call]})
                result = {"role": "tool", "tool_call_id": "c1", "content": pick.choice(said["tool"])}
                row["messages"].append(result)
            answer = " ".join(pick.choices(said["assistant"], k=pick.randint(1, 5)))
            row["messages"].append({"role": "assistant", "content": answer})
        if pick.random() < 0.25:
            row["tools"] = tools
        yield json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _json_speed(file: Path) -> float:
    """What json.loads alone does with the first 20 MB: how fast the machine is just now."""
    with file.open("rb") as opened:
        lines = opened.readlines(20_000_000)
    started = time.process_time()
    for line in lines:
        json.loads(line)
    return round(sum(map(len, lines)) / 1e6 / (time.process_time() - started), 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 100], help="sizes (default 10 100)")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="default: all four")
    parser.add_argument("--file", type=Path, help="measure this file instead")
    parser.add_argument("--save", action="store_true", help="append to benchmarks/results/dataset_check.jsonl")
    parser.add_argument("--measure", choices=MODES, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
