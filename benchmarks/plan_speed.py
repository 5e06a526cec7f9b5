"""How long a plan takes: `python -m benchmarks.plan_speed`. Prints one JSON line.

All instances of the catalogue in every mode, for a dataset of 100,000 rows whose tokens are counted already, as the
state machine's Lambda has it; refused for its clock too, which looks for the nearest changes that fit.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from dataclasses import replace
from datetime import UTC, datetime

from heartbeat import catalog
from heartbeat.dataset import DatasetStats, check
from heartbeat.job import FineTuneJob
from heartbeat.plan import plan_run
from heartbeat.scout import SCOUT

ROWS, TOKENS, REPEATS = 100_000, 600, 20


def main() -> None:
    stats = replace(
        check([]).stats,
        rows=ROWS,
        valid_rows=ROWS,
        tokens=ROWS * TOKENS,
        supervised_tokens=ROWS * TOKENS // 3,
        longest_row_tokens=4 * TOKENS,
    )
    found = {
        "rows": ROWS,
        "instances": len(catalog.load().instances),
        "seconds_planned": _median(stats, FineTuneJob()),
        "seconds_refused": _median(stats, FineTuneJob(max_steps=100_000)),
        "python": platform.python_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    print(json.dumps(found))


def _median(stats: DatasetStats, job: FineTuneJob) -> float:
    taken = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        plan_run(
            shape=SCOUT,
            stats=stats,
            job=job,
            catalog=catalog.load(),
            rank="cost",
        )
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
