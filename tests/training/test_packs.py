"""A layer as one buffer: what goes in comes out, from memory, from our file and through the safetensors library."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks import random_model
from training_code import nf4, packs
from training_code.errors import TrainingError
from training_code.frozen import FrozenLayer
from training_code.layer import weights_of
from training_code.llama import Placement
from training_code.packs import Pack
from training_code.ranks import Ranks

QUANTISED = ("experts.gate_up_proj", "q_proj.weight")


def layer() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return {
        "norm.weight": torch.randn(33).bfloat16(),
        "experts.gate_up_proj": torch.randn(4, 48, 96).bfloat16(),
        "router.weight": torch.randn(4, 48),
        "q_proj.weight": torch.randn(64, 48),
        "scale": torch.randn(5).half(),
    }


def test_holds_what_was_put_in() -> None:
    tensors = layer()
    pack = packs.build(tensors, quantise=QUANTISED)
    for name, tensor in tensors.items():
        assert pack.layout.matrix_shape(name) == tensor.shape
        assert pack.layout.is_quantised(name) == (name in QUANTISED)
        expected = tensor
        if name in QUANTISED:
            expected = nf4.dequantize(nf4.quantize(tensor), tensor.shape, torch.bfloat16)
            found = pack.matrix(name, torch.bfloat16)
        else:
            found = pack.matrix(name, tensor.dtype)
            assert found.data_ptr() == pack.tensor(name).data_ptr(), "a view, not a copy"
        assert torch.equal(found, expected)
    assert set(pack.layout.names) == tensors.keys()


def test_every_view_is_aligned_and_no_byte_is_left_over() -> None:
    pack = packs.build(layer(), quantise=QUANTISED)
    end = 0
    for name, entry in pack.layout.items:
        assert entry.start == end
        assert entry.start % entry.dtype.itemsize == 0, name
        end = entry.end
    assert end == pack.layout.num_bytes == pack.data.numel()
    kinds = [
        name.rpartition(".")[2] if entry.dtype == torch.uint8 else entry.dtype for name, entry in pack.layout.items
    ]
    assert kinds == ["codes"] * 2 + [torch.float32] * 3 + [torch.bfloat16, torch.float16] + ["absmax"] * 2


def test_what_follows_the_scales_suits_matrix_kernels() -> None:
    tensors = {"norm.weight": torch.ones(7).bfloat16(), "q.weight": torch.randn(8, 64)}
    assert packs.build(tensors, quantise=["q.weight"]).layout.entries["norm.weight"].start % 16 == 0


def test_matrix_writes_into_out() -> None:
    tensors = layer()
    pack = packs.build(tensors, quantise=QUANTISED)
    for name in ("q_proj.weight", "router.weight"):
        out = torch.zeros(tensors[name].shape, dtype=torch.bfloat16)
        assert pack.matrix(name, torch.bfloat16, out=out).data_ptr() == out.data_ptr()
        assert torch.equal(out, pack.matrix(name, torch.bfloat16))


def test_layers_of_one_kind_share_a_layout() -> None:
    one = packs.build(layer(), quantise=QUANTISED).layout
    other = packs.build({name: tensor + 1 for name, tensor in layer().items()}, quantise=QUANTISED).layout
    assert one == other
    assert hash(one) == hash(other)
    assert one != packs.build(layer(), quantise=()).layout


def test_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    pack = packs.build(layer(), quantise=QUANTISED)
    path = tmp_path / "layer.safetensors"
    digest = packs.write(path, pack, {"layer": "3"})
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [file.name for file in tmp_path.iterdir()] == ["layer.safetensors"]

    layout, start = packs.read_layout(path)
    assert layout == pack.layout
    assert start % packs.DATA_ALIGNMENT == 0
    assert torch.equal(packs.read(path).data, pack.data)

    buffer = torch.full((layout.num_bytes + 9,), 7, dtype=torch.uint8)
    read = packs.read(path, buffer)
    assert read.data.data_ptr() == buffer.data_ptr()
    assert torch.equal(read.data, pack.data)
    assert buffer[layout.num_bytes :].tolist() == [7] * 9


def test_the_safetensors_library_reads_our_file(tmp_path: Path) -> None:
    pack = packs.build(layer(), quantise=QUANTISED)
    packs.write(tmp_path / "layer.safetensors", pack, {"layer": "3"})
    with safe_open(str(tmp_path / "layer.safetensors"), framework="pt") as opened:
        assert opened.metadata() == {"layer": "3"}
        assert set(opened.keys()) == pack.layout.entries.keys()
        for name in pack.layout.entries:
            assert torch.equal(opened.get_tensor(name), pack.tensor(name))


def test_reads_the_safetensors_librarys_file(tmp_path: Path) -> None:
    save_file(layer(), tmp_path / "any.safetensors")
    pack = packs.read(tmp_path / "any.safetensors")
    assert all(torch.equal(pack.tensor(name), tensor) for name, tensor in layer().items())


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    packs.write_atomically(path, [b"old"])

    def pieces() -> object:
        yield b"new"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        packs.write_atomically(path, pieces())  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_refuses_a_weight_of_another_shape() -> None:
    pack = packs.build(layer(), quantise=QUANTISED)
    with pytest.raises(ValueError, match=r"q_proj.weight has shape \(48, 64\), the layout \(64, 48\)"):
        pack.put("q_proj.weight", torch.zeros(48, 64))


@pytest.mark.parametrize("shape", [(3, 5), (64, 3), (0, 64), (65,)])
def test_refuses_what_nf4_cannot_hold(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="is not a whole number of blocks of 64"):
        packs.build({"x": torch.zeros(shape)}, quantise=["x"])


def test_refuses_a_buffer_that_is_too_small(tmp_path: Path) -> None:
    pack = packs.build(layer(), quantise=QUANTISED)
    packs.write(tmp_path / "x", pack, {})
    with pytest.raises(ValueError, match="bytes of data, the buffer 3"):
        packs.read(tmp_path / "x", torch.empty(3, dtype=torch.uint8))


def header(**entries: object) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "unpack requires a buffer of 8 bytes"),
        (b"<Error>AccessDenied</Error>", "the header is longer than the file"),
        (struct.pack("<Q", 2) + b"[]", "pop expected"),
        (header(a=entry([2], 0, 8)) + bytes(7), "bytes long, and its header speaks of"),
        (header(a=entry([2], 0, 8)) + bytes(9), "bytes long, and its header speaks of"),
        (header(a=entry([2], 4, 12)) + bytes(12), "a begins at byte 4, and the one before it ends at 0"),
        (header(a=entry([2], 0, 8), b=entry([1], 4, 8)) + bytes(8), "b begins at byte 4, and the one before it ends"),
        (header(a=entry([3], 0, 8)) + bytes(8), r"a has 8 bytes for shape \(3,\)"),
        (header(a=entry([2], 0, 8, "F4")) + bytes(8), "F4"),
        (header(a=3), "not subscriptable"),
    ],
)
def test_refuses_a_file_that_is_not_whole(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "shard.safetensors"
    path.write_bytes(content)
    with pytest.raises(TrainingError, match=f"shard.safetensors is not a whole safetensors file .*{said}.*copy it"):
        packs.read(path)


def test_says_which_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"gone\.safetensors is not a whole safetensors file"):
        packs.read(tmp_path / "gone.safetensors")


def test_notices_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    path.write_bytes(bytes(10))
    with pytest.raises(TrainingError, match="became shorter while it was read"):
        packs.read_bytes(path, 4, torch.empty(7, dtype=torch.uint8))


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_layout_holds_any_tensors(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever the names, shapes and types, each is found again, and no two share a byte."""
    kinds: dict[str, Callable[[int], torch.Tensor]] = {
        "nf4": lambda n: torch.randn(n, 64),
        "f32": lambda n: torch.randn(n),
        "bf16": lambda n: torch.randn(n, 3).bfloat16(),
        "f16": lambda n: torch.randn(2, n).half(),
    }
    drawn = data.draw(st.lists(st.tuples(st.sampled_from(sorted(kinds)), st.integers(1, 300)), min_size=1, max_size=8))
    tensors = {f"{i}.{kind}": kinds[kind](size) for i, (kind, size) in enumerate(drawn)}
    quantise = {name for name in tensors if name.endswith("nf4")}
    pack = packs.build(tensors, quantise=quantise)
    path = tmp_path_factory.mktemp("any") / "pack"
    packs.write(path, pack, {})
    read = packs.read(path)
    assert read.layout == pack.layout
    assert sum(entry.end - entry.start for entry in read.layout.entries.values()) == read.layout.num_bytes
    for name, tensor in tensors.items():
        found = read.matrix(name, torch.float32)
        expected = tensor.float()
        if name in quantise:
            expected = nf4.dequantize(nf4.quantize(tensor), tensor.shape, torch.float32)
        assert torch.equal(found, expected)


@settings(deadline=None, max_examples=200)
@given(content=st.binary(max_size=60), length=st.integers(0, 70))
def test_no_bytes_whatever_raise_anything_else(
    content: bytes, length: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "rubbish"
    path.write_bytes(struct.pack("<Q", length) + content)
    try:
        entries, start = packs.read_header(path)
    except TrainingError:
        return
    assert start + sum(entry.end - entry.start for entry in entries.values()) == path.stat().st_size


def test_what_a_layer_has_taken_outlives_its_pack() -> None:
    """Where layers move, the next pack comes in the place of the one in use."""
    llama = random_model.build(
        random_model.TINY,
        mode="resident",
        placement=Placement(),
        targets=["attention"],
        rank=4,
        device=torch.device("cpu"),
        dtype=torch.float32,
        ranks=Ranks(),
    )
    ((number, pack),) = llama.feed.walk([3])
    plain, matrices = weights_of(llama.architecture, number)
    names = {name for one in matrices for name in one} | set(plain)
    assert names == set(pack.layout.names), "all that a layer has, and nothing else"

    def found(layer: FrozenLayer) -> list[torch.Tensor]:
        return [*(layer.plain(name) for name in plain), *(layer.matrix(*some) for some in matrices)]

    expected = [tensor.clone() for tensor in found(FrozenLayer(pack, torch.float32, keep=True))]
    taken = FrozenLayer(pack, torch.float32, keep=True)
    assert taken.take(plain, matrices)
    pack.data.zero_()
    for one, other in zip(found(taken), expected, strict=True):
        assert torch.equal(one, other)
    assert not FrozenLayer(pack, torch.float32, keep=False).take(plain, matrices)


def test_a_layer_that_is_used_as_it_is_stored_is_not_taken() -> None:
    layout = packs.plan({"a.weight": (torch.float32, (4, 64))}, quantise=[])
    pack = Pack(layout=layout, data=torch.zeros(layout.num_bytes, dtype=torch.uint8))
    assert not FrozenLayer(pack, torch.float32, keep=True).take([], [["a.weight"]])
