"""Loading packs against the disk's own speed: `python -m benchmarks.load_packs --folder /fast/disk`.

Writes layers of Scout's shape with random NF4 weights, lets the operating system forget them, and reads them as plain
bytes; as the trainer does on its way to a GPU, through one buffer, without and with the digests that it compares
meanwhile; and into the memory where they stay, which costs what new memory costs on the machine. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks import random_model
from heartbeat.memory import GIB
from training_code import packs
from training_code.architecture import Architecture
from training_code.digests import Digests
from training_code.feed import Feed
from training_code.manifest import FileRecord
from training_code.ranks import Ranks


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="on the disk that counts (the system's for temporary files)")
    parser.add_argument("--layers", type=int, default=4, help="of 48; each is 1.1 GiB (4)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the fastest counts (3)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        print(json.dumps(_measure(Path(folder), arguments.layers, arguments.rounds)))


def _measure(folder: Path, num_layers: int, rounds: int) -> dict[str, float | int]:
    architecture = Architecture.from_config(random_model.SCOUT)
    layout = random_model.layer_layout(architecture, 0)
    paths = [folder / f"layer-{number}.safetensors" for number in range(num_layers)]
    pack = packs.empty(layout)
    random_model.fill(pack, torch.Generator().manual_seed(0))
    digests = {path.name: packs.write(path, pack, {}) for path in paths}
    del pack
    records = {path.name: FileRecord(bytes=path.stat().st_size, sha256=digests[path.name]) for path in paths}
    num_bytes = sum(record.bytes for record in records.values())

    def fresh() -> None:
        cpu = torch.device("cpu")
        feed = Feed([layout] * num_layers, device=cpu, ranks=Ranks(), place="device", split=False)
        for number, path in enumerate(paths):
            feed.fill(number, lambda out, path=path: packs.read(path, out).data)  # type: ignore[misc]

    buffer = torch.zeros(layout.num_bytes, dtype=torch.uint8)

    def reused() -> None:
        for path in paths:
            packs.read(path, buffer)

    def checked() -> None:
        hashing = Digests(folder, records)
        for path in paths:
            packs.read(path, buffer)
            hashing.begin(path.name)
        hashing.require_whole()

    plain = memoryview(bytearray(2**26))

    def read() -> None:
        for path in paths:
            with path.open("rb", buffering=0) as stream:
                while stream.readinto(plain):
                    pass

    seconds = {
        work.__name__: min(_timed(work, paths) for _ in range(rounds)) for work in (read, reused, checked, fresh)
    }
    gib = num_bytes / GIB
    return {
        "layers": num_layers,
        "gib": gib,
        "plain_read_gib_per_second": gib / seconds["read"],
        "into_one_buffer_gib_per_second": gib / seconds["reused"],
        "with_digests_gib_per_second": gib / seconds["checked"],
        "into_fresh_memory_gib_per_second": gib / seconds["fresh"],
    }


def _timed(work: Callable[[], None], paths: Sequence[Path]) -> float:
    for path in paths:
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


if __name__ == "__main__":
    main()
