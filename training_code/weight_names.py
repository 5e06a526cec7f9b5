"""The tensors of a Llama 4 text model, by the names of transformers' Llama4ForCausalLM."""

from __future__ import annotations

from training_code.architecture import Architecture

EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
NOT_QUANTISED = ("input_layernorm.weight", "post_attention_layernorm.weight", "feed_forward.router.weight")
"""Of a layer: too small to gain by it, and the router's choice is sensitive."""

_MULTIMODAL_PREFIX = "language_model."
_NOT_TEXT = ("vision_model.", "multi_modal_projector.")


def text_name(key: str) -> str | None:
    """A checkpoint's key without the multimodal prefix; None for a tensor of the vision tower or its projector."""
    return None if key.startswith(_NOT_TEXT) else key.removeprefix(_MULTIMODAL_PREFIX)


def layer_shapes(architecture: Architecture, number: int) -> dict[str, tuple[int, ...]]:
    """Of each weight of a layer, by its name within it."""
    shape = architecture.shape
    hidden, expert = shape.hidden_size, shape.expert_size
    query, key_value = shape.query_size, shape.key_value_size
    attention: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (query, hidden),
        "self_attn.k_proj.weight": (key_value, hidden),
        "self_attn.v_proj.weight": (key_value, hidden),
        "self_attn.o_proj.weight": (hidden, query),
        "post_attention_layernorm.weight": (hidden,),
    }
    if not architecture.has_experts[number]:
        return attention | _gated("feed_forward", hidden, shape.dense_size)
    return {
        **attention,
        "feed_forward.router.weight": (shape.num_experts, hidden),
        "feed_forward.experts.gate_up_proj": (shape.num_experts, hidden, 2 * expert),
        "feed_forward.experts.down_proj": (shape.num_experts, expert, hidden),
        **_gated("feed_forward.shared_expert", hidden, expert),
    }


def _gated(prefix: str, hidden: int, inner: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}.gate_proj.weight": (inner, hidden),
        f"{prefix}.up_proj.weight": (inner, hidden),
        f"{prefix}.down_proj.weight": (hidden, inner),
    }


def expected_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Of every tensor of the text model."""
    shapes = {
        f"model.layers.{number}.{name}": shape
        for number in range(architecture.shape.num_layers)
        for name, shape in layer_shapes(architecture, number).items()
    }
    return shapes_outside_layers(architecture) | shapes


def shapes_outside_layers(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Of the embedding, the final norm, and the head unless it is the embedding."""
    shape = architecture.shape
    table = (shape.vocabulary_size, shape.hidden_size)
    head = {} if shape.tied_embeddings else {HEAD: table}
    return {EMBEDDING: table, NORM: (shape.hidden_size,)} | head
