"""What is staged, and that exactly an edit to it changes what is deployed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import aws_cdk as cdk
import pytest
from aws_cdk import aws_lambda as lambda_

from heartbeat import measurements
from stacks import bundling
from tests.stacks.reading import only

FILES = {
    "lambda/make_plan.py": "from heartbeat import plan",
    "lambda/notes.txt": "not code",
    "heartbeat/__init__.py": "",
    "heartbeat/plan.py": "HOURS = 8",
    "heartbeat/instances.csv": "a,b",
    "heartbeat/probes.jsonl": "{}",
    "heartbeat/__main__.py": "import heartbeat.cli",
    "heartbeat/cli/__init__.py": "",
    "heartbeat/cli/data.json": "{}",
    "heartbeat/climate.py": "# begins like the command line, and is not it",
    "heartbeat/__pycache__/plan.cpython-311.pyc": "stale",
    "training_code/Dockerfile": "FROM scratch",
    "training_code/train.py": "",
    "training_code/.cache/x": "hidden",
    "tests/test_plan.py": "",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    return tmp_path


def stage_lambda(project: Path) -> Path:
    return bundling.stage_lambda(project, environment=project / ".venv")


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def deployed_key(project: Path) -> str:
    """S3 key of the code in the template of a function that runs the staged folder."""
    cdk.AssetStaging.clear_asset_hash_cache()  # within one process the CDK hashes a path once
    app = cdk.App(outdir=str(project / "cdk.out"), analytics_reporting=False, builtin_cloud_formation_validation=False)
    stack = cdk.Stack(app, "Stack")
    lambda_.Function(
        stack,
        "Function",
        runtime=lambda_.Runtime.PYTHON_3_13,
        handler="make_plan.handler",
        code=lambda_.Code.from_asset(str(stage_lambda(project))),
    )
    key: str = only(app.synth().get_stack_by_name("Stack").template, "AWS::Lambda::Function")["Code"]["S3Key"]
    return key


def test_the_functions_get_handlers_and_domain_and_nothing_else(project: Path) -> None:
    assert names(stage_lambda(project)) == {
        "make_plan.py",
        "heartbeat/__init__.py",
        "heartbeat/plan.py",
        "heartbeat/climate.py",
        "heartbeat/instances.csv",
        "heartbeat/probes.jsonl",
    }


def test_what_counts_tokens_comes_along_where_the_environment_has_it(project: Path) -> None:
    before = deployed_key(project)
    for name in ("lambda/tiktoken/core.py", "lambda/tiktoken/_tiktoken.so", "lambda/tiktoken-0.dist-info/RECORD"):
        file = project / ".venv" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    assert deployed_key(project) == before  # of no use without the vocabulary
    (project / ".venv/llama4").mkdir()
    (project / ".venv/llama4/tokenizer.model").write_text("")
    further = {"packages/tiktoken/core.py", "packages/tiktoken/_tiktoken.so", "llama4/tokenizer.model"}
    assert further < names(stage_lambda(project))
    assert not any("dist-info" in name for name in names(stage_lambda(project)))
    assert deployed_key(project) != before


def test_the_image_gets_trainer_and_domain_and_nothing_else(project: Path) -> None:
    assert names(bundling.stage_training_image(project)) == {
        "training_code/Dockerfile",
        "training_code/train.py",
        "heartbeat/__init__.py",
        "heartbeat/plan.py",
        "heartbeat/climate.py",
        "heartbeat/instances.csv",
        "heartbeat/probes.jsonl",
    }


def test_another_gate_file_takes_the_place_of_the_bundled_one(project: Path) -> None:
    (project / "heartbeat/gate.toml").write_text("default")
    (project / "own.toml").write_text("own")
    own = bundling.stage_lambda(project, project / ".venv", project / "own.toml")
    default = bundling.stage_lambda(project, project / ".venv", project / "heartbeat/gate.toml")
    assert own != default == stage_lambda(project)
    assert (own / "heartbeat/gate.toml").read_text() == "own"
    assert (default / "heartbeat/gate.toml").read_text() == "default"
    assert names(own) == names(default)


@pytest.mark.parametrize("stage", [stage_lambda, bundling.stage_training_image])
def test_files_that_went_away_leave_the_staging_folder(project: Path, stage: Callable[[Path], Path]) -> None:
    (project / "heartbeat/shapes").mkdir()
    (project / "heartbeat/shapes/scout.py").write_text("")
    assert "heartbeat/shapes/scout.py" in names(stage(project))
    (project / "heartbeat/shapes/scout.py").unlink()
    staged = stage(project)
    assert not (staged / "heartbeat/shapes").exists()
    assert "heartbeat/plan.py" in names(staged)


def test_a_file_may_become_a_folder(project: Path) -> None:
    stage_lambda(project)
    (project / "heartbeat/plan.py").unlink()
    (project / "heartbeat/plan.py").mkdir()
    (project / "heartbeat/plan.py/inner.py").write_text("")
    assert "heartbeat/plan.py/inner.py" in names(stage_lambda(project))


@pytest.mark.parametrize("edited", ["heartbeat/plan.py", "heartbeat/instances.csv", "lambda/make_plan.py"])
def test_an_edit_of_what_is_deployed_changes_the_key(project: Path, edited: str) -> None:
    before = deployed_key(project)
    (project / edited).write_text("changed")
    assert deployed_key(project) != before


@pytest.mark.parametrize(
    "edited", ["heartbeat/cli/__init__.py", "heartbeat/__main__.py", "tests/test_plan.py", "training_code/train.py"]
)
def test_an_edit_of_what_is_not_deployed_keeps_the_key(project: Path, edited: str) -> None:
    before = deployed_key(project)
    (project / edited).write_text("changed")
    assert deployed_key(project) == before


def test_neither_time_nor_mode_counts(project: Path) -> None:
    before = deployed_key(project)
    file = project / "heartbeat/plan.py"
    file.chmod(0o755)
    os.utime(file, (1, 1))
    stage_lambda(project)
    assert deployed_key(project) == before


def test_staging_again_touches_nothing(project: Path) -> None:
    staged = stage_lambda(project)
    before = {path: path.stat().st_mtime_ns for path in staged.rglob("*")}
    stage_lambda(project)
    assert {path: path.stat().st_mtime_ns for path in staged.rglob("*")} == before


def test_the_projects_own_code_is_staged() -> None:
    staged = bundling.stage_training_image()
    assert staged.is_relative_to(bundling.ROOT / ".build")
    assert "heartbeat/job.py" in names(staged)
    assert any(name.startswith("heartbeat/measured/") for name in names(staged))
    for name in names(staged):
        source = name.replace("heartbeat/measured/", "benchmarks/results/")
        assert (staged / name).read_bytes() == (bundling.ROOT / source).read_bytes()


def test_a_bundle_knows_the_measured_rates() -> None:
    code = "from heartbeat import measurements; print(len(measurements.load()))"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=bundling.stage_lambda(), capture_output=True, text=True, check=True
    )
    assert int(ran.stdout) == len(measurements.load()) > 0
