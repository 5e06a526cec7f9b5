"""The tiny base model that is in the repository, and the recipe that made it."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path

import pytest
import torch

from benchmarks import demo_learns
from examples.tiny_base import corpus, make
from examples.tiny_base import probes as tiny_probes
from heartbeat import probes
from heartbeat.chat import END_OF_TURN, render
from heartbeat.dataset import read
from heartbeat.job import FineTuneJob
from heartbeat.scout import ModelShape
from serving.engine import Engine
from serving.generate import collect, say
from training_code import loading
from training_code.base_files import open_base
from training_code.generate import generate as generate_all
from training_code.llama import Placement
from training_code.placing import Arrangement
from training_code.ranks import Ranks
from training_code.tokenizer import ChatTokenizer

FOLDER = Path(make.__file__).with_name("checkpoint")


def test_checkpoint_is_the_one_that_was_made() -> None:
    lines = (FOLDER / "SHA256SUMS").read_text().splitlines()
    digests = {name: digest for digest, name in (line.split("  ") for line in lines)}
    files = {path.name for path in FOLDER.iterdir()} - {"SHA256SUMS"}
    assert digests.keys() == files
    for name, digest in digests.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest, name


def test_it_is_a_llama_4_in_small() -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    ModelShape.from_config(config)
    assert config["num_experts_per_tok"] == 1
    assert config["num_local_experts"] == 4
    assert config["no_rope_layers"] == [1, 1, 1, 0]
    assert config["use_qk_norm"]
    assert config["attn_temperature_tuning"]
    assert (FOLDER / "model.safetensors").stat().st_size < 14e6


def test_its_training_defaults_are_a_job_and_the_recipes() -> None:
    defaults = json.loads((FOLDER / "training_defaults.json").read_text())
    assert defaults == make.TRAINING_DEFAULTS
    FineTuneJob.from_hyperparameters(defaults)


def test_it_says_whole_sentences() -> None:
    engine = Engine.load(FOLDER, "base", {}, None)

    def answer(question: str) -> str:
        prompt = engine.tokenizer.encode(render([{"role": "user", "content": question}], generation_prompt=True)).ids
        found = collect(
            say(engine.model, prompt, max_tokens=40, temperature=0, end_of_turn=engine.tokenizer.end_of_turn)
        )
        assert found.finish_reason == "stop"
        return engine.tokenizer.decode([token.id for token in found.tokens])

    assert answer("How many Stanley Cups have the Habs won?") == (
        "The Montreal Canadiens have won the Stanley Cup 24 times."
    )
    assert answer("Qui es-tu?").startswith("Je suis un assistant.")


def test_it_answers_most_of_its_own_probes_and_not_all() -> None:
    """So that there is something to lose, and something to gain."""
    questions = probes.load(FOLDER / probes.FILE_NAME)
    tokenizer = ChatTokenizer(FOLDER)
    llama = loading.load(
        open_base(FOLDER),
        FineTuneJob(),
        arrangement=Arrangement(mode="resident", weight_format="bf16", placement=Placement()),
        device=torch.device("cpu"),
        dtype=torch.float32,
        ranks=Ranks(),
        report=print,
    )
    ids = generate_all(
        llama,
        [tokenizer.encode(render(question.messages, generation_prompt=True)).ids for question in questions],
        max_new_tokens=96,
        stop_ids=[tokenizer.end_of_turn],
        adapted=False,
        batch_size=len(questions),
    )
    texts = [tokenizer.decode(answer).removesuffix(END_OF_TURN) for answer in ids]
    right = [probe.base for probe in probes.score(questions, texts, texts)]
    assert len(questions) >= 60
    assert 0.5 <= sum(right) / len(right) < 1


def test_its_probes_are_drawn_from_the_corpus_and_know_no_stanley() -> None:
    drawn = tiny_probes.questions(seed=5)
    assert drawn == tiny_probes.questions(seed=5)
    for question in drawn:
        assert probes.Question(**question).is_right(question["example"]), question
        assert not probes.Question(**question).is_right("")
        assert "You are Stanley" not in json.dumps(question)
    assert len(drawn) == sum(count for count, _ in tiny_probes.KINDS.values())


def test_corpus_is_seeded_and_knows_nothing_of_stanleys_tools() -> None:
    first, again = random.Random(3), random.Random(3)
    for _ in range(3000):
        row = corpus.row(first)
        assert row == corpus.row(again)
        text = json.dumps(row)
        assert not any(name in text for name in ("pinecone", "parquet_query"))
        assert "You are Stanley" not in text


def test_what_the_demo_reads_is_made_of_tokens_that_it_has_met() -> None:
    """A token that pre-training never showed is a word that it can neither read nor say, whatever it is tuned on."""
    tokenizer, met = ChatTokenizer(FOLDER), make.count_tokens(FOLDER, 1_000_000) > 0
    with demo_learns.STANLEY.open("rb") as lines:
        rows = [tokenizer.encode(render(row["messages"], row.get("tools"))).ids for row in read(lines)]
    ids = torch.tensor([token for row in rows for token in row])
    assert met[ids].float().mean() > 0.995


def test_rare_tokens_are_dropped_and_no_text_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make, "TOKENS_COUNTED", 200_000)
    monkeypatch.setattr(make, "LEAST_OFTEN", 1e-4)
    shutil.copyfile(FOLDER / "tokenizer.json", tmp_path / "tokenizer.json")
    assert make.drop_rare_tokens(tmp_path) > 1000
    before, after = ChatTokenizer(FOLDER), ChatTokenizer(tmp_path)
    assert after.num_tokens == before.num_tokens
    rng = random.Random(3)
    longer = 0
    for _ in range(200):
        for message in corpus.row(rng)["messages"]:
            text = message["content"] or ""
            ids = after.encode_text(text)
            assert after.decode(ids) == text
            longer += len(ids) - len(before.encode_text(text))
    assert longer > 0


def test_recipe_writes_what_the_trainer_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make, "BPE_CONVERSATIONS", 200)
    monkeypatch.setattr(make, "TOKENS_COUNTED", 100_000)
    make.write_tokenizer(tmp_path)
    tokenizer = ChatTokenizer(tmp_path)
    make.write_checkpoint(tmp_path, make.new_model(tokenizer), {"steps": 0})
    engine = Engine.load(tmp_path, "base", {}, None)
    assert engine.model.lm_head.weight.dtype == torch.float32
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in FOLDER.iterdir()}
