"""Weights in 8-bit floats with a scale for each output, in the form of compressed-tensors, which vLLM serves.

A module's `weight` (outputs, inputs) is float8 e4m3 and stands for weight * weight_scale, with `weight_scale`
(outputs, 1) in float32. Activations are quantised while serving, token by token. As in published FP8 checkpoints of
Llama 4, attention, router, head and the vision part stay as they are, and routed experts are stored one by one:
https://docs.vllm.ai/projects/llm-compressor (examples/quantization_w8a8_fp8, Llama 4).
"""

from __future__ import annotations

import re
from typing import Any

import torch

DTYPE = torch.float8_e4m3fn
LARGEST = torch.finfo(DTYPE).max

_LEAST_SCALE = 1e-12
"""Of a row of zeros"""
_IGNORED = ("re:.*lm_head", "re:.*self_attn", "re:.*router", "re:.*vision_model.*", "re:.*multi_modal_projector.*")
_QUANTISED = re.compile(r"(?:.*\.)?feed_forward\.(?:shared_expert\.)?(?:gate|up|down)_proj\.weight")


def is_quantised(name: str) -> bool:
    """Whether the two-dimensional weight of this name is stored in 8 bits."""
    return _QUANTISED.fullmatch(name) is not None


def quantise(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(weight, weight_scale) of a matrix (outputs, inputs): each row's largest magnitude becomes 448."""
    values = weight.float()
    scale = (values.abs().amax(dim=1, keepdim=True) / LARGEST).clamp(min=_LEAST_SCALE)
    # The quotient may be over by a rounding, and torch makes NaN of what is too large.
    return (values / scale).clamp(-LARGEST, LARGEST).to(DTYPE), scale


def quantization_config() -> dict[str, Any]:
    """What config.json says about it."""
    common = {"num_bits": 8, "type": "float", "symmetric": True}
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {**common, "strategy": "channel", "dynamic": False},
                "input_activations": {**common, "strategy": "token", "dynamic": True},
            }
        },
        "ignore": list(_IGNORED),
    }
