"""Make the tiny Llama 4 that the demo fine-tunes: `python -m examples.tiny_base.make --out FOLDER`.

Scout's architecture at a ten-thousandth of its size: top-1 routed experts and a shared one, QK norm, chunked
attention with RoPE on three layers of four and full attention without RoPE on the fourth, temperature tuning.
`--steps 0` writes it untrained.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from examples.tiny_base.corpus import conversation
from training_code.chat import BEGIN_OF_TEXT, END_OF_TURN, SPECIAL_TOKENS, render
from training_code.model import pick_device
from training_code.schedule import learning_rate
from training_code.tokenizer import ChatTokenizer

if TYPE_CHECKING:
    from transformers import Llama4ForCausalLM

SEED = 0
PAD = "<|finetune_right_pad|>"
VOCABULARY = 2560
BPE_CONVERSATIONS = 6000
CONTEXT = 256
BATCH = 32
PEAK_LEARNING_RATE = 3e-3
WARMUP_STEPS = 100
MODEL = {
    "hidden_size": 256,
    "intermediate_size": 192,
    "intermediate_size_mlp": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_local_experts": 4,
    "max_position_embeddings": 8192,
}
TRAINING_DEFAULTS = {
    "LEARNING_RATE": "3e-3",
    "MAX_STEPS": "60",
    "PER_DEVICE_BATCH_SIZE": "8",
    "GRADIENT_ACCUMULATION_STEPS": "2",
    "MAX_LENGTH": "1024",
    "LORA_DROPOUT": "0",
    "WARMUP_STEPS": "5",
    "EVAL_EVERY_STEPS": "30",
}
"""Card-named hyperparameters under which LoRA learns visibly in under a minute on two CPU cores."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the checkpoint to")
    parser.add_argument("--steps", type=int, default=2500, help=f"of {BATCH * CONTEXT} tokens; default 2500")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    write_tokenizer(out)
    tokenizer = ChatTokenizer(out)
    model = new_model(tokenizer).to(pick_device())
    record = pretrain(model, tokenizer, arguments.steps)
    write_checkpoint(out, model, record)
    print(json.dumps(record))


def write_tokenizer(out: Path) -> None:
    """A byte-level BPE of VOCABULARY tokens, Llama 4's special tokens among them as single tokens."""
    tokenizer = Tokenizer(models.BPE())
    # The kinds of piece that Llama 4's own pattern splits text into, so that no token crosses "\n\n".
    pattern = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    rng = random.Random(SEED)
    texts = (piece.text for _ in range(BPE_CONVERSATIONS) for piece in render(conversation(rng)) if not piece.special)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[*SPECIAL_TOKENS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    _write(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BEGIN_OF_TEXT,
            "eos_token": END_OF_TURN,
            "pad_token": PAD,
            "model_max_length": MODEL["max_position_embeddings"],
        },
    )


def new_model(tokenizer: ChatTokenizer) -> Llama4ForCausalLM:
    from transformers import Llama4ForCausalLM, Llama4TextConfig

    torch.manual_seed(SEED)
    config = Llama4TextConfig(
        vocab_size=tokenizer.num_tokens,
        num_experts_per_tok=1,
        attention_chunk_size=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        bos_token_id=tokenizer.id_of(BEGIN_OF_TEXT),
        eos_token_id=tokenizer.end_of_turn,
        pad_token_id=tokenizer.id_of(PAD),
        **MODEL,
    )
    return Llama4ForCausalLM(config)


def pretrain(model: Llama4ForCausalLM, tokenizer: ChatTokenizer, num_steps: int) -> dict[str, Any]:
    """Next-token training on every token of packed conversations; returns what it came to."""
    device, parameters = model.device, list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.05)
    stream, started = _batches(tokenizer), time.monotonic()
    losses: list[float] = []
    model.train()
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, peak=PEAK_LEARNING_RATE, warmup_steps=WARMUP_STEPS, max_steps=num_steps)
        ids = next(stream).to(device)
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
        if len(losses) % 50 == 0:
            seconds = time.monotonic() - started
            print(f"{seconds:.0f} s, step {step + 1}, loss {sum(losses[-50:]) / 50:.4f}", flush=True)
    last = losses[-50:]
    return {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "steps": num_steps,
        "tokens": num_steps * BATCH * CONTEXT,
        "seconds": round(time.monotonic() - started, 1),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads",
        "final_loss": round(sum(last) / len(last), 4) if last else None,
        "seed": SEED,
    }


def _batches(tokenizer: ChatTokenizer) -> Iterator[torch.Tensor]:
    """(BATCH, CONTEXT) ids of conversations laid end to end."""
    rng = random.Random(SEED + 1)
    buffer: list[int] = []
    while True:
        while len(buffer) < BATCH * CONTEXT:
            buffer += tokenizer.encode(render(conversation(rng))).ids
        yield torch.tensor(buffer[: BATCH * CONTEXT]).view(BATCH, CONTEXT)
        buffer = buffer[BATCH * CONTEXT :]


def write_checkpoint(out: Path, model: Llama4ForCausalLM, record: dict[str, Any]) -> None:
    weights = {name: tensor.detach().cpu().bfloat16().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, str(out / "model.safetensors"), metadata={"format": "pt"})
    config = model.config.to_dict()
    config["architectures"], config["dtype"] = ["Llama4ForCausalLM"], "bfloat16"
    _write(out / "config.json", config)
    stops = {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"]}
    _write(out / "generation_config.json", {**stops, "pad_token_id": config["pad_token_id"]})
    _write(out / "training_defaults.json", TRAINING_DEFAULTS)
    _write(out / "pretraining.json", record)
    files = sorted(path for path in out.iterdir() if path.name != "SHA256SUMS" and path.is_file())
    digests = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (out / "SHA256SUMS").write_text("".join(digests))


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
