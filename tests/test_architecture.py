"""Which part may know which: the import direction of the project, read from the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("heartbeat", "lambda", "training_code", "serving", "stacks", "local_aws", "app")
HANDLERS = frozenset(path.stem for path in (ROOT / "lambda").glob("*.py"))

MAY_IMPORT = {
    "heartbeat": {"heartbeat"},
    "heartbeat.cli": {"heartbeat", "heartbeat.cli", "local_aws", "stacks"},
    "lambda": {"heartbeat", "lambda"},
    "training_code": {"heartbeat", "training_code"},
    "serving": {"heartbeat", "training_code", "serving"},
    "stacks": {"heartbeat", "stacks"},
    "local_aws": {"local_aws"},
    "app": {"heartbeat", "stacks"},
}
"""Part -> parts of the project that it may import. `heartbeat` is the domain; its command line is its own part."""


def part_of(module: str) -> str | None:
    """The part that a module's name belongs to; None for what is not the project's."""
    if module.startswith("heartbeat.cli") or module == "heartbeat.__main__":
        return "heartbeat.cli"
    top = module.split(".")[0]
    if top in HANDLERS:
        return "lambda"
    return top if top in PARTS else None


def modules(part: str) -> Iterator[tuple[Path, ast.Module]]:
    folder = ROOT / part.replace(".", "/")
    paths = [folder.with_suffix(".py")] if part == "app" else sorted(folder.rglob("*.py"))
    for path in paths:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if part != "heartbeat" or part_of(module) == "heartbeat":
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_import_direction(part: str) -> None:
    seen = 0
    for path, tree in modules(part):
        seen += 1
        for name in imports(tree):
            other = part_of(name)
            assert other is None or other in MAY_IMPORT[part], f"{path.relative_to(ROOT)} imports {name}"
    assert seen, f"{part} has no module: is the test looking in the right place?"


EDGES = {("tokens.py", "tiktoken"), ("client.py", "boto3"), ("client.py", "botocore")}
"""The domain's packages: imported by what counts tokens or asks an endpoint, and not before it is called."""


def test_the_domain_needs_the_standard_library_only() -> None:
    for path, tree in modules("heartbeat"):
        for name in imports(tree):
            top = name.split(".")[0]
            known = top in sys.stdlib_module_names or top == "heartbeat" or (path.name, top) in EDGES
            assert known, f"{path.name} imports {name}"


def test_handlers_only_translate() -> None:
    """A handler is small, and needs nothing that the Lambda runtime does not bring."""
    for path, tree in modules("lambda"):
        for name in imports(tree):
            top = name.split(".")[0]
            allowed = top in sys.stdlib_module_names or top in {"boto3", "botocore", "heartbeat"} or top in HANDLERS
            assert allowed, f"{path.name} imports {name}"


@pytest.mark.parametrize("heavy", ["torch", "transformers", "sagemaker"])
def test_nothing_heavy_at_synth_or_in_a_lambda(heavy: str) -> None:
    for part in ("app", "stacks", "lambda", "heartbeat"):
        for path, tree in modules(part):
            assert heavy not in {name.split(".")[0] for name in imports(tree)}, f"{path.name} imports {heavy}"
