"""The card's claims are refuted by arithmetic, not by assertion."""

from __future__ import annotations

from heartbeat.card import card_truth_table
from heartbeat.plan import card_truth_table as exported


def test_no_claim_of_the_card_holds() -> None:
    rows = {row.claim: row for row in card_truth_table()}
    assert exported is card_truth_table
    assert not any(row.holds for row in rows.values())
    assert rows["17 B parameters"].computed == "108.6 B, of which a token uses 17.2 B"
    assert rows["34 GB in fp16"].computed == "217 GB"
    assert rows["17 GB in 4 bit"].computed.startswith("58.7 GB (54.6 GiB)")
    sharding = rows["no sharding needed, fits most GPU instances"]
    assert sharding.computed.startswith("in bf16 0 of 9 kinds of GPU hold it alone; in 4 bit 4 of 9")
    assert "96.6 B routed experts (48 layers x 16 experts x 3 x 5120 x 8192)" in rows["17 B parameters"].arithmetic
