"""A dataset on this machine or in S3, and the words that name one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from heartbeat import layout
from heartbeat.cli.errors import UserError

_CHUNK_BYTES = 1 << 20


def lines(dataset: str) -> Iterator[bytes]:
    """The lines of a file, or of an object in S3, with their ends. Raises UserError where it cannot be read."""
    if dataset.startswith("s3://"):
        yield from _object_lines(dataset)
        return
    with file(dataset).open("rb") as opened:
        yield from opened


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
    """`ml.p5.4xlarge,ml.g7e.8xlarge` as a list; None where nothing is given."""
    return [name.strip() for name in given.split(",") if name.strip()] if given else None


def _object_lines(uri: str) -> Iterator[bytes]:
    from botocore.exceptions import ClientError

    from heartbeat.cli.account import client, is_missing

    try:
        bucket, key = layout.split_uri(uri)
    except ValueError as error:
        raise UserError(str(error)) from None
    try:
        body = client("s3").get_object(Bucket=bucket, Key=key)["Body"]
    except ClientError as error:
        if is_missing(error):
            raise UserError(f"there is no object {uri}") from None
        raise
    yield from body.iter_lines(_CHUNK_BYTES, keepends=True)
