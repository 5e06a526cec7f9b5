"""Record what Meta's own Llama 4 computes for tiny random models: meta-*.safetensors, read by tests/training/meta.py.

The reference is package llama-models 0.3.0 (llama4/model.py, moe.py), in f32 on the CPU. Nothing here runs in tests:

    .venv/bin/python -m pip install --no-deps --no-build-isolation --target /tmp/meta \
        llama-models==0.3.0 fairscale==0.4.13 tiktoken==0.14.0 termcolor==3.3.0
    PYTHONPATH=/tmp/meta:. .venv/bin/python tests/training/recorded/make_meta.py
    PYTHONPATH=/tmp/meta:. .venv/bin/python tests/training/recorded/check_meta.py

Meta's code is for inference. It is called as it is but for four things, none of which changes a number of the forward
pass (`reference`, `forward`): `.cuda()` does nothing; `forward` runs without its `inference_mode` decorator; the
key/value caches are new for each document; and `.detach()` on the routed experts' input does nothing, as it would keep
the router and the layers below from their part of the gradient. check_meta.py holds the gradients to finite
differences.

Weights by Hugging Face's names: no matrix is permuted, since both codes rotate neighbouring pairs. `wq`, `wk`, `wv`,
`wo` are q, k, v and o_proj; a network's `w1`, `w3`, `w2` are gate, up and down_proj. The experts' `w1` and `w3`
(experts, hidden, size) stand side by side in gate_up_proj (experts, hidden, 2 size), `w2` is down_proj as it is, and
`router_DE` (hidden, experts) is transposed.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, distributed
from torch.nn import functional as F  # noqa: N812 - its usual name

from tests.training import meta

VOCABULARY = 64
HIDDEN = 32
EXPERT_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model's shape, and the lengths of the documents that it reads."""

    lengths: tuple[int, ...]
    layers: int
    heads: int
    kv_heads: int
    experts: int
    moe_step: int = 1
    qk_norm: bool = True
    rope_theta: float = 500_000.0
    scaled_rope: tuple[float, float] | None = None
    """`factor` and `high_freq_factor`; Meta's code fixes low_freq_factor at 1 and the original length at 8192."""
    nope_interval: int | None = 4
    chunk: int = 16
    temperature: tuple[float, float] | None = None
    """`floor_scale` and `attn_scale`."""
    norm_eps: float = 1e-5
    seed: int


CASES = {
    # Scout's kinds of layers and RoPE, with a chunk and a floor_scale that these short documents go beyond.
    "scout": Case(
        lengths=(53, 16, 7),
        layers=4,
        heads=4,
        kv_heads=2,
        experts=4,
        scaled_rope=(16.0, 1.0),
        temperature=(8.0, 0.1),
        seed=0,
    ),
    # As Maverick: dense and mixture layers in turn, no QK norm, RoPE as it was; one chunk is longer than all documents.
    "maverick": Case(
        lengths=(33, 20), layers=4, heads=4, kv_heads=1, experts=4, moe_step=2, qk_norm=False, chunk=8192, seed=1
    ),
    # RoPE's scaling with a smooth part, a norm's epsilon that tells, and more experts than some documents have tokens.
    "smooth": Case(
        lengths=(40, 3, 17),
        layers=2,
        heads=2,
        kv_heads=2,
        experts=8,
        scaled_rope=(8.0, 512.0),
        nope_interval=2,
        chunk=12,
        temperature=(5.0, 0.4),
        norm_eps=0.02,
        seed=2,
    ),
    # RoPE everywhere, so every layer is chunked.
    "rope": Case(lengths=(32, 9), layers=2, heads=8, kv_heads=2, experts=2, nope_interval=None, chunk=8, seed=3),
}


def main() -> None:
    torch.set_num_threads(1)
    start_model_parallel()
    with reference():
        for name, case in CASES.items():
            recording = record(case, new_model(case))
            versions = {package: importlib.metadata.version(package) for package in ("llama-models", "torch")}
            path = meta.save(name, recording, versions=versions)
            print(f"{name}: loss {recording.loss:.6f}, {path.stat().st_size} bytes")


# --- Meta's model


def start_model_parallel() -> None:
    from fairscale.nn.model_parallel.initialize import initialize_model_parallel  # type: ignore[import-not-found]

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    initialize_model_parallel(1)


@contextmanager
def reference() -> Iterator[None]:
    """Meta's code on the CPU, and with the gradient of the routed experts' input."""
    from llama_models.llama4.moe import MoE  # type: ignore[import-not-found]

    as_published = MoE.forward

    def differentiable(self: Any, x: Tensor) -> Any:
        with mock.patch.object(Tensor, "detach", lambda tensor: tensor):
            return as_published(self, x)

    with mock.patch.object(Tensor, "cuda", lambda tensor: tensor), mock.patch.object(MoE, "forward", differentiable):
        yield


def new_model(case: Case) -> Any:
    from llama_models.llama4.args import ModelArgs, MoEArgs  # type: ignore[import-not-found]
    from llama_models.llama4.model import Transformer  # type: ignore[import-not-found]

    factor, high = case.scaled_rope or (None, None)
    floor_scale, scale = case.temperature or (8192.0, 0.1)
    return Transformer(
        ModelArgs(
            dim=HIDDEN,
            n_layers=case.layers,
            n_heads=case.heads,
            n_kv_heads=case.kv_heads,
            vocab_size=VOCABULARY,
            multiple_of=EXPERT_SIZE,
            ffn_dim_multiplier=0.5,
            ffn_exp=3 * EXPERT_SIZE / HIDDEN,
            norm_eps=case.norm_eps,
            attention_chunk_size=case.chunk,
            rope_theta=case.rope_theta,
            use_scaled_rope=case.scaled_rope is not None,
            rope_scaling_factor=factor,
            rope_high_freq_factor=high,
            nope_layer_interval=case.nope_interval,
            use_qk_norm=case.qk_norm,
            attn_temperature_tuning=case.temperature is not None,
            floor_scale=floor_scale,
            attn_scale=scale,
            moe_args=MoEArgs(num_experts=case.experts, auto_scale_F=False, interleave_moe_layer_step=case.moe_step),
            max_batch_size=1,
            max_seq_len=max(case.lengths),
        )
    )


def initialise(model: Any, *, seed: int) -> None:
    """Values that bf16 holds exactly, large enough that attention and routing are far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        value = torch.randn(weight.shape, generator=generator)
        if weight.ndim == 1:
            value = 1 + 0.2 * value
        elif name != "tok_embeddings.weight":
            fan_in = weight.shape[-1] if weight.ndim == 2 and "router" not in name else weight.shape[-2]
            value *= 1.5 / math.sqrt(fan_in)
        weight.data.copy_(value.to(torch.bfloat16))


def forward(model: Any, ids: Tensor) -> Tensor:
    """Logits (tokens, vocabulary) of one document."""
    from llama_models.llama4.datatypes import TransformerInput  # type: ignore[import-not-found]

    for layer in model.layers:
        cache = layer.attention
        cache.cache_k, cache.cache_v = torch.zeros_like(cache.cache_k), torch.zeros_like(cache.cache_v)
    undecorated = type(model).forward.__wrapped__
    logits: Tensor = undecorated(model, TransformerInput(tokens=ids[None], tokens_position=0)).logits
    return logits[0]


def logits_of(model: Any, documents: list[Tensor]) -> Tensor:
    return torch.cat([forward(model, ids) for ids in documents])


def loss_of(logits: Tensor, documents: list[Tensor]) -> Tensor:
    rows = zip(torch.split(logits, [len(ids) for ids in documents]), documents, strict=True)
    losses = [F.cross_entropy(row[:-1], ids[1:], reduction="none") for row, ids in rows]
    return torch.cat(losses).mean()


# --- the recording


def record(case: Case, model: Any) -> meta.Recording:
    initialise(model, seed=case.seed)
    ids = torch.randint(VOCABULARY, (sum(case.lengths),), generator=torch.Generator().manual_seed(100 + case.seed))
    documents = list(torch.split(ids, list(case.lengths)))
    logits = logits_of(model, documents)
    loss = loss_of(logits, documents)
    loss.backward()
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    model.zero_grad()
    recorded = {name: weight.to(torch.bfloat16) for name, weight in in_hugging_face_form(weights).items()}
    return meta.Recording(
        config=config_json(case, recorded),
        weights=recorded,
        lengths=case.lengths,
        ids=ids,
        logits=logits.detach(),
        loss=loss.item(),
        gradients=in_hugging_face_form(gradients),
    )


_RENAMED = (
    ("tok_embeddings.", "model.embed_tokens."),
    ("output.", "lm_head."),
    ("layers.", "model.layers."),
    ("attention_norm.", "input_layernorm."),
    ("ffn_norm.", "post_attention_layernorm."),
    (".attention.wq.", ".self_attn.q_proj."),
    (".attention.wk.", ".self_attn.k_proj."),
    (".attention.wv.", ".self_attn.v_proj."),
    (".attention.wo.", ".self_attn.o_proj."),
    (".router_DE", ".router.weight"),
    (".experts.w2", ".experts.down_proj"),
    (".w1.", ".gate_proj."),
    (".w3.", ".up_proj."),
    (".w2.", ".down_proj."),
)


def in_hugging_face_form(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Meta's weights, or their gradients, by Hugging Face's names and in its layouts."""
    converted: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        renamed = f"model.{name}" if name.startswith("norm.") else name
        for theirs, ours in _RENAMED:
            renamed = renamed.replace(theirs, ours)
        if name.endswith(".experts.w3"):
            continue
        if name.endswith(".experts.w1"):
            renamed = renamed.replace(".experts.w1", ".experts.gate_up_proj")
            tensor = torch.cat([tensor, tensors[name.replace(".w1", ".w3")]], dim=-1)
        elif name.endswith(".router_DE"):
            tensor = tensor.T
        converted[renamed] = tensor.contiguous().clone()
    return converted


def config_json(case: Case, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """With the keys that checkpoints on the Hub have."""
    dense = [tensor.shape[0] for name, tensor in weights.items() if name.endswith("feed_forward.gate_proj.weight")]
    factor, high = case.scaled_rope or (1.0, 1.0)
    scaling = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": high,
        "original_max_position_embeddings": 8192,
    }
    floor_scale, scale = case.temperature or (8192.0, 0.1)
    every_fourth, all_rope = case.nope_interval == 4, case.nope_interval is None
    has_rope = [int(all_rope or (i + 1) % (case.nope_interval or 1) != 0) for i in range(case.layers)]
    return {
        "architectures": ["Llama4ForCausalLM"],
        "model_type": "llama4_text",
        "hidden_size": HIDDEN,
        "intermediate_size": EXPERT_SIZE,
        "intermediate_size_mlp": dense[0] if dense else 2 * EXPERT_SIZE,
        "num_hidden_layers": case.layers,
        "num_attention_heads": case.heads,
        "num_key_value_heads": case.kv_heads,
        "head_dim": HIDDEN // case.heads,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": case.norm_eps,
        "rope_theta": case.rope_theta,
        "rope_scaling": scaling if case.scaled_rope else None,
        "no_rope_layers": [] if every_fourth else has_rope,
        "attention_chunk_size": case.chunk,
        "attn_temperature_tuning": case.temperature is not None,
        "floor_scale": int(floor_scale),
        "attn_scale": scale,
        "use_qk_norm": case.qk_norm,
        "num_local_experts": case.experts,
        "num_experts_per_tok": 1,
        "interleave_moe_layer_step": case.moe_step,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }


if __name__ == "__main__":
    main()
