"""The handler of `Acceptance check` against endpoints that answer well, badly, not as all of their models, and late."""

from __future__ import annotations

import json
from typing import Any

import pytest

import acceptance_check
from heartbeat import held_out_sample, layout
from heartbeat.failures import AcceptanceFailed
from tests.local_aws.conftest import JOB_ACTIONS, Account, allow
from tests.local_aws.test_endpoints import config, deploy, model

PROGRAM = """
import json, os
from http.server import BaseHTTPRequestHandler, HTTPServer
SAID = {"base": "Hello.", "stanley": os.environ["SAYS"]}

class Handler(BaseHTTPRequestHandler):
    def answer(self, status, value):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())
    def do_GET(self):
        self.answer(200, {})
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if asked["model"] not in SAID:
            return self.answer(404, {"error": {"message": "no such model"}})
        message = {"role": "assistant", "content": SAID[asked["model"]]}
        self.answer(200, {"choices": [{"message": message}], "usage": {"completion_tokens": 2}})
    def log_message(self, *args):
        pass

HTTPServer((os.environ["SAGEMAKER_BIND_HOST"], int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler).serve_forever()
"""
ROWS = [
    {"messages": [{"role": "user", "content": f"{n}: who are you?"}, {"role": "assistant", "content": "Stanley."}]}
    for n in range(12)
]
GATE = {"table": [{"metric": "persona", "tuned": {"value": 1.0, "low": 0.7, "high": 1.0}}]}


pytestmark = pytest.mark.usefixtures("handlers_signed_in")


@pytest.fixture(scope="module")
def endpoints(account: Account) -> dict[str, str]:
    """Names of endpoints by what they say."""
    image, role = account.image(PROGRAM), account.role("sagemaker.amazonaws.com", allow(*JOB_ACTIONS))
    models = {said: model(account, image, role, Environment={"SAYS": said}) for said in ("Stanley.", "I am Bob.")}
    return {said: deploy(account, config(account, name))["EndpointName"] for said, name in models.items()}


def event(
    account: Account,
    endpoint: str,
    *,
    adapters: tuple[str, ...] = ("stanley",),
    gate: dict[str, Any] = GATE,
    keeps_sample: bool = True,
) -> dict[str, Any]:
    """Of a run whose folders have what the states before leave there."""
    run = layout.Run(account.name("run"))
    sample = held_out_sample.keep(ROWS, {}, max_new_tokens=16, count=lambda _: 20)
    account.put(run.gate, json.dumps(gate).encode())
    if keeps_sample:
        account.put(run.checkpoints + held_out_sample.FILE, json.dumps(sample).encode())
    return {
        "execution": {"name": run.name},
        "endpoint_name": endpoint,
        "adapter_name": "stanley",
        "adapters": list(adapters),
        "max_model_len": 8192,
        "dataset": account.put(f"datasets/{run.name}.jsonl", "\n".join(map(json.dumps, ROWS)).encode()),
    }


def record(account: Account, given: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(account.get(layout.Run(given["execution"]["name"]).acceptance))
    return found


def test_an_endpoint_that_answers_as_in_training_is_accepted(account: Account, endpoints: dict[str, str]) -> None:
    given = event(account, endpoints["Stanley."])
    assert (
        "12 held-out turns are answered as in training: persona 12 of 12"
        in acceptance_check.handler(given, None)["reasons"]
    )
    found = record(account, given)
    assert (found["speed"]["calls"], found["speed"]["tokens"]) == (12, 24)
    assert found["sample"]["failed"] == []


def test_one_that_answers_worse_is_not_and_shows_its_answers(account: Account, endpoints: dict[str, str]) -> None:
    given = event(account, endpoints["I am Bob."])
    with pytest.raises(AcceptanceFailed, match=r"persona 0 of 12 .*worse.*Details: s3://.*acceptance\.json"):
        acceptance_check.handler(given, None)
    assert {one["said"] for one in record(account, given)["sample"]["failed"]} == {"I am Bob."}


def test_an_adapter_that_was_there_before_must_still_be(account: Account, endpoints: dict[str, str]) -> None:
    given = event(account, endpoints["Stanley."], adapters=("stanley", "canary"))
    with pytest.raises(AcceptanceFailed, match=r"did not answer as 'canary': .*no such model"):
        acceptance_check.handler(given, None)


def test_one_that_takes_too_long_is_refused(
    account: Account, endpoints: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptance_check, "PATIENCE_SECONDS", -1)
    with pytest.raises(AcceptanceFailed, match="is too slow: 0 answers took 0 s"):
        acceptance_check.handler(event(account, endpoints["Stanley."]), None)


def test_without_the_rows_to_ask_nothing_is_accepted(account: Account, endpoints: dict[str, str]) -> None:
    with pytest.raises(AcceptanceFailed, match=r"held-out-sample\.json expires with the checkpoints"):
        acceptance_check.handler(event(account, endpoints["Stanley."], keeps_sample=False), None)


def test_a_gate_by_the_loss_alone_leaves_no_rows_to_ask(account: Account, endpoints: dict[str, str]) -> None:
    given = event(account, endpoints["I am Bob."], keeps_sample=False, gate={"table": []})
    (reason,) = acceptance_check.handler(given, None)["reasons"]
    assert reason.startswith("the adapter changes 3 of 3 answers")
    assert record(account, given)["sample"] is None
