"""The endpoint's settings and tool calls, held to vLLM's own code: `make test-vllm`, which downloads it (0.3 GB)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartbeat.chat import render, text_of
from heartbeat.client import Stream
from heartbeat.container_settings import ContainerSettings
from heartbeat.job import VLLM_LORA_RANKS
from heartbeat.tool_call_parser import parse_calls
from heartbeat.tool_calls import write_calls
from tests.unit.test_container_settings import SETTINGS, words
from tests.unit.test_tool_call_parser import CALLS, NOT_CALLS, READ

ROOT = Path(__file__).resolve().parents[2]
VLLM = ROOT / ".build" / "vllm"
PACKAGES = Path(__file__).with_name("vllm-packages.txt")
PARSER = ContainerSettings(**SETTINGS).tool_call_parser

pytestmark = pytest.mark.skipif(
    os.environ.get("HEARTBEAT_TEST_VLLM") != "1" and not (VLLM / "vllm").is_dir(), reason="needs `make test-vllm`"
)


class Vllm:
    def __init__(self) -> None:
        path = os.pathsep.join([str(VLLM), str(ROOT)])
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("vllm_worker.py"))],
            env={**os.environ, "PYTHONPATH": path, "VLLM_LOGGING_LEVEL": "CRITICAL", "VLLM_NO_USAGE_STATS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.version = self._answer()

    def parse(self, environment: Mapping[str, str]) -> dict[str, Any]:
        found: dict[str, Any] = self._ask(words=words(environment))
        return found

    def calls(self, text: str) -> list[tuple[str, Any]] | None:
        found = self._ask(parser=PARSER, text=text)
        return None if found is None else [(name, json.loads(arguments)) for name, arguments in found]

    def streamed(self, pieces: list[str]) -> list[tuple[str, Any]]:
        """The calls that the Python client puts together from what is streamed."""
        chunks = [{"choices": [{"delta": delta}]} for delta in self._ask(parser=PARSER, pieces=pieces)]
        said = Stream("e", [{"PayloadPart": {"Bytes": f"data: {json.dumps(chunk)}\n\n".encode()}} for chunk in chunks])
        assert list(said) == []
        calls = [call["function"] for call in said.message.get("tool_calls", [])]
        return [(call["name"], json.loads(call["arguments"])) for call in calls]

    def _ask(self, **request: Any) -> Any:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, f"vLLM ended with {self._process.wait()}; standard error says why"
        return json.loads(line)

    def end(self) -> None:
        self._process.communicate(timeout=30)


@pytest.fixture(scope="module")
def vllm() -> Iterator[Vllm]:
    made = Vllm()
    yield made
    made.end()


def ours(text: str) -> list[tuple[str, Any]] | None:
    found = parse_calls(text)
    return None if found is None else [(call.name, call.arguments) for call in found]


def test_it_is_the_version_that_serves(vllm: Vllm) -> None:
    pinned = re.search(r'"vllm:([\d.]+)-', (ROOT / "stacks" / "settings.py").read_text())
    assert pinned
    assert vllm.version == pinned[1]
    assert f"vllm=={vllm.version}" in PACKAGES.read_text().splitlines()


def test_every_setting_arrives(vllm: Vllm, tmp_path: Path) -> None:
    made = ContainerSettings(**SETTINGS)
    template = tmp_path / "chat_template.jinja"
    template.write_text((ROOT / "training_code" / "chat_template.jinja").read_text())
    found = vllm.parse({**made.environment(), "SM_VLLM_CHAT_TEMPLATE": str(template)})
    assert found == {
        "model": "/opt/ml/model",
        "served_model_name": ["base"],
        "tensor_parallel_size": 8,
        "max_model_len": 8192,
        "max_num_seqs": 16,
        "gpu_memory_utilization": 0.9,
        "dtype": "bfloat16",
        "quantization": None,
        "limit_mm_per_prompt": {"image": 0},
        "enable_prefix_caching": True,
        "enable_auto_tool_choice": True,
        "tool_call_parser": "llama4_pythonic",
        "enable_lora": True,
        "max_loras": 2,
        "max_lora_rank": 16,
        "lora_modules": {
            "stanley": "/opt/ml/additional-model-data-sources/stanley",
            "canary": "/opt/ml/additional-model-data-sources/canary",
        },
        "chat_template": str(template),
    }


@pytest.mark.parametrize(
    ("changed", "name", "value"),
    [
        ({"adapters": ()}, "enable_lora", None),
        ({"adapters": ("one",)}, "lora_modules", {"one": "/opt/ml/additional-model-data-sources/one"}),
        ({"enable_prefix_caching": False}, "enable_prefix_caching", False),
        ({"quantization": "compressed-tensors"}, "quantization", "compressed-tensors"),
        *[({"max_lora_rank": rank}, "max_lora_rank", rank) for rank in VLLM_LORA_RANKS],
    ],
)
def test_other_values_arrive_too(vllm: Vllm, changed: dict[str, Any], name: str, value: Any) -> None:
    environment = ContainerSettings(**{**SETTINGS, **changed}).environment()
    environment.pop("SM_VLLM_CHAT_TEMPLATE", None)  # a file of the container's
    assert vllm.parse(environment)[name] == value


def test_vllm_refuses_what_it_does_not_know(vllm: Vllm) -> None:
    assert "unrecognized arguments: --max-lora-rang" in vllm.parse({"SM_VLLM_MAX_LORA_RANG": "16"})["refused"]
    assert "--max-lora-rank" in vllm.parse({"SM_VLLM_MAX_LORA_RANK": "17"})["refused"]


def example_turns() -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """What the model is trained to say where it calls tools, and the calls."""
    for line in (ROOT / "examples" / "stanley" / "stanley.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for number, message in enumerate(row["messages"]):
            if not message.get("tool_calls"):
                continue
            said = text_of([p for p in render(row["messages"][: number + 1], row.get("tools")) if p.supervised])
            calls = [call["function"] for call in message["tool_calls"]]
            turn = said.removesuffix("<|eot|>").rpartition("<|eot|>")[2]
            yield turn, [(call["name"], json.loads(call["arguments"])) for call in calls]


def test_every_call_of_the_example_comes_back(vllm: Vllm) -> None:
    seen = 0
    for turn, calls in example_turns():
        assert vllm.calls(turn) == ours(turn) == calls
        seen += 1
    assert seen > 300


def test_every_call_of_the_example_can_be_streamed(vllm: Vllm) -> None:
    for turn, calls in example_turns():
        # Frames of calls are one token each, as vLLM generates them; the rest comes in threes.
        body = turn.removeprefix("<|python_start|>").removesuffix("<|python_end|>")
        pieces = ["<|python_start|>", *(body[at : at + 3] for at in range(0, len(body), 3)), "<|python_end|>"]
        assert vllm.streamed(pieces) == calls


@settings(deadline=None, max_examples=300)
@given(calls=CALLS)
def test_every_call_that_can_be_written_comes_back(vllm: Vllm, calls: list[tuple[str, dict[str, Any]]]) -> None:
    text = write_calls([{"type": "function", "function": {"name": n, "arguments": a}} for n, a in calls])
    assert vllm.calls(text) == ours(text) == calls


@pytest.mark.parametrize("text", [*NOT_CALLS, *(text for text, _ in READ)])
def test_both_parsers_agree_on_what_is_a_call(vllm: Vllm, text: str) -> None:
    assert vllm.calls(text) == ours(text)


_WORDS = ["[", "]", "f(", "g(", ")", "x=", ", ", "1", "-", "'a'", "{", "}", ":", "true", " ", "\n", "<|python_start|>"]


@settings(deadline=None, max_examples=500)
@given(middle=st.lists(st.sampled_from(_WORDS), max_size=8).map("".join), whole=st.booleans())
def test_both_parsers_agree_on_nonsense(vllm: Vllm, middle: str, whole: bool) -> None:
    text = middle if whole else f"[f(x={middle})]"
    assert vllm.calls(text) == ours(text)
