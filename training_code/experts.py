"""Routed experts that compute what the router chose, and nothing else.

transformers' Llama4TextMoe sends every token through every expert, with the inputs of all but the chosen one set to
zero (modeling_llama4.py, 5.23). A gated MLP without biases answers zero with zero, so leaving those out changes no
figure and saves all but one expert's arithmetic.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import Llama4ForCausalLM


def route_sparsely(model: Llama4ForCausalLM) -> None:
    """Make every mixture-of-experts layer of the model compute each token's own expert only."""
    for layer in model.model.layers:
        if layer.is_moe_layer:
            layer.feed_forward.forward = MethodType(_forward, layer.feed_forward)


def _forward(moe: Any, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Llama4TextMoe.forward: (…, hidden) -> ((tokens, hidden), router logits (tokens, experts))."""
    hidden = hidden_states.reshape(-1, moe.hidden_dim)
    logits = nn.functional.linear(hidden, moe.router.weight)
    best, chosen = logits.max(dim=-1)
    scaled = hidden * torch.sigmoid(best.float()).to(hidden.dtype).unsqueeze(-1)
    # Tokens in the order of their experts, so that each expert multiplies one block of them.
    order = chosen.argsort(stable=True)
    sizes = torch.bincount(chosen, minlength=moe.num_experts).tolist()
    blocks, start = [], 0
    sorted_inputs = scaled[order]
    for expert, size in enumerate(sizes):
        if size:
            blocks.append(_expert(moe.experts, expert, sorted_inputs[start : start + size]))
        start += size
    routed = torch.empty_like(scaled).index_copy(0, order, torch.cat(blocks))
    return moe.shared_expert(hidden) + routed, logits


def _expert(experts: Any, expert: int, x: torch.Tensor) -> torch.Tensor:
    gate, up = (x @ experts.gate_up_proj[expert]).chunk(2, dim=-1)
    out: torch.Tensor = (up * experts.act_fn(gate)) @ experts.down_proj[expert]
    return out
