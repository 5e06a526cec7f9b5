"""The model that a server holds in memory, with and without its adapters."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from serving.base_model import SwitchableAdapter, load
from serving.chat_completion import Request, RequestError
from serving.generate import Answer, Said, collect, say
from training_code import adapter, device
from training_code.tokenizer import ChatTokenizer

if TYPE_CHECKING:
    from transformers import Llama4ForCausalLM


@dataclass(kw_only=True)
class Engine:
    """One model, one answer at a time: an adapter changes the model's own weights while it is on."""

    model: Llama4ForCausalLM
    tokenizer: ChatTokenizer
    models: dict[str, SwitchableAdapter | None]
    """Served names, and the adapter that is on under that name."""
    max_model_len: int
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def load(cls, base: Path, base_name: str, adapters: Mapping[str, Path], max_model_len: int | None) -> Engine:
        """Raises TrainingError where the base model or the adapter cannot be served."""
        where = device.of_process()
        llama = load(base, where, device.compute_dtype(where))
        adapted = {name: SwitchableAdapter(llama, adapter.read(folder)) for name, folder in adapters.items()}
        return cls(
            model=llama,
            tokenizer=ChatTokenizer(base),
            models={base_name: None, **adapted},
            max_model_len=max_model_len or int(llama.config.max_position_embeddings),
        )

    def require_room(self, prompt: Sequence[int]) -> None:
        """Raises RequestError for a prompt that leaves no room for an answer."""
        if len(prompt) >= self.max_model_len:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens, and prompt and answer together may have {self.max_model_len}"
            )

    def answer(self, request: Request, prompt: Sequence[int]) -> Answer:
        return collect(self.say(request, prompt))

    def say(self, request: Request, prompt: Sequence[int]) -> Said:
        """The answer token by token. Others wait until it has been said, or given up: close what is not read to its
        end."""
        switch = self.models[request.model]
        with self._lock, switch.on() if switch else nullcontext():
            return (
                yield from say(
                    self.model,
                    prompt,
                    max_tokens=min(request.max_tokens, self.max_model_len - len(prompt)),
                    temperature=request.temperature,
                    end_of_turn=self.tokenizer.end_of_turn,
                    seed=request.seed,
                    num_top=request.num_top_logprobs if request.logprobs else 0,
                )
            )
