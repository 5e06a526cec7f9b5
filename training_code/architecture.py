"""What a Llama 4's config.json says about its arithmetic; sizes alone are `heartbeat.scout.ModelShape`'s."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from heartbeat.scout import ModelShape, UnsupportedModelError
from training_code.errors import TrainingError


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Llama 3's frequency scaling, which stretches long wavelengths by `factor` (llama-models, `apply_scaling`)."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_length: int
    """Tokens of the context that the model was first trained with."""


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """Attention temperature of layers without RoPE (arXiv:2501.19399): queries grow with their position."""

    floor_scale: float
    """Tokens after which the temperature rises a step."""
    scale: float


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A Llama 4 text model."""

    shape: ModelShape
    norm_eps: float
    qk_norm: bool
    """Whether queries and keys of RoPE layers are normalised after the rotation."""
    has_rope: tuple[bool, ...]
    """For each layer, whether it rotates queries and keys. Those that do not attend over the whole document."""
    has_experts: tuple[bool, ...]
    """For each layer, whether its feed-forward network is a mixture of experts."""
    chunk_size: int | None
    """Tokens over which RoPE layers attend: a document is cut at multiples of it. None: over all of it."""
    temperature: Temperature | None
    rope_theta: float
    rope_scaling: RopeScaling | None

    @classmethod
    def from_config(cls, text: Mapping[str, Any]) -> Architecture:
        """Of the `text_config` of a config.json. Raises TrainingError for what this trainer does not compute."""
        try:
            shape = ModelShape.from_config(text)
        except UnsupportedModelError as error:
            raise TrainingError(str(error)) from None
        _refuse_unknown_arithmetic(text)
        has_rope = _has_rope(text, shape.num_layers)
        _require_layer_types(text, has_rope)
        tuned = text.get("attn_temperature_tuning", True)
        temperature = Temperature(
            floor_scale=float(text.get("floor_scale", 8192)), scale=float(text.get("attn_scale", 0.1))
        )
        rope_theta, rope_scaling = _rope(text)
        return cls(
            shape=shape,
            norm_eps=float(text.get("rms_norm_eps", 1e-5)),
            qk_norm=bool(text.get("use_qk_norm", True)),
            has_rope=has_rope,
            has_experts=_has_experts(text, shape.num_layers),
            chunk_size=text.get("attention_chunk_size", 8192),
            temperature=temperature if tuned else None,
            rope_theta=rope_theta,
            rope_scaling=rope_scaling,
        )

    def inverse_frequencies(self) -> torch.Tensor:
        """Radians a token by which each pair of a head's numbers turns: (head_size / 2,), f32."""
        size = self.shape.head_size
        inverse = 1.0 / (self.rope_theta ** (torch.arange(0, size, 2, dtype=torch.float32) / size))
        scaling = self.rope_scaling
        if scaling is None:
            return inverse
        wavelength = 2 * math.pi / inverse
        longest, shortest = (
            scaling.original_length / scaling.low_frequency_factor,
            scaling.original_length / scaling.high_frequency_factor,
        )
        scaled = torch.where(wavelength > longest, inverse / scaling.factor, inverse)
        between = (wavelength >= shortest) & (wavelength <= longest)
        if longest > shortest:
            share = (scaling.original_length / wavelength - scaling.low_frequency_factor) / (
                scaling.high_frequency_factor - scaling.low_frequency_factor
            )
            scaled = torch.where(between, (1 - share) * inverse / scaling.factor + share * inverse, scaled)
        return scaled


def _refuse_unknown_arithmetic(text: Mapping[str, Any]) -> None:
    for name, expected in (("hidden_act", "silu"), ("attention_bias", False)):
        if text.get(name, expected) != expected:
            raise TrainingError(
                f"config.json has {name}={text[name]!r}; this trainer computes Llama 4 with {expected!r} only"
            )


def _has_rope(text: Mapping[str, Any], num_layers: int) -> tuple[bool, ...]:
    listed = text.get("no_rope_layers")  # 1 where a layer *has* RoPE, whatever the name says
    if listed:
        if len(listed) < num_layers:
            raise TrainingError(f"config.json lists {len(listed)} no_rope_layers for {num_layers} layers")
        return tuple(bool(value) for value in listed[:num_layers])
    interval = text.get("no_rope_layer_interval") or 4
    return tuple((layer + 1) % interval != 0 for layer in range(num_layers))


def _require_layer_types(text: Mapping[str, Any], has_rope: tuple[bool, ...]) -> None:
    expected = ["chunked_attention" if rope else "full_attention" for rope in has_rope]
    if (text.get("layer_types") or expected) != expected:
        raise TrainingError("config.json has layer_types other than chunked with RoPE and full without; not a Llama 4")


def _has_experts(text: Mapping[str, Any], num_layers: int) -> tuple[bool, ...]:
    listed, step = text.get("moe_layers"), text.get("interleave_moe_layer_step") or 1
    with_experts = set(range(step - 1, num_layers, step) if listed is None else listed)
    return tuple(layer in with_experts for layer in range(num_layers))


def _rope(text: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """transformers 5 writes `rope_parameters`; checkpoints on the Hub have `rope_theta` and `rope_scaling`."""
    given = dict(text.get("rope_parameters") or text.get("rope_scaling") or {})
    theta = float(given.get("rope_theta") or text.get("rope_theta") or 500_000.0)
    kind = given.get("rope_type", given.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise TrainingError(f"config.json has rope_type {kind!r}; this trainer computes 'default' and 'llama3'")
    try:
        scaling = RopeScaling(
            factor=float(given["factor"]),
            low_frequency_factor=float(given["low_freq_factor"]),
            high_frequency_factor=float(given["high_freq_factor"]),
            original_length=int(given["original_max_position_embeddings"]),
        )
    except KeyError as error:
        raise TrainingError(f"config.json has RoPE scaling without {error}; upload the checkpoint's own") from None
    return theta, scaling
