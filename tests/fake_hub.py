"""A hub on loopback that serves one gated repository as Hugging Face does, and fails when it is told to."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

MODEL = "meta-llama/Llama-4-Scout-17B-16E-Instruct"
TOKEN = "hf_TheTokenThatNobodyMaySee0123456789"
COMMIT = "1" * 40


@dataclass
class Hub:
    """`folder` is the repository; it may be set and changed while the hub runs."""

    url: str = ""
    folder: Path | None = None
    accepted: bool = True
    """Whether the token's account has accepted the licence"""
    drops: dict[str, list[int]] = field(default_factory=dict)
    """File -> bytes after which each of its next answers breaks off"""
    corrupt: set[str] = field(default_factory=set)
    """Files that come with a byte changed"""
    overloaded: int = 0
    """Requests still to be answered with 503"""
    bytes_per_second: float | None = None
    served: dict[str, int] = field(default_factory=dict)
    """Bytes sent of each file"""
    ranges: list[tuple[str, str]] = field(default_factory=list)
    """(file, Range) of the requests that had one"""
    leaks: list[str] = field(default_factory=list)
    """Requests to the content network that carried a token"""

    def forget(self) -> None:
        """Everything but where it is and what it serves."""
        self.accepted, self.overloaded, self.bytes_per_second = True, 0, None
        for each in (self.drops, self.corrupt, self.served, self.ranges, self.leaks):
            each.clear()


@contextmanager
def serve() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    # The content network is another host by its name, localhost: what goes there must not carry the token.
    hub.url = f"http://127.0.0.1:{server.server_port}"
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            if hub.overloaded > 0:
                hub.overloaded -= 1
                self._refuse(503, "", "overloaded")
                return
            path = unquote(urlsplit(self.path).path)
            if path.startswith("/content/"):
                self._content(path.removeprefix("/content/"))
            elif path.startswith(f"/api/models/{MODEL}/revision/"):
                self._list(path.rsplit("/", 1)[-1])
            elif path.startswith(f"/{MODEL}/resolve/{COMMIT}/"):
                self._resolve(path.rsplit("/", 1)[-1])
            else:
                self._refuse(404, "RepoNotFound", "Repository not found")

        def _token(self) -> str | None:
            return self.headers.get("Authorization")

        def _list(self, revision: str) -> None:
            if self._token() not in (None, f"Bearer {TOKEN}"):
                self._refuse(401, "", "Invalid credentials in Authorization header")
            elif revision not in ("main", COMMIT):
                self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            else:  # that a gated repository exists, and what is in it, is public
                assert hub.folder is not None
                body = json.dumps({"sha": COMMIT, "siblings": [_entry(f) for f in sorted(hub.folder.iterdir())]})
                self._answer(body.encode())

        def _resolve(self, name: str) -> None:
            if self._token() != f"Bearer {TOKEN}":
                self._refuse(401, "GatedRepo", f"Access to model {MODEL} is restricted. Please log in.")
            elif not hub.accepted:
                self._refuse(403, "GatedRepo", f"Access to model {MODEL} is restricted: you are not on the list.")
            else:
                self.send_response(302)
                self.send_header("Location", f"http://localhost:{urlsplit(hub.url).port}/content/{name}")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def _content(self, name: str) -> None:
            if self._token():
                hub.leaks.append(name)
            assert hub.folder is not None
            data = bytearray((hub.folder / name).read_bytes())
            if name in hub.corrupt:
                data[-1] ^= 1
            start, span = 0, self.headers.get("Range")
            if span:
                hub.ranges.append((name, span))
                start = int(span.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206 if span else 200)
            if span:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            drops = hub.drops.get(name)
            end = start + drops.pop(0) if drops else len(data)
            self._send(name, bytes(data[start:end]))
            if drops is not None and end < len(data):
                self.close_connection = True

        def _send(self, name: str, data: bytes) -> None:
            step = len(data) or 1 if hub.bytes_per_second is None else max(1, int(hub.bytes_per_second / 20))
            for start in range(0, len(data), step):
                piece = data[start : start + step]
                try:
                    self.wfile.write(piece)
                except OSError:
                    return
                hub.served[name] = hub.served.get(name, 0) + len(piece)
                if hub.bytes_per_second is not None:
                    time.sleep(0.05)

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _refuse(self, status: int, code: str, message: str) -> None:
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", message)
            self.send_header("Content-Length", "0")
            self.end_headers()

    return Handler


def _entry(file: Path) -> dict[str, object]:
    data = file.read_bytes()
    entry: dict[str, object] = {
        "rfilename": file.name,
        "size": len(data),
        "blobId": hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest(),
    }
    if file.suffix == ".safetensors":
        entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry
