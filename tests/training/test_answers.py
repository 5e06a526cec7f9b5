"""The proof of quality in the trainer: base and tuned model are asked, scored, and never passed for want of time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from heartbeat import held_out_sample, persona
from heartbeat.asking import row_bytes
from heartbeat.cases import name_of
from heartbeat.chat import render
from heartbeat.job import FineTuneJob
from heartbeat.turn_rules import METRICS
from tests.training import meta, tiny
from tests.training.models import CPU, build, shake
from tests.training.test_train import read, train
from training_code import answers
from training_code.answers import Asking
from training_code.clock import Clock
from training_code.generate import generate
from training_code.questions import Questions
from training_code.ranks import Ranks
from training_code.tokenizer import ChatTokenizer

ASKING: dict[str, Any] = {"EVAL_GENERATE_ROWS": 2, "EVAL_MAX_NEW_TOKENS": 6, "MAX_STEPS": 2, "WARMUP_STEPS": 0}
PROBE = {
    "name": "sum",
    "messages": [{"role": "user", "content": "1 + 1?"}],
    "right": {"number": 2},
    "example": "It is 2.",
}


@pytest.fixture(scope="module")
def base_with_probes(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "checkpoint"
    shutil.copytree(base, folder)
    (folder / "probes.jsonl").write_text(json.dumps(PROBE))
    return folder


@pytest.fixture(scope="module")
def asked(base_with_probes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job that ran to its end."""
    root = tiny.lay_out(tmp_path_factory.mktemp("asked") / "ml", base_with_probes, **ASKING)
    assert train(root) == 0
    return root


def test_scores_of_base_and_tuned_lie_beside_the_adapter(asked: Path) -> None:
    found = read(asked, "scores.json")
    counted = found["asked"]
    assert counted["rows"] == 2 < counted["heldout_rows"] == read(asked)["rows"]["heldout"]
    assert (counted["probes"], counted["max_new_tokens"]) == (1, 6)
    for who in ("base", "tuned"):
        figures = counted[who]
        assert 0 < figures["tokens"] <= 6 * (counted["turns"] + 1)
        assert figures["tokens_per_second"] == pytest.approx(figures["tokens"] / figures["seconds"])
    assert found["metrics"]["persona"]["turns"] == counted["turns"]
    assert found["metrics"]["general"]["turns"] == 1
    assert set(found["metrics"]) == {*METRICS, "general"}
    # A random model calls no tool: the row that does failed, and its transcript is there.
    assert {row["row"] for row in found["failed_rows"]} == {failure["row"] for failure in found["failures"]} != set()
    rows = (asked / "input/data/training/chat.jsonl").read_text().splitlines()
    for failed in found["failed_rows"]:
        assert name_of(json.loads(rows[failed["line"] - 1])) == failed["row"]
        assert failed["metrics"]
    assert all(failure["transcript"] and failure["expected"] for failure in found["failures"])
    assert "unscored" not in found

    # What the endpoint will be asked is of the same rows, and expires with the checkpoints.
    sample = json.loads((asked / "checkpoints" / held_out_sample.FILE).read_text())
    cases = held_out_sample.read(sample, max_model_len=8192)
    assert len(cases) == counted["rows"]
    assert {failure["row"] for failure in found["failures"]} <= {case.row for case in cases}
    tokenizer = ChatTokenizer(asked / "input/data/model")
    lengths = [len(tokenizer.encode(render(c.prompt, c.declared or None, generation_prompt=True)).ids) for c in cases]
    assert [turn["prompt_tokens"] for turn in sample["turns"]] == lengths
    assert not [path for path in (asked / "model").rglob("*") if path.name == held_out_sample.FILE]


def test_a_resumed_job_does_not_ask_the_base_again(asked: Path, base_with_probes: Path, tmp_path: Path) -> None:
    again, changed = (
        tiny.lay_out(tmp_path / name, base_with_probes, **{**ASKING, **more})
        for name, more in (("again", {}), ("changed", {"EVAL_MAX_NEW_TOKENS": 5}))
    )
    kept = json.loads((asked / "checkpoints" / answers.BASE_FILE).read_text())
    kept["answers"]["texts"] = ["kept answer"] * len(kept["answers"]["texts"])
    for root in (again, changed):
        shutil.copytree(asked / "checkpoints", root / "checkpoints")
        (root / "checkpoints" / answers.BASE_FILE).write_text(json.dumps(kept))
        assert train(root) == 0
    said = {failure["base"] for failure in read(again, "scores.json")["failures"]}
    assert said == {"kept answer"}
    assert {failure["base"] for failure in read(changed, "scores.json")["failures"]}.isdisjoint(said)
    tuned = [[failure["tuned"] for failure in read(root, "scores.json")["failures"]] for root in (again, asked)]
    assert tuned[0] == tuned[1]


def test_turned_off_it_says_so_and_how_to_turn_it_on(base: Path, tmp_path: Path) -> None:
    root = tiny.lay_out(tmp_path / "ml", base, MAX_STEPS=1, WARMUP_STEPS=0)
    assert train(root) == 0
    found = read(root, "scores.json")
    assert (found["unscored"], found["turned_off"]) == ("EVAL_GENERATE_ROWS=0 asks for no answers", True)
    assert "metrics" not in found


def test_without_time_for_answers_the_adapter_is_saved_and_nothing_is_scored(
    base_with_probes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "BASE_SHARE", 0.0)
    root = tiny.lay_out(tmp_path / "ml", base_with_probes, **ASKING)
    assert train(root) == 0
    found = read(root, "scores.json")
    assert found["unscored"].startswith("there was not enough time (0 of ")
    assert "lower EVAL_GENERATE_ROWS=2 or EVAL_MAX_NEW_TOKENS=6" in found["unscored"]
    assert not found["turned_off"]
    assert (root / "model/adapter/adapter_model.safetensors").exists()
    assert read(root)["heldout"]["tuned_loss"] is not None


def test_a_mistake_in_the_probes_is_found_before_the_model_is_loaded(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(base, tmp_path / "base")
    (tmp_path / "base/probes.jsonl").write_text("{}")
    root = tiny.lay_out(tmp_path / "ml", tmp_path / "base", **ASKING)
    assert train(root) == 1
    assert "probes.jsonl, line 1: name is missing" in (root / "output/failure").read_text()
    assert "loading the base model" not in capfd.readouterr().out


# --- one model's answers, by a recorded model and a clock of the test's own


class Watch:
    """The time, which goes on by a second whenever somebody looks."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        self.time += 1
        return self.time


@pytest.fixture
def asking(base: Path, tmp_path: Path) -> Asking:
    llama = build(meta.load("scout"))
    shake(llama)
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(2, 64, (length,), generator=generator).tolist() for length in (5, 9, 3, 7)]
    return Asking(
        job=FineTuneJob(),
        questions=Questions(
            cases=[],
            general=(),
            persona=persona.load(),
            prompts=prompts,
            stop_ids=frozenset({3}),
            max_new_tokens=8,
            num_rows=4,
            num_over_long=0,
            sample={},
        ),
        num_heldout_rows=4,
        heldout_lines={},
        llama=llama,
        tokenizer=ChatTokenizer(base),
        ranks=Ranks(),
        clock=Clock(limit_seconds=10_000, now=Watch(), started=0),
        folder=tmp_path,
        identity="weights",
        free_bytes=lambda: 1e9,
        say=lambda _: None,
    )


def expected(asking: Asking, *, adapted: bool) -> list[str]:
    assert asking.questions
    said = generate(
        asking.llama, asking.questions.prompts, max_new_tokens=8, stop_ids={3}, adapted=adapted, batch_size=1
    )
    return [asking.tokenizer.decode(ids[:-1] if ids[-1] == 3 else ids) for ids in said]


def test_answers_are_in_the_order_of_the_prompts_however_many_go_together(asking: Asking) -> None:
    asking.free_bytes = lambda: 20_000
    asking.ask_base()
    asking.ask_tuned()
    assert asking.base
    assert asking.tuned
    assert asking.base.texts == expected(asking, adapted=False)
    assert asking.tuned.texts == expected(asking, adapted=True)
    assert asking.base.texts != asking.tuned.texts


def test_out_of_memory_halves_the_batch(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def small(*given: Any, **options: Any) -> Any:
        sizes.append(options["batch_size"])
        if options["batch_size"] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(*given, **options)

    monkeypatch.setattr(answers, "generate", small)
    asking.ask_base()
    assert sizes == [4, 2, 1, 1, 1, 1]
    assert asking.base
    assert asking.base.texts == expected(asking, adapted=False)


def test_a_request_to_stop_ends_the_bases_answers_and_not_the_tuned_models(asking: Asking) -> None:
    asking.ask_base()
    asking.clock.signalled_at = asking.clock.now()
    asking.ask_tuned()
    assert asking.tuned, "what is left of the grace is enough"
    (asking.folder / answers.BASE_FILE).unlink()
    asking.base = asking.tuned = None
    asking.ask_base()
    assert asking.base is None
    assert asking.record()["unscored"] == "a request to stop came when 0 of 4 answers of the base model were there"


def test_the_tuned_model_is_not_asked_where_the_bases_answers_took_longer(asking: Asking) -> None:
    asking.ask_base()
    assert asking.base
    asking.base = answers.Answers(texts=asking.base.texts, seconds=9000.0, tokens=1, num_cut=0)
    assert asking.seconds_expected() > 9000 * 1.2
    asking.ask_tuned()
    assert asking.tuned is None
    assert "the tuned model's answers take about 3.3 h, of 2.8 h left" in asking.record()["unscored"]


def test_what_there_is_no_time_for_is_given_up_when_that_is_seen(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first of four batches, by how long it took."""
    monkeypatch.setattr("training_code.answers.time.monotonic", Watch())
    asking.free_bytes = lambda: 1
    calls: list[int] = []

    def counted(*given: Any, **options: Any) -> Any:
        calls.append(len(given[1]))
        return generate(*given, **options)

    monkeypatch.setattr(answers, "generate", counted)
    asking.clock.limit_seconds = 100 + answers.BASE_SHARE  # a quarter of it is less than four batches of some 10 s
    asking.ask_base()
    assert calls == [1]
    assert asking.base is None
    assert "and as long again with the adapter" in asking.why_not


def test_a_request_in_the_midst_of_an_answer_is_heard(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[int] = []
    plain = asking.llama.walk

    def walk(*given: Any, **options: Any) -> Any:
        said.append(1)
        if len(said) == 3:
            asking.clock.signalled_at = 0.0
        return plain(*given, **options)

    monkeypatch.setattr(asking.llama, "walk", walk)
    asking.ask_base()
    assert len(said) == 3
    assert asking.base is None


def test_a_batch_is_no_larger_than_memory_is_free_for(asking: Asking) -> None:
    assert asking.llama.device == CPU
    assert asking.questions
    one = 1 / 0.7 * row_bytes(asking.llama.architecture.shape, prompt_tokens=9, new_tokens=8, itemsize=4)
    for rows, together in ((0.5, 1), (2.5, 2), (3.01, 3), (100.0, 4)):
        asking.free_bytes = lambda rows=rows: rows * one  # type: ignore[misc]
        assert asking._rows_together(asking.questions) == together
