"""The quantised folder is the checkpoint in NF4, however often the run was ended, and is trusted only when whole."""

from __future__ import annotations

import fcntl
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.training import checkpoints
from training_code import commands, packs, quantize
from training_code.base_files import open_base
from training_code.errors import TrainingError
from training_code.manifest import sha256_of

CPU = torch.device("cpu")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    checkpoints.write(tmp_path / "source", multimodal=True, num_shards=2)
    return tmp_path / "source"


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    quantize.quantize(source, tmp_path / "nf4", device=CPU)
    return tmp_path / "nf4"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_holds_the_checkpoint_in_nf4(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = checkpoints.write(tmp_path / "source", multimodal=True, num_shards=3, dtype=dtype)
    quantize.quantize(tmp_path / "source", tmp_path / "nf4", device=CPU)
    made, base = open_base(tmp_path / "nf4"), open_base(tmp_path / "source")
    assert made.is_quantised
    assert torch.equal(made.embedding(), weights["model.embed_tokens.weight"])
    assert torch.equal(made.final_norm(), weights["model.norm.weight"])
    assert torch.equal(made.head(), weights["lm_head.weight"])
    assert made.text_config == base.text_config
    for number in range(2):
        expected, found = base.layer(number, quantise=True), made.layer(number, quantise=False)
        assert found.layout == expected.layout == made.layer_layout(number, quantise=False)
        assert torch.equal(found.data, expected.data)
        assert made.layer_bytes(number, quantise=True) == found.data.numel()


def test_copies_config_tokenizer_template_and_probes_and_no_index(folder: Path, source: Path) -> None:
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "probes.jsonl"):
        assert (folder / name).read_bytes() == (source / name).read_bytes()
    assert sorted(file.name for file in folder.iterdir()) == [
        "chat_template.jinja", "config.json", "embedding.safetensors", "head.safetensors", "layer-000.safetensors",
        "layer-001.safetensors", "nf4.json", "probes.jsonl", "tokenizer.json",
    ]  # fmt: skip


def test_manifest_names_source_and_files(folder: Path, source: Path) -> None:
    manifest = json.loads((folder / "nf4.json").read_text())
    assert manifest["schema"] == 1
    assert manifest["source"] == {
        "config_sha256": sha256_of(source / "config.json"),
        "shards": {file.name: file.stat().st_size for file in source.glob("*.safetensors")},
    }
    assert manifest["files"] == {
        file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
        for file in folder.iterdir()
        if file.name != "nf4.json"
    }


def test_tied_weights_need_no_head(tmp_path: Path) -> None:
    text = {**checkpoints.TEXT, "tie_word_embeddings": True}
    weights = checkpoints.write(tmp_path / "source", text=text)
    quantize.quantize(tmp_path / "source", tmp_path / "nf4", device=CPU)
    made = open_base(tmp_path / "nf4")
    assert torch.equal(made.head(), weights["model.embed_tokens.weight"])
    assert torch.equal(made.final_norm(), weights["model.norm.weight"])


# --- ended and started again


def test_goes_on_after_the_last_finished_file(
    source: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    again, write = tmp_path / "again", packs.write

    def killed(path: Path, *arguments: object) -> str:
        if path.name == "layer-001.safetensors":
            path.with_name("any.partial").write_bytes(b"half a fi")
            raise KeyboardInterrupt
        return write(path, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(packs, "write", killed)
        assert quantize.main([str(source), str(again)]) == 130
    assert "run this again" in capsys.readouterr().err
    with pytest.raises(TrainingError, match=r"is unfinished: 1 of 5 files are still to be made, layer-001.safetensors"):
        open_base(again)

    before = (again / "layer-000.safetensors").stat().st_mtime_ns
    assert quantize.main([str(source), str(again)]) == 0
    assert "3 of 4 files are there already" in capsys.readouterr().out
    assert (again / "layer-000.safetensors").stat().st_mtime_ns == before
    assert contents(again) == contents(folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-7]),
    ],
    ids=["gone", "cut"],
)
def test_a_file_that_is_not_whole_is_refused_and_made_again(
    damage: Callable[[Path], object], source: Path, folder: Path
) -> None:
    whole = contents(folder)
    damage(folder / "layer-001.safetensors")
    with pytest.raises(TrainingError, match=r"layer-001.safetensors is .*training_code.quantize SRC .*again"):
        open_base(folder)
    quantize.quantize(source, folder, device=CPU)
    assert contents(folder) == whole


def test_verify_finds_a_changed_byte_and_the_next_run_mends_it(
    source: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = contents(folder)
    assert quantize.main(["--verify", str(folder)]) == 0
    assert "8 files are as they were written" in capsys.readouterr().out

    changed = bytearray(whole["layer-000.safetensors"])
    changed[-5] ^= 1
    (folder / "layer-000.safetensors").write_bytes(changed)
    open_base(folder)  # Too slow to look for at every start.
    assert quantize.main(["--verify", str(folder)]) == 1
    assert "layer-000.safetensors is not as written" in capsys.readouterr().err
    assert quantize.main([str(source), str(folder)]) == 0
    assert contents(folder) == whole


def test_verify_refuses_a_folder_that_is_not_quantised(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert quantize.main(["--verify", str(source)]) == 1
    assert f"{source} has no nf4.json" in capsys.readouterr().err


# --- what is refused


def another_checkpoint(root: Path) -> None:
    edited = json.loads((root / "source" / "config.json").read_text())
    (root / "source" / "config.json").write_text(json.dumps({**edited, "dtype": "float32"}))


def a_longer_shard(root: Path) -> None:
    path = root / "source" / "model-00001-of-00002.safetensors"
    header, _ = packs.read_header(path)
    pack = packs.read(path)
    packs.write(path, pack, {"note": "x" * 5000})
    assert header.keys() == packs.read_header(path)[0].keys()


def half_a_shard(root: Path) -> None:
    path = root / "source" / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def no_number(root: Path) -> None:
    path = root / "source" / "model-00002-of-00002.safetensors"
    pack = packs.read(path)
    name = next(name for name in pack.layout.names if "proj.weight" in name)
    pack.tensor(name).view(-1)[3] = float("nan")
    packs.write(path, pack, {})
    (root / "nf4" / "nf4.json").unlink()
    for file in (root / "nf4").glob("*.safetensors"):
        file.unlink()


def foreign_folder(root: Path) -> None:
    (root / "nf4" / "nf4.json").unlink()


def newer_schema(root: Path) -> None:
    (root / "nf4" / "nf4.json").write_text('{"schema": 9}')


def broken_manifest(root: Path) -> None:
    (root / "nf4" / "nf4.json").write_text('{"schema": 1, "source": {}}')


def quantised_source(root: Path) -> None:
    for file in (root / "source").iterdir():
        file.unlink()
    for file in (root / "nf4").iterdir():
        file.rename(root / "source" / file.name)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (another_checkpoint, "was begun with another checkpoint than"),
        (a_longer_shard, "(model-00001-of-00002.safetensors had "),
        (half_a_shard, "model-00002-of-00002.safetensors is not a whole safetensors file"),
        (no_number, "a weight is not a finite number; copy the checkpoint again"),
        (foreign_folder, "embedding.safetensors was not made by this program; give an empty folder"),
        (newer_schema, "nf4.json has schema 9, and this version reads 1"),
        (broken_manifest, "nf4.json is damaged ('config_sha256')"),
        (quantised_source, "is quantised already; give the checkpoint it was made from"),
    ],
)
def test_says_why_in_one_sentence(
    spoil: Callable[[Path], None], said: str, source: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(folder.parent)
    capsys.readouterr()
    assert quantize.main([str(source), str(folder)]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_config_of_a_quantised_folder_is_not_edited(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace("bfloat16", "bfloat32"))
    with pytest.raises(TrainingError, match=r"config.json was changed after the checkpoint was quantised"):
        open_base(folder)


def test_files_that_do_not_fit_the_config_are_refused(source: Path, folder: Path) -> None:
    pack = open_base(source).layer(0, quantise=True)
    tensors = {name: pack.matrix(name, torch.bfloat16) for name in pack.layout.names}
    smaller = packs.build({**tensors, "input_layernorm.weight": torch.ones(32)}, quantise=())
    packs.write(folder / "layer-000.safetensors", smaller, {})
    manifest = json.loads((folder / "nf4.json").read_text())
    manifest["files"]["layer-000.safetensors"]["bytes"] = (folder / "layer-000.safetensors").stat().st_size
    (folder / "nf4.json").write_text(json.dumps(manifest))
    with pytest.raises(TrainingError, match=r"layer-000.safetensors does not fit config.json: input_layernorm.weight"):
        open_base(folder)


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_disk_that_is_too_small_is_refused_before_a_layer_is_read(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10, 9, 1) if path == tmp_path / "nf4" else None)
    assert quantize.main([str(source), str(tmp_path / "nf4")]) == 1
    assert "GB more, and its disk has 0.0 GB free; make room" in capsys.readouterr().err
    assert not list((tmp_path / "nf4").glob("*.safetensors"))


def test_a_disk_that_fills_up_is_one_sentence_and_leaves_no_half_file(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert quantize.main([str(source), str(tmp_path / "nf4")]) == 1
    assert "error: the disk is full" in capsys.readouterr().err
    assert not list((tmp_path / "nf4").glob("*.partial"))
    assert quantize.main([str(source), str(tmp_path / "nf4")]) == 0


def test_two_runs_do_not_write_one_folder(source: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = os.open(folder, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert quantize.main([str(source), str(folder)]) == 1
    assert f"another process of this machine is writing to {folder}" in capsys.readouterr().err
    os.close(held)
    assert quantize.main([str(source), str(folder)]) == 0


@pytest.mark.parametrize("arguments", [["one"], ["--verify", "one", "two"], ["one", "two", "three"]])
def test_wrong_arguments_show_how_it_is_used(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        quantize.main(arguments)
    assert "--verify DST" in capsys.readouterr().err


def test_a_gpu_that_is_not_there_is_one_sentence(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert quantize.main(["--device", "cuda", str(source), str(tmp_path / "nf4")]) == 1
    assert "--device cuda: this machine has no GPU" in capsys.readouterr().err


# --- progress


def test_progress_tells_share_rate_and_time_left() -> None:
    assert commands.describe(3 * 10**9, 4 * 10**9, 10**9, 2.0, "layer-002") == (
        "[######################........]  75%  0.50 GB/s  2 s left  layer-002"
    )
    assert (
        commands.describe(0, 4, 0, 0.0, "x") == "[..............................]   0%  0.00 GB/s  unknown time left  x"
    )


@pytest.mark.parametrize(
    ("seconds", "said"), [(59.4, "59 s"), (60, "1 min 00 s"), (185, "3 min 05 s"), (7300, "2 h 01 min")]
)
def test_durations(seconds: float, said: str) -> None:
    assert commands.duration(seconds) == said


def test_what_an_earlier_run_did_does_not_count_for_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = commands.Progress(10 * 10**9, stream=stream)
    progress.skip(8 * 10**9)
    now[0] += 4
    progress.advance(10**9, "layer")
    assert "90%  0.25 GB/s  4 s left" in stream.getvalue()


@given(sizes=st.lists(st.integers(1, 10**12), min_size=1, max_size=8), done_before=st.integers(0, 8))
def test_progress_ends_at_a_hundred_percent(sizes: list[int], done_before: int) -> None:
    stream = io.StringIO()
    progress = commands.Progress(sum(sizes), stream=stream)
    done_before = min(done_before, len(sizes) - 1)
    progress.skip(sum(sizes[:done_before]))
    for size in sizes[done_before:]:
        progress.advance(size, "file")
    lines = stream.getvalue().splitlines()
    assert len(lines) == len(sizes) - done_before
    assert "100%" in lines[-1]
    assert all("100%" in line or "." in line.split("]")[0] for line in lines)
