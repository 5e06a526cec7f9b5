"""Exact Llama 4 token counts of a conversation, with Meta's tokenizer where it is installed.

The vocabulary is the file llama4/tokenizer.model of PyPI's `llama-models`. It is never committed: `make environment`
takes it, and `tiktoken` computes with it. This module is the domain's edge: the only one that needs a package, and
only when a counter is loaded.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from heartbeat.chat import Piece, header, turns
from heartbeat.conversation import Length

VOCABULARY_SHA256 = "d0bdbaf59b0762c8c807617e2d8ea51420eb1b1de266df2495be755c8e0ed6ed"
"""Of llama4/tokenizer.model in llama-models 0.3.0."""
PACKAGE = "llama-models==0.3.0"
MEMBER = "llama_models/llama4/tokenizer.model"
"""The vocabulary's file in PACKAGE's wheel."""
FOLDER, FILE_NAME = "llama4", "tokenizer.model"
"""Where it then lies: in the environment's folder, and at the top of the Lambda functions' code."""

_PATTERN = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
"""Where words are cut before merging; part of the tokenizer's definition (llama_models/llama4/tokenizer.py)."""
_MOST_CHARACTERS = 400_000
"""Longer texts are encoded in parts, as Meta's code does: tiktoken gives up on much longer ones."""


class TokenizerError(Exception):
    """Tokens cannot be counted exactly on this machine; the message says why, and the fix."""


class TokenCounter:
    """Counts what the trainer will see: the conversation in Llama 4's chat format."""

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        """`encode` takes ordinary text: what looks like a special token is text too."""
        self._encode = encode
        # Headers and the first turn (system prompt and tools) come again in row after row; answers do not.
        self._count_again = functools.lru_cache(maxsize=64)(self._count)
        self._header_tokens = functools.cache(lambda role: sum(map(self._of, header(role))))

    def length(self, row: Mapping[str, Any]) -> Length:
        """Tokens of a sound row, special ones included. Raises ChatError for a row that is not sound."""
        tokens, supervised = 1, 0  # <|begin_of_text|>
        count: Callable[[str], int] = self._count_again
        for role, body, is_supervised in turns(row["messages"], row.get("tools")):
            said = 1  # <|eot|>
            for text, special, _ in body:
                said += 1 if special else count(text)
            tokens += self._header_tokens(role) + said
            supervised += said * is_supervised
            count = self._count
        return Length(tokens=tokens, supervised_tokens=supervised)

    def _of(self, piece: Piece) -> int:
        return 1 if piece.special else self._count(piece.text)

    def _count(self, text: str) -> int:
        if len(text) <= _MOST_CHARACTERS:
            return len(self._encode(text))
        parts = range(0, len(text), _MOST_CHARACTERS)
        return sum(len(self._encode(text[start : start + _MOST_CHARACTERS])) for start in parts)


def load(path: Path) -> TokenCounter:
    """The counter of the vocabulary at `path`. Takes 0.4 s and 60 MiB. Raises TokenizerError."""
    try:
        content = path.read_bytes()
    except OSError:
        raise TokenizerError(f"{path} is missing; `make environment` takes it from llama-models") from None
    if hashlib.sha256(content).hexdigest() != VOCABULARY_SHA256:
        raise TokenizerError(f"{path} is not the tokenizer of llama-models 0.3.0; remove it and run make environment")
    try:
        import tiktoken
    except ImportError:
        raise TokenizerError("the package tiktoken is missing; run make environment") from None
    lines = (line.split() for line in content.splitlines() if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    encoding = tiktoken.Encoding("llama4", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens={})
    return TokenCounter(encoding.encode_ordinary)
