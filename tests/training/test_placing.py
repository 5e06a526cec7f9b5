"""Where a job's weights and activations go, on machines of several sizes; the machines' memory is made up."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from heartbeat.job import FineTuneJob
from heartbeat.memory import GIB
from heartbeat.scout import SCOUT
from training_code import placing
from training_code.data import Data
from training_code.errors import TrainingError
from training_code.placing import Arrangement
from training_code.ranks import Ranks
from training_code.tokenizer import Encoded

GPU = torch.device("cuda")


def chosen(
    monkeypatch: pytest.MonkeyPatch,
    gpu_gib: float,
    host_gib: float,
    ranks: Ranks | None = None,
    *,
    before: Arrangement | None = None,
    **job: Any,
) -> Arrangement:
    monkeypatch.setattr(placing, "_free_device_bytes", lambda _: int(gpu_gib * GIB))
    monkeypatch.setattr(placing, "_free_host_bytes", lambda: int(host_gib * GIB))
    monkeypatch.setattr(Ranks, "text_of_first", lambda _self, text, _device: text)
    length = FineTuneJob(**job).max_length
    row = Encoded(list(range(length)), [True] * length)
    rows = Data(
        training=[row] * 80,
        heldout=[],
        heldout_rows=[],
        heldout_lines={},
        tools={},
        num_over_long=0,
        num_near_repeats=0,
        sha256="",
        heldout_sha256="",
        warnings=[],
    )
    ranks = ranks or Ranks()
    return placing.choose(FineTuneJob(**job), SCOUT, rows, GPU, ranks, is_quantised=True, before=before)


@pytest.mark.parametrize(
    ("gpu_gib", "host_gib", "mode", "group"),
    [
        (79, 240, "resident", 8),  # ml.p5.4xlarge
        (94, 60, "resident", 8),  # ml.g7e.2xlarge
        (94, 30, "resident", 4),
        (22, 180, "streamed", 8),
        (22, 88, "streamed", 4),
    ],
)
def test_on_one_gpu(monkeypatch: pytest.MonkeyPatch, gpu_gib: float, host_gib: float, mode: str, group: int) -> None:
    found = chosen(monkeypatch, gpu_gib, host_gib)
    assert (found.mode, found.weight_format, found.placement.group_size) == (mode, "nf4", group)
    assert found.placement.boundaries == "host"


@pytest.mark.parametrize(
    ("gpu_gib", "max_length", "tokens"),
    [(79, 4096, 8192), (79, 1000, 8000), (79, 5000, 5000), (11, 4096, 4096)],
)
def test_micro_batches_are_as_large_as_there_is_memory_for(
    monkeypatch: pytest.MonkeyPatch, gpu_gib: float, max_length: int, tokens: int
) -> None:
    """Whatever PER_DEVICE_BATCH_SIZE says: the step's conversations are packed without padding."""
    for batch in (1, 4):
        job: dict[str, Any] = {
            "per_device_batch_size": batch,
            "gradient_accumulation_steps": 64 // batch,
            "max_length": max_length,
        }
        assert chosen(monkeypatch, gpu_gib, 240, **job).placement.micro_batch_tokens == tokens


def test_large_micro_batches_are_worth_moving_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    found = chosen(monkeypatch, 65, 240)
    assert (found.mode, found.placement.micro_batch_tokens) == ("streamed", 8192)
    insisted = chosen(monkeypatch, 65, 240, mode="resident")
    assert (insisted.mode, insisted.placement.micro_batch_tokens) == ("resident", 4096)


def test_on_several_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    p4d, g5 = Ranks(0, 8, 0), Ranks(0, 4, 0)
    assert chosen(monkeypatch, 39, 1100, p4d).mode == "sharded"
    one_host = chosen(monkeypatch, 35, 121, g5)
    assert (one_host.mode, one_host.placement.group_size) == ("sharded", 4)
    two_hosts = chosen(monkeypatch, 35, 121, Ranks(0, 8, 0, 2))
    assert two_hosts.placement.group_size == 8, "each host holds half of the boundaries"


def test_a_resumed_run_keeps_its_micro_batches_where_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = chosen(monkeypatch, 11, 240), chosen(monkeypatch, 79, 240)
    assert (small.placement.micro_batch_tokens, large.placement.micro_batch_tokens) == (4096, 8192)
    moved = chosen(monkeypatch, 79, 240, before=small)
    assert (moved.mode, moved.placement.micro_batch_tokens) == ("resident", 4096)
    assert chosen(monkeypatch, 79, 240, before=large) == large
    assert chosen(monkeypatch, 11, 240, before=large).placement.micro_batch_tokens == 4096, "what has room"


def test_the_job_may_insist(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, 79, 240, mode="streamed").mode == "streamed"
    with pytest.raises(TrainingError, match="needs several GPUs, and this job has 1"):
        chosen(monkeypatch, 79, 240, mode="sharded")


@pytest.mark.parametrize(("gpu_gib", "host_gib"), [(9, 400), (22, 60)])
def test_what_fits_nowhere_is_refused_with_the_sizes(
    monkeypatch: pytest.MonkeyPatch, gpu_gib: float, host_gib: float
) -> None:
    with pytest.raises(
        TrainingError,
        match=r"(?s)needs more than .*resident as nf4: 6.* streamed as nf4: (9|10)\.\d .* lower MAX_LENGTH",
    ):
        chosen(monkeypatch, gpu_gib, host_gib)


def test_what_the_first_rank_chose_reaches_the_others_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    found = chosen(monkeypatch, 79, 240)
    assert Arrangement.from_text(found.to_text()) == found
