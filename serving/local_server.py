"""The laptop's stand-in for the public vLLM image: `python -m serving.local_server`.

Same environment variables (SM_VLLM_…), same paths, same requests and responses; the model runs through transformers
in this process. Base model and adapters share one copy of the weights: a request's `model` says which of them is on.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heartbeat.chat import render
from heartbeat.conversation import ChatError
from serving.chat_completion import Request, RequestError, chunks, error_body, response
from training_code.errors import TrainingError

if TYPE_CHECKING:
    from serving.engine import Engine

DEFAULT_PORT = 8080
MAX_BODY_BYTES = 6 * 2**20
"""SageMaker's limit for a real-time endpoint's payload (InvokeEndpoint, API reference)."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where the server listens and what it serves, from the environment that SageMaker gives the vLLM image."""

    host: str
    port: int
    base: Path
    base_name: str
    adapters: dict[str, Path]
    max_model_len: int | None
    auto_tool_choice: bool

    @classmethod
    def from_environment(cls, environment: dict[str, str]) -> Settings:
        """Raises TrainingError naming the variable that is wrong."""
        root = Path(environment.get("HEARTBEAT_OPT_ML", "/opt/ml"))
        adapters: dict[str, Path] = {}
        if environment.get("SM_VLLM_ENABLE_LORA", "").lower() == "true":
            for module in _words(environment.get("SM_VLLM_LORA_MODULES", "")):
                name, equals, path = module.partition("=")
                if not (name and equals and path):
                    raise TrainingError(f"SM_VLLM_LORA_MODULES={module} must have the form NAME=PATH")
                adapters[name] = _below(root, path)
        max_model_len = environment.get("SM_VLLM_MAX_MODEL_LEN")
        return cls(
            host=environment.get("SAGEMAKER_BIND_HOST", "127.0.0.1"),
            port=_number("SAGEMAKER_BIND_TO_PORT", environment.get("SAGEMAKER_BIND_TO_PORT", str(DEFAULT_PORT))),
            base=_below(root, environment.get("SM_VLLM_MODEL", "/opt/ml/model")),
            base_name=environment.get("SM_VLLM_SERVED_MODEL_NAME", "base"),
            adapters=adapters,
            max_model_len=_number("SM_VLLM_MAX_MODEL_LEN", max_model_len) if max_model_len else None,
            auto_tool_choice=environment.get("SM_VLLM_ENABLE_AUTO_TOOL_CHOICE", "").lower() == "true",
        )


class Server(ThreadingHTTPServer):
    """Listens at once, so that /ping can say that the model is still loading."""

    daemon_threads = True
    engine: Engine | None = None
    auto_tool_choice = False


class Handler(BaseHTTPRequestHandler):
    """GET /ping, POST /invocations: all that SageMaker calls."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path != "/ping":
            self._send(404, error_body(f"no such path: {self.path}", "NotFoundError", 404))
        elif self.server.engine is None:
            self._send(503, error_body("the model is loading", "ServiceUnavailableError", 503))
        else:
            self._send(200, {})

    def do_POST(self) -> None:
        body = self._body()
        if body is None:
            return
        if self.path != "/invocations":
            self._send(404, error_body(f"no such path: {self.path}", "NotFoundError", 404))
        elif self.server.engine is None:
            self._send(503, error_body("the model is loading", "ServiceUnavailableError", 503))
        else:
            self._answer(self.server.engine, body)

    def _answer(self, engine: Engine, body: bytes) -> None:
        try:
            answering = Answering.begin(engine, body, auto_tool_choice=self.server.auto_tool_choice)
        except (RequestError, ChatError) as error:
            self._send(400, error_body(str(error), "BadRequestError", 400))
            return
        if answering.request.stream:
            self._stream(answering.chunks())
        else:
            self._send(200, answering.response())

    def _stream(self, said: Generator[dict[str, Any], None, None]) -> None:
        """Server-sent events, as OpenAI sends them: each as soon as there is something to say."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with closing(said), suppress(ConnectionError):  # who does not listen any more is not told more
            for chunk in said:
                self._send_chunk(f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n")
            self._send_chunk("data: [DONE]\n\n")
            self._send_chunk("")
            return
        self.close_connection = True

    def _send_chunk(self, text: str) -> None:
        data = text.encode("utf-8", errors="replace")
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _body(self) -> bytes | None:
        """None where an error has been sent instead."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            # What was not read would be taken for the next request.
            self.close_connection = True
            message = f"Content-Length must be a number up to {MAX_BODY_BYTES}"
            self._send(413 if length.isdecimal() else 411, error_body(message, "BadRequestError", 413))
            return None
        return self.rfile.read(int(length))

    def _send(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value, ensure_ascii=False).encode("utf-8", errors="replace")
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        print(f"{self.address_string()} {format % args}", flush=True)


@dataclass(frozen=True)
class Answering:
    """A request on its way to its answer."""

    engine: Engine
    request: Request
    prompt: list[int]

    @classmethod
    def begin(cls, engine: Engine, body: bytes, *, auto_tool_choice: bool) -> Answering:
        """Raises RequestError or ChatError for what cannot be answered."""
        request = Request.from_body(body, engine.models)
        if request.tools and not auto_tool_choice:
            raise RequestError("tools need SM_VLLM_ENABLE_AUTO_TOOL_CHOICE=true on this endpoint")
        prompt = list(engine.tokenizer.encode(render(request.messages, request.tools, generation_prompt=True)).ids)
        engine.require_room(prompt)
        return cls(engine, request, prompt)

    def response(self) -> dict[str, Any]:
        answer = self.engine.answer(self.request, self.prompt)
        return response(self.request, answer, num_prompt_tokens=len(self.prompt), decode=self.engine.tokenizer.decode)

    def chunks(self) -> Generator[dict[str, Any], None, None]:
        said = self.engine.say(self.request, self.prompt)
        return chunks(self.request, said, num_prompt_tokens=len(self.prompt), decode=self.engine.tokenizer.decode)


def main() -> int:
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # Nothing to save; SageMaker waits 30 s otherwise.
    try:
        settings = Settings.from_environment(dict(os.environ))
        server = Server((settings.host, settings.port), Handler)
        server.auto_tool_choice = settings.auto_tool_choice
    except (TrainingError, OSError) as error:
        return _fail(error)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        # Imported here: torch and transformers take seconds, in which /ping already answers.
        from serving.engine import Engine

        server.engine = Engine.load(settings.base, settings.base_name, settings.adapters, settings.max_model_len)
    except TrainingError as error:
        return _fail(error)
    seconds = time.monotonic() - started
    names = ", ".join(server.engine.models)
    print(f"ready in {seconds:.1f} seconds on {settings.host}:{server.server_port}, serving {names}", flush=True)
    threading.Event().wait()
    return 0


def _fail(error: Exception) -> int:
    print(f"failed: {error}", file=sys.stderr, flush=True)
    return 1


def _below(root: Path, path: str) -> Path:
    """`path` as it is, but for the container's /opt/ml, which HEARTBEAT_OPT_ML may put elsewhere."""
    inside = Path(path)
    return root / inside.relative_to("/opt/ml") if inside.is_relative_to("/opt/ml") else inside


def _words(value: str) -> list[str]:
    """The words that the vLLM image makes of a variable's value: several, where it is a JSON list."""
    if not value.startswith("["):
        return [value] if value else []
    try:
        return [str(word) for word in json.loads(value)]
    except ValueError:
        raise TrainingError(f"SM_VLLM_LORA_MODULES={value} must be NAME=PATH, or a JSON list of them") from None


def _number(name: str, value: str) -> int:
    if not value.isdecimal():
        raise TrainingError(f"{name}={value} must be a whole number")
    return int(value)


if __name__ == "__main__":
    sys.exit(main())
