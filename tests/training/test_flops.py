"""The planner's FLOPs are the trainer's: counted by torch while the tiny model takes a step."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import random_model
from training_code.batches import part_of
from training_code.llama import Placement
from training_code.ranks import Ranks
from training_code.tokenizer import Encoded

TOKENS, ANSWER, RANK = 128, 48, 16
CPU = torch.device("cpu")


def in_place(_: Sequence[int], one: Sequence[int], other: Sequence[int], **__: object) -> int:
    """FLOPs of `addmm_`, by the shapes of its arguments: torch counts it only where it is not in place."""
    return 2 * one[0] * one[1] * other[1]


MAPPING = {torch.ops.aten.addmm_: in_place}


@pytest.mark.parametrize(
    "targets",
    [
        ("attention",),
        ("attention", "shared_expert"),
        ("attention", "shared_expert", "routed_experts"),
    ],
)
def test_a_step_has_the_flops_that_the_planner_says(targets: tuple[str, ...]) -> None:
    llama = random_model.build(
        random_model.TINY,
        mode="resident",
        placement=Placement(group_size=2),
        targets=targets,
        rank=RANK,
        device=CPU,
        dtype=torch.float32,
        ranks=Ranks(),
    )
    document = Encoded(list(range(TOKENS)), [place >= TOKENS - ANSWER for place in range(TOKENS)])
    part = part_of([document], capacity=TOKENS, rank=0, world_size=1)
    # torch counts attention only where it is made of plain products.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=MAPPING) as counter:
        llama.accumulate(part.batches, num_batches=part.num_batches, seed="0")
    counted = {str(name): flops for name, flops in counter.get_flop_counts()["Global"].items()}
    shape = llama.architecture.shape
    planned = shape.training_flops_per_token(
        context=TOKENS,
        lora_rank=RANK,
        lora_targets=targets,
        supervised_share=ANSWER / TOKENS,
    )
    attention = planned.pop("attention")
    products = sum(counted.pop(name, 0) for name in ("aten.mm", "aten.addmm", "aten.addmm_"))
    assert products == TOKENS * sum(planned.values())
    # Plain products compute the half that a causal mask throws away, and 4 times the forward's 2 rather than the 4.5 of
    # flash attention, which forms the scores anew on its way back.
    assert sum(counted.values()) / 2 * 4.5 / 4 == TOKENS * attention
    assert set(counted) == {"aten.bmm"}
