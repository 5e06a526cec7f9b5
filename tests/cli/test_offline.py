"""`check` and `plan`: on files, without an account."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from heartbeat.cli import main
from heartbeat.cli.check import chart

ROOT = Path(__file__).resolve().parents[2]
STANLEY = str(ROOT / "examples" / "stanley" / "stanley.jsonl")
NF4 = ("--trainer", "nf4")  # the one that Scout can be planned for
TINY = str(ROOT / "examples" / "tiny_base" / "checkpoint")


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


def line(question: str, **more: Any) -> str:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": f"So {question}"}]
    return json.dumps({"messages": messages, **more})


@pytest.fixture
def broken(tmp_path: Path) -> str:
    path = tmp_path / "broken.jsonl"
    wrong = json.dumps({"messages": [{"role": "bot", "content": "hi"}]})
    path.write_text("\n".join([line("one"), wrong, "{", line("one")]))
    return str(path)


def test_check_shows_findings_with_their_lines(broken: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", broken]) == 1
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["line", "2", "error"]
    assert any(text.split()[:3] == ["line", "3", "error"] for text in lines)
    assert any(text.split()[:3] == ["line", "4", "warning"] for text in lines)
    assert "says the same as line 1" in out


def test_check_shows_errors_before_warnings_and_says_what_it_hides(
    broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", broken, "--max-findings", "1"]) == 1
    out = capsys.readouterr().out
    assert "line 2" in out
    assert "line 4" not in out
    assert "more (--max-findings shows them" in out


def test_check_fix_writes_a_copy_says_what_changed_and_never_overwrites(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, copy = tmp_path / "chat.jsonl", tmp_path / "chat.fixed.jsonl"
    rows = '{"messages": [{"role": "human", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n{oops\n'
    file.write_text(rows)
    assert main(["check", str(file), "--fix"]) == 0
    said = capsys.readouterr().out
    assert "line 1        wrote role 'human' as 'user'" in said
    assert "line 2        dropped it" in said
    assert "1 row, 1 of them changed; 1 dropped" in said
    assert file.read_text() == rows
    assert main(["check", str(copy), "--fast"]) == 0
    before = copy.read_bytes()
    assert main(["check", str(file), "--fix"]) == 2
    assert "is there already and is not overwritten" in capsys.readouterr().err
    assert copy.read_bytes() == before
    assert main(["check", str(copy), "--fix"]) == 0
    assert "nothing to repair; no copy was written" in capsys.readouterr().out
    file.write_text("{oops\n")
    copy.unlink()
    assert main(["check", str(file), "--fix"]) == 2
    assert not copy.exists()


def test_check_shows_a_chart_and_says_which_tokens_are_estimates(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", STANLEY, "--fast"]) == 0
    said = capsys.readouterr().out
    assert "█" in said
    assert "Tokens are an estimate" in said
    assert "--fast estimates them" in said


def test_check_holds_a_held_out_file_against_the_training_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", STANLEY, "--held-out", STANLEY, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["overlap"] > 300
    assert main(["check", STANLEY, "--held-out", "nope.jsonl"]) == 2
    assert "there is no file nope.jsonl" in capsys.readouterr().err


def test_the_chart_shows_the_smallest_count() -> None:
    lines = [str(line) for line in chart({"1-64": 1, "65-128": 0, "129-256": 4000})]
    assert [line.split() for line in lines] == [["1-64", "▏", "1"], ["65-128", "0"], ["129-256", "█" * 40, "4,000"]]


def test_check_as_json_is_one_object(broken: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", broken, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["num_errors"] >= 2
    assert {finding["line"] for finding in found["findings"]} == {2, 3, 4}


def test_the_example_dataset_is_sound(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", STANLEY]) == 0
    assert "0 errors" in capsys.readouterr().out


def test_plan_marks_the_chosen_instance(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", STANLEY, *NF4, "--instances", "ml.g5.12xlarge,ml.p5.4xlarge", "MAX_STEPS=40"]) == 0
    rows = [text for text in capsys.readouterr().out.splitlines() if " ml." in text and text.rstrip()[-3:-2] == "."]
    assert ["→" in row for row in rows] == [True, False]
    assert "ml.g5.12xlarge" in rows[0]


def test_plan_as_json_has_what_the_table_shows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", STANLEY, *NF4, "--json", "MAX_STEPS=40"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["feasible"]
    assert plan["hyperparameters"]["MAX_STEPS"] == "40"
    assert plan["serving"]["instance_type"]


def test_all_instances_come_cheapest_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", STANLEY, *NF4, "--all-instances", "--json", "MAX_STEPS=40"]) == 0
    prices = [candidate["usd_on_demand"] for candidate in json.loads(capsys.readouterr().out)["candidates"]]
    assert len(prices) > 5
    assert prices == sorted(prices)


def test_a_refused_plan_says_why_and_what_would_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", STANLEY, *NF4, "--instances", "ml.g6.xlarge"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "✗ This run fits no instance asked for" in out
    assert "What would fit:" in out


def test_what_only_another_trainer_could_do_is_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", STANLEY, "--instances", "ml.p5.4xlarge"]) == 1
    assert "--trainer nf4 plans for them" in " ".join(capsys.readouterr().out.split())


def test_a_tiny_model_is_planned_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", STANLEY, "--base-model", TINY, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["candidates"][0]["gpu_memory_needed_gib"] < 10
    suggested = json.loads((Path(TINY) / "training_defaults.json").read_text())
    assert plan["hyperparameters"]["MAX_STEPS"] == suggested["MAX_STEPS"]


def test_the_card_does_not_hold(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--card"]) == 0
    out = capsys.readouterr().out
    assert "17 B parameters" in out
    assert "108.6 B" in out
    assert "✓" not in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([STANLEY, "MAX_STEP=2"], "MAX_STEP is not a setting; did you mean MAX_STEPS?"),
        ([STANLEY, "MAX_STEPS=0"], "MAX_STEPS=0 must be at least 1"),
        ([STANLEY, "MAX_STEPS=2", "MAX_STEPS=3"], "MAX_STEPS is given twice"),
        ([STANLEY, "fast"], "'fast' is not KEY=VALUE"),
        ([STANLEY, "--budget", "-1"], "--budget -1 must be a number of dollars above 0"),
        ([STANLEY, "--instances", "ml.p5.4xlrge"], "did you mean ml.p5.4xlarge"),
        ([STANLEY, "--instances", "ml.p5.4xlarge", "--all-instances"], "contradict each other"),
        ([STANLEY, "--base-model", "."], "has no config.json"),
        ([], "name a dataset"),
    ],
)
def test_a_mistake_is_named(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_broken_dataset_is_not_planned(broken: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", broken]) == 2
    assert "cannot be trained on" in capsys.readouterr().err
