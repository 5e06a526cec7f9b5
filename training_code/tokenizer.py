"""Text to token ids and back, with a base model's tokenizer.json."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

from heartbeat.chat import END_OF_TURN, SPECIAL_TOKENS, Piece
from training_code.errors import TrainingError
from training_code.manifest import sha256_of

CACHED_TEXTS = 1024
"""Whose ids are kept: roles, line breaks and system prompts are in every row."""


@dataclass(frozen=True)
class Encoded:
    """A tokenized conversation: ids, and which of them the model is trained to say, as truth values.

    `ChatTokenizer` makes them of 5 bytes a token: every rank holds the whole dataset.
    """

    ids: Sequence[int]
    supervised: Sequence[int]

    @property
    def num_supervised(self) -> int:
        # The first token has nothing before it to be predicted from.
        return sum(self.supervised) - self.supervised[0] if self.supervised else 0


class ChatTokenizer:
    """Llama 4's tokenizer: text is never taken for a special token, special tokens come only from `Piece.special`."""

    def __init__(self, folder: Path) -> None:
        """Raises TrainingError where tokenizer.json is missing, broken or not Llama 4's."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise TrainingError(f"{path} is missing; copy the whole checkpoint folder, tokenizer.json included")
        try:
            self._tokenizer: Tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise TrainingError(f"{path} cannot be read: {error}") from None
        self._tokenizer.encode_special_tokens = True
        self._path = path
        self.sha256 = sha256_of(path)
        self._ids_of = lru_cache(CACHED_TEXTS)(self._cached)
        self._special = {token: self.id_of(token) for token in SPECIAL_TOKENS}

    @property
    def end_of_turn(self) -> int:
        return self._special[END_OF_TURN]

    def id_of(self, token: str) -> int:
        """Raises TrainingError for a token that the vocabulary lacks."""
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise TrainingError(f"{self._path} has no token {token}; it is not a Llama 4 tokenizer")
        return int(token_id)

    @property
    def num_tokens(self) -> int:
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, pieces: Sequence[Piece]) -> Encoded:
        ids, supervised = array("i"), bytearray()
        for piece in pieces:
            new = (self._special[piece.text],) if piece.special else self._ids_of(piece.text)
            ids.extend(new)
            supervised += bytes((piece.supervised,)) * len(new)
        return Encoded(ids, bytes(supervised))

    def decode(self, ids: Sequence[int]) -> str:
        """The text, special tokens spelled out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def encode_text(self, text: str) -> list[int]:
        """Of ordinary text: nothing in it is a special token."""
        # A lone surrogate has no UTF-8 form; the tokenizer would raise.
        whole = text.encode("utf-8", errors="replace").decode("utf-8")
        return list(self._tokenizer.encode(whole, add_special_tokens=False).ids)

    def _cached(self, text: str) -> tuple[int, ...]:
        return tuple(self.encode_text(text))
