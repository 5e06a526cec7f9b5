"""What commands make of their options, and what they refuse before anything is sent."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from heartbeat.catalog import load
from heartbeat.cli import base_model, images
from heartbeat.cli.cdk import _stage
from heartbeat.cli.endpoint import shown
from heartbeat.cli.errors import UserError
from heartbeat.cli.parser import parse
from heartbeat.cli.run import execution_input
from heartbeat.cli.status import Running, _price_notes, is_of
from stacks.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "examples" / "tiny_base" / "checkpoint"


# --- run


def test_without_options_the_input_is_empty() -> None:
    assert execution_input(parse(["run"])) == {}


def test_options_win_over_the_given_input(tmp_path: Path) -> None:
    path = tmp_path / "input.json"
    path.write_text(json.dumps({"budget_usd": 60, "deploy": True, "hyperparameters": {"LORA_R": 8, "MAX_STEPS": 9}}))
    words = ["run", "MAX_STEPS=200", "--no-deploy", "--spot", "--instances", "ml.p5.4xlarge, ml.g7e.8xlarge"]
    assert execution_input(parse([*words, "--input", f"@{path}"])) == {
        "budget_usd": 60,
        "deploy": False,
        "use_spot": True,
        "instance_types": ["ml.p5.4xlarge", "ml.g7e.8xlarge"],
        "hyperparameters": {"LORA_R": 8, "MAX_STEPS": "200"},
    }


def test_a_dataset_in_s3_is_the_inputs_and_a_file_has_no_address_yet() -> None:
    assert (
        execution_input(parse(["run", "--dataset", "s3://b/datasets/x.jsonl"]))["dataset"] == "s3://b/datasets/x.jsonl"
    )
    given = '{"dataset": "s3://b/datasets/old.jsonl"}'
    assert "dataset" not in execution_input(parse(["run", "--dataset", "new.jsonl", "--input", given]))


@pytest.mark.parametrize(("given", "said"), [("{", "--input is not JSON"), ("[]", "--input must be a JSON object")])
def test_an_input_that_is_no_object_is_refused(given: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        execution_input(parse(["run", "--input", given]))


# --- base-model


def test_a_whole_checkpoint_is_listed() -> None:
    files = base_model.checkpoint_files(CHECKPOINT)
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= files.keys()


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors"])
def test_a_checkpoint_that_lacks_a_file_is_not_uploaded(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(CHECKPOINT, folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"lacks {name}"):
        base_model.checkpoint_files(folder)


def test_another_models_checkpoint_is_not_uploaded(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(CHECKPOINT, folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="HeartBeat trains Llama 4"):
        base_model.checkpoint_files(folder)


# --- images


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "stacks").mkdir()
    shutil.copy(ROOT / "stacks" / "settings.py", tmp_path / "stacks")
    shutil.copy(ROOT / "cdk.json", tmp_path)
    return tmp_path


def test_the_pin_is_what_the_stacks_deploy() -> None:
    context = json.loads((ROOT / "cdk.json").read_text())["context"]
    for environment in ("dev", "prod"):
        deployed = Settings.from_context(context, environment).vllm_image
        assert images.pinned_image(ROOT, environment) == deployed


def test_a_new_pin_changes_nothing_else_of_cdk_json(project: Path) -> None:
    before = json.loads((project / "cdk.json").read_text())
    images.pin_image(project, "prod", "vllm:9.9.9-gpu")
    after = json.loads((project / "cdk.json").read_text())
    assert images.pinned_image(project, "prod") == "vllm:9.9.9-gpu"
    assert images.pinned_image(project, "dev") == images.pinned_image(ROOT, "dev")
    assert after["context"]["heartbeat"]["prod"].pop("vllm_image") == "vllm:9.9.9-gpu"
    before["context"]["heartbeat"]["prod"].pop("vllm_image", None)
    assert after == before


def test_an_unknown_environment_is_named(project: Path) -> None:
    with pytest.raises(UserError, match=r"--environment stage is not in cdk\.json; there are dev, prod"):
        images.pinned_image(project, "stage")


# --- what is shown


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "  Suzuki leads. "}, "Suzuki leads."),
        ({"content": None}, "(nothing)"),
        (
            {
                "tool_calls": [
                    {"function": {"name": "parquet_query", "arguments": '{"player": "Slafkovský", "top": 3}'}}
                ]
            },
            'parquet_query(player="Slafkovský", top=3)',
        ),
        ({"tool_calls": [{"function": {"name": "search", "arguments": "{broken"}}]}, "search({broken)"),
        ({"tool_calls": [{"function": {"name": "find", "arguments": {"player": "Dobeš"}}}]}, 'find(player="Dobeš")'),
        ({"tool_calls": [{"function": {"name": "find", "arguments": "3"}}]}, "find(3)"),
    ],
)
def test_an_answer_is_shown_as_one_reads_it(message: dict[str, Any], text: str) -> None:
    assert shown(message) == text


@pytest.mark.parametrize(
    ("line", "stage"),
    [
        (
            "HeartBeat-dev-Storage |  7/13 | 2:23:38 PM | CREATE_COMPLETE | AWS::S3::Bucket | Data",
            "HeartBeat-dev-Storage 7/13",
        ),
        (
            "HeartBeat-dev-Storage: start: Publishing HeartBeat-dev-Storage Template",
            "HeartBeat-dev-Storage: publishing",
        ),
        ("HeartBeat-dev-Storage: deploying... [1/4]", "HeartBeat-dev-Storage: deploying"),
        ("✨  Deployment time: 5.16s", None),
    ],
)
def test_the_cdks_log_tells_where_it_is(line: str, stage: str | None) -> None:
    assert _stage(line) == stage


@pytest.mark.parametrize(
    ("endpoint", "mine"),
    [
        ("heartbeat-dev", True),
        ("heartbeat-dev-canary", True),
        ("heartbeat-development", False),
        ("x-heartbeat-dev", False),
    ],
)
def test_only_the_environments_own_endpoints_are_its(endpoint: str, mine: bool) -> None:
    assert is_of(endpoint, "dev") is mine


def test_what_bills_now_says_from_when_its_prices_are() -> None:
    of = [_running("1 x ml.p5.4xlarge, 2 x ml.g5.xlarge"), _running("1 x ml.m5.large")]
    assert _price_notes(of) == "unverified, us-east-1, as of 2026-11" + (
        ", OLD: over 90 days" if load().get("ml.p5.4xlarge").price_is_old(datetime.now(UTC).date()) else ""
    )
    assert _price_notes(of[1:]) == "of heartbeat/instances.csv"


def _running(instances: str) -> Running:
    since = datetime.now(UTC)
    return Running(kind="endpoint", name="x", status="x", instances=instances, since=since, usd_per_hour=None)
