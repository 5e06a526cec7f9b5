"""The job that brings base weights: from a gated hub into a real S3 interface, whatever happens on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch

from heartbeat import metrics
from heartbeat.base_weights import BringJob
from local_aws.server import Server, start
from tests import fake_hub
from tests.fake_hub import MODEL, TOKEN
from tests.training import checkpoints, tiny
from training_code import bring_base, bucket, fetch, merge, packs, quantize
from training_code.base_files import open_base
from training_code.hub import Token
from training_code.manifest import sha256_of

BUCKET = "weights"
NUM_SHARDS = 4
BIG = {**checkpoints.TEXT, "vocab_size": 40_000}
"""So that the embedding's and the head's shards are of several parts: S3 takes none below 5 MiB."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start(tmp_path_factory.mktemp("aws")) as running:
        running.client("s3").create_bucket(Bucket=BUCKET)
        yield running


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fake_hub.Hub]:
    with fake_hub.serve() as running:
        running.folder = tmp_path_factory.mktemp("hub") / "repository"
        checkpoints.write(running.folder, text=BIG, multimodal=True, num_shards=NUM_SHARDS)
        (running.folder / "tokenizer_config.json").write_text("{}")
        (running.folder / ".gitattributes").write_text("*.safetensors filter=lfs")
        (running.folder / "consolidated.00.pth").write_bytes(b"not for us")
        yield running


class Desk:
    """One job after another, in this process or in one of its own."""

    def __init__(self, server: Server, hub: fake_hub.Hub, root: Path, folder: str) -> None:
        self.server, self.hub, self.root, self.folder = server, hub, root, folder
        self.s3 = server.client("s3")
        secrets = server.client("secretsmanager")
        self.secret = str(secrets.create_secret(Name=folder.replace("/", "-"), SecretString=TOKEN)["ARN"])

    def set_token(self, value: str) -> None:
        self.server.client("secretsmanager").put_secret_value(SecretId=self.secret, SecretString=value)

    def prepare(self, *make: str, revision: str = "main") -> None:
        job = BringJob(
            model=MODEL,
            revision=revision,
            make=make or ("bf16",),
            bucket=BUCKET,
            folder=self.folder,
            token_secret=self.secret,
            hub=self.hub.url,
        )
        path = self.root / "input/config/hyperparameters.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(job.to_hyperparameters()))

    def run(self, *make: str, **settings: str) -> int:
        self.prepare(*make, **settings)
        with tiny.environment({**self.server.environment, "HEARTBEAT_OPT_ML": str(self.root)}):
            return bring_base.main()

    def failure(self) -> str:
        return (self.root / "output/failure").read_text()

    def names(self, part: str = "bf16/") -> dict[str, int]:
        found = self.s3.list_objects_v2(Bucket=BUCKET, Prefix=self.folder + part).get("Contents", [])
        return {item["Key"].removeprefix(self.folder + part): item["Size"] for item in found}

    def read(self, name: str) -> bytes:
        return bytes(self.s3.get_object(Bucket=BUCKET, Key=self.folder + name)["Body"].read())

    def download(self, part: str, to: Path) -> Path:
        to.mkdir()
        for name in self.names(part):
            (to / name).write_bytes(self.read(part + name))
        return to

    def unfinished_uploads(self) -> list[str]:
        uploads = self.s3.list_multipart_uploads(Bucket=BUCKET, Prefix=self.folder).get("Uploads", [])
        return [item["Key"] for item in uploads]


@pytest.fixture
def desk(server: Server, hub: fake_hub.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    hub.forget()
    monkeypatch.setattr(bucket, "PART_BYTES", 5 * 2**20)
    monkeypatch.setattr(bucket, "READ_BYTES", 2**16)
    monkeypatch.setattr(fetch, "LONGEST_WAIT_SECONDS", 0.01)
    before = signal.getsignal(signal.SIGTERM)
    yield Desk(server, hub, tmp_path / "ml", f"base-models/{uuid.uuid4().hex}/")
    signal.signal(signal.SIGTERM, before)


def repository(hub: fake_hub.Hub) -> dict[str, bytes]:
    """What is to be brought of it."""
    assert hub.folder is not None
    return {
        file.name: file.read_bytes()
        for file in hub.folder.iterdir()
        if not file.name.startswith(".") and file.suffix != ".pth"
    }


# --- the way in


def test_brings_what_a_run_needs_and_nothing_else(
    desk: Desk, hub: fake_hub.Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert desk.run() == 0, desk.failure()
    expected = repository(hub)
    assert {name: desk.read("bf16/" + name) for name in desk.names()} == expected
    assert hub.leaks == []
    record = json.loads(desk.read("bf16.json"))
    assert (record["model"], record["commit"]) == (MODEL, fake_hub.COMMIT)
    assert hub.folder is not None
    assert record["files"] == {
        name: {"bytes": len(data), "sha256": sha256_of(hub.folder / name)} for name, data in expected.items()
    }
    said = capsys.readouterr().out
    total = sum(len(data) for data in expected.values())
    assert f"gb_total={total / 1e9:.6g}" in said.splitlines()[-2]
    for definition in metrics.definitions(metrics.BRINGING):
        assert definition["Name"].startswith("weights:")


def test_a_second_job_fetches_nothing(desk: Desk, hub: fake_hub.Hub) -> None:
    assert desk.run() == 0
    hub.served.clear()
    assert desk.run() == 0
    assert hub.served == {}


def test_an_uploaded_file_is_compared_and_kept(desk: Desk, hub: fake_hub.Hub) -> None:
    files = repository(hub)
    same, other = sorted(name for name in files if name.endswith(".safetensors"))[:2]
    desk.s3.put_object(Bucket=BUCKET, Key=f"{desk.folder}bf16/{same}", Body=files[same])
    desk.s3.put_object(Bucket=BUCKET, Key=f"{desk.folder}bf16/{other}", Body=b"\0" * len(files[other]))
    assert desk.run() == 0
    assert same not in hub.served
    assert desk.read("bf16/" + other) == files[other]


# --- what the hub refuses


def test_a_refused_token_is_told_from_a_licence(desk: Desk, hub: fake_hub.Hub) -> None:
    desk.set_token("hf_another_token_00000000")
    assert desk.run() == 1
    assert "refuses the token in the secret" in desk.failure()
    assert desk.secret in desk.failure()
    assert "base-model token" in desk.failure()
    desk.set_token(TOKEN)
    hub.accepted = False
    assert desk.run() == 1
    assert f"accept the licence at https://huggingface.co/{MODEL}" in desk.failure()
    assert hub.served == {}
    hub.accepted = True
    assert desk.run() == 0
    assert not (desk.root / "output/failure").exists()


@pytest.mark.parametrize("value", [" ", "two\nlines_of_a_token", "with spaces in it", "short"])
def test_what_cannot_be_a_token_is_refused_unseen(
    value: str, desk: Desk, hub: fake_hub.Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.set_token(value)
    assert desk.run() == 1
    assert "holds no token of Hugging Face" in desk.failure()
    said = "".join(capsys.readouterr())
    assert value == " " or (value not in said and value not in desk.failure())
    assert hub.served == {}


def test_a_token_has_no_text() -> None:
    assert TOKEN not in f"{Token(TOKEN, kept_in='x')!r} {Token(TOKEN, kept_in='x')}"


def test_unknown_revision_and_model_are_named(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    assert desk.run(revision="v9") == 1
    assert "has no revision 'v9'" in desk.failure()
    monkeypatch.setattr(sys.modules[__name__], "MODEL", "nobody/nothing")
    assert desk.run() == 1
    assert "there is no nobody/nothing at" in desk.failure()


def test_another_kind_of_model_is_refused_before_its_weights(
    desk: Desk, hub: fake_hub.Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    checkpoints.write(other, num_shards=2)
    (other / "tokenizer_config.json").write_text("{}")
    (other / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    monkeypatch.setattr(hub, "folder", other)
    assert desk.run() == 1
    assert not [name for name in hub.served if name.endswith(".safetensors")]
    (other / "config.json").unlink()
    assert desk.run() == 1
    assert "lacks config.json" in desk.failure()


# --- what happens on the way


def largest(hub: fake_hub.Hub) -> str:
    files = repository(hub)
    return max(files, key=lambda name: len(files[name]))


def test_a_broken_connection_goes_on_at_its_byte(desk: Desk, hub: fake_hub.Hub) -> None:
    name, hub.overloaded = largest(hub), 2
    hub.drops[name] = [3_000_001, 700_000, 0]
    assert desk.run() == 0, desk.failure()
    assert desk.read("bf16/" + name) == repository(hub)[name]
    assert [span for file, span in hub.ranges if file == name] == [
        "bytes=3000001-", "bytes=3700001-", "bytes=3700001-",
    ]  # fmt: skip
    assert hub.served[name] == len(repository(hub)[name])


def test_a_hub_that_stays_away_is_named(desk: Desk, hub: fake_hub.Hub) -> None:
    hub.overloaded = 1000
    assert desk.run() == 1
    assert f"{fetch.NUM_TRIES} times in a row" in desk.failure()
    assert hub.url in desk.failure()


def test_a_corrupted_file_is_named_and_not_kept(desk: Desk, hub: fake_hub.Hub) -> None:
    name = largest(hub)
    hub.corrupt.add(name)
    assert desk.run() == 1
    assert desk.failure().startswith(f"{name} came with another SHA-256")
    assert set(desk.names()) == repository(hub).keys() - {name}
    assert desk.unfinished_uploads() == []
    hub.corrupt.clear()
    hub.served.clear()
    assert desk.run() == 0
    assert hub.served.keys() == {name}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_job_is_gone_on_with(number: int, desk: Desk, hub: fake_hub.Hub) -> None:
    files = repository(hub)
    hub.bytes_per_second = len(files[largest(hub)]) / 3
    desk.prepare()
    environment = {**os.environ, **desk.server.environment, "HEARTBEAT_OPT_ML": str(desk.root)}
    process = subprocess.Popen([sys.executable, "-m", "training_code.bring_base"], env=environment)
    try:
        deadline = time.monotonic() + 60
        # Some shards are whole, the largest is on its way
        while len(desk.names()) < len(files) - 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(30) == (0 if number == signal.SIGTERM else -number)
    finally:
        process.kill()
        process.wait()
    assert not (desk.root / "output/failure").exists()
    finished = json.loads(desk.read("bf16.json"))["files"]
    assert 0 < len(finished) < len(files)
    if number == signal.SIGTERM:
        assert desk.unfinished_uploads() == []
    hub.forget()
    assert desk.run() == 0
    fetched = {name for name in hub.served if name.endswith(".safetensors")}
    # Of a killed job a request may still have reached S3 after the look above: more may be there, never less.
    assert fetched
    assert fetched.isdisjoint(finished)
    assert {name: desk.read("bf16/" + name) for name in desk.names()} == files


# --- packs and FP8


def test_packs_and_fp8_are_those_of_the_tools_on_a_bounded_disk(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_use = [0]
    write = packs.write_atomically

    def write_and_look(path: Path, pieces: Iterable[bytes | memoryview]) -> str:
        digest = write(path, pieces)
        in_use.append(sum(file.stat().st_blocks * 512 for file in (desk.root / "scratch").rglob("*")))
        return digest

    with monkeypatch.context() as patched:
        patched.setattr(packs, "write_atomically", write_and_look)
        assert desk.run("bf16", "nf4", "fp8") == 0, desk.failure()
    assert list((desk.root / "scratch").rglob("*.*")) == []

    source = desk.download("bf16/", tmp_path / "bf16")
    quantize.quantize(source, tmp_path / "nf4-local", device=torch.device("cpu"))
    merge.convert(source, tmp_path / "fp8-local", dtype="fp8")
    for part in ("nf4", "fp8"):
        made = desk.download(f"{part}/", tmp_path / part)
        local = {file.name: file.read_bytes() for file in (tmp_path / f"{part}-local").iterdir()}
        assert {file.name: file.read_bytes() for file in made.iterdir()} == local
    assert open_base(tmp_path / "nf4").is_quantised
    # The shards of embedding and head are nearly all of it: one of them, and what is made of it, at a time.
    largest_shard = max(file.stat().st_size for file in source.glob("*.safetensors"))
    assert largest_shard < max(in_use) < 2.1 * largest_shard


@pytest.mark.parametrize("part", ["nf4", "fp8"])
def test_a_stage_goes_on_where_it_ended(
    part: str, desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, written = packs.write_atomically, list[str]()

    def write_some(path: Path, pieces: Iterable[bytes | memoryview]) -> str:
        if len([name for name in written if name.endswith(".safetensors")]) == 2:
            raise fetch.Stopped
        written.append(path.name)
        return write(path, pieces)

    assert desk.run("bf16") == 0
    with monkeypatch.context() as patched:
        patched.setattr(packs, "write_atomically", write_some)
        assert desk.run("bf16", part) == 0
    assert "the next job goes on" in capsys.readouterr().out
    there = [name for name in desk.names(f"{part}/") if name.endswith(".safetensors")]
    assert len(there) == 2
    assert desk.run(part) == 0, desk.failure()
    source = desk.download("bf16/", tmp_path / "bf16")
    if part == "nf4":
        quantize.quantize(source, tmp_path / "local", device=torch.device("cpu"))
    else:
        merge.convert(source, tmp_path / "local", dtype="fp8")
    made = {name: desk.read(f"{part}/{name}") for name in desk.names(f"{part}/")}
    assert made == {file.name: file.read_bytes() for file in (tmp_path / "local").iterdir()}


def test_packs_of_another_checkpoint_are_refused_by_their_place(desk: Desk) -> None:
    assert desk.run("bf16", "nf4") == 0
    config = json.loads(desk.read("bf16/config.json"))
    desk.s3.put_object(
        Bucket=BUCKET, Key=f"{desk.folder}bf16/config.json", Body=json.dumps({**config, "another": True}).encode()
    )
    assert desk.run("nf4") == 1
    assert f"s3://{BUCKET}/{desk.folder}nf4 was begun with another checkpoint" in desk.failure()
    assert "scratch" not in desk.failure()
