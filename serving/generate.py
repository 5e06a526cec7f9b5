"""Answers of a model in memory, one token at a time."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from transformers import Llama4ForCausalLM

TOP_LOGPROBS_LIMIT = 20


@dataclass(frozen=True)
class Token:
    """One generated token, its natural-log probability, and the likeliest tokens in its place."""

    id: int
    logprob: float
    top: list[tuple[int, float]]


FinishReason = Literal["stop", "length"]
Said = Generator[Token, None, FinishReason]
"""Tokens as they are generated, without the end-of-turn token, and why it ended."""


@dataclass(frozen=True)
class Answer:
    tokens: list[Token]
    """Without the end-of-turn token."""
    finish_reason: FinishReason


def collect(said: Said) -> Answer:
    """The whole of it."""
    tokens: list[Token] = []
    while True:
        try:
            tokens.append(next(said))
        except StopIteration as end:
            return Answer(tokens, end.value)


def say(
    model: Llama4ForCausalLM,
    prompt: Sequence[int],
    *,
    max_tokens: int,
    temperature: float,
    end_of_turn: int,
    seed: int | None = None,
    num_top: int = 0,
) -> Said:
    """Greedy at temperature 0, else sampled; ends at the end-of-turn token or after `max_tokens`."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    tokens: list[Token] = []
    for logits in _next_logits(model, prompt, tokens):
        token = _pick(logits, temperature, generator, num_top)
        if token.id == end_of_turn:
            return "stop"
        tokens.append(token)
        yield token
        if len(tokens) == max_tokens:
            break
    return "length"


def _next_logits(model: Llama4ForCausalLM, prompt: Sequence[int], tokens: list[Token]) -> Iterator[torch.Tensor]:
    """Logits (vocabulary,) after the prompt and what `tokens` has grown to; the caller appends between two."""
    from transformers import DynamicCache

    device = model.lm_head.weight.device
    cache = DynamicCache(config=model.config)
    new = list(prompt)
    while True:
        with torch.inference_mode():
            hidden = model.model(
                input_ids=torch.tensor([new], device=device), past_key_values=cache, use_cache=True
            ).last_hidden_state
            logits = model.lm_head(hidden[0, -1]).float().cpu()
        yield logits
        new = [tokens[-1].id]


def _pick(logits: torch.Tensor, temperature: float, generator: torch.Generator, num_top: int) -> Token:
    logprobs = torch.log_softmax(logits, dim=-1)
    if temperature > 0:
        chosen = int(torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1, generator=generator))
    else:
        chosen = int(logits.argmax())
    top = torch.topk(logprobs, min(num_top, len(logprobs))) if num_top else None
    pairs = list(zip(top.indices.tolist(), top.values.tolist(), strict=True)) if top else []
    return Token(chosen, _finite(float(logprobs[chosen])), [(i, _finite(value)) for i, value in pairs])


def _finite(logprob: float) -> float:
    # JSON has no infinity; OpenAI's API uses the same floor.
    return logprob if math.isfinite(logprob) else -9999.0
