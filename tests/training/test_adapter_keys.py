"""An adapter's keys: vLLM passes over those that it does not know, and answers with the base model."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from tests.training import meta
from training_code import adapter
from training_code.architecture import Architecture
from training_code.errors import TrainingError
from training_code.lora_weights import LoraWeights

ALL = ("attention", "shared_expert", "routed_experts")
ARCHITECTURES = {name: Architecture.from_config(meta.load(name).config) for name in meta.names()}
SCOUT = ARCHITECTURES["scout"]


def keys(architecture: Architecture, targets: Sequence[str]) -> set[str]:
    """By the architecture's numbers alone."""
    found = set()
    for layer in range(architecture.shape.num_layers):
        place = f"base_model.model.model.layers.{layer}"
        modules = [f"{place}.self_attn.{part}_proj" for part in "qkvo"] if "attention" in targets else []
        parts = ("gate", "up", "down") if architecture.has_experts[layer] else ()
        if "shared_expert" in targets:
            modules += [f"{place}.feed_forward.shared_expert.{part}_proj" for part in parts]
        if "routed_experts" in targets:
            experts = range(architecture.shape.num_experts)
            modules += [f"{place}.feed_forward.experts.{one}.{part}_proj" for one in experts for part in parts]
        found |= {f"{module}.lora_{half}.weight" for module in modules for half in "AB"}
    return found


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("targets", [ALL, ALL[:2], ALL[:1], ALL[2:]], ids=",".join)
def test_an_adapter_is_saved_under_exactly_these(name: str, targets: tuple[str, ...], tmp_path: Path) -> None:
    architecture = ARCHITECTURES[name]
    lora = LoraWeights(architecture, targets, rank=2, alpha=4, dropout=0, seed=0, device=torch.device("cpu"))
    adapter.save(tmp_path, lora, architecture, targets=targets, rank=2, alpha=4, dropout=0)
    with safe_open(tmp_path / adapter.WEIGHTS, "pt") as stored:
        assert set(stored.keys()) == keys(architecture, targets)


@pytest.mark.parametrize(
    ("pattern", "replacement", "said"),
    [
        (r"layers\.3\.", "layers.99.", "keys of model.layers.99.feed_forward.experts.0.down_proj mean no matrix"),
        (r"experts\.3\.", "experts.77.", "keys of model.layers.0.feed_forward.experts.77.down_proj mean no matrix"),
        (r".*layers\.2\..*", None, "lacks model.layers.2.feed_forward.experts.0.down_proj"),
        (r".*self_attn.*", None, "lacks model.layers.0.self_attn.k_proj, which LORA_TARGETS="),
        (r".*shared_expert.*", None, "lacks model.layers.0.feed_forward.shared_expert.down_proj"),
        (r".*\.experts\..*", None, "lacks model.layers.0.feed_forward.experts.0.down_proj"),
        (r".*\.1\..*q_proj\.lora_B.*", None, "layers.1.self_attn.q_proj.lora_A.weight has no lora_B beside it"),
        (r".*", None, "the adapter is empty"),
        (r"base_model\.model\.", "", "has no form that vLLM loads"),
        (r"base_model\.model\.", "base_model.model.language_model.", "has no form that vLLM loads"),
        (r"lora_A\.weight", "lora_A.default.weight", "has no form that vLLM loads"),
        (r"experts\.\d+\.gate_proj", "experts.gate_up_proj", "has no form that vLLM loads"),
        (r"shared_expert\.up_proj", "router", "has no form that vLLM loads"),
    ],
)
def test_other_keys_are_refused(pattern: str, replacement: str | None, said: str) -> None:
    whole = keys(SCOUT, ALL)
    changed = {new for key in whole if (new := re.sub(f"{pattern}", replacement or "", key, count=1))}
    assert changed != whole
    with pytest.raises(TrainingError, match=re.escape(said)):
        adapter.check_keys(changed, SCOUT, ALL)


def test_a_target_that_was_not_asked_for_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"keys of model.layers.0.feed_forward.* mean no matrix .*=attention;"):
        adapter.check_keys(keys(SCOUT, ALL), SCOUT, ["attention"])


CHANGES: tuple[Callable[[str], str], ...] = (
    lambda _: "",
    lambda key: key.upper(),
    lambda key: re.sub(r"\d+", lambda found: str(int(found[0]) + 50), key, count=1),
    lambda key: re.sub(r"_proj", "_prj", key),
    lambda key: key.replace("lora_A", "lora_C").replace("lora_B", "lora_A"),
)


@given(st.data())
def test_no_change_of_any_key_goes_unseen(data: st.DataObject) -> None:
    architecture = ARCHITECTURES[data.draw(st.sampled_from(sorted(ARCHITECTURES)))]
    targets = data.draw(st.sets(st.sampled_from(ALL), min_size=1).map(sorted))
    whole = keys(architecture, targets)
    adapter.check_keys(whole, architecture, targets)
    changed = data.draw(st.sets(st.sampled_from(sorted(whole)), min_size=1, max_size=4))
    change = data.draw(st.sampled_from(CHANGES))
    with pytest.raises(TrainingError):
        adapter.check_keys((whole - changed) | {change(key) for key in changed} - {""}, architecture, targets)
