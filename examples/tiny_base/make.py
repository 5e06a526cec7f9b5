"""Make the tiny Llama 4 that the demo fine-tunes: `python -m examples.tiny_base.make --out FOLDER`.

Scout's architecture at a ten-thousandth of its size: top-1 routed experts and a shared one, QK norm, chunked
attention with RoPE on three layers of four and full attention without RoPE on the fourth, temperature tuning.
`--steps 0` writes it untrained.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from examples.tiny_base import corpus, probes
from heartbeat.chat import BEGIN_OF_TEXT, END_OF_TURN, SPECIAL_TOKENS, Piece, render
from heartbeat.probes import FILE_NAME as PROBES
from training_code import device as devices
from training_code.schedule import learning_rate
from training_code.tokenizer import ChatTokenizer

if TYPE_CHECKING:
    from transformers import Llama4ForCausalLM

SEED = 0
WEIGHTS, RECORD = "model.safetensors", "pretraining.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
PAD = "<|finetune_right_pad|>"
VOCABULARY = 6144
BPE_CONVERSATIONS = 12000
COMMON_WORDS_REPEATED = 100
"""Beside the conversations, half of whose text is names that are coined once: else no common word would be a token."""
LEAST_OFTEN = 3e-6
"""Share of the text that a token must be: what is met less often is hardly learned, and a name that is such a token can
be neither read nor said. In 20,000 steps it is 1,970 times."""
TOKENS_COUNTED = 5_000_000
CONTEXT = 512
BATCH = 64
STEPS = 20000
SPLIT_FINELY_SHARE = 0.3
BPE_DROPOUT = 0.15
"""Of the conversations this share is split with BPE dropout (arXiv:1910.13267), so that every token is met in use."""
OTHERS_WEIGHT = 0.2
"""Of a token that the assistant does not say, in the loss: questions are half of the text and mostly drawn names, which
nobody can foresee."""
LABEL_SMOOTHING = 0.05
"""Keeps a closed vocabulary from teaching that anything outside it is impossible."""
DATA_WORKERS = max(1, min(26, (os.cpu_count() or 2) - 4))
PEAK_LEARNING_RATE = 3e-3
WARMUP_STEPS = 100
STEPS_TIMED = (100, 300)
"""Between these, a step's time is measured where only seconds are given."""
MODEL = {
    "hidden_size": 256,
    "intermediate_size": 192,
    "intermediate_size_mlp": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_local_experts": 4,
    "max_position_embeddings": 8192,
}
TRAINING_DEFAULTS = {
    "LEARNING_RATE": "1.4e-3",
    "MAX_STEPS": "500",
    "PER_DEVICE_BATCH_SIZE": "4",
    "GRADIENT_ACCUMULATION_STEPS": "1",
    "MAX_LENGTH": "2048",
    "LORA_R": "64",
    "LORA_ALPHA": "256",
    "LORA_DROPOUT": "0",
    "LORA_TARGETS": "attention,shared_expert,routed_experts",
    "WARMUP_STEPS": "40",
    "EVAL_EVERY_STEPS": "250",
}
"""Card-named hyperparameters under which LoRA learns most in two minutes on two CPU cores (README.md)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the checkpoint to")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"default {STEPS}")
    parser.add_argument("--batch", type=int, default=BATCH, help=f"rows of {CONTEXT} tokens in a step ({BATCH})")
    parser.add_argument("--learning-rate", type=float, default=PEAK_LEARNING_RATE, help=f"peak ({PEAK_LEARNING_RATE})")
    parser.add_argument("--seconds", type=float, help="as many steps as this takes, in place of --steps")
    parser.add_argument("--start", type=Path, help="checkpoint folder to go on from, with its tokenizer")
    parser.add_argument("--tokenizer", type=Path, help="folder whose tokenizer to take, rather than make one")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = arguments.start or arguments.tokenizer
    if tokenizer:
        for name in TOKENIZER_FILES:
            shutil.copyfile(tokenizer / name, out / name)
    else:
        write_tokenizer(out)
    model = new_model(ChatTokenizer(out))
    before = None
    if arguments.start:
        model.load_state_dict({name: w.float() for name, w in load_file(arguments.start / WEIGHTS).items()})
        before = json.loads((arguments.start / RECORD).read_text())
    record = pretrain(
        model.to(devices.of_process()),
        out,
        arguments.steps,
        seconds=arguments.seconds,
        batch=arguments.batch,
        peak=arguments.learning_rate,
    )
    record |= {"before": before} if before else {}
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
    said = (piece.text for _ in range(BPE_CONVERSATIONS) for piece in _render(corpus.row(rng)) if not piece.special)
    texts = itertools.chain(said, itertools.repeat(" ".join(corpus.COMMON_WORDS), COMMON_WORDS_REPEATED))
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
    drop_rare_tokens(out)


def drop_rare_tokens(folder: Path) -> int:
    """Let no text become a token that the model's own text hardly has: words of it are split into pieces instead.

    Only merges go, and those stay that a usual token is made through; the vocabulary keeps its numbers, so that weights
    may be there already. How many merges went.
    """
    path = folder / "tokenizer.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    vocabulary: dict[str, int] = description["model"]["vocab"]
    counts = count_tokens(folder, TOKENS_COUNTED)
    parts = {one + other: (one, other) for one, other in description["model"]["merges"]}
    usual = [token for token, number in vocabulary.items() if counts[number] >= LEAST_OFTEN * counts.sum()]
    needed = set(usual)
    while usual:
        made_of = [part for part in parts.get(usual.pop(), ()) if part not in needed]
        needed.update(made_of)
        usual += made_of
    description["model"]["merges"] = [pair for token, pair in parts.items() if token in needed]
    path.write_text(json.dumps(description, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    return len(parts) - len(description["model"]["merges"])


def count_tokens(folder: Path, num_tokens: int) -> torch.Tensor:
    """(vocabulary,) int64: how often each is met in about so many tokens of pre-training."""
    counts = torch.zeros(ChatTokenizer(folder).num_tokens, dtype=torch.int64)
    for ids, _ in itertools.islice(_Stream(folder, BATCH), num_tokens // (BATCH * CONTEXT)):
        counts += torch.bincount(ids.flatten(), minlength=len(counts))
    return counts


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


def pretrain(
    model: Llama4ForCausalLM,
    out: Path,
    num_steps: int,
    *,
    seconds: float | None = None,
    batch: int = BATCH,
    peak: float = PEAK_LEARNING_RATE,
) -> dict[str, Any]:
    """Next-token training on packed conversations; returns what it came to.

    With `seconds` it is as many steps as they hold, by what the first ones take once they are compiled.
    """
    device, parameters = model.device, list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    stream = iter(DataLoader(_Stream(out, batch), batch_size=None, num_workers=DATA_WORKERS))
    started = time.monotonic()
    losses: list[torch.Tensor] = []
    model.train()

    def weighted_loss(ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1)
        of_tokens = functional.cross_entropy(
            logits.float(), ids[:, 1:].flatten(), label_smoothing=LABEL_SMOOTHING, reduction="none"
        )
        of_each = weights[:, 1:].flatten()
        return (of_tokens * of_each).sum() / of_each.sum()

    # A GPU's time goes into launches, and into passes over the logits, uncompiled.
    objective = torch.compile(weighted_loss) if device.type == "cuda" else weighted_loss
    step, timed_from = 0, math.nan
    while step < num_steps:
        if seconds is not None and step == STEPS_TIMED[0]:
            timed_from = time.monotonic()
        if seconds is not None and step == STEPS_TIMED[1]:
            each = (time.monotonic() - timed_from) / (STEPS_TIMED[1] - STEPS_TIMED[0])
            num_steps = step + max(0, int((started + seconds - time.monotonic()) / each))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(
                step, peak=peak, warmup_steps=min(WARMUP_STEPS, num_steps // 10), max_steps=num_steps
            )
        ids, weights = (part.to(device) for part in next(stream))
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = objective(ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.detach())
        step += 1
        if step % 50 == 0:
            took = time.monotonic() - started
            print(f"{took:.0f} s, step {step} of {num_steps}, loss {float(sum(losses[-50:])) / 50:.4f}", flush=True)
    last = losses[-50:]
    return {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "steps": num_steps,
        "tokens": num_steps * batch * CONTEXT,
        "seconds": round(time.monotonic() - started, 1),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads",
        "final_loss": round(float(sum(last)) / len(last), 4) if last else None,
        "seed": SEED,
    }


class _Stream(IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    """(batch, CONTEXT) ids of conversations laid end to end, and their weights; each worker draws its own."""

    def __init__(self, folder: Path, batch: int) -> None:
        self.folder, self.batch = folder, batch

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        worker = get_worker_info()
        rng = random.Random(f"{SEED}:{worker.id if worker else 0}")
        usual = ChatTokenizer(self.folder)
        with tempfile.TemporaryDirectory() as folder:
            description = json.loads((self.folder / "tokenizer.json").read_text())
            description["model"]["dropout"] = BPE_DROPOUT
            _write(Path(folder) / "tokenizer.json", description)
            fine = ChatTokenizer(Path(folder))
        ids: list[int] = []
        weights: list[float] = []
        size, shape = self.batch * CONTEXT, (self.batch, CONTEXT)
        while True:
            while len(ids) < size:
                tokenizer = fine if rng.random() < SPLIT_FINELY_SHARE else usual
                encoded = tokenizer.encode(_render(corpus.row(rng)))
                ids += encoded.ids
                weights += [1.0 if said else OTHERS_WEIGHT for said in encoded.supervised]
            yield torch.tensor(ids[:size]).view(shape), torch.tensor(weights[:size]).view(shape)
            ids, weights = ids[size:], weights[size:]


def _render(row: dict[str, Any]) -> list[Piece]:
    return render(row["messages"], row.get("tools"))


def write_checkpoint(out: Path, model: Llama4ForCausalLM, record: dict[str, Any]) -> None:
    """Everything of a Hugging Face checkpoint folder that the tokenizer did not bring, and SHA256SUMS of it all."""
    weights = {name: tensor.detach().cpu().bfloat16().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, str(out / WEIGHTS), metadata={"format": "pt"})
    config = model.config.to_dict()
    config["architectures"], config["dtype"] = ["Llama4ForCausalLM"], "bfloat16"
    _write(out / "config.json", config)
    stops = {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"]}
    _write(out / "generation_config.json", {**stops, "pad_token_id": config["pad_token_id"]})
    _write(out / "training_defaults.json", TRAINING_DEFAULTS)
    _write(out / RECORD, record)
    probes.write(out / PROBES)
    files = sorted(path for path in out.iterdir() if path.name != "SHA256SUMS" and path.is_file())
    digests = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (out / "SHA256SUMS").write_text("".join(digests))


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
