"""What bitsandbytes stores and returns for small weights: writes nf4.safetensors beside this script.

    pip install bitsandbytes==0.50.2 torch safetensors
    python tests/training/recorded/make_nf4.py

Weights are quantised by its plain torch backend, by keeping its native library from loading, and dequantised by its
native library, in a second process.
"""

from __future__ import annotations

import ctypes
import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

RECORD = Path(__file__).with_name("nf4.safetensors")
PLAIN = "--quantise-in-plain-torch"


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    values = torch.tensor([-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
                           -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
                           0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
                           0.7229568362236023, 1.0])  # fmt: skip
    middles = (values[:-1] + values[1:]) / 2
    around = torch.cat([middles, middles.nextafter(torch.tensor(2.0)), middles.nextafter(torch.tensor(-2.0))])
    ties = torch.cat([around, values, torch.zeros(3)])  # 64: one block, whose largest magnitude is 1
    holed = torch.randn(8, 128) * 0.02
    holed[3] = 0
    return {
        "normal_f32": torch.randn(60, 320) * 0.02,  # 300 blocks: not a multiple of 256
        "normal_bf16": (torch.randn(4, 32, 128) * 0.02).bfloat16(),  # 256 blocks
        "normal_f16": (torch.randn(40, 64) * 0.02).half(),
        "outliers_bf16": (torch.randn(16, 640).exp() * torch.randn(16, 640).sign()).bfloat16(),
        "ties_f32": torch.stack([ties, ties * 0.125, -ties * 4, ties * 2]),
        "zero_block_bf16": holed.bfloat16(),
        "tiny_bf16": (torch.randn(2, 128) * 1e-37).bfloat16(),
    }


def quantise() -> None:
    def refuse(*_: object) -> None:
        raise OSError("only the torch backend is wanted")

    ctypes.cdll.LoadLibrary = refuse  # type: ignore[assignment]
    functional = importlib.import_module("bitsandbytes.functional")
    record: dict[str, torch.Tensor] = {}
    for name, weight in weights().items():
        codes, state = functional.quantize_4bit(
            weight, blocksize=64, quant_type="nf4", compress_statistics=True, quant_storage=torch.uint8
        )
        record |= {
            f"{name}.weight": weight,
            f"{name}.codes": codes.view(-1),
            f"{name}.absmax": state.absmax,
            f"{name}.nested": torch.cat([state.state2.absmax, state.offset.view(1)]),
        }
    record["scale_values"] = functional.create_dynamic_map()
    save_file(record, RECORD)


def dequantise() -> None:
    functional = importlib.import_module("bitsandbytes.functional")
    record = load_file(RECORD)
    for name, weight in weights().items():
        nested = record[f"{name}.nested"]
        state = functional.QuantState(
            absmax=record[f"{name}.absmax"],
            shape=weight.shape,
            dtype=weight.dtype,
            blocksize=64,
            code=functional.get_4bit_type("nf4", device="cpu"),
            quant_type="nf4",
            offset=nested[-1],
            state2=functional.QuantState(
                absmax=nested[:-1].clone(), blocksize=256, code=record["scale_values"], dtype=torch.float32
            ),
        )
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            state.dtype = dtype
            codes = record[f"{name}.codes"].view(-1, 1)
            record[f"{name}.{str(dtype).removeprefix('torch.')}"] = functional.dequantize_4bit(codes, state)
    save_file(record, RECORD)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if PLAIN in sys.argv:
        quantise()
    else:
        subprocess.run([sys.executable, __file__, PLAIN], check=True)
        dequantise()
