"""The model's shape, and from it the parameters, bytes and FLOPs of every part.

Scout is called 17B for its *active* parameters. What must be stored, moved and paid for is all of it: 108.6 B.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

MODEL_TYPES = ("llama4", "llama4_text")

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes a parameter: 4 bits, an 8-bit scale for a block of 64, and one f32 for 256 scales (bitsandbytes' blocks)."""
FP8_BYTES = 1.0
INT4_BYTES = 0.5 + 2 / 64
"""4 bits, and one bf16 scale for a group of 64."""

WEIGHT_BYTES: Mapping[str, float] = {
    "bf16": 2.0,
    "fp8": FP8_BYTES,
    "nf4": NF4_BYTES,
    "int4": INT4_BYTES,
}
"""Bytes a parameter of the parts that are quantised; the others are bf16 in every format."""
QUANTISED_PARTS = ("attention", "shared_experts", "routed_experts", "dense_ffn")
FP8_PARTS = QUANTISED_PARTS[1:]
"""An FP8 checkpoint leaves attention as it is (training_code/fp8.py has the source)."""


class UnsupportedModelError(ValueError):
    """A config.json of a model that HeartBeat cannot train; the message says what would do."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A Llama 4's architecture. Raises UnsupportedModelError for sizes that no model can have."""

    num_layers: int
    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_size: int
    """Of one attention head."""
    num_experts: int
    """Routed experts of a mixture layer; a shared one comes on top."""
    expert_size: int
    """Hidden size of an expert's feed-forward network, routed or shared."""
    num_moe_layers: int
    """Layers with experts; the others have one dense network."""
    dense_size: int
    """Hidden size of a dense layer's feed-forward network."""
    vocabulary_size: int
    tied_embeddings: bool = False
    """Whether the head shares the embedding's weights."""
    vision_parameters: int = 0
    """Of the vision tower and its projector, which are stored and served, but not trained."""

    def __post_init__(self) -> None:
        may_be_zero = ("num_moe_layers", "vision_parameters")
        for f in fields(self):
            value, least = getattr(self, f.name), 0 if f.name in may_be_zero else 1
            if f.name != "tied_embeddings" and (type(value) is not int or value < least):
                raise UnsupportedModelError(f"{f.name}={value!r} must be a whole number of at least {least}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise UnsupportedModelError(
                f"num_attention_heads={self.num_attention_heads} must be a multiple of "
                f"num_key_value_heads={self.num_key_value_heads}"
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelShape:
        """The shape of a Hugging Face config.json, of the whole model or of its text part alone.

        Raises UnsupportedModelError for another architecture, a quantised checkpoint or a missing size.
        """
        if config.get("model_type") not in MODEL_TYPES:
            raise UnsupportedModelError(
                f"config.json has model_type {config.get('model_type')!r}; HeartBeat trains Llama 4 "
                f"({' or '.join(MODEL_TYPES)}), such as meta-llama/Llama-4-Scout-17B-16E-Instruct"
            )
        text = config.get("text_config", config)
        if not isinstance(text, Mapping):
            raise UnsupportedModelError("config.json has no text_config object; upload the checkpoint's own config")
        if config.get("quantization_config") or text.get("quantization_config"):
            raise UnsupportedModelError("config.json is of a quantised checkpoint; upload the bf16 one")
        if text.get("num_experts_per_tok", 1) != 1:
            raise UnsupportedModelError(
                f"config.json routes a token to {text['num_experts_per_tok']} experts; the trainer knows top-1 only"
            )
        layers, heads = _size(text, "num_hidden_layers"), _size(text, "num_attention_heads")
        hidden = _size(text, "hidden_size")
        return cls(
            num_layers=layers,
            hidden_size=hidden,
            num_attention_heads=heads,
            num_key_value_heads=_size(text, "num_key_value_heads"),
            head_size=_size(text, "head_dim", hidden // heads),
            num_experts=_size(text, "num_local_experts"),
            expert_size=_size(text, "intermediate_size"),
            num_moe_layers=_num_moe_layers(text, layers),
            dense_size=_size(text, "intermediate_size_mlp", 2 * _size(text, "intermediate_size")),
            vocabulary_size=_size(text, "vocab_size"),
            tied_embeddings=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
            vision_parameters=_vision_parameters(config.get("vision_config"), hidden),
        )

    # --- parameters

    @property
    def query_size(self) -> int:
        """Of all heads' queries of a token, and of what the output projection is given."""
        return self.num_attention_heads * self.head_size

    @property
    def key_value_size(self) -> int:
        """Of all heads' keys of a token, and of their values."""
        return self.num_key_value_heads * self.head_size

    @property
    def attention_parameters(self) -> int:
        """Of one layer: query, key, value and output projections."""
        return self.hidden_size * (2 * self.query_size + 2 * self.key_value_size)

    @property
    def expert_parameters(self) -> int:
        """Of one expert: gate, up and down projections."""
        return 3 * self.hidden_size * self.expert_size

    @property
    def parameters(self) -> dict[str, int]:
        """Parameters by part of the model."""
        moe, dense = self.num_moe_layers, self.num_layers - self.num_moe_layers
        embedding = self.vocabulary_size * self.hidden_size
        return {
            "embedding": embedding,
            "attention": self.num_layers * self.attention_parameters,
            "shared_experts": moe * self.expert_parameters,
            "routed_experts": moe * self.num_experts * self.expert_parameters,
            "dense_ffn": dense * 3 * self.hidden_size * self.dense_size,
            "router": moe * self.hidden_size * self.num_experts,
            "norms": (2 * self.num_layers + 1) * self.hidden_size,
            "head": 0 if self.tied_embeddings else embedding,
            "vision": self.vision_parameters,
        }

    @property
    def total_parameters(self) -> int:
        return sum(self.parameters.values())

    @property
    def text_parameters(self) -> int:
        return self.total_parameters - self.vision_parameters

    @property
    def active_parameters(self) -> int:
        """Text parameters that one token goes through: one routed expert of each layer."""
        idle = self.num_moe_layers * (self.num_experts - 1) * self.expert_parameters
        return self.text_parameters - idle

    @property
    def matrix_parameters(self) -> int:
        """Of all layers, but for routers and norms: what is quantised."""
        parts = self.parameters
        return sum(parts[part] for part in QUANTISED_PARTS)

    @property
    def feed_forward_width(self) -> int:
        """Of what a token goes through at once, at the most: the shared and its routed expert, or a dense layer."""
        has_dense = self.num_moe_layers < self.num_layers
        return max(2 * self.expert_size, self.dense_size if has_dense else 0)

    @property
    def layer_parameters(self) -> int:
        """Of the largest layer, all its experts included."""
        experts = (self.num_experts + 1) * self.expert_parameters + self.hidden_size * self.num_experts
        dense = 3 * self.hidden_size * self.dense_size
        has_dense = self.num_moe_layers < self.num_layers
        feed_forward = max(experts if self.num_moe_layers else 0, dense if has_dense else 0)
        return self.attention_parameters + feed_forward

    def lora_parameters(
        self, rank: int, targets: tuple[str, ...] = ("attention", "shared_expert"), *, active: bool = False
    ) -> int:
        """Of an adapter of this rank: rank x (inputs + outputs) for each matrix it is on.

        `active`: of those that one token goes through, of which there is one routed expert a layer.
        """
        hidden, moe = self.hidden_size, self.num_moe_layers
        expert = 3 * (hidden + self.expert_size)
        widths = {
            "attention": self.num_layers * (2 * (hidden + self.query_size) + 2 * (hidden + self.key_value_size)),
            "shared_expert": moe * expert,
            "routed_experts": moe * (1 if active else self.num_experts) * expert,
        }
        return rank * sum(widths[target] for target in targets)

    # --- bytes

    def bytes_by_part(self, weight_format: str = "bf16") -> dict[str, int]:
        """Bytes of the weights by part, in one of WEIGHT_BYTES."""
        bytes_of_quantised = WEIGHT_BYTES[weight_format]
        quantised = FP8_PARTS if weight_format == "fp8" else QUANTISED_PARTS
        return {
            part: round(count * (bytes_of_quantised if part in quantised else 2.0))
            for part, count in self.parameters.items()
        }

    @property
    def bytes_bf16(self) -> int:
        """Of the whole checkpoint, vision included: what is downloaded."""
        return sum(self.bytes_by_part("bf16").values())

    @property
    def bytes_nf4(self) -> int:
        """Of the text model, double-quantised: what a GPU holds that trains it. Measured: 54.7 GiB for Scout."""
        return self.text_bytes("nf4")

    def text_bytes(self, weight_format: str) -> int:
        """Of the text model alone."""
        return sum(self.bytes_by_part(weight_format).values()) - 2 * self.vision_parameters

    @property
    def layer_pack_bytes(self) -> int:
        """Of the largest layer as NF4, the form in which it is moved: 1.06 GiB for Scout, as `training_code.packs`."""
        return round(self.layer_parameters * NF4_BYTES)

    @property
    def layer_packs_bytes(self) -> int:
        """Of all layers in that form."""
        return round(self.matrix_parameters * NF4_BYTES)

    @property
    def head_bytes(self) -> int:
        return 2 * self.vocabulary_size * self.hidden_size

    @property
    def kv_cache_bytes_per_token(self) -> int:
        """Of keys and values of all layers in bf16: 192 KiB for Scout."""
        return 2 * 2 * self.num_layers * self.key_value_size

    # --- FLOPs

    def training_flops_per_token(
        self, *, context: float, lora_rank: int, lora_targets: tuple[str, ...], supervised_share: float = 1.0
    ) -> dict[str, float]:
        """FLOPs that a training step executes for one token, by part.

        `context`: tokens of the conversation that it stands in. Layers are recomputed in the backward pass but for
        their last products, which nobody reads; the head runs on supervised tokens alone. Attention: 2 products over
        half the context on average, 4.5 times (forward, recomputed forward, and 2.5 for flash attention's backward).
        The rest is what torch.utils.flop_counter counts of the trainer, to the last one (tests/training/test_flops.py).
        """
        routed = self.num_moe_layers * self.expert_parameters
        parts = self.parameters
        frozen = sum(parts[part] for part in ("attention", "shared_experts", "dense_ffn", "router")) + routed
        # The down projections of the shared and the routed expert, or of the dense network.
        last = (parts["shared_experts"] + parts["dense_ffn"] + routed) // 3
        adapter = self.lora_parameters(lora_rank, lora_targets, active=True)
        # What the recomputed shared expert gives is not read: the adapter's B matrix is not added to it.
        last_of_adapter = self.num_moe_layers * lora_rank * self.hidden_size if "shared_expert" in lora_targets else 0
        return {
            "forward": 2.0 * frozen,
            "recomputed_forward": 2.0 * (frozen - last),
            "backward": 2.0 * frozen,
            "attention": 4.5 * self.num_layers * 2 * 2 * self.query_size * context / 2,
            "head": 4.0 * self.vocabulary_size * self.hidden_size * supervised_share,
            # Twice forward, twice the work backward, since these weights have gradients themselves.
            "adapter": 8.0 * adapter - 2.0 * last_of_adapter,
        }


def _size(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = config.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UnsupportedModelError(
            f"config.json has {name}={value!r}, not a whole number of at least 1; upload the checkpoint's own config"
        )
    return value


def _num_moe_layers(text: Mapping[str, Any], num_layers: int) -> int:
    layers = text.get("moe_layers")
    if isinstance(layers, list):
        return len(layers)
    return num_layers // _size(text, "interleave_moe_layer_step", 1)


def _vision_parameters(vision: Any, text_hidden_size: int) -> int:
    """Counted as transformers' Llama4VisionModel and its projector build them; 0 without a vision_config."""
    if not isinstance(vision, Mapping):
        return 0
    hidden, inner = _size(vision, "hidden_size"), _size(vision, "intermediate_size")
    patch, channels = _size(vision, "patch_size"), _size(vision, "num_channels", 3)
    projected_in, projected = _size(vision, "projector_input_dim"), _size(vision, "projector_output_dim")
    attention = 4 * (hidden * hidden + hidden)
    feed_forward = 2 * hidden * inner + inner + hidden
    layer = attention + feed_forward + 2 * 2 * hidden
    num_patches = (_size(vision, "image_size") // patch) ** 2 + 1
    tower = _size(vision, "num_hidden_layers") * layer
    edges = channels * patch**2 * hidden + hidden + num_patches * hidden + 2 * 2 * hidden
    adapter = inner * projected_in + projected * projected
    return tower + edges + adapter + _size(vision, "vision_output_dim") * text_hidden_size


SCOUT = ModelShape(
    num_layers=48,
    hidden_size=5120,
    num_attention_heads=40,
    num_key_value_heads=8,
    head_size=128,
    num_experts=16,
    expert_size=8192,
    num_moe_layers=48,
    dense_size=16384,
    vocabulary_size=202_048,
    vision_parameters=_vision_parameters(
        {
            "hidden_size": 1408,
            "intermediate_size": 5632,
            "num_hidden_layers": 34,
            "image_size": 336,
            "patch_size": 14,
            "projector_input_dim": 4096,
            "projector_output_dim": 4096,
            "vision_output_dim": 4096,
        },
        5120,
    ),
)
"""meta-llama/Llama-4-Scout-17B-16E-Instruct, as its config.json has it."""
