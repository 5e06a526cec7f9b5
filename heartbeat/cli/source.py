"""A dataset on this machine or in S3, and the words that name one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from heartbeat import json_lines, layout
from heartbeat.cli.errors import UserError


def lines(dataset: str) -> Iterator[bytes]:
    """The lines of a file, or of an object in S3, with their ends. Raises UserError where it cannot be read."""
    if dataset.startswith("s3://"):
        yield from json_lines.lines(_object(dataset))
        return
    with file(dataset).open("rb") as opened:
        yield from json_lines.lines(opened)


def must_exist(dataset: str) -> None:
    """Raises UserError where a file or an object cannot be read: at once, not when its turn comes."""
    if dataset.startswith("s3://"):
        _object(dataset).close()
    else:
        file(dataset)


def file(name: str) -> Path:
    """The file that is meant. Raises UserError where there is none."""
    path = Path(name).expanduser()
    if path.is_dir():
        raise UserError(f"{name} is a folder; name one JSONL file in it")
    if not path.is_file():
        raise UserError(f"there is no file {name}; name a JSONL file, or s3://BUCKET/KEY")
    return path


def settings(words: Iterable[str]) -> dict[str, str]:
    """`["MAX_STEPS=200"]` as a mapping. Raises UserError for another form and for a name given twice."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UserError(f"{word!r} is not KEY=VALUE, such as MAX_STEPS=200")
        if name in found:
            raise UserError(f"{name} is given twice, as {found[name]} and {value}; give it once")
        found[name] = value
    return found


def instances(given: str | None) -> list[str] | None:
    """`ml.p5.4xlarge,ml.g7e.8xlarge` as a list; None where nothing is given. Raises UserError for no name."""
    if given is None:
        return None
    names = [name.strip().lower() for name in given.split(",") if name.strip()]
    if not names:
        raise UserError(f"--instances {given!r} names none; give types such as ml.p5.4xlarge,ml.g7e.8xlarge")
    return names


def _object(uri: str) -> Any:
    """The body of an object in S3. Raises UserError for what is not there, may not be read, or is a folder."""
    from botocore.exceptions import ClientError

    from heartbeat.cli.account import client, is_missing

    try:
        bucket, key = layout.split_uri(uri)
    except ValueError as error:
        raise UserError(str(error)) from None
    s3 = client("s3")
    try:
        if not uri.endswith("/"):  # at best the mark that consoles set for a folder
            return s3.get_object(Bucket=bucket, Key=key)["Body"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "AccessDenied":
            why = error.response["Error"].get("Message", "Access Denied")
            fix = "use credentials that may, and check the name: without s3:ListBucket what is not there is denied too"
            raise UserError(f"AWS denied reading {uri} ({why}); {fix}") from None
        if not is_missing(error):
            raise
    raise UserError(_why_no_file(s3, uri, bucket, key))


def _why_no_file(s3: Any, uri: str, bucket: str, key: str) -> str:
    """With the name of a file in it where `uri` is a folder."""
    from botocore.exceptions import ClientError

    folder = key if key.endswith("/") or not key else f"{key}/"
    try:
        listed = s3.list_objects_v2(Bucket=bucket, Prefix=folder, MaxKeys=100).get("Contents", ())
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == "NoSuchBucket":
            return f"there is no bucket {bucket}; check the name in {uri}"
        if code != "AccessDenied":
            raise
        listed = ()
    inside = [item["Key"] for item in listed if not item["Key"].endswith("/")]
    if inside or uri.endswith("/"):
        first = min(inside, key=lambda name: not name.endswith(".jsonl"), default="")
        example = f", such as {layout.uri(bucket, first)}" if first else ""
        return f"{uri} is a {'folder' if key else 'bucket'}; name one JSONL file in it{example}"
    return f"there is no object {uri}; check the name"
