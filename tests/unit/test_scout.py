"""The shape's counts against transformers' own modules, built on the meta device, and the measured sizes."""

from __future__ import annotations

from typing import Any

import pytest

from heartbeat.scout import SCOUT, ModelShape, UnsupportedModelError

GIB = 2**30

SCOUT_TEXT = {
    "model_type": "llama4_text",
    "num_hidden_layers": 48,
    "hidden_size": 5120,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "num_local_experts": 16,
    "num_experts_per_tok": 1,
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16384,
    "interleave_moe_layer_step": 1,
    "vocab_size": 202_048,
}
SCOUT_VISION = {
    "hidden_size": 1408,
    "intermediate_size": 5632,
    "num_hidden_layers": 34,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projector_input_dim": 4096,
    "projector_output_dim": 4096,
    "vision_output_dim": 4096,
}


def built(text: dict[str, Any], vision: dict[str, Any] | None = None) -> tuple[int, ModelShape]:
    """Parameters of transformers' model, and the shape read from the config.json that it would save."""
    import torch
    import transformers

    with torch.device("meta"):
        if vision is None:
            config = transformers.Llama4TextConfig(**text)
            model = transformers.Llama4ForCausalLM(config)
        else:
            config = transformers.Llama4Config(text_config=text, vision_config=vision)
            model = transformers.Llama4ForConditionalGeneration(config)
    return sum(p.numel() for p in model.parameters()), ModelShape.from_config(config.to_dict())


def test_scout_has_the_parameters_that_transformers_builds() -> None:
    num_parameters, shape = built(SCOUT_TEXT, SCOUT_VISION)
    assert shape == SCOUT
    assert shape.total_parameters == num_parameters
    assert num_parameters / 1e9 == pytest.approx(108.6, abs=0.05)


def test_a_text_model_with_dense_layers_has_them_too() -> None:
    small = {**SCOUT_TEXT, "num_hidden_layers": 6, "interleave_moe_layer_step": 2, "vocab_size": 1000}
    num_parameters, shape = built(small)
    assert (shape.num_moe_layers, shape.vision_parameters) == (3, 0)
    assert shape.total_parameters == num_parameters


def test_scouts_figures() -> None:
    assert SCOUT.active_parameters / 1e9 == pytest.approx(17.2, abs=0.05)
    assert SCOUT.parameters["routed_experts"] / 1e9 == pytest.approx(96.6, abs=0.05)
    assert SCOUT.bytes_bf16 / 1e9 == pytest.approx(217.3, abs=0.05)
    # Measured on an H100: 54.7 GiB resident (docs/decisions.md); 1.058 GiB is what training_code.packs lays out.
    assert SCOUT.bytes_nf4 / GIB == pytest.approx(54.7, abs=0.1)
    assert SCOUT.layer_pack_bytes / GIB == pytest.approx(1.058, abs=0.001)
    assert SCOUT.kv_cache_bytes_per_token == 192 * 1024
    assert sum(SCOUT.bytes_by_part("fp8").values()) / 1e9 == pytest.approx(114.6, abs=0.1)
    assert sum(SCOUT.bytes_by_part("int4").values()) / 1e9 == pytest.approx(62, abs=0.5)


def test_flops_of_a_fully_packed_step() -> None:
    parts = SCOUT.training_flops_per_token(
        context=4096, lora_rank=16, lora_targets=("attention", "shared_expert"), supervised_share=0.3
    )
    assert sum(parts.values()) * 64 * 4096 / 1e15 == pytest.approx(24.46, abs=0.01)


def test_lora_parameters_are_rank_times_the_widths() -> None:
    attention = 48 * ((5120 + 5120) * 2 + (5120 + 1024) * 2)
    assert SCOUT.lora_parameters(16, ("attention",)) == 16 * attention
    assert SCOUT.lora_parameters(16) == 16 * (attention + 48 * 3 * (5120 + 8192))
    assert SCOUT.lora_parameters(16, ("routed_experts",), active=True) == 16 * 48 * 3 * (5120 + 8192)
    assert SCOUT.lora_parameters(16, ("routed_experts",)) == 16 * 48 * 16 * 3 * (5120 + 8192)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "mistral"}, "model_type 'mistral'; HeartBeat trains Llama 4"),
        ({}, "model_type None"),
        ({**SCOUT_TEXT, "num_experts_per_tok": 2}, "routes a token to 2 experts"),
        ({**SCOUT_TEXT, "quantization_config": {"bits": 4}}, "quantised checkpoint; upload the bf16 one"),
        ({**SCOUT_TEXT, "vocab_size": None}, "vocab_size=None"),
        ({**SCOUT_TEXT, "hidden_size": "5120"}, "hidden_size='5120'"),
        ({**SCOUT_TEXT, "num_key_value_heads": 7}, "must be a multiple of num_key_value_heads=7"),
        ({"model_type": "llama4", "text_config": None}, "no text_config object"),
    ],
)
def test_another_config_is_refused_by_name(config: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        ModelShape.from_config(config)
    assert words in str(caught.value)
