"""What the trainer's model says: token for token what transformers says, and the same however it is batched."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training import meta
from tests.training.models import build, logits, shake, shortfall
from training_code import generate as module
from training_code.feed import Feed
from training_code.generate import Interrupted, cache_bytes, generate
from training_code.layer import run_layer
from training_code.llama import Llama, Placement
from training_code.packs import Pack

ALL = ("attention", "shared_expert", "routed_experts")
LENGTHS = (5, 16, 33, 1, 12, 24)
"""Of prompts; chunks of the recorded models have 8, 12 and 16 tokens, and one model's none that matter."""
NUM_NEW = 40


def prompts(lengths: Sequence[int] = LENGTHS) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(2, 64, (length,), generator=generator).tolist() for length in lengths]


def say(llama: Llama, asked: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
    settled: dict[str, Any] = {"max_new_tokens": NUM_NEW, "stop_ids": (), "adapted": False, "batch_size": 4}
    return generate(llama, asked, **{**settled, **options})


def transformers_says(llama: Llama, recording: meta.Recording, asked: Sequence[int], *, merged: bool) -> list[int]:
    from transformers import Llama4ForCausalLM, Llama4TextConfig

    model = Llama4ForCausalLM(Llama4TextConfig(**recording.config)).eval()
    model.load_state_dict({name: weight.float() for name, weight in recording.weights.items()})
    for matrix in llama.lora.matrices() if merged else ():
        update = (matrix.lora_b @ matrix.lora_a * llama.lora.scale).detach()
        place, _, part = matrix.name.rpartition(".")
        if not place.endswith(".experts"):
            model.get_submodule(matrix.name).weight.data += update
            continue
        stack = model.get_submodule(place)
        halves = dict(zip(("gate_proj", "up_proj"), stack.gate_up_proj.data.chunk(2, dim=-1), strict=True))
        (stack.down_proj.data if part == "down_proj" else halves[part]).add_(update.mT)
    model.generation_config.eos_token_id = None
    ids = torch.tensor([asked])
    options = {"do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}
    found: list[int] = model.generate(ids, max_new_tokens=NUM_NEW, **options)[0, len(asked) :].tolist()
    return found


def says_without_cache(llama: Llama, asked: Sequence[int], num: int, *, adapted: bool) -> list[int]:
    """The whole document anew for each token, by the path that training takes."""
    ids = list(asked)
    for _ in range(num):
        ids.append(int(logits(llama, ids, adapted=adapted)[-1].argmax()))
    return ids[len(asked) :]


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("name", meta.names())
def test_says_what_transformers_says(name: str, merged: bool) -> None:
    """With and without layers that have no RoPE, experts in every layer or every other, and past several chunks."""
    recording = meta.load(name)
    llama = build(recording, targets=ALL, dropout=0.5)
    shake(llama)
    found = say(llama, prompts(), adapted=merged)
    assert found == [transformers_says(llama, recording, asked, merged=merged) for asked in prompts()]
    assert len({token for answer in found for token in answer}) > 20, "a model that repeats itself shows little"


@pytest.mark.parametrize("quantise", [False, True])
@pytest.mark.parametrize("name", meta.names())
def test_a_cache_changes_nothing_that_is_said(name: str, quantise: bool) -> None:
    llama = build(meta.load(name), targets=ALL, dropout=0.5, quantise=quantise)
    shake(llama)
    expected = [says_without_cache(llama, asked, 20, adapted=True) for asked in prompts()]
    assert say(llama, prompts(), adapted=True, max_new_tokens=20) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", meta.names())
def test_half_precision_says_what_it_finds_likeliest_or_nearly(name: str, dtype: torch.dtype) -> None:
    llama = build(meta.load(name), targets=ALL, dtype=dtype)
    shake(llama)
    for asked, answer in zip(prompts(), say(llama, prompts(), adapted=True), strict=True):
        assert len(answer) == NUM_NEW
        assert shortfall(llama, asked, answer, adapted=True) < 0.01  # of random tokens: about 2.4


def test_without_the_adapter_the_base_speaks() -> None:
    recording = meta.load("scout")
    shaken, base = build(recording, targets=ALL), build(recording, targets=ALL)
    shake(shaken)
    off, on = (say(shaken, prompts(), adapted=adapted) for adapted in (False, True))
    assert off == say(base, prompts(), adapted=True)
    assert on != off


@pytest.mark.parametrize("asked", [1, 2, 7])
def test_it_can_be_interrupted_before_any_token(asked: int) -> None:
    llama, times = build(meta.load("scout")), iter(range(100))
    with pytest.raises(Interrupted):
        say(llama, prompts(), adapted=False, interrupted=lambda: next(times) == asked - 1)
    assert next(times) == asked


class PassingFeed(Feed):
    """What a layer is given does not outlive its turn, as with buffers that the next layers come into."""

    def walk(self, order: Sequence[int], *, pieces: int = 1) -> Iterator[tuple[int, Pack]]:
        for number, pack in super().walk(order, pieces=pieces):
            data = pack.data.clone()
            yield number, Pack(layout=pack.layout, data=data)
            data.fill_(255)


@pytest.mark.parametrize("keep", [False, True])
def test_how_the_weights_come_changes_nothing(keep: bool) -> None:
    resident, other = (build(meta.load("scout"), quantise=True, targets=ALL) for _ in range(2))
    shake(resident)
    shake(other)
    other.feed.__class__ = PassingFeed
    other.placement = Placement(keep_dequantised=keep, group_size=3)
    assert say(other, prompts(), adapted=True) == say(resident, prompts(), adapted=True)


@cache
def _model(name: str) -> Llama:
    llama = build(meta.load(name), targets=ALL)
    shake(llama)
    return llama


@cache
def _said_alone(name: str, asked: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(say(_model(name), [asked], batch_size=1, adapted=True)[0])


@settings(max_examples=20, deadline=None)
@given(
    name=st.sampled_from(["scout", "smooth"]),
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=7),
    batch_size=st.integers(1, 8),
    num_new=st.integers(1, NUM_NEW),
    stop_ids=st.sets(st.integers(0, 63), max_size=4),
    room=st.integers(1, 100),
)
def test_nobody_else_in_a_batch_changes_an_answer(
    name: str, lengths: list[int], batch_size: int, num_new: int, stop_ids: set[int], room: int
) -> None:
    """Whoever leaves it early, and however prompts are packed to be read."""
    asked, llama = prompts(lengths), _model(name)
    llama.placement = Placement(micro_batch_tokens=room)
    options = {"max_new_tokens": num_new, "stop_ids": stop_ids, "batch_size": batch_size}
    found = say(llama, asked, adapted=True, **options)
    for prompt, answer in zip(asked, found, strict=True):
        whole = _said_alone(name, tuple(prompt))[:num_new]
        stop = next((place for place, token in enumerate(whole) if token in stop_ids), num_new)
        assert answer == list(whole[: stop + 1])


def test_an_answer_ends_with_a_stop_token_or_at_its_longest() -> None:
    llama = build(meta.load("scout"))
    (whole,) = say(llama, prompts((16,)))
    place = next(place for place in range(5, NUM_NEW) if whole[place] not in whole[:place])
    assert say(llama, prompts((16,)), stop_ids=(whole[place], 1000)) == [whole[: place + 1]]
    assert say(llama, prompts((16,)), max_new_tokens=place) == [whole[:place]]
    assert say(llama, prompts((16,)), max_new_tokens=1) == [whole[:1]]
    assert say(llama, prompts(), max_new_tokens=0) == [[]] * len(LENGTHS)
    assert say(llama, []) == []


def test_one_walk_gives_every_row_a_token_and_rows_that_have_ended_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    llama = build(meta.load("scout"))
    whole = say(llama, prompts())
    stop = whole[0][7]
    rows: list[int] = []

    def watched(x: torch.Tensor, *rest: Any) -> Any:
        rows.append(len(x))
        return run_layer(x, *rest)

    monkeypatch.setattr(module, "run_layer", watched)
    llama.placement = Placement(micro_batch_tokens=40)
    told: list[int] = []
    said = say(llama, prompts(), stop_ids=[stop], batch_size=100, progress=told.append)
    assert said == [answer[: answer.index(stop) + 1] if stop in answer else answer for answer in whole]
    lengths = [len(answer) for answer in said]
    assert min(lengths) < max(lengths)
    alive = [sum(length > step for length in lengths) for step in range(max(lengths))]
    reading = [33, 24 + 16, 12 + 5 + 1]  # the longest first, as many as have room
    assert rows == reading * llama.num_layers + [num for num in alive[1:] for _ in range(llama.num_layers)]
    assert told == sorted(set(told))
    assert told[-1] == len(LENGTHS)


def test_a_row_of_the_cache_has_the_bytes_that_are_foretold(monkeypatch: pytest.MonkeyPatch) -> None:
    llama, made = build(meta.load("scout")), []

    class Watched(module._Cache):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(sum(layer.numel() * layer.element_size() for layer in self._layers))

    monkeypatch.setattr(module, "_Cache", Watched)
    say(llama, prompts((30, 4)), max_new_tokens=3)
    # Three layers with RoPE keep a chunk of 16, one keeps all 33: keys and values of 2 heads of 8 numbers in f32.
    assert cache_bytes(llama.architecture, 33, torch.float32) == (3 * 16 + 33) * 2 * 2 * 8 * 4
    assert made == [2 * cache_bytes(llama.architecture, 33, torch.float32)]


@pytest.mark.parametrize(
    ("asked", "options", "message"),
    [
        ([[3], []], {}, "prompt 1 is empty"),
        ([[3], [4, 64]], {}, "prompt 1 has a token that is none of the model's 64"),
        ([[-1]], {}, "prompt 0 has a token"),
        ([[3]], {"batch_size": 0}, "batch_size 1 or more: 40, 0"),
        ([[3]], {"max_new_tokens": -1}, "max_new_tokens must be 0 or more"),
    ],
)
def test_says_what_is_wrong_with_a_question(asked: list[list[int]], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        say(build(meta.load("rope")), asked, **options)


RANKS = """
import torch
from tests.training import meta
from tests.training.models import build, shake
from tests.training.test_generate import prompts, say
from training_code.ranks import end_process, join

torch.set_num_threads(1)
ranks = join(torch.device("cpu"))
alone = build(meta.load("scout"), quantise=True)
split = build(meta.load("scout"), quantise=True, ranks=ranks, split=True)
shake(alone)
shake(split)
stop_ids = [say(alone, prompts(), adapted=True)[0][6]]
said = say(alone, prompts(), adapted=True, stop_ids=stop_ids)
assert len({len(answer) for answer in said}) > 2
for batch_size in (1, 4):
    assert say(split, prompts(), adapted=True, stop_ids=stop_ids, batch_size=batch_size, ranks=ranks) == said
# Two of three have nothing to say, and walk along.
assert say(split, prompts((9,)), adapted=True, ranks=ranks) == say(alone, prompts((9,)), adapted=True)
ranks.wait_for_all()
end_process(0)
"""


def test_ranks_that_share_the_layers_say_what_one_says(free_port: int) -> None:
    """Answers end at different times, and every rank has all of them."""
    where = {"WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RANKS], env={**os.environ, **where, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        )
        for rank in range(3)
    ]
    try:
        assert [process.wait(timeout=120) for process in started] == [0, 0, 0]
    finally:
        for process in started:
            process.kill()
            process.wait()
