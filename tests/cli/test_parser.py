"""The command line's words: what is understood, what is refused in one line, and what the help promises."""

from __future__ import annotations

import argparse
import importlib
import shlex
import subprocess
import sys

import pytest

from heartbeat.cli.parser import PROGRAM, Parser, make_parser, parse


def commands() -> dict[str, Parser]:
    parser = make_parser()
    (action,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(action.choices)


def examples() -> list[str]:
    lines = [line.strip() for parser in commands().values() for line in (parser.epilog or "").splitlines()]
    return [line.removeprefix(PROGRAM).strip() for line in lines if line.startswith(PROGRAM)]


@pytest.mark.parametrize("example", examples())
def test_every_example_of_the_help_is_understood(example: str) -> None:
    assert parse(shlex.split(example)).module


@pytest.mark.parametrize("name", commands())
def test_every_command_has_its_module(name: str) -> None:
    module = importlib.import_module(f"heartbeat.cli.{commands()[name].get_default('module')}")
    assert callable(module.run)


def test_settings_may_stand_before_and_after_options() -> None:
    arguments = parse(["plan", "data.jsonl", "LORA_R=8", "--json", "MAX_STEPS=200"])
    assert arguments.dataset == "data.jsonl"
    assert arguments.settings == ["LORA_R=8", "MAX_STEPS=200"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plna"], "'plna' is not known here; did you mean plan?"),
        (["status", "MAX_STEPS=2"], "'MAX_STEPS=2' makes no sense here"),
        (["plan", "data.jsonl", "--expl"], None),
        (["plan", "data.jsonl", "--frobnicate"], "'--frobnicate' makes no sense here"),
        (["plan", "data.jsonl", "--budget", "much"], "heartbeat: --budget much: give dollars, such as 200 ("),
        (["demo", "--keep", "--stop"], "not allowed with argument"),
        ([], "required: COMMAND"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(
    words: list[str], said: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if said is None:  # an option may be shortened while it is clear which is meant
        assert parse(words).explain
        return
    with pytest.raises(SystemExit) as ended:
        parse(words)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_help_needs_the_standard_library_only() -> None:
    code = (
        "import sys\nfrom heartbeat.cli import main\n"
        "try:\n    main(['plan', '--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'rich', 'boto3', 'torch', 'sagemaker'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    assert "MAX_STEPS=200" in done.stdout
