"""A folder of an S3 bucket: what is in it, and ways in and out that need no disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from heartbeat import layout
from training_code.errors import TrainingError

PART_BYTES = 64 * 2**20
"""S3 takes parts of 5 MiB and more, 10,000 of a file: files of up to 625 GiB."""
READ_BYTES = 2**20
MAX_CONNECTIONS = 32

_CHECKSUM = "CRC32"
"""That S3 checks each part by on its way; the file's own SHA-256 is ours to check."""
_TRANSFER = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=8)


def client(service: str, region: str) -> Any:
    """`region`: a container of SageMaker has AWS_REGION, which boto3 does not read."""
    config = Config(retries={"mode": "standard", "max_attempts": 10}, max_pool_connections=MAX_CONNECTIONS)
    return boto3.client(service, region_name=region, config=config)


def said(error: Exception) -> str:
    """What AWS said, as one sentence."""
    return str(error).strip().rstrip(".")


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Names are relative to the prefix, which ends with a slash. Methods raise ClientError and BotoCoreError."""

    s3: Any
    bucket: str
    prefix: str

    @property
    def uri(self) -> str:
        return layout.uri(self.bucket, self.prefix)

    def sizes(self) -> dict[str, int]:
        """Bytes of each file by its name."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
        return {
            item["Key"].removeprefix(self.prefix): item["Size"] for page in pages for item in page.get("Contents", [])
        }

    def read(self, name: str) -> bytes:
        return bytes(self.s3.get_object(Bucket=self.bucket, Key=self.prefix + name)["Body"].read())

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The JSON object; None where there is none. Raises TrainingError for what is not one."""
        # Asked by a listing: of what is not there S3 says 403 to a role that may list below a prefix only.
        found = self.s3.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix + name, MaxKeys=1).get("Contents", [])
        if [item["Key"] for item in found] != [self.prefix + name]:
            return None
        try:
            value = json.loads(self.read(name))
        except ValueError as error:
            raise TrainingError(f"{self.uri}{name} is not JSON ({error}); delete it, and start again") from None
        if not isinstance(value, dict):
            raise TrainingError(f"{self.uri}{name} is no JSON object; delete it, and start again")
        return value

    def write(self, name: str, data: bytes) -> None:
        self.s3.put_object(Bucket=self.bucket, Key=self.prefix + name, Body=data)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        self.write(name, (json.dumps(value, indent=1) + "\n").encode())

    def chunks(self, name: str) -> Iterator[bytes]:
        """The file's bytes in order."""
        yield from self.s3.get_object(Bucket=self.bucket, Key=self.prefix + name)["Body"].iter_chunks(READ_BYTES)

    def head(self, name: str, count: int) -> bytes:
        """The file's first bytes."""
        span = {"Range": f"bytes=0-{count - 1}"}
        return bytes(self.s3.get_object(Bucket=self.bucket, Key=self.prefix + name, **span)["Body"].read())

    def download(self, name: str, path: Path) -> None:
        self.s3.download_file(self.bucket, self.prefix + name, str(path), Config=_TRANSFER)

    def send(self, path: Path, name: str) -> None:
        self.s3.upload_file(str(path), self.bucket, self.prefix + name, Config=_TRANSFER)

    def upload(self, name: str) -> Upload:
        return Upload(self, name)


class Upload:
    """A file of the folder that arrives in pieces, and is there whole after `finish` or not at all.

    It holds one part in memory. Used as a context manager it throws away what was not finished.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder, self._name = folder, name
        self._where = {"Bucket": folder.bucket, "Key": folder.prefix + name}
        self._part = bytearray()
        self._id: str | None = None
        self._parts: list[dict[str, Any]] = []

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        if self._id is not None:
            # The bucket's lifecycle rule removes what cannot be removed here.
            with suppress(ClientError, BotoCoreError):
                self._folder.s3.abort_multipart_upload(**self._where, UploadId=self._id)

    def add(self, data: bytes) -> None:
        self._part += data
        if len(self._part) >= PART_BYTES:
            self._send_part()

    def finish(self) -> None:
        if self._id is None:
            self._folder.write(self._name, bytes(self._part))
            return
        if self._part:
            self._send_part()
        self._folder.s3.complete_multipart_upload(
            **self._where, UploadId=self._id, MultipartUpload={"Parts": self._parts}
        )
        self._id = None

    def _send_part(self) -> None:
        if self._id is None:
            # The SDK sends a checksum with each part, which S3 takes only of an upload that was begun with its kind.
            begun = self._folder.s3.create_multipart_upload(**self._where, ChecksumAlgorithm=_CHECKSUM)
            self._id = begun["UploadId"]
        number = len(self._parts) + 1
        answer = self._folder.s3.upload_part(
            **self._where,
            UploadId=self._id,
            PartNumber=number,
            Body=bytes(self._part),
            ChecksumAlgorithm=_CHECKSUM,
        )
        sums = {key: answer[key] for key in (f"Checksum{_CHECKSUM}",) if key in answer}
        self._parts.append({"PartNumber": number, "ETag": answer["ETag"], **sums})
        self._part.clear()
