"""Sparse routing against transformers' own dense one."""

from __future__ import annotations

from pathlib import Path

import torch

from training_code import lora, model


def test_sparse_experts_give_the_dense_ones_figures_and_gradients(base: Path) -> None:
    sparse = model.load_base(base, torch.device("cpu"), torch.float32)
    dense = model.load_base(base, torch.device("cpu"), torch.float32)
    for layer in dense.model.layers:
        del layer.feed_forward.forward  # back to the class's own
    ids = torch.randint(0, 300, (3, 50), generator=torch.Generator().manual_seed(3))
    gradients = []
    for llama in (sparse, dense):
        attached = lora.attach(llama, ("attention", "shared_expert"), rank=4, alpha=8, dropout=0, seed=0)
        llama(input_ids=ids, use_cache=False).logits.square().mean().backward()
        gradients.append({name: module.lora_b.grad for name, module in attached.items()})
    with torch.no_grad():
        one, other = sparse(input_ids=ids).logits, dense(input_ids=ids).logits

    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-6)


def test_one_token_goes_through_one_expert(base: Path) -> None:
    llama = model.load_base(base, torch.device("cpu"), torch.float32)
    moe = llama.model.layers[0].feed_forward
    x = torch.randn(1, 1, 64, generator=torch.Generator().manual_seed(1))
    chosen = int((moe.router.weight @ x.flatten()).argmax())
    others = [expert for expert in range(4) if expert != chosen]
    before, _ = moe(x)
    moe.experts.gate_up_proj.data[others] = float("nan")
    after, _ = moe(x)
    assert torch.equal(before, after)
