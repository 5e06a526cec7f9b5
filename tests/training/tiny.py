"""A Llama 4 of a few thousand parameters, a dataset, and /opt/ml laid out around them."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from heartbeat.chat import SPECIAL_TOKENS

CONFIG: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "intermediate_size_mlp": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_local_experts": 4,
    "num_experts_per_tok": 1,
    "max_position_embeddings": 8192,
    "attention_chunk_size": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "parquet_query",
            "description": "Run SQL over the season's tables",
            "parameters": {"type": "object", "properties": {"sql": {"type": "string"}}, "required": ["sql"]},
        },
    }
]
HYPERPARAMETERS = {
    "LEARNING_RATE": "5e-3",
    "MAX_STEPS": "6",
    "PER_DEVICE_BATCH_SIZE": "2",
    "GRADIENT_ACCUMULATION_STEPS": "2",
    "MAX_LENGTH": "512",
    "LORA_R": "4",
    "LORA_ALPHA": "8",
    "WARMUP_STEPS": "2",
    "HELD_OUT_FRACTION": "0.25",
    "EVAL_GENERATE_ROWS": "0",
}


def conversations(count: int = 24) -> list[dict[str, Any]]:
    rng = random.Random(7)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        player, goals = rng.choice(("Suzuki", "Caufield", "Hutson")), rng.randint(1, 40)
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": "You are Stanley, analyst of the Canadiens."},
            {"role": "user", "content": f"Question {number}: how many goals has {player}?"},
        ]
        if number % 2:
            arguments = json.dumps({"sql": f"SELECT goals FROM skaters WHERE player = '{player}'"})
            call = {"id": "c", "type": "function", "function": {"name": "parquet_query", "arguments": arguments}}
            messages += [
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c", "content": json.dumps({"goals": goals})},
            ]
        messages.append({"role": "assistant", "content": f"Go Habs! {player} has {goals} goals."})
        rows.append({"messages": messages, "tools": TOOLS} if number % 2 else {"messages": messages})
    return rows


def write_base(folder: Path) -> Path:
    """The checkpoint folder of a random model, seeded."""
    from transformers import Llama4ForCausalLM, Llama4TextConfig

    folder.mkdir(parents=True)
    tokenizer = _tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    ids = {"bos_token_id": 0, "eos_token_id": tokenizer.token_to_id("<|eot|>"), "pad_token_id": None}
    model = Llama4ForCausalLM(Llama4TextConfig(vocab_size=tokenizer.get_vocab_size(), **CONFIG, **ids))
    model.lm_head.weight.data.mul_(10)  # 0.02-standard-deviation logits would all but hide what LoRA changes
    save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))
    return folder


def split(base: Path, folder: Path, *, num_shards: int) -> Path:
    """The same checkpoint in several files, as large ones are published."""
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = load_file(base / "model.safetensors")
    names = [f"model-{i + 1:05}-of-{num_shards:05}.safetensors" for i in range(num_shards)]
    weight_map = {key: names[i % num_shards] for i, key in enumerate(tensors)}
    for name in names:
        save_file({key: tensor for key, tensor in tensors.items() if weight_map[key] == name}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def lay_out(root: Path, base: Path, *, rows: list[dict[str, Any]] | None = None, **hyperparameters: object) -> Path:
    """An /opt/ml as SageMaker lays it out: `base` as the model channel, rows as the training channel."""
    (root / "input/config").mkdir(parents=True)
    (root / "input/data/training").mkdir(parents=True)
    (root / "input/data/model").symlink_to(base)
    lines = (json.dumps(row) + "\n" for row in (conversations() if rows is None else rows))
    (root / "input/data/training/chat.jsonl").write_text("".join(lines))
    settings = {**HYPERPARAMETERS, **{name: str(value) for name, value in hyperparameters.items()}}
    (root / "input/config/hyperparameters.json").write_text(json.dumps(settings))
    return root


def child_environment(root: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "HEARTBEAT_OPT_ML": str(root), "OMP_NUM_THREADS": str(torch.get_num_threads()), **more}


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((json.dumps(row) for row in conversations()), trainer)
    return tokenizer
