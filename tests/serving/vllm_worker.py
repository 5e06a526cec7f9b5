"""vLLM's own code in a process of its own: one JSON request a line on standard input, one JSON answer a line back.

Run by tests/serving/test_vllm.py with vLLM on the path. It takes half a minute to import, and brings packages that the
tests must not see.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from typing import Any

ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # vLLM logs to standard output
os.environ["VLLM_TARGET_DEVICE"] = "cpu"  # defaults depend on it, and it finds no GPU here

import vllm  # noqa: E402
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args  # noqa: E402
from vllm.tool_parsers import ToolParserManager  # noqa: E402
from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: E402

SHOWN = """
    model served_model_name tensor_parallel_size max_model_len max_num_seqs gpu_memory_utilization dtype quantization
    limit_mm_per_prompt enable_prefix_caching enable_auto_tool_choice tool_call_parser enable_lora max_loras
    max_lora_rank lora_modules chat_template
    """.split()  # noqa: SIM905 (as a list it would be seventeen lines)


class NoTokens:
    """A tokenizer for parsers that read text only."""

    def get_vocab(self) -> dict[str, int]:
        return {}


def arguments(words: list[str]) -> dict[str, Any]:
    """What `vllm serve` makes of these words."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(words)
            validate_parsed_serve_args(parsed)
    except (SystemExit, TypeError, ValueError) as error:
        return {"refused": said.getvalue() or str(error)}
    shown = {name: getattr(parsed, name) for name in SHOWN}
    modules = shown["lora_modules"] or []
    return {**shown, "lora_modules": {module.name: module.path for module in modules}}


def tool_calls(parser: str, text: str) -> list[list[str]] | None:
    """[name, arguments as JSON] of each call in a whole answer; None where it is text."""
    found = ToolParserManager.get_tool_parser(parser)(NoTokens()).extract_tool_calls(text, None)
    return [[c.function.name, c.function.arguments] for c in found.tool_calls] if found.tools_called else None


def deltas(parser: str, pieces: list[str]) -> list[dict[str, Any]]:
    """What a streamed answer's chunks hold, as its text comes in these pieces."""
    made, said, found = ToolParserManager.get_tool_parser(parser)(NoTokens()), "", []
    for piece in pieces:
        delta = made.extract_tool_calls_streaming(said, said + piece, piece, [], [], [], None)
        said += piece
        if delta is not None:
            found.append(delta.model_dump(exclude_none=True))
    return found


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        if "words" in request:
            answer: Any = arguments(request["words"])
        elif "pieces" in request:
            answer = deltas(request["parser"], request["pieces"])
        else:
            answer = tool_calls(request["parser"], request["text"])
        print(json.dumps(answer, default=str), file=ANSWERS, flush=True)


if __name__ == "__main__":
    print(json.dumps(vllm.__version__), file=ANSWERS, flush=True)
    main()
