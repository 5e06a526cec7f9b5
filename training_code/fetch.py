"""A checkpoint's way from the hub into the bucket: streamed, checksummed, and gone on with after an interruption.

A file is in the bucket whole, with the digest that the hub gives, or it is not there. The record beside the folder
(`bf16.json`) names what is finished; a later job fetches only the rest.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

from heartbeat import checkpoint, metrics
from heartbeat.base_weights import BringJob
from heartbeat.scout import ModelShape, UnsupportedModelError
from training_code import bucket, commands
from training_code.bucket import Folder
from training_code.commands import GB
from training_code.errors import TrainingError
from training_code.hub import Broken, Digest, Hub, HubFile

RECORD = "bf16.json"
SCHEMA = 1
NUM_FILES_AT_ONCE = 8
NUM_TRIES = 8
"""Without a byte between them"""
LONGEST_WAIT_SECONDS = 60.0
PROGRESS_SECONDS = 10.0

_WEIGHTS = "*.safetensors"


class Stopped(BaseException):
    """SageMaker asked the job to end: at its stop condition, or by a person."""


@dataclass(kw_only=True)
class Fetch:
    """One job's fetching. `run` raises TrainingError for what a person must mend, and Stopped."""

    hub: Hub
    job: BringJob
    folder: Folder
    root: Folder
    """Where the record lies"""
    stop: threading.Event
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        commit, files = self._listing()
        record = self._read_record(commit)
        self._record: dict[str, Any] = record
        there = self.folder.sizes()
        missing = [file for file in files if not self._is_there(file, there)]
        done = sum(file.bytes for file in files) - sum(file.bytes for file in missing)
        self._progress = _Progress(sum(file.bytes for file in files), done)
        print(
            f"{self.job.model} at {commit}: {len(files)} files, {sum(file.bytes for file in files) / GB:.2f} GB; "
            f"{len(files) - len(missing)} are there already",
            flush=True,
        )
        # The small ones first: a licence that was not accepted, or another kind of model, shows before the large ones.
        small = [file for file in missing if not fnmatch(file.name, _WEIGHTS)]
        self._fetch_all(small)
        self._check(files)
        self._fetch_all([file for file in missing if file not in small])
        self._progress.say(force=True)

    # --- what there is

    def _listing(self) -> tuple[str, list[HubFile]]:
        listing = self._patiently(lambda: self.hub.list(self.job.model, self.job.revision))
        patterns = (*commands.COPIED, _WEIGHTS)
        files = [
            file
            for file in listing.files
            if "/" not in file.name and any(fnmatch(file.name, pattern) for pattern in patterns)
        ]
        if not any(fnmatch(file.name, _WEIGHTS) for file in files):
            raise TrainingError(
                f"{self.job.model} holds no {_WEIGHTS}: give a checkpoint in transformers' form, not the original one"
            )
        return listing.commit, sorted(files, key=lambda file: (file.bytes, file.name))

    def _read_record(self, commit: str) -> dict[str, Any]:
        found = self.root.read_json(RECORD)
        files = (found or {}).get("files")
        kept = files if isinstance(files, dict) and (found or {}).get("schema") == SCHEMA else {}
        return {"schema": SCHEMA, "model": self.job.model, "commit": commit, "files": dict(kept)}

    def _is_there(self, file: HubFile, there: dict[str, int]) -> bool:
        """Whether the bucket has the file. One that no record names, such as an uploaded one, is read and compared."""
        if there.get(file.name) != file.bytes:
            return False
        noted = self._record["files"].get(file.name)
        if noted and file.sha256 is not None:
            return bool(noted == {"bytes": file.bytes, "sha256": file.sha256})
        digest = Digest(file)
        for chunk in self.folder.chunks(file.name):
            self._end_if_asked()
            digest.update(chunk)
        if digest.is_right():
            self._note(file, digest.sha256())
        return digest.is_right()

    def _check(self, files: Sequence[HubFile]) -> None:
        """Raises TrainingError for a repository that a run could not load, before its weights are fetched."""
        names = [file.name for file in files]
        index = self.folder.read_json(checkpoint.WEIGHTS_INDEX) if checkpoint.WEIGHTS_INDEX in names else None
        missing = checkpoint.missing_files(names, index)
        if missing:
            raise TrainingError(f"{self.job.model} at {self._record['commit']} lacks {', '.join(missing[:5])}")
        try:
            ModelShape.from_config(json.loads(self.folder.read("config.json")))
        except (UnsupportedModelError, ValueError) as error:
            raise TrainingError(f"{self.job.model}: {error}") from None

    # --- fetching

    def _fetch_all(self, files: Sequence[HubFile]) -> None:
        """Several at a time. Damaged files do not keep the others from coming; anything else ends all."""
        damaged: list[str] = []
        with ThreadPoolExecutor(NUM_FILES_AT_ONCE) as threads:
            futures = [threads.submit(self._fetch, file, damaged) for file in files]
            try:
                self._watch(futures)
            except BaseException:
                self.stop.set()
                for future in futures:
                    future.cancel()
                raise
        if damaged:
            raise TrainingError(
                f"{', '.join(sorted(damaged))} came with another SHA-256 than the hub's listing has, and "
                f"{'was' if len(damaged) == 1 else 'were'} thrown away; start again, and only that is fetched. If it "
                "happens twice the repository is damaged: take another revision"
            )

    def _watch(self, futures: Iterable[Future[None]]) -> None:
        left = set(futures)
        while left:
            done, left = wait(left, timeout=PROGRESS_SECONDS, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            self._progress.say()

    def _fetch(self, file: HubFile, damaged: list[str]) -> None:
        digest = Digest(file)
        with self.folder.upload(file.name) as upload:
            for chunk in self._stream(file):
                digest.update(chunk)
                upload.add(chunk)
                self._progress.add(len(chunk))
            if not digest.is_right():
                damaged.append(file.name)
                return
            upload.finish()
        self._note(file, digest.sha256())

    def _stream(self, file: HubFile) -> Iterable[bytes]:
        """The file's bytes. A connection that breaks is opened again at the byte where it broke."""
        position, tries = 0, 0
        while position < file.bytes:
            before = position
            try:
                with self.hub.open(self.job.model, self._record["commit"], file.name, position) as source:
                    while position < file.bytes:
                        self._end_if_asked()
                        # What is there: a slow hub keeps nobody from being stopped until a mebibyte has come.
                        chunk = source.read1(min(bucket.READ_BYTES, file.bytes - position))
                        if not chunk:
                            raise Broken("the connection was closed")
                        position += len(chunk)
                        yield chunk
            except (Broken, OSError, http.client.HTTPException) as error:
                tries = 1 if position > before else tries + 1
                self._wait_before(tries, f"{file.name} broke off at byte {position:,}", error)

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        tries = 0
        while True:
            try:
                return ask()
            except Broken as error:
                tries += 1
                self._wait_before(tries, "the hub did not answer", error)

    def _wait_before(self, tries: int, what: str, error: Exception) -> None:
        self._end_if_asked()
        if tries >= NUM_TRIES:
            raise TrainingError(
                f"{what} ({type(error).__name__}: {error}), {tries} times in a row; check the network's way to "
                f"{self.job.hub}, and start again: what is finished stays"
            ) from None
        seconds = min(2.0 ** (tries - 1), LONGEST_WAIT_SECONDS)
        print(f"{what} ({type(error).__name__}: {error}); again in {seconds:g} s", flush=True)
        self.stop.wait(seconds)
        self._end_if_asked()

    def _end_if_asked(self) -> None:
        if self.stop.is_set():
            raise Stopped

    def _note(self, file: HubFile, sha256: str) -> None:
        with self._lock:
            self._record["files"][file.name] = {"bytes": file.bytes, "sha256": sha256}
            ordered = dict(sorted(self._record["files"].items()))
            self.root.write_json(RECORD, {**self._record, "files": ordered})


class _Progress:
    """Bytes done of all, as a line now and then: for people, and for CloudWatch's graphs."""

    def __init__(self, total: int, done: int) -> None:
        self._total, self._done, self._before = total, done, done
        self._started = self._said = time.monotonic()
        self._lock = threading.Lock()

    def add(self, num_bytes: int) -> None:
        with self._lock:
            self._done += num_bytes

    def say(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self._said < PROGRESS_SECONDS:
            return
        self._said = now
        fetched, seconds = self._done - self._before, now - self._started
        figures = metrics.format_line(
            metrics.BRINGING,
            gb_done=self._done / GB,
            gb_total=self._total / GB,
            mb_per_second=fetched / seconds / 1e6 if seconds else 0.0,
        )
        print(commands.describe(self._done, self._total, fetched, seconds, figures), flush=True)
