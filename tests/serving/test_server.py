"""The laptop's server, asked over HTTP as SageMaker would ask it."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from heartbeat.container_settings import ContainerSettings
from serving.chat_completion import Request, RequestError
from serving.engine import Engine
from serving.generate import Said, collect, say
from serving.local_server import MAX_BODY_BYTES, Answering, Settings
from tests.training import tiny
from training_code import adapter
from training_code.base_files import open_base
from training_code.errors import TrainingError
from training_code.lora_weights import LoraWeights

ADAPTERS = ("stanley", "canary")
NAMES = ("base", *ADAPTERS)
SETTINGS = ContainerSettings(tensor_parallel_size=1, max_model_len=200, adapters=ADAPTERS)
ASK = {"messages": [{"role": "user", "content": "How many goals has Suzuki?"}], "temperature": 0, "max_tokens": 8}


class Server:
    """A server process and requests to it."""

    def __init__(self, root: Path, **environment: str) -> None:
        values = tiny.child_environment(root, SAGEMAKER_BIND_TO_PORT="0", **environment)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "serving.local_server"],
            env=values,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.port = self._ready()

    def post(self, body: object, path: str = "/invocations") -> tuple[int, dict[str, Any]]:
        return self.request("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode())

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def stream(self, body: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        """The events of a streamed answer, as they come."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("POST", "/invocations", json.dumps({**body, "stream": True}))
            response = connection.getresponse()
            assert (response.status, response.getheader("Content-Type")) == (200, "text/event-stream; charset=utf-8")
            while (line := response.readline().strip()) != b"data: [DONE]":
                if line:
                    yield json.loads(line.removeprefix(b"data: "))
        finally:
            connection.close()

    def _ready(self) -> int:
        assert self.process.stdout
        said = ""
        for line in self.process.stdout:
            said += line
            if line.startswith("ready in"):
                return int(line.split(",")[0].rpartition(":")[2])
        raise AssertionError(said)


def save_adapter(folder: Path, base: Path, seed: int = 1) -> None:
    """An adapter that says something else than the base model, and than one of another seed."""
    targets = ("attention", "shared_expert")
    architecture = open_base(base).architecture
    lora = LoraWeights(architecture, targets, rank=4, alpha=8, dropout=0, seed=1, device=torch.device("cpu"))
    torch.manual_seed(seed)
    for matrix in lora.matrices():
        torch.nn.init.normal_(matrix.lora_b.detach(), std=0.5)
    adapter.save(folder, lora, architecture, targets=targets, rank=4, alpha=8, dropout=0)


@pytest.fixture(scope="module")
def root(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("served") / "ml"
    root.mkdir()
    (root / "model").symlink_to(base)
    for seed, name in enumerate(ADAPTERS, start=1):
        save_adapter(root / "additional-model-data-sources" / name, base, seed)
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    running = Server(
        root,
        **SETTINGS.environment(),
    )
    with running.process:
        yield running
        running.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        running.process.communicate(timeout=10)
        assert time.monotonic() - started < 3
        assert running.process.returncode == 0


@pytest.fixture(scope="module")
def engine(root: Path, base: Path) -> Engine:
    return Engine.load(base, "base", {"stanley": root / "additional-model-data-sources/stanley"}, None)


def answer(server: Server, model: str, **more: Any) -> dict[str, Any]:
    message: dict[str, Any] = server.post({"model": model, **ASK, **more})[1]["choices"][0]["message"]
    return message


def test_ping(server: Server) -> None:
    assert server.request("GET", "/ping") == (200, {})


def test_answers_in_openais_form(server: Server) -> None:
    status, answer = server.post({"model": "base", **ASK})
    assert status == 200
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "base"
    [choice] = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert isinstance(choice["message"]["content"], str)
    assert choice["finish_reason"] in ("stop", "length")
    usage = answer["usage"]
    assert usage["prompt_tokens"] > 10
    assert 1 <= usage["completion_tokens"] <= 8
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_each_request_chooses_base_or_adapter(server: Server) -> None:
    first, again = ([answer(server, name)["content"] for name in NAMES] for _ in range(2))
    assert first == again
    assert len(set(first)) == len(NAMES)


def test_requests_at_once_do_not_mix_their_models(server: Server) -> None:
    alone = {n: server.post({"model": n, **ASK})[1]["choices"][0]["message"] for n in NAMES}
    found: list[tuple[str, Any]] = []

    def ask(name: str) -> None:
        found.append((name, server.post({"model": name, **ASK})[1]["choices"][0]["message"]))

    threads = [threading.Thread(target=ask, args=(name,)) for name in NAMES * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 9
    assert all(message == alone[name] for name, message in found)


def test_logprobs_are_of_the_words_that_were_said(server: Server) -> None:
    _, answer = server.post({"model": "base", "logprobs": True, "top_logprobs": 3, **ASK})
    content = answer["choices"][0]["logprobs"]["content"]
    assert len(content) == 8
    for token in content:
        assert token["logprob"] <= 0
        assert token["top_logprobs"][0]["token"] == token["token"]  # greedy
        logprobs = [entry["logprob"] for entry in token["top_logprobs"]]
        assert logprobs == sorted(logprobs, reverse=True)
        assert len(logprobs) == 3


def test_a_seed_repeats_a_sampled_answer(server: Server) -> None:
    sampled = {**ASK, "temperature": 1.5, "max_tokens": 20}
    first, again, other = (
        server.post({"model": "base", "seed": seed, **sampled})[1]["choices"][0]["message"]["content"]
        for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "the body is not JSON"),
        ([], "the body must be a JSON object"),
        ({"model": "gpt", **ASK}, "model 'gpt' is not served; the models are base, stanley, canary"),
        ({"model": "base"}, "messages must be a list"),
        ({"messages": []}, "`messages` must be a list of at least one message"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role 'robot' must be one of"),
        ({**ASK, "max_tokens": 0}, "max_tokens=0 must be a whole number of at least 1"),
        ({**ASK, "temperature": "hot"}, "temperature='hot' must be a number from 0 to 2"),
        ({**ASK, "stream_options": []}, None),
        ({**ASK, "stream_options": 1}, "stream_options must be an object"),
        ({"messages": [{"role": "user", "content": "puck " * 300}], "stream": True}, "together may have 200"),
        ({**ASK, "n": 2}, "n must be 1"),
        ({**ASK, "tools": {}}, None),
        ({**ASK, "tools": [{"name": "f"}]}, "a tool must have the form"),
        ({"messages": [{"role": "user", "content": "puck " * 300}]}, "prompt and answer together may have 200"),
    ],
)
def test_a_bad_body_is_400_with_the_reason(server: Server, body: object, said: str | None) -> None:
    status, answer = server.post(body)
    if said is None:
        assert status == 200
        return
    assert status == 400
    assert answer["error"]["type"] == "BadRequestError"
    assert said in answer["error"]["message"]


def test_other_paths_and_bodies_of_no_or_too_great_length(server: Server) -> None:
    assert server.request("GET", "/")[0] == 404
    assert server.post({}, "/v1/models")[0] == 404
    assert server.request("POST", "/invocations", headers={"Content-Length": str(MAX_BODY_BYTES + 1)})[0] == 413
    assert server.request("POST", "/invocations", headers={"Content-Length": "x"})[0] == 411
    assert server.request("GET", "/ping")[0] == 200


def test_tool_calls_come_parsed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The random model calls no tool: its words are put in its mouth, the rest is real."""
    from heartbeat.chat import Piece
    from serving.generate import Token

    said = [
        Piece("<|python_start|>", special=True),
        Piece('[parquet_query(sql="SELECT 1"), now()]'),
        Piece("<|python_end|>", special=True),
    ]
    tokens = [Token(i, 0.0, []) for i in engine.tokenizer.encode(said).ids]

    def say(*_: object) -> Said:
        yield from tokens
        return "stop"

    monkeypatch.setattr(engine, "say", say)

    def ask(**body: Any) -> Answering:
        return Answering.begin(engine, json.dumps({**ASK, **body}).encode(), auto_tool_choice=True)

    [choice] = ask(tools=tiny.TOOLS).response()["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    calls = choice["message"]["tool_calls"]
    assert [call["type"] for call in calls] == ["function", "function"]
    assert calls[0]["id"] != calls[1]["id"]
    assert calls[0]["function"] == {"name": "parquet_query", "arguments": '{"sql": "SELECT 1"}'}
    assert calls[1]["function"] == {"name": "now", "arguments": "{}"}

    streamed = [chunk["choices"][0] for chunk in ask(tools=tiny.TOOLS, stream=True).chunks()]
    assert [part["delta"]["content"] for part in streamed if part["delta"].get("content")] == []
    found = [call for part in streamed for call in part["delta"].get("tool_calls", [])]
    assert [(call["index"], call["function"]) for call in found] == [(i, c["function"]) for i, c in enumerate(calls)]
    assert streamed[-1]["finish_reason"] == "tool_calls"

    untold = ask().response()
    assert untold["choices"][0]["message"]["content"] == '[parquet_query(sql="SELECT 1"), now()]'
    with pytest.raises(RequestError, match="SM_VLLM_ENABLE_AUTO_TOOL_CHOICE"):
        Answering.begin(engine, json.dumps({**ASK, "tools": tiny.TOOLS}).encode(), auto_tool_choice=False)


def test_a_stream_says_what_the_whole_answer_says(server: Server) -> None:
    for name in NAMES:
        parts = list(server.stream({"model": name, **ASK, "stream_options": {"include_usage": True}}))
        whole = server.post({"model": name, **ASK})[1]
        choices = [choice for part in parts for choice in part["choices"]]
        assert "".join(c["delta"].get("content", "") for c in choices) == whole["choices"][0]["message"]["content"]
        assert choices[-1]["finish_reason"] == whole["choices"][0]["finish_reason"]
        assert parts[-1]["usage"] == whole["usage"]
        assert len(parts) > 3
        assert {part["object"] for part in parts} == {"chat.completion.chunk"}
        assert {part["model"] for part in parts} == {name}


def test_who_hangs_up_leaves_the_model_to_others(server: Server) -> None:
    stream = server.stream({"model": "base", **ASK, "max_tokens": 150})
    next(stream)
    stream.close()
    assert answer(server, "base")["content"]


def test_the_cache_changes_no_word(engine: Engine) -> None:
    prompt = [0, 5, 9, 40, 77, 120, 33, 61]
    answer = collect(say(engine.model, prompt, max_tokens=12, temperature=0, end_of_turn=-1))
    ids = list(prompt)
    with torch.no_grad():
        for token in answer.tokens:
            logits = engine.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            assert int(logits.argmax()) == token.id
            assert float(torch.log_softmax(logits, -1)[token.id]) == pytest.approx(token.logprob, abs=1e-4)
            ids.append(token.id)
    assert answer.finish_reason == "length"
    assert len(answer.tokens) == 12


def test_stops_at_the_end_of_turn(engine: Engine) -> None:
    prompt = [0, 5, 9, 40]
    free = collect(say(engine.model, prompt, max_tokens=6, temperature=0, end_of_turn=-1))
    end = free.tokens[3].id
    stopped = collect(say(engine.model, prompt, max_tokens=6, temperature=0, end_of_turn=end))
    assert stopped.finish_reason == "stop"
    assert stopped.tokens == free.tokens[: [token.id for token in free.tokens].index(end)]


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "serving.local_server"],
        env=tiny.child_environment(tmp_path, SAGEMAKER_BIND_TO_PORT="0"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("failed: ")
    assert "config.json is missing" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"SM_VLLM_LORA_MODULES": "stanley"}, "SM_VLLM_LORA_MODULES=stanley must have the form NAME=PATH"),
        ({"SM_VLLM_LORA_MODULES": "[a=/x"}, "must be NAME=PATH, or a JSON list of them"),
        ({"SAGEMAKER_BIND_TO_PORT": "http"}, "SAGEMAKER_BIND_TO_PORT=http must be a whole number"),
        ({"SM_VLLM_MAX_MODEL_LEN": "auto"}, "SM_VLLM_MAX_MODEL_LEN=auto must be a whole number"),
    ],
)
def test_bad_settings_name_the_variable(values: dict[str, str], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        Settings.from_environment({"SM_VLLM_ENABLE_LORA": "true", **values})


@pytest.mark.parametrize("names", [("stanley",), ADAPTERS])
def test_settings_follow_the_vllm_image(names: tuple[str, ...]) -> None:
    found = Settings.from_environment(
        {
            "HEARTBEAT_OPT_ML": "/somewhere",
            **ContainerSettings(tensor_parallel_size=1, max_model_len=9, adapters=names).environment(),
        }
    )
    assert found.base == Path("/somewhere/model")
    assert found.adapters == {name: Path("/somewhere/additional-model-data-sources") / name for name in names}
    assert (found.host, found.port) == ("127.0.0.1", 8080)


def test_an_adapter_of_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "adapter"
    save_adapter(folder, base)
    weights = load_file(folder / adapter.WEIGHTS)
    short = {name: tensor for name, tensor in weights.items() if ".layers.3." not in name}
    save_file(short, folder / adapter.WEIGHTS)
    with pytest.raises(TrainingError, match=r"not an adapter of this base model: .*layers\.3\."):
        Engine.load(base, "base", {"stanley": folder}, None)


def test_defaults_of_a_request() -> None:
    request = Request.from_body(json.dumps({"messages": ASK["messages"]}).encode(), {"base": False, "stanley": True})
    assert (request.model, request.max_tokens, request.temperature) == ("base", 256, 1.0)
    with pytest.raises(RequestError, match="seed=-1"):
        Request.from_body(json.dumps({"messages": [], "seed": -1}).encode(), {"base": False})
