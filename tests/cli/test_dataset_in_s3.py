"""`check` on a dataset in S3, in the embedded AWS: what is there, and what a person may get wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from heartbeat.cli import account, main
from local_aws.server import Server, start
from tests.signing import sign_in

ROOT = Path(__file__).resolve().parents[2]
ROWS = (ROOT / "examples/stanley/stanley.jsonl").read_bytes().splitlines(keepends=True)[:30]
WRONG = b'{"messages": [{"role": "human", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n{oops\n'
OBJECTS = {
    "data/notes.txt": b"Not this one",
    "data/sound.jsonl": b"".join(ROWS),
    "data/wrong.jsonl": WRONG,
    "data/empty.jsonl": b"",
    "marked/": b"",
}
TRUST = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start(tmp_path_factory.mktemp("aws")) as running:
        s3 = running.client("s3")
        s3.create_bucket(Bucket="chats")
        for key, body in OBJECTS.items():
            s3.put_object(Bucket="chats", Key=key, Body=body)
        yield running


@pytest.fixture(autouse=True)
def _signed_in(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    sign_in(server, monkeypatch)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    sign_in_anew(monkeypatch)
    yield
    account.client.cache_clear()


def sign_in_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    account.client.cache_clear()
    # It keeps the credentials that another test was the first to need.
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)


def sign_in_with(server: Server, monkeypatch: pytest.MonkeyPatch, *statements: dict[str, Any]) -> None:
    """As somebody who may do what the statements say, and nothing else."""
    iam = server.client("iam")
    name = f"person-{len(iam.list_roles()['Roles'])}"
    arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=policy(TRUST))["Role"]["Arn"]
    if statements:
        iam.put_role_policy(RoleName=name, PolicyName="may", PolicyDocument=policy(*statements))
    keys = server.client("sts").assume_role(RoleArn=arn, RoleSessionName="person")["Credentials"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys["SecretAccessKey"])
    monkeypatch.setenv("AWS_SESSION_TOKEN", keys["SessionToken"])
    sign_in_anew(monkeypatch)


def the_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said of a mistake: one line, and exit status 2."""
    assert main(["check", *words]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    assert not said.out
    return said.err


def test_a_file_in_s3_is_checked_as_one_here(capsys: pytest.CaptureFixture[str]) -> None:
    Path("sound.jsonl").write_bytes(OBJECTS["data/sound.jsonl"])
    found = []
    for name in ("s3://chats/data/sound.jsonl", "sound.jsonl"):
        assert main(["check", name, "--fast", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
    assert found[0]["stats"]["rows"] == len(ROWS)
    assert main(["check", "s3://chats/data/wrong.jsonl", "--fast"]) == 1
    assert "✗ s3://chats/data/wrong.jsonl: 2 errors" in capsys.readouterr().out
    assert main(["check", "s3://chats/data/empty.jsonl", "--fast"]) == 1


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://chats/data/nope.jsonl", "there is no object s3://chats/data/nope.jsonl; check the name"),
        ("s3://no-such-bucket/x.jsonl", "there is no bucket no-such-bucket; check the name in s3://no-such-bucket/x"),
        ("s3://no-such-bucket/", "there is no bucket no-such-bucket; check the name in s3://no-such-bucket/"),
        ("s3://chats/data/", "is a folder; name one JSONL file in it, such as s3://chats/data/empty.jsonl"),
        ("s3://chats/data", "is a folder; name one JSONL file in it, such as s3://chats/data/empty.jsonl"),
        ("s3://chats/marked/", "s3://chats/marked/ is a folder; name one JSONL file in it"),
        ("s3://chats/", "s3://chats/ is a bucket; name one JSONL file in it, such as s3://chats/data/empty.jsonl"),
        ("s3://chats", "'s3://chats' is not an S3 URI; write s3://BUCKET/KEY"),
        ("s3://Chats/x.jsonl", "'s3://Chats/x.jsonl' is not an S3 URI; write s3://BUCKET/KEY"),
    ],
)
@pytest.mark.parametrize("option", ["--fast", "--fix"])
def test_what_is_no_file_is_one_line(uri: str, said: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in the_error([uri, option], capsys)
    assert not list(Path().iterdir())


def test_a_held_out_file_that_is_not_there_is_said_before_anything_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["s3://chats/data/also-not-there.jsonl", "--held-out", "s3://chats/data/nope.jsonl"]
    assert "there is no object s3://chats/data/nope.jsonl" in the_error(words, capsys)


@pytest.mark.parametrize("uri", ["s3://chats/data/sound.jsonl", "s3://chats/data/nope.jsonl"])
def test_what_may_not_be_read_is_one_line(
    uri: str, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sign_in_with(server, monkeypatch)
    said = the_error([uri], capsys)
    assert f"AWS denied reading {uri} (User: arn:aws:sts" in said
    assert "s3:GetObject" in said
    assert "use credentials that may, and check the name" in said


def test_who_may_read_and_not_list_is_told_as_much_as_can_be_known(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sign_in_with(server, monkeypatch, {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::chats/*"})
    assert main(["check", "s3://chats/data/sound.jsonl", "--fast"]) == 0
    capsys.readouterr()
    assert "s3://chats/data/ is a folder; name one JSONL file in it" in the_error(["s3://chats/data/"], capsys)
    assert "s3://chats/data/nope.jsonl" in the_error(["s3://chats/data/nope.jsonl"], capsys)


def test_nobody_signed_in_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "none")
    sign_in_anew(monkeypatch)
    assert "no AWS credentials were found" in the_error(["s3://chats/data/sound.jsonl"], capsys)


def test_fix_writes_a_copy_here_and_leaves_the_object_as_it_was(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = "s3://chats/data/wrong.jsonl"
    assert main(["check", uri, "--fix"]) == 0
    said = capsys.readouterr().out
    assert "✓ wrote wrong.fixed.jsonl: 1 row, 1 of them changed; 1 dropped; s3://chats/data/wrong.jsonl is as" in said
    assert [path.name for path in Path().iterdir()] == ["wrong.fixed.jsonl"]
    assert server.client("s3").get_object(Bucket="chats", Key="data/wrong.jsonl")["Body"].read() == WRONG
    assert main(["check", "wrong.fixed.jsonl", "--fast"]) == 0
    capsys.readouterr()
    assert "wrong.fixed.jsonl is there already and is not overwritten" in the_error([uri, "--fix"], capsys)
    assert "--fix goes without --json" in the_error([uri, "--fix", "--json"], capsys)
    assert main(["check", "s3://chats/data/sound.jsonl", "--fix"]) == 0
    assert "nothing to repair; no copy was written" in capsys.readouterr().out
