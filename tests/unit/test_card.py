"""The card's claims are refuted by arithmetic, not by assertion."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from heartbeat.card import card_truth_table
from heartbeat.plan import card_truth_table as exported

README = Path(__file__).resolve().parents[2] / "README.md"


def test_no_claim_of_the_card_holds() -> None:
    rows = {row.claim: row for row in card_truth_table()}
    assert exported is card_truth_table
    assert not any(row.holds for row in rows.values())
    assert rows["17 B parameters"].computed == "108.6 B, of which a token uses 17.2 B"
    assert rows["34 GB in fp16"].computed == "217 GB"
    assert rows["17 GB in 4 bit"].computed.startswith("58.7 GB (54.6 GiB)")
    sharding = rows["no sharding needed, fits most GPU instances"]
    assert sharding.computed.startswith("in bf16 0 of 9 kinds of GPU hold it alone; in 4 bit 4 of 9")
    assert rows["4-8 h"].computed.startswith("p4d ~")
    assert "400 steps x 64 sequences x 4,096 tokens = 105 M tokens; p4d 400 x ~" in rows["4-8 h"].arithmetic
    assert rows["$200-400"].computed.count("~$") == 2
    assert "p3.8xlarge cannot run it" in rows["4-8 h"].computed
    assert "p3.8xlarge cannot run it" in rows["$200-400"].computed
    three = rows["runs on p4d, p3.8xlarge, g5.12xlarge"]
    assert three.computed == "on 1 of 3 within 8.0 h"
    assert "V100-16GB" in three.arithmetic
    assert "over the clock of 8.0 h" in three.arithmetic
    assert "96.6 B routed experts (48 layers x 16 experts x 3 x 5120 x 8192)" in rows["17 B parameters"].arithmetic


def test_the_arithmetic_of_hours_and_dollars_comes_out() -> None:
    rows = {row.claim: row for row in card_truth_table()}
    sums = re.findall(r"(\d+) x ~([\d.]+) s \+ (\d+) min", rows["4-8 h"].arithmetic)
    hours = [float(found) for found in re.findall(r"~([\d.]+) h", rows["4-8 h"].computed)]
    assert [(int(n) * float(s) + 60 * int(m)) / 3600 for n, s, m in sums] == pytest.approx(hours, abs=0.06)
    products = re.findall(r"~([\d.]+) h x \$([\d.]+)", rows["$200-400"].arithmetic)
    dollars = [float(found) for found in re.findall(r"~\$(\d+)", rows["$200-400"].computed)]
    assert [float(hours) * float(price) for hours, price in products] == pytest.approx(dollars, abs=0.7)


def test_the_readme_shows_what_the_command_prints() -> None:
    table = "".join(f"| {row.claim} | {row.computed} | {row.arithmetic} |\n" for row in card_truth_table())
    assert table in README.read_text(encoding="utf-8"), f"write into README.md:\n{table}"
