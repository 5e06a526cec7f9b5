"""Check meta-*.safetensors, and see how far transformers is from it; make_meta.py says how to run this.

Prints what it finds, and fails where a recording is not fit for tests.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from tests.training import meta
from tests.training.recorded.make_meta import (
    CASES,
    Case,
    in_hugging_face_form,
    initialise,
    logits_of,
    loss_of,
    new_model,
    reference,
    start_model_parallel,
)

NUM_CHECKED = 3
"""Entries of each weight that are compared with finite differences, besides the one with the largest gradient."""


def main() -> None:
    torch.set_num_threads(1)
    start_model_parallel()
    for name, case in CASES.items():
        print(f"{name}:")
        recording = meta.load(name)
        with reference():
            model = new_model(case)
            initialise(model, seed=case.seed)
            check_as_published(model, recording)
            check_features_matter(case, model, recording)
            check_routing(model, recording)
            check_gradients(case, model, recording)
        compare_with_transformers(recording)


def check_as_published(model: Any, recording: meta.Recording) -> None:
    """The recorded logits are bit for bit those of Meta's own, decorated `forward`."""
    from llama_models.llama4.datatypes import TransformerInput  # type: ignore[import-not-found]

    logits = [model(TransformerInput(tokens=ids[None], tokens_position=0)).logits[0] for ids in recording.documents()]
    assert torch.equal(torch.cat(logits), recording.logits)


def check_features_matter(case: Case, model: Any, recording: meta.Recording) -> None:
    """Each feature changes the logits by far more than f32's rounding: a core without it cannot pass for right."""
    without: dict[str, dict[str, Any]] = {"norm_eps": {"norm_eps": 1e-6}}
    if case.scaled_rope:
        without["scaled_rope"] = {"scaled_rope": None}
    if case.nope_interval:
        without["nope"] = {"nope_interval": None}
    if case.chunk < max(case.lengths):
        without["chunk"] = {"chunk": 8192}
    if case.temperature:
        without["temperature"] = {"temperature": None}
    without["qk_norm"] = {"qk_norm": not case.qk_norm}
    for feature, change in without.items():
        other = new_model(dataclasses.replace(case, **change))
        other.load_state_dict(model.state_dict())
        with torch.no_grad():
            change_in_logits = (logits_of(other, recording.documents()) - recording.logits).abs().max().item()
        print(f"  without its {feature} the logits change by {change_in_logits:.1e}")


def check_routing(model: Any, recording: meta.Recording) -> None:
    """No token stands so close between two experts that rounding could send it to the other."""
    from llama_models.llama4.moe import MoE  # type: ignore[import-not-found]

    margins: list[float] = []
    loads: list[list[int]] = []

    def look(module: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(module, MoE)
        logits = inputs[0].flatten(0, 1) @ module.router_DE
        best = logits.topk(2, dim=-1).values
        margins.append((best[:, 0] - best[:, 1]).min().item())
        loads.append(logits.argmax(-1).bincount(minlength=logits.shape[1]).tolist())

    hooks = [layer.feed_forward.register_forward_pre_hook(look) for layer in model.layers if _is_moe(layer)]
    with torch.no_grad():
        logits_of(model, recording.documents())
    for hook in hooks:
        hook.remove()
    print(f"  router margin {min(margins):.1e}; tokens per expert, document by document: {loads}")
    assert min(margins) > 1e-3, "choose another seed"


def _is_moe(layer: Any) -> bool:
    return hasattr(layer.feed_forward, "experts")


def check_gradients(case: Case, model: Any, recording: meta.Recording) -> None:
    """Against central differences in f64, for some entries of every weight; and f32's against f64's, all of them."""
    documents = recording.documents()
    # Meta's code computes norms, RoPE and logits in f32 whatever its weights are.
    with mock.patch.object(Tensor, "float", Tensor.double):
        double = new_model(case).double()
        double.load_state_dict(model.state_dict())
        loss_of(logits_of(double, documents), documents).backward()
        generator = torch.Generator().manual_seed(0)
        errors = [
            error
            for weight in double.parameters()
            for error in _difference_errors(double, weight, documents, generator)
        ]
    gradients = in_hugging_face_form({name: weight.grad for name, weight in double.named_parameters()})
    rounding = max(
        ((recording.gradients[name] - exact).abs().max() / exact.abs().max()).item()
        for name, exact in gradients.items()
        if exact.abs().max() > 0
    )
    print(f"  {len(errors)} finite differences: off by {max(errors):.1e} of the weight's largest gradient at most")
    print(f"  f32's gradients are off f64's by {rounding:.1e} of the weight's largest at most")
    assert max(errors) < 1e-5
    assert rounding < 1e-4


def _difference_errors(
    model: Any, weight: nn.Parameter, documents: list[Tensor], generator: torch.Generator, step: float = 1e-5
) -> Iterator[float]:
    assert weight.grad is not None
    random = torch.randint(weight.numel(), (NUM_CHECKED,), generator=generator).tolist()
    for index in (int(weight.grad.abs().argmax()), *random):
        flat, before = weight.data.view(-1), weight.data.view(-1)[index].item()
        losses = []
        for value in (before + step, before - step):
            flat[index] = value
            with torch.no_grad():
                losses.append(loss_of(logits_of(model, documents), documents).item())
        flat[index] = before
        difference = (losses[0] - losses[1]) / (2 * step)
        scale = weight.grad.abs().max().item() or 1.0
        yield abs(weight.grad.view(-1)[index].item() - difference) / scale


def compare_with_transformers(recording: meta.Recording) -> None:
    """Print how far transformers' Llama4ForCausalLM is from the recording, document by document."""
    from transformers import Llama4ForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    documents = recording.documents()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = meta.write_checkpoint(recording, Path(folder) / "model")
        for attention in ("eager", "sdpa"):
            model = Llama4ForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation=attention)
            logits = torch.cat([model(input_ids=ids[None]).logits[0] for ids in documents])
            loss_of(logits, documents).backward()
            gradients = {key: weight.grad for key, weight in model.named_parameters()}
            assert gradients.keys() == recording.gradients.keys()
            off = max(
                ((gradients[key] - ours).abs().max() / ours.abs().max().clamp(min=1e-30)).item()
                for key, ours in recording.gradients.items()
            )
            distance = (logits - recording.logits).abs().max().item()
            print(f"  transformers, {attention}: logits off by {distance:.1e}, gradients by {off:.1e}")


if __name__ == "__main__":
    main()
