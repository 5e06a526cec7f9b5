"""`check` and `plan`: on files, without an account."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from heartbeat import catalog, measurements
from heartbeat.cli import main, screen
from heartbeat.cli.check import chart

ROOT = Path(__file__).resolve().parents[2]
STANLEY = str(ROOT / "examples" / "stanley" / "stanley.jsonl")
TINY = str(ROOT / "examples" / "tiny_base" / "checkpoint")


_SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A wide terminal, and nobody signed in to AWS."""
    monkeypatch.setenv("COLUMNS", "160")
    for name in [name for name in os.environ if name.startswith("AWS_") and name != "AWS_CA_BUNDLE"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    # It keeps the credentials that another test was the first to need.
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)


def narrow(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """A terminal of so many columns; the console remembers the first width that it sees."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(screen.console(), "_width", width)


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
    assert "… and 2 more (--max-findings shows them). By kind, of all:" in out
    assert "bad_role x 1, not_json x 1, duplicate x 1" in out
    assert f"`python -m heartbeat check {broken} --fix` writes a copy" in out


def test_check_of_a_file_without_sound_rows_shows_no_figures_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "empty.jsonl"
    file.touch()
    assert main(["check", str(file), "--held-out", STANLEY]) == 1
    out = capsys.readouterr().out
    assert "has no rows; write one JSON object a line" in out
    assert "rows  0, of which 0 can be trained on" in out
    assert "longest row" not in out
    assert "--fix" not in out


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


def test_a_repair_of_many_rows_is_told_by_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound = '{"messages": [{"role": "user", "content": "Hi %d"}, {"role": "assistant", "content": "Hello"}]}\n'
    file = tmp_path / "chat.jsonl"
    rows = [sound % 0, "{oops\n", *(sound.replace("user", "human") % n for n in range(1, 5)), sound % 0, "{oops\n"]
    file.write_text("".join(rows))
    assert main(["check", str(file), "--fix", "--max-findings", "1"]) == 0
    said = capsys.readouterr().out
    assert said.count("  line ") == 1
    assert "4 x  wrote role 'human' as 'user', line 3" in said
    assert "2 x  dropped (not_json), line 2" in said
    assert "1 x  dropped (duplicate), line 7" in said
    file.with_name("chat.fixed.jsonl").unlink()
    assert main(["check", str(file), "--fix", "--max-findings", "50"]) == 0
    assert "x  dropped" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"question,answer\nHi,Hello\n", b"\x1f\x8b\x08\x00", b"\xff\xfe{\x00"])
def test_a_repair_is_not_offered_where_it_can_only_refuse(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "other"
    file.write_bytes(content)
    assert main(["check", str(file)]) == 1
    assert "--fix" not in capsys.readouterr().out
    assert main(["check", str(file), "--fix"]) == 2


def test_check_shows_a_chart_and_says_which_tokens_are_estimates(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", STANLEY, "--fast"]) == 0
    said = capsys.readouterr().out
    assert "█" in said
    assert "Tokens are an estimate" in said
    assert "--fast estimates them" in said


def test_check_shows_what_the_split_holds_out_of_each_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", STANLEY, "--fast", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert main(["check", STANLEY, "--fast"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    held_out = summary["held_out_strata"]
    by_tools = said.partition(" by tools ")[2].partition(" by language ")[0]
    assert f"parquet_query: {held_out['routes']['parquet_query']} of {summary['routes']['parquet_query']}," in by_tools
    assert f"fr: {held_out['languages']['fr']} of {summary['languages']['fr']}" in said
    assert f"by questions 1: {held_out['questions']['1']} of {summary['questions']['1']}" in said
    assert main(["check", STANLEY, "--fast", "--held-out", STANLEY]) == 1
    assert f"rows by language en x {summary['languages']['en']}" in " ".join(capsys.readouterr().out.split())


def test_check_holds_a_held_out_file_against_the_training_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", STANLEY, "--held-out", STANLEY, "--json"]) == 1
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
    assert main(["plan", STANLEY, "--instances", "ml.g5.12xlarge,ml.p5.4xlarge", "MAX_STEPS=40"]) == 0
    table = capsys.readouterr().out.split("~ is scaled")[0]
    rows = [text for text in table.splitlines() if " ml." in text]
    assert ["→" in row for row in rows] == [True, False]
    assert "ml.g5.12xlarge" in rows[0]


def test_plan_as_json_has_what_the_table_shows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", STANLEY, "--json", "MAX_STEPS=40"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["feasible"]
    assert plan["hyperparameters"]["MAX_STEPS"] == "40"
    assert plan["serving"][0]["instance_type"]


@pytest.mark.parametrize(("rank", "figure"), [("cost", "usd_on_demand"), ("time", "hours")])
def test_the_whole_catalogue_is_ranked(rank: str, figure: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", STANLEY, "--rank", rank, "--json", "MAX_STEPS=40"]) == 0
    figures = [candidate[figure] for candidate in json.loads(capsys.readouterr().out)["candidates"]]
    assert len(figures) > 5
    assert figures == sorted(figures)


def test_the_page_says_where_figures_are_from_and_what_was_not_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", STANLEY, "--instances", "ml.p5.4xlarge"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Quota not checked (no AWS credentials)" in out
    assert "ml.p5.4xlarge: measured (benchmarks/results/resident-" in out
    assert "unverified, us-east-1, as of 2026-11" in out


def test_a_better_instance_than_the_cards_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", STANLEY]) == 0
    assert "Clearly cheaper: ml.g7e.2xlarge: " in capsys.readouterr().out


def test_explain_shows_terms_that_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", STANLEY, "--instances", "ml.p5.4xlarge", "--explain"]) == 0
    out = capsys.readouterr().out
    blocks = out.split("GiB of each GPU, ml.p5.4xlarge, resident")[1].split("GiB of the host")[0]
    figures = [float(found[1]) for text in blocks.splitlines() if (found := re.search(r"[a-z] +([\d.]+) *$", text))]
    *terms, together, there_are = figures
    assert len(terms) == 7
    assert sum(terms) == pytest.approx(together, abs=0.05)
    assert together < there_are == 78
    assert "routed experts          96.637" in out
    modes = [text.split() for text in out.split("every mode")[1].splitlines() if text.startswith(" ml.p5.4xlarge ")]
    assert [row[1] for row in modes] == ["resident", "streamed"]
    assert float(modes[0][2]) == pytest.approx(there_are - together, abs=0.1)
    assert " TFLOP" in out
    seconds, price, usd = re.search(r"([\d,.]+) s / 3,600 x \$([\d.]+) an hour = \$([\d.]+)", out).groups()  # type: ignore[union-attr]
    assert float(seconds.replace(",", "")) / 3600 * float(price) == pytest.approx(float(usd), abs=0.005)
    assert "steps end in time" in out
    assert "start up (assumed) " in out
    weights = re.search(r"weights +([\d.]+)", blocks)
    assert f" {weights[1]} " in next(text for text in out.splitlines() if "without vision" in text)  # type: ignore[index]


def test_your_own_price_and_rate_win(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--instances", "ml.p5.4xlarge", "--price", "ml.p5.4xlarge=2", "--rate", "ml.p5.4xlarge=1000", "--json"]
    assert main(["plan", STANLEY, *words, "--spot", "--spot-price", "ml.p5.4xlarge=1", "MAX_STEPS=40"]) == 0
    (candidate,) = json.loads(capsys.readouterr().out)["candidates"]
    assert candidate["confidence"] == "given"
    assert candidate["seconds_per_step"] == pytest.approx(64 * 402_555 / 1700 / 1000, rel=0.01)
    assert candidate["usd_on_demand"] == pytest.approx(2 * candidate["hours"]) == 2 * candidate["usd_spot"]


def test_the_chart_is_an_svg_with_every_instance_and_both_lines(tmp_path: Path) -> None:
    file = tmp_path / "plan.svg"
    words = ["--rank", "cost", "--budget", "40", "--chart", str(file)]
    assert main(["plan", STANLEY, *words]) == 0
    root = ElementTree.parse(file).getroot()
    texts = [element.text or "" for element in root.iter(f"{_SVG}text")]
    assert "stops at 8 h" in texts
    assert "budget $40" in texts
    kinds = {
        group.find(f"{_SVG}text").text: group.get("class")  # type: ignore[union-attr]
        for group in root.iter(f"{_SVG}g")
    }
    assert kinds["ml.g7e.2xlarge"] == "yes chosen"
    assert kinds["ml.p5.4xlarge"] == "yes"
    # What cannot be there has no hours, and so no place; it is named with the reason.
    (absent,) = (text for text in texts if text.startswith("not here: "))
    assert "ml.p3.8xlarge (no bf16)" in absent
    assert "ml.g5.xlarge (does not fit)" in absent
    assert len(kinds) + absent.count("ml.") == len(catalog.load().instances)


def test_the_endpoint_is_planned_in_each_format(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", STANLEY, "--json", "--context", "16384", "--concurrency", "2", "--busy-hours", "6"]) == 0
    plans = json.loads(capsys.readouterr().out)["serving"]
    assert [plan["weight_format"] for plan in plans] == ["bf16", "fp8", "int4"]
    prices = [plan["usd_per_hour"] for plan in plans]
    assert prices == sorted(prices, reverse=True)
    assert all(plan["usd_per_month_awake"] == pytest.approx(plan["usd_per_month"] / 4) for plan in plans)


def test_the_catalogue_shows_every_price_with_its_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalog", "show"]) == 0
    out = capsys.readouterr().out
    for instance in catalog.load():
        (row,) = (text for text in out.splitlines() if f" {instance.instance_type} " in text)
        assert f"{instance.usd_per_hour:.2f}" in row
        assert f"{instance.price_status} {instance.as_of}" in row


def test_without_credentials_a_refresh_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    before = catalog.FILE.read_bytes()
    assert main(["catalog", "refresh"]) == 2
    assert "no AWS credentials were found" in capsys.readouterr().err
    assert catalog.FILE.read_bytes() == before


def test_the_backtest_shows_each_measurement_and_how_far_off_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backtest", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["measurement"]["file"] for row in found} == {m.file for m in measurements.load()}
    assert main(["backtest"]) == 0
    out = capsys.readouterr().out
    timed = [row for row in found if row["seconds_error"] is not None]
    assert f"of {len(timed)} measurements within 10%" in out
    assert f"of {len(found)} measurements within 5%" in out


def test_the_backtest_can_be_read_in_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow(monkeypatch, 80)
    assert main(["backtest"]) == 0
    out = capsys.readouterr().out
    assert "…" not in out
    rows = [text.split() for text in out.splitlines() if re.match(r" \d [A-Z]", text)]
    assert len(rows) == len(measurements.load())
    untimed = sum(m.shares_gpus for m in measurements.load())  # no time of theirs is predicted, so none is off
    assert Counter(map(len, rows)) == Counter({11: len(rows) - untimed, 10: untimed})
    assert "+: 8 full micro-batches were packed into 9 (resident-1xh200-8x1x1024)" in out
    assert max(map(len, out.splitlines())) <= 80


def test_a_refused_plan_says_why_and_what_would_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", STANLEY, "--instances", "ml.g6.xlarge"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "✗ This run fits no instance asked for" in out
    assert "What would fit:" in out


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
    assert main(["plan", "--card", "--json"]) == 0
    claims = json.loads(capsys.readouterr().out)
    assert {claim["claim"] for claim in claims} >= {"17 B parameters", "4-8 h", "$200-400"}
    assert not any(claim["holds"] for claim in claims)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_figure_of_the_table_is_cut_short(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow(monkeypatch, width)
    words = ["--rank", "cost", "--spot", "--price", "ml.p4d.24xlarge=20", "--spot-price", "ml.p4d.24xlarge=9"]
    assert main(["plan", STANLEY, *words, "--explain"]) == 0
    out = capsys.readouterr().out
    assert "…" not in out
    table = out.split("~ is scaled")[0].splitlines()
    (p4d,) = (text for text in table if " ml.p4d.24xlarge " in text)
    assert re.search(r"~\d+ min .*~\$\d+\.\d\d ~\$\d+\.\d\d", p4d)
    marks = [text[1] for text in table if " ml." in text]
    assert marks == sorted(marks, key="→ ✗".index), "what cannot run it comes last"
    assert any("28 min-" in text for text in table) == (width > 60)
    assert "spot prices of ml.g7e.2xlarge, " in " ".join(out.split())


def test_an_old_price_is_marked_wherever_the_page_shows_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("heartbeat.catalog.OLD_AFTER_DAYS", -10_000)
    chart_file = tmp_path / "plan.svg"
    names = [instance.instance_type for instance in catalog.load()]
    assert main(["plan", STANLEY, "--rank", "cost", "--explain", "--chart", str(chart_file)]) == 0
    out = capsys.readouterr().out
    rows = [text for text in out.splitlines() if re.match(r"^ .{0,9}ml\.[a-z0-9.]+\*? ", text) and "$" in text]
    assert len(rows) > len(names)
    assert all("*" in text for text in rows)
    assert re.search(r"x \$[\d.]+\* an hour = ~?\$[\d.]+\*", out)
    assert out.count("* is a price over") == 2
    assert "an old price" in " ".join(out.split())
    details = [text for text in chart_file.read_text().split("<") if " · " in text and 'class="detail"' in text]
    assert details
    assert all("*" in text for text in details)
    # The user's own prices are not old; the endpoint's still are.
    own = [word for name in names if name != "ml.p4d.24xlarge" for word in ("--price", f"{name}=100")]
    assert main(["plan", STANLEY, "--instances", "ml.p5.4xlarge", *own]) == 0
    assert capsys.readouterr().out.count("* is a price over") == 1


def test_what_is_assumed_can_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--instances", "ml.p5.4xlarge", "--json", "--assume", "START_UP_SECONDS=1000"]
    assert main(["plan", STANLEY, *words, "--assume", "upload_seconds=9"]) == 0
    found = json.loads(capsys.readouterr().out)
    (candidate,) = found["candidates"]
    assert (candidate["seconds"]["start_up"], candidate["seconds"]["upload"]) == (1000, 9)
    assert candidate["assumed"] == ["download", "prepare_weights"]
    assert found["serving"][0]["cold_start_seconds"]["start_up"] == 1000


def test_instances_may_be_written_in_capitals(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", STANLEY, "--instances", "ML.P5.4XLARGE", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["candidates"][0]["instance_type"] == "ml.p5.4xlarge"


def test_without_a_tokenizer_a_plan_says_that_tokens_are_estimates(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heartbeat.cli.vocabulary.counter_if_any", lambda: None)
    assert main(["plan", STANLEY]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "(about 15," in out
    assert "tokens are estimates, within some 10%" in out


def test_a_dataset_of_over_long_rows_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "long.jsonl"
    file.write_text("\n".join(line(f"{number} " + "well, " * 9000) for number in range(3)))
    assert main(["plan", str(file)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "3 are over MAX_LENGTH=4096; shorten them, or raise MAX_LENGTH" in captured.err
    assert captured.err.count("\n") == 1


def test_packing_efficiency_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", STANLEY, "--fast"]) == 0
    assert "94%: a step of 64 rows fills 2 micro-batches of 8,192 tokens so far" in capsys.readouterr().out
    assert main(["plan", STANLEY, "--instances", "ml.p5.4xlarge"]) == 0
    assert "packing efficiency 92%: on each GPU a step is 2 micro-batches" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([STANLEY, "MAX_STEP=2"], "MAX_STEP is not a setting; did you mean MAX_STEPS?"),
        ([STANLEY, "MAX_STEPS=0"], "MAX_STEPS=0 must be at least 1"),
        ([STANLEY, "MAX_STEPS=2", "MAX_STEPS=3"], "MAX_STEPS is given twice"),
        ([STANLEY, "fast"], "'fast' is not KEY=VALUE"),
        ([STANLEY, "--budget", "-1"], "--budget -1 must be a number of dollars above 0"),
        ([STANLEY, "--instances", "ml.p5.4xlrge"], "did you mean ml.p5.4xlarge"),
        ([STANLEY, "--budget", "3"], "--budget 3 is under the cheapest run, ml.g7e.2xlarge: "),
        ([STANLEY, "--budget", "3"], ", or lower MAX_STEPS to "),
        ([STANLEY, "--budget", "0.5"], ": raise it to 4\n"),
        ([STANLEY, "--instances", ","], "--instances ',' names none"),
        ([STANLEY, "--instances", ""], "--instances '' names none"),
        ([STANLEY, "--spot-price", "ml.p5.4xlarge=9"], "--spot-price is of spot capacity; give --spot too"),
        ([STANLEY, "--assume", "START_UP=9"], "did you mean START_UP_SECONDS?"),
        ([STANLEY, "--assume", "UPLOAD_SECONDS=0"], "--assume UPLOAD_SECONDS=0 must be a number above 0"),
        (
            [STANLEY, "--instances", "ml.g5.12xlarge", "MAX_STEPS=1000000"],
            "and SageMaker ends a training job after 28 days (672 h); lower it to ",
        ),
        ([STANLEY, "--price", "ml.p5.4xlarge=0"], "--price ml.p5.4xlarge=0 must be a number above 0"),
        ([STANLEY, "--rate", "ml.p5.4xlrge=9"], "did you mean ml.p5.4xlarge"),
        ([STANLEY, "--spot-price", "ml.p5.4xlrge=9"], "did you mean ml.p5.4xlarge"),
        ([STANLEY, "--context", "0"], "--context 0 must be at least 1"),
        ([STANLEY, "--concurrency", "-1"], "--concurrency -1 must be at least 1"),
        ([STANLEY, "--busy-hours", "25"], "--busy-hours 25 must be between 0 and 24"),
        ([STANLEY, "--chart", "plan.png"], "--chart plan.png must end in .svg"),
        ([STANLEY, "--chart", "/nowhere/plan.svg"], "--chart /nowhere/plan.svg: No such file"),
        ([STANLEY, "--max-runtime-seconds", "2419201"], "MAX_RUNTIME_SECONDS=2419201 must be at most 2419200"),
        ([STANLEY, "--max-runtime-seconds", "9", "MAX_RUNTIME_SECONDS=9"], "say the same thing; give one"),
        ([STANLEY, "MAX_STEPS=5", "WARMUP_STEPS=5"], "WARMUP_STEPS=5 must be less than MAX_STEPS=5"),
        ([STANLEY, "--base-model", "."], "has no config.json"),
        ([], "name a dataset"),
    ],
)
def test_a_mistake_is_named(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_dataset_without_rows_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    assert main(["plan", str(tmp_path / "empty.jsonl")]) == 2
    assert "has no rows; write one JSON object a line" in capsys.readouterr().err


def test_an_empty_folder_of_results_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backtest", "--results", str(tmp_path)]) == 2
    assert "has no measurement" in capsys.readouterr().err


def test_a_broken_dataset_is_not_planned(broken: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", broken]) == 2
    assert "cannot be trained on" in capsys.readouterr().err
