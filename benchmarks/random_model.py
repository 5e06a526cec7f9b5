"""A Llama 4 of any shape with random NF4 weights, made where they are to lie: no checkpoint of 217 GB is needed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch

from training_code import packs
from training_code.architecture import Architecture
from training_code.feed import Feed
from training_code.head import Head
from training_code.llama import Llama, Placement
from training_code.loading import placed_embedding
from training_code.lora_weights import LoraWeights
from training_code.packs import Layout, Pack
from training_code.ranks import Ranks
from training_code.weight_names import NOT_QUANTISED, layer_shapes

SCOUT: dict[str, Any] = {
    "model_type": "llama4_text",
    "hidden_size": 5120,
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16384,
    "num_hidden_layers": 48,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "num_local_experts": 16,
    "num_experts_per_tok": 1,
    "vocab_size": 202_048,
    "attention_chunk_size": 8192,
    "rope_theta": 500_000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 16.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
    },
}
"""config.json's text_config of Llama-4-Scout-17B-16E, the fields that the trainer reads."""
TINY: dict[str, Any] = {
    **SCOUT,
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_local_experts": 4,
    "vocab_size": 4096,
}
"""The same kind of model for a machine without a GPU, to see that the benchmark itself works."""
WEIGHT_SIZE = 0.02
"""Standard deviation of the weights, as Llama 4 is initialised."""
_MEAN_SQUARE_OF_CODES = 0.29
"""Of the 16 values of NF4, each as likely."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """What `of_arguments` asks."""
    add = parser.add_argument
    add("--mode", choices=("resident", "sharded", "streamed"), default="resident")
    add("--dequantise-each-time", action="store_true", help="rather than once while a layer is in use")
    add("--lora-targets", default="attention,shared_expert")
    add("--lora-r", type=int, default=16)
    add("--layers", type=int, help="fewer than the model has, for a quick look")
    add("--tiny", action="store_true", help="a small model, for a machine without a GPU")


def of_arguments(
    arguments: argparse.Namespace, placement: Placement, *, device: torch.device, dtype: torch.dtype, ranks: Ranks
) -> Llama:
    """The model that the options describe."""
    config = dict(TINY if arguments.tiny else SCOUT)
    if arguments.layers:
        config["num_hidden_layers"] = arguments.layers
    return build(
        config,
        mode=arguments.mode,
        placement=placement,
        targets=arguments.lora_targets.split(","),
        rank=arguments.lora_r,
        device=device,
        dtype=dtype,
        ranks=ranks,
    )


def build(
    config: dict[str, Any],
    *,
    mode: str,
    placement: Placement,
    targets: Sequence[str],
    rank: int,
    device: torch.device,
    dtype: torch.dtype,
    ranks: Ranks,
    dropout: float = 0.05,
) -> Llama:
    """As `training_code.loading.load` lays a quantised model out. Every rank has numbers of its own."""
    architecture = Architecture.from_config(config)
    shape = architecture.shape
    layouts = [layer_layout(architecture, number) for number in range(shape.num_layers)]
    split = mode != "resident" and ranks.world_size > 1
    feed = Feed(layouts, device=device, ranks=ranks, place="host" if mode == "streamed" else "device", split=split)
    generator = torch.Generator(device).manual_seed(ranks.rank)
    for layout, share in zip(layouts, feed.shares, strict=True):
        if split:
            whole = torch.zeros(share.numel() * ranks.world_size, dtype=torch.uint8, device=device)
        else:
            whole = torch.empty(share.numel(), dtype=torch.uint8, device=device)
        fill(Pack(layout=layout, data=whole[: layout.num_bytes]), generator)
        share.copy_(whole[ranks.rank * share.numel() :][: share.numel()] if split else whole)
    rows = (shape.vocabulary_size, shape.hidden_size)
    embedding = torch.empty(rows, dtype=dtype, device=device).normal_(0, WEIGHT_SIZE, generator=generator)
    head = torch.empty(rows, dtype=dtype, device=device).normal_(0, WEIGHT_SIZE, generator=generator)
    return Llama(
        architecture=architecture,
        feed=feed,
        embedding=placed_embedding(embedding, mode, device),
        head=Head(
            norm=torch.ones(shape.hidden_size, dtype=dtype, device=device),
            weight=head,
            norm_eps=architecture.norm_eps,
        ),
        lora=LoraWeights(architecture, targets, rank=rank, alpha=2 * rank, dropout=dropout, seed=0, device=device),
        device=device,
        dtype=dtype,
        placement=placement,
    )


def layer_layout(architecture: Architecture, number: int) -> Layout:
    shapes = layer_shapes(architecture, number)
    weights = {name: (torch.bfloat16, shape) for name, shape in shapes.items()}
    return packs.plan(weights, quantise=[name for name in shapes if name not in NOT_QUANTISED])


def fill(pack: Pack, generator: torch.Generator) -> None:
    """Any byte is two codes; one scale for all blocks gives them the size of weights."""
    torch.randint(
        0, 256, pack.data.shape, dtype=torch.uint8, device=pack.data.device, generator=generator, out=pack.data
    )
    for name, entry in pack.layout.entries.items():
        tensor = pack.tensor(name)
        if name.endswith(packs.NESTED):
            tensor.zero_()
            tensor[-1] = WEIGHT_SIZE / _MEAN_SQUARE_OF_CODES**0.5
        elif entry.dtype != torch.uint8:
            if tensor.dim() == 1:
                tensor.fill_(1.0)
            else:
                tensor.normal_(0, WEIGHT_SIZE, generator=generator)
