"""A base model's files, brought to where the mode wants them."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from heartbeat.checkpoint import EMBEDDING_FILE, HEAD_FILE, layer_file
from heartbeat.job import FineTuneJob
from training_code import pinned
from training_code.base_files import BaseModel
from training_code.digests import Digests
from training_code.errors import TrainingError
from training_code.feed import Feed
from training_code.head import Head
from training_code.llama import Llama
from training_code.lora_weights import LoraWeights
from training_code.placing import Arrangement
from training_code.ranks import Ranks

STOPPED_BEFORE_TRAINING = "a request to stop came before training began; run it again"
REPORT_SECONDS = 5.0
"""Between lines about progress."""


def load(
    base: BaseModel,
    job: FineTuneJob,
    *,
    arrangement: Arrangement,
    device: torch.device,
    dtype: torch.dtype,
    ranks: Ranks,
    report: Callable[[str], None],
    digests: Digests | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Llama:
    """The model, its adapter at its start. A layer that is not quantised in its files is while it is read.

    `digests` begins on each file that was read, on one rank of each machine. `interrupted` is asked before each layer.

    Raises TrainingError where it says so, and for files that cannot be used.
    """
    architecture, num_layers = base.architecture, base.num_layers
    quantise = arrangement.weight_format == "nf4"
    plain = None if quantise else dtype
    is_split = ranks.world_size > 1 and arrangement.mode != "resident"
    feed = Feed(
        [base.layer_layout(number, quantise=quantise, dtype=plain) for number in range(num_layers)],
        device=device,
        ranks=ranks,
        place="host" if arrangement.mode == "streamed" else "device",
        split=is_split,
    )
    started = reported = time.monotonic()
    for number in range(num_layers):
        if interrupted():
            raise TrainingError(STOPPED_BEFORE_TRAINING)

        def read(out: torch.Tensor, number: int = number) -> torch.Tensor:
            data = base.layer(number, quantise=quantise, dtype=plain, device=device, out=out).data
            # A layer that is split was read by one rank; one that is not, by all.
            if digests is not None and (is_split or number % ranks.on_this_host == ranks.local_rank):
                digests.begin(layer_file(number))
            return data

        feed.fill(number, read)
        if time.monotonic() - reported > REPORT_SECONDS:
            reported = time.monotonic()
            left = (reported - started) / (number + 1) * (num_layers - number - 1)
            report(f"{number + 1} of {num_layers} layers loaded, {left:.0f} s left")
    if digests is not None and ranks.local_rank == 0:
        digests.begin(EMBEDDING_FILE)
        digests.begin(HEAD_FILE)
    embedding = placed_embedding(base.embedding().to(dtype), arrangement.mode, device)
    return Llama(
        architecture=architecture,
        feed=feed,
        embedding=embedding,
        head=Head(
            norm=base.final_norm().to(device, dtype),
            weight=base.head().to(device, dtype),
            norm_eps=architecture.norm_eps,
        ),
        lora=LoraWeights(
            architecture,
            job.lora_targets,
            rank=job.lora_r,
            alpha=job.lora_alpha,
            dropout=job.lora_dropout,
            seed=job.seed,
            device=device,
        ),
        device=device,
        dtype=dtype,
        placement=arrangement.placement,
    )


def placed_embedding(embedding: torch.Tensor, mode: str, device: torch.device) -> torch.Tensor:
    """Beside resident weights on the device; else on the host, where the device reads the rows that it is given."""
    if mode == "resident" or device.type != "cuda":
        return embedding.to(device)
    return pinned.on_host_for(device, embedding)
