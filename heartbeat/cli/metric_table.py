"""What the gate judged, as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from heartbeat.cli import screen

_STYLES = {"met": "green", "missed": "bold red", "too few rows": "yellow"}


def show(gate: Mapping[str, Any] | None) -> None:
    """The metrics of a run's gate.json; nothing where there are none."""
    rows, loss = (gate or {}).get("table") or [], (gate or {}).get("loss") or {}
    if loss:
        screen.say(_loss(loss))
    if not rows:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 2))
    for number, title in enumerate(("metric", "turns", "base", "tuned", "95%", "gain", "needs", "")):
        table.add_column(title, justify="left" if number in (0, 7) else "right", no_wrap=True)
    for row in rows:
        base, tuned, gain = (row[part] or {} for part in ("base", "tuned", "difference"))
        optional = row["outcome"] != "met" and not row["required"]
        table.add_row(
            row["metric"].replace("_", " "),
            f"{row['turns']}",
            _number(base.get("value")),
            _number(tuned.get("value")),
            f"{tuned['low']:.2f}-{tuned['high']:.2f}" if tuned else "",
            _number(gain.get("value"), "+"),
            " ".join(part for part in (_number(row["at_least"]), _number(row["min_gain"], "+")) if part),
            Text(row["outcome"], style="dim" if optional else _STYLES[row["outcome"]]),
        )
    screen.console().print(table)
    screen.say(
        "  Shares of turns; needs: at least this much, and this much (+ or -) over the base, by the whole interval"
    )


def _loss(loss: Mapping[str, Any]) -> Text:
    """Loss and perplexity in a line: less is better, so they are no rows of the table."""
    row, perplexity = loss["loss"], loss["perplexity"]
    base, tuned, ratio = row["base"], row["tuned"], row["ratio"]
    shown = f"  held-out loss {tuned['value']:.3f} ({tuned['low']:.3f}-{tuned['high']:.3f}), base {base['value']:.3f}"
    if ratio:
        shown += f"; ratio {ratio['value']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f}), at most {row['max_ratio']:g}"
    shown += f"; perplexity {perplexity['tuned']['value']:,.2f}, base {perplexity['base']['value']:,.2f}"
    return Text.assemble(f"{shown}; {row['rows']} rows: ", (row["outcome"] or "", _STYLES.get(row["outcome"], "")))


def _number(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.2f}"
