"""Draws the state machine of the synthesised app: docs/state-machine.svg.

    make picture

Graphviz, as WebAssembly in an npm package, places the states; this file says how they look.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "state-machine.svg"

_LAMBDA, _SERVICE, _FLOW, _GOOD, _BAD = "#fff4e0", "#e3f0ff", "#f3f4f6", "#dff5e4", "#fde4e1"
_RENDER = """
import { instance } from "@viz-js/viz";
import { readFileSync } from "node:fs";
const viz = await instance();
process.stdout.write(viz.renderString(readFileSync(0, "utf8"), { format: "svg" }));
"""


def definition() -> dict[str, Any]:
    """The development environment's definition, as `python app.py` synthesises it."""
    sys.path.insert(0, str(ROOT))
    import app as heartbeat_app
    from stacks.settings import Settings

    with tempfile.TemporaryDirectory() as out:
        made = heartbeat_app.make_app(out)
        heartbeat_app.compose(made, Settings.from_context(made.node, "dev"))
        template = made.synth().get_stack_by_name("HeartBeat-dev-Pipeline").template
    properties = [item["Properties"] for item in template["Resources"].values()]
    (machine,) = (item for item in properties if item.get("StateMachineName") == "HeartBeat-dev")
    parts = machine["DefinitionString"]["Fn::Join"][1]
    found: dict[str, Any] = json.loads("".join(part if isinstance(part, str) else "…" for part in parts))
    return found


def dot(states: dict[str, Any], start: str) -> str:
    """The graph in Graphviz's language. Edges to `Explain failure` are one note: every task has one."""
    lines = [
        "digraph {",
        '  graph [rankdir=TB, nodesep=0.35, ranksep=0.32, bgcolor="white", pad=0.2]',
        '  node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=12, margin="0.16,0.07"]',
        '  node [color="#6b7280"]',
        '  edge [color="#6b7280", fontname="Helvetica", fontsize=10, fontcolor="#4b5563", arrowsize=0.7]',
        *(f'  "{name}" [fillcolor="{_colour(state)}"{_shape(state)}]' for name, state in states.items()),
        *_edges(states),
        f'  "{start}" [penwidth=2]',
        "}",
    ]
    return "\n".join(lines)


def _colour(state: dict[str, Any]) -> str:
    kind = state["Type"]
    if kind == "Task":
        return _LAMBDA if ":lambda:" in state["Resource"] else _SERVICE
    return {"Succeed": _GOOD, "Fail": _BAD}.get(kind, _FLOW)


def _shape(state: dict[str, Any]) -> str:
    return ", shape=diamond, style=filled, margin=0.02" if state["Type"] == "Choice" else ""


def _edges(states: dict[str, Any]) -> Iterator[str]:
    for name, state in states.items():
        for target in (state.get("Next"), state.get("Default")):
            if target:
                yield f'  "{name}" -> "{target}"'
        for choice in state.get("Choices", []):
            yield f'  "{name}" -> "{choice["Next"]}"'
        caught = [catch["Next"] for catch in state.get("Catch", []) if catch["Next"] != "Explain failure"]
        for target in dict.fromkeys(caught):
            if target != state.get("Next"):
                yield f'  "{name}" -> "{target}" [style=dashed]'
    yield '  "any task" [shape=plaintext, style="", fontcolor="#4b5563"]'
    yield '  "any task" -> "Explain failure" [style=dashed, label="  that fails"]'


def main() -> None:
    found = definition()
    script = ROOT / ".build" / "picture.mjs"
    script.parent.mkdir(exist_ok=True)
    script.write_text(_RENDER)
    graph = dot(found["States"], found["StartAt"])
    done = subprocess.run([os.environ["JSII_NODE"], script], input=graph, capture_output=True, text=True, check=True)
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(done.stdout)
    print(PICTURE.relative_to(ROOT))


if __name__ == "__main__":
    main()
