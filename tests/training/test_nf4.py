"""NF4 against what bitsandbytes stores and returns, and what holds of any weight."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from training_code import nf4

RECORD = load_file(Path(__file__).with_name("recorded") / "nf4.safetensors")
WEIGHTS = sorted(name.removesuffix(".weight") for name in RECORD if name.endswith(".weight"))
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
has_gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0),
    reason="the kernel needs an NVIDIA GPU of compute capability 8.0",
)


def recorded(name: str) -> nf4.Quantised:
    return nf4.Quantised(**{part: RECORD[f"{name}.{part}"] for part in ("codes", "absmax", "nested")})


def same(a: nf4.Quantised, b: nf4.Quantised) -> bool:
    return all(torch.equal(getattr(a, part), getattr(b, part)) for part in ("codes", "absmax", "nested"))


def slices_of(num_weights: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nf4, "_SLICE", num_weights)


@pytest.mark.parametrize("name", WEIGHTS)
def test_stores_what_bitsandbytes_stores(name: str) -> None:
    assert same(nf4.quantize(RECORD[f"{name}.weight"]), recorded(name))


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_returns_what_bitsandbytes_returns(name: str, dtype: torch.dtype) -> None:
    expected = RECORD[f"{name}.{str(dtype).removeprefix('torch.')}"]
    found = nf4.dequantize(recorded(name), expected.shape, dtype)
    assert found.dtype == dtype
    assert torch.equal(found, expected)


def test_slices_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = RECORD["outliers_bf16.weight"].repeat(5, 1)
    whole = nf4.quantize(weight)
    expected = nf4.dequantize(whole, weight.shape, torch.bfloat16)
    slices_of(nf4.BLOCK * nf4.NESTED_BLOCK, monkeypatch)
    assert same(nf4.quantize(weight), whole)
    assert torch.equal(nf4.dequantize(whole, weight.shape, torch.bfloat16), expected)


def test_writes_into_out_and_nowhere_else() -> None:
    quantised, shape = recorded("normal_bf16"), RECORD["normal_bf16.weight"].shape
    buffer = torch.full((shape[0] + 2, *shape[1:]), 7.0)
    out = nf4.dequantize(quantised, shape, torch.float32, out=buffer[1:-1])
    assert out.data_ptr() == buffer[1:-1].data_ptr()
    assert torch.equal(buffer[1:-1], RECORD["normal_bf16.float32"])
    assert bool((buffer[[0, -1]] == 7).all())


@pytest.mark.parametrize(
    "out",
    [
        torch.empty(256, 128, dtype=torch.bfloat16),
        torch.empty(128, 256),
        torch.empty(128, 256, dtype=torch.bfloat16).t(),
    ],
)
def test_refuses_an_out_that_does_not_fit(out: torch.Tensor) -> None:
    quantised = nf4.quantize(torch.randn(128, 256))
    with pytest.raises(ValueError, match="out must be contiguous"):
        nf4.dequantize(quantised, (128, 256), torch.bfloat16, out=out)


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        (torch.zeros(65), "65 weights are not a whole number of blocks of 64"),
        (torch.zeros(0), "0 weights"),
        (torch.tensor([float("nan"), *[0.0] * 127]), "not a finite number"),
        (torch.tensor([*[0.0] * 127, float("inf")]), "not a finite number"),
    ],
)
def test_refuses_what_it_cannot_store(weight: torch.Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        nf4.quantize(weight)


def test_refuses_a_shape_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"128 weights have no shape \(2, 63\)"):
        nf4.dequantize(nf4.quantize(torch.randn(2, 64)), (2, 63), torch.float32)


@settings(deadline=None, max_examples=60)
@given(
    num_blocks=st.integers(1, 600),
    exponent=st.integers(-20, 20),
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from(DTYPES[:2]),
)
def test_properties_of_any_weight(num_blocks: int, exponent: int, seed: int, dtype: torch.dtype) -> None:
    """Sizes, signs and zeros, the error of a code, and that quantising again changes no code."""
    generator = torch.Generator().manual_seed(seed)
    weight = (torch.randn(num_blocks, nf4.BLOCK, generator=generator) * 2.0**exponent).to(dtype)
    weight[generator.seed() % num_blocks] = 0
    quantised = nf4.quantize(weight)
    num = weight.numel()
    assert (quantised.codes.numel(), quantised.absmax.numel()) == (num // 2, num // nf4.BLOCK)
    assert quantised.nested.numel() == nf4.nested_size(num)

    back = nf4.dequantize(quantised, weight.shape, torch.float32)
    assert bool((back[weight == 0] == 0).all())
    scales = weight.float().abs().amax(dim=1, keepdim=True)
    spread = (scales - scales.mean()).abs().max()
    # Half the widest gap between codes, and what the 8-bit scale is off: at most 1/64 of the nested block's largest.
    widest_gap = 1.0 - 0.6961928
    assert bool(((back - weight.float()).abs() <= scales * widest_gap / 2 * 1.0001 + spread / 64).all())


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), power=st.integers(-8, 8))
def test_a_power_of_two_scales_through(seed: int, power: int) -> None:
    weight = torch.randn(512, nf4.BLOCK, generator=torch.Generator().manual_seed(seed))
    plain, scaled = nf4.quantize(weight), nf4.quantize(weight * 2.0**power)
    assert torch.equal(plain.codes, scaled.codes)
    assert torch.equal(plain.absmax, scaled.absmax)
    assert torch.equal(plain.nested * 2.0**power, scaled.nested)


@has_gpu
@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_kernel_returns_what_bitsandbytes_returns(name: str, dtype: torch.dtype) -> None:
    expected = RECORD[f"{name}.{str(dtype).removeprefix('torch.')}"]
    stored = recorded(name)
    moved = nf4.Quantised(codes=stored.codes.cuda(), absmax=stored.absmax.cuda(), nested=stored.nested.cuda())
    out = torch.full_like(expected, 7.0, device="cuda")
    assert torch.equal(nf4.dequantize(moved, expected.shape, dtype, out=out).cpu(), expected)


@has_gpu
def test_quantises_on_a_gpu_as_on_the_host() -> None:
    """Codes to the bit; the scales' mean to rounding, since a GPU sums in another order."""
    weight = (torch.randn(512, 5120) * 0.02).bfloat16()
    host, gpu = nf4.quantize(weight), nf4.quantize(weight.cuda())
    assert torch.equal(host.codes, gpu.codes.cpu())
    torch.testing.assert_close(gpu.nested.cpu(), host.nested, rtol=1e-5, atol=1e-7)
    assert (host.absmax.int() - gpu.absmax.cpu().int()).abs().max() <= 1
