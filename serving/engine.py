"""The model that a server holds in memory, with and without its adapter."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from serving.chat_completion import Request, RequestError
from serving.generate import Answer, generate
from training_code import adapter, lora, model
from training_code.tokenizer import ChatTokenizer

if TYPE_CHECKING:
    from transformers import Llama4ForCausalLM


@dataclass(kw_only=True)
class Engine:
    """One model, one answer at a time: the adapter's switch is shared, so a lock guards both."""

    model: Llama4ForCausalLM
    tokenizer: ChatTokenizer
    attached: dict[str, lora.LoraLinear]
    models: dict[str, bool]
    """Served names, and whether the adapter is on under that name."""
    max_model_len: int
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def load(cls, base: Path, base_name: str, adapters: Mapping[str, Path], max_model_len: int | None) -> Engine:
        """Raises TrainingError where the base model or the adapter cannot be served."""
        device = model.pick_device()
        llama = model.load_base(base, device, model.compute_dtype(device))
        attached: dict[str, lora.LoraLinear] = {}
        for folder in adapters.values():
            attached = adapter.load(folder, llama)
        return cls(
            model=llama.eval(),
            tokenizer=ChatTokenizer(base),
            attached=attached,
            models={base_name: False, **dict.fromkeys(adapters, True)},
            max_model_len=max_model_len or int(llama.config.max_position_embeddings),
        )

    def answer(self, request: Request, prompt: Sequence[int]) -> Answer:
        """Raises RequestError for a prompt that leaves no room for an answer."""
        room = self.max_model_len - len(prompt)
        if room < 1:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens, and prompt and answer together may have {self.max_model_len}"
            )
        with self._lock:
            lora.set_enabled(self.attached, self.models[request.model])
            return generate(
                self.model,
                prompt,
                max_tokens=min(request.max_tokens, room),
                temperature=request.temperature,
                end_of_turn=self.tokenizer.end_of_turn,
                seed=request.seed,
                num_top=request.num_top_logprobs if request.logprobs else 0,
            )
