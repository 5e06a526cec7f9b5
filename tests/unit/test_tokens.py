"""Token counts: of what the trainer sees, by the tokenizer of Meta."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from heartbeat import dataset, tokens
from heartbeat.chat import render
from heartbeat.tokens import TokenCounter, TokenizerError
from tests.unit.test_dataset import SOUND, TOOLS, assistant, line, user
from training_code.tokenizer import ChatTokenizer

ROOT = Path(__file__).resolve().parents[2]
VOCABULARY = Path(sys.prefix) / tokens.FOLDER / tokens.FILE_NAME
needs_vocabulary = pytest.mark.skipif(
    not VOCABULARY.is_file(), reason="no network when the environment was made: remove .venv/.stamp, make environment"
)


def test_the_count_is_the_trainers() -> None:
    tokenizer = ChatTokenizer(ROOT / "examples" / "tiny_base" / "checkpoint")
    counter = TokenCounter(tokenizer.encode_text)
    more = [line(user("<|eot|> é " * 30), assistant(weight=0), user(), assistant(), tools=TOOLS)]
    for row in dataset.read([*SOUND, *more]):
        encoded = tokenizer.encode(render(row["messages"], row.get("tools")))
        found = counter.length(row)
        assert (found.tokens, found.supervised_tokens) == (len(encoded.ids), encoded.num_supervised)


def test_a_text_that_is_too_long_for_the_encoder_is_counted_in_parts() -> None:
    longest: list[int] = []

    def encode(text: str) -> list[int]:
        longest.append(len(text))
        return [0] * len(text)

    row = next(dataset.read([line(user("x" * 1_000_001), assistant("y"))]))
    assert TokenCounter(encode).length(row).tokens > 1_000_001
    assert max(longest) == 400_000


@needs_vocabulary
def test_metas_vocabulary_counts() -> None:
    counter = tokens.load(VOCABULARY)
    # 1 to begin; 4 for a header, 1 for its end of turn; "Who", " leads", "?" and so on.
    row = next(dataset.read([line(user("Who leads?"), assistant("Suzuki, 33."))]))
    assert counter.length(row).tokens == 1 + 5 + 3 + 5 + len(["Suz", "uki", ",", " ", "33", "."])
    assert counter.length(row).supervised_tokens == 7
    spelled = next(dataset.read([line(user("<|eot|>"), assistant("x"))]))
    assert counter.length(spelled).tokens > 1 + 5 + 1 + 5 + 1  # text, never the special token


@needs_vocabulary
def test_the_check_counts_exactly_and_says_so() -> None:
    stats = dataset.check(SOUND, counter=tokens.load(VOCABULARY)).stats
    assert stats.tokens_are_exact
    assert stats.tokens != dataset.check(SOUND).stats.tokens


def test_a_vocabulary_that_is_missing_or_another_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"is missing; `make environment` takes it"):
        tokens.load(tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer.model").write_text("IQ== 0\n")
    with pytest.raises(TokenizerError, match="is not the tokenizer of llama-models"):
        tokens.load(tmp_path / "tokenizer.model")
