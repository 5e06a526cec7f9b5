"""Between S3 and folders: what SageMaker downloads for a container and uploads from it."""

from __future__ import annotations

import contextlib
import re
import shutil
import tarfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from local_aws.errors import invalid

_S3_URI = re.compile(r"^s3://(?P<bucket>[^/]+)/?(?P<key>.*)$")
_NO_THREADS = TransferConfig(use_threads=False)
CHECKPOINT_SECONDS = 1.0
"""How often changed checkpoints are uploaded."""


def split_uri(uri: str) -> tuple[str, str]:
    """(bucket, key) of an S3 URI. Raises ApiError."""
    match = _S3_URI.match(uri)
    if match is None:
        raise invalid(f"The S3 URI {uri!r} is invalid: it must look like s3://bucket/key")
    return match["bucket"], match["key"]


def download_prefix(s3: Any, uri: str, folder: Path) -> int:
    """Copy all objects under the prefix into the folder; how many there were. Raises ClientError."""
    bucket, prefix = split_uri(uri)
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            relative = item["Key"][len(prefix) :].lstrip("/") or item["Key"].rsplit("/", 1)[-1]
            if item["Key"].endswith("/"):
                continue
            place = folder / relative
            place.parent.mkdir(parents=True, exist_ok=True)
            download_object(s3, bucket, item["Key"], place)
            count += 1
    return count


def download_object(s3: Any, bucket: str, key: str, place: Path) -> None:
    """With one GetObject: boto3's download_file asks HEAD first, whose error cannot name a denied action."""
    with contextlib.closing(s3.get_object(Bucket=bucket, Key=key)["Body"]) as body, place.open("wb") as file:
        shutil.copyfileobj(body, file)


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def upload_folder(s3: Any, folder: Path, uri: str, *, encryption: Mapping[str, str]) -> None:
    bucket, prefix = split_uri(uri.rstrip("/") + "/")
    for path in files_in(folder):
        key = prefix + path.relative_to(folder).as_posix()
        s3.upload_file(str(path), bucket, key, ExtraArgs=dict(encryption), Config=_NO_THREADS)


def upload_archive(s3: Any, folder: Path, uri: str, *, encryption: Mapping[str, str]) -> None:
    """Upload the folder as one .tar.gz object."""
    bucket, key = split_uri(uri)
    archive = folder.parent / key.rsplit("/", 1)[-1]
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, arcname=path.name)
    s3.upload_file(str(archive), bucket, key, ExtraArgs=dict(encryption), Config=_NO_THREADS)


def encryption_of(kms_key: str | None) -> dict[str, str]:
    return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}


class Checkpoints:
    """A folder that is restored from S3 at the start and copied there while the job runs."""

    def __init__(self, s3: Any, uri: str, folder: Path) -> None:
        self._s3, self._uri, self._folder = s3, uri, folder
        self._uploaded: dict[Path, tuple[int, int]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"checkpoints {uri}", daemon=True)
        self.denied: ClientError | None = None

    def restore(self) -> None:
        download_prefix(self._s3, self._uri.rstrip("/") + "/", self._folder)
        self._uploaded = self._versions()

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        """Copy what is left. Raises ClientError when an upload was refused."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._sync()
        if self.denied is not None:
            raise self.denied

    def _follow(self) -> None:
        while not self._stop.wait(CHECKPOINT_SECONDS):
            self._sync()

    def _versions(self) -> dict[Path, tuple[int, int]]:
        versions = {}
        for path in files_in(self._folder):
            try:
                status = path.stat()
            except FileNotFoundError:  # the program replaced it meanwhile
                continue
            versions[path] = (status.st_mtime_ns, status.st_size)
        return versions

    def _sync(self) -> None:
        bucket, prefix = split_uri(self._uri.rstrip("/") + "/")
        for path, version in self._versions().items():
            if self._uploaded.get(path) == version or self.denied is not None:
                continue
            key = prefix + path.relative_to(self._folder).as_posix()
            try:
                self._s3.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
            except FileNotFoundError:
                continue
            except ClientError as error:
                self.denied = error
                return
            self._uploaded[path] = version
