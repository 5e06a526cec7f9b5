"""The Hugging Face hub over HTTPS: what a repository holds, and each file from any byte on.

Two requests, so no package: `huggingface_hub` writes whole files to a disk, and this project streams them.
https://huggingface.co/docs/hub/api
"""

from __future__ import annotations

import hashlib
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any, cast

from heartbeat.base_weights import is_token
from training_code.errors import TrainingError

TIMEOUT_SECONDS = 60.0
"""Without a byte; then the connection counts as broken."""


class Broken(Exception):  # noqa: N818 (what happened, not a mistake)
    """The connection or the server failed, not the request: worth another try."""


class Token:
    """A hub token, which no text shows. Raises TrainingError, without it, for what cannot be one."""

    def __init__(self, value: str, *, kept_in: str) -> None:
        self._value, self.kept_in = value.strip(), kept_in
        # http.client quotes a header that it refuses: a line break in it would put the token into the log.
        if not is_token(self._value):
            raise TrainingError(
                f"the secret {kept_in} holds no token of Hugging Face (one line of 8 or more letters, digits and "
                "signs); store one with `python -m heartbeat base-model token`"
            )

    def __repr__(self) -> str:
        return f"Token(kept in {self.kept_in})"

    def header(self) -> str:
        return f"Bearer {self._value}"

    def hide(self, text: str) -> str:
        return text.replace(self._value, "***")


@dataclass(frozen=True, kw_only=True)
class HubFile:
    name: str
    bytes: int
    sha256: str | None
    """The hub knows it of large files (LFS)"""
    git_sha1: str | None
    """Of the others: git's digest of a blob"""


@dataclass(frozen=True, kw_only=True)
class Listing:
    commit: str
    files: tuple[HubFile, ...]


class Digest:
    """Of a file on its way: SHA-256, and what the hub knows where that is another one."""

    def __init__(self, file: HubFile) -> None:
        self._file, self._sha256 = file, hashlib.sha256()
        self._git = hashlib.sha1(f"blob {file.bytes}\0".encode(), usedforsecurity=False)

    def update(self, data: bytes | memoryview) -> None:
        self._sha256.update(data)
        if self._file.sha256 is None:
            self._git.update(data)

    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def is_right(self) -> bool:
        if self._file.sha256 is None:
            return self._file.git_sha1 in (None, self._git.hexdigest())
        return self._file.sha256 == self.sha256()


class Hub:
    """Raises TrainingError, with what to do, for what the hub refuses; Broken for what may pass."""

    def __init__(self, url: str, token: Token) -> None:
        self._url, self._token = url.rstrip("/"), token
        self._opener = urllib.request.build_opener(_SameHostKeepsToken())

    def list(self, model: str, revision: str) -> Listing:
        """The files of a repository at a revision, with the commit that it stands for."""
        path = f"api/models/{model}/revision/{urllib.parse.quote(revision, safe='')}?blobs=true"
        with self._open(path, model, revision) as answer:
            try:
                found = json.loads(answer.read())
                files = tuple(_file(entry) for entry in found["siblings"])
                return Listing(commit=str(found["sha"]), files=files)
            except (OSError, http.client.HTTPException) as error:
                raise Broken(f"{type(error).__name__} while {model} was listed") from None
            except (ValueError, KeyError, TypeError) as error:
                raise TrainingError(f"{self._url} answers what is no list of files ({error}); check hub_url") from None

    def open(self, model: str, commit: str, name: str, start: int) -> http.client.HTTPResponse:
        """The file's bytes from `start` on; reading may raise OSError or HTTPException, or end early."""
        path = f"{model}/resolve/{commit}/{urllib.parse.quote(name)}"
        answer = self._open(path, model, commit, {"Range": f"bytes={start}-"} if start else {})
        given = answer.headers.get("Content-Range", "")
        if start and not (answer.status == 206 and given.startswith(f"bytes {start}-")):
            answer.close()
            raise Broken(f"{name}: the server does not go on at byte {start}")
        return answer

    def _open(
        self, path: str, model: str, revision: str, headers: dict[str, str] | None = None
    ) -> http.client.HTTPResponse:
        request = urllib.request.Request(
            f"{self._url}/{path}", headers={"User-Agent": "heartbeat-engine", **(headers or {})}
        )
        request.add_unredirected_header("Authorization", self._token.header())
        try:
            answer = self._opener.open(request, timeout=TIMEOUT_SECONDS)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error, model, revision) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise Broken(self._token.hide(f"{self._url} cannot be reached: {reason}")) from None
        return cast(http.client.HTTPResponse, answer)

    def _refusal(self, error: urllib.error.HTTPError, model: str, revision: str) -> Exception:
        named = error.headers.get("X-Error-Code", "")
        said = self._token.hide(error.headers.get("X-Error-Message") or f"HTTP status {error.code}")[:200]
        here = error.url is None or urllib.parse.urlsplit(error.url).netloc == urllib.parse.urlsplit(self._url).netloc
        if error.code >= 500 or error.code in (408, 416, 429) or not here:
            # Another host is the content network, whose links expire: the hub gives a new one.
            return Broken(f"HTTP status {error.code}: {said}")
        if error.code == 401:
            return TrainingError(
                f"Hugging Face refuses the token in the secret {self._token.kept_in} ({said}): make a new one, with "
                "read access, at https://huggingface.co/settings/tokens, and store it with `python -m heartbeat "
                "base-model token`"
            )
        if error.code == 403 and named == "GatedRepo":
            return TrainingError(
                f"the account of the token has not been given access to {model} ({said}): accept the licence at "
                f"https://huggingface.co/{model}, signed in as that account, wait for the approval, and start again"
            )
        if error.code == 403:
            return TrainingError(
                f"the token in the secret {self._token.kept_in} may not read {model} ({said}): a fine-grained token "
                "needs read access to public gated repositories; change it at https://huggingface.co/settings/tokens"
            )
        if named == "RevisionNotFound":
            return TrainingError(f"{model} has no revision {revision!r} on the hub; leave it out for main")
        if error.code == 404:
            return TrainingError(f"there is no {model} at {self._url} ({said}); check base_model in cdk.json")
        return TrainingError(f"{self._url} answers {said} for {model}; try later, or upload the checkpoint")


class _SameHostKeepsToken(urllib.request.HTTPRedirectHandler):
    """The hub sends large files to other hosts, which must not see the token; to its own it goes along."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        before, after = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        token = req.unredirected_hdrs.get("Authorization")
        if new is not None and token and (before.scheme, before.netloc) == (after.scheme, after.netloc):
            new.add_unredirected_header("Authorization", token)
        return new


def _file(entry: Any) -> HubFile:
    lfs = entry.get("lfs") or {}
    return HubFile(
        name=str(entry["rfilename"]),
        bytes=int(entry["size"]),
        sha256=lfs.get("sha256"),
        git_sha1=None if lfs else entry.get("blobId"),
    )
