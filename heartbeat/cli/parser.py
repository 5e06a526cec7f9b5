"""The commands and their options. Standard library only, so that `--help` comes at once."""

from __future__ import annotations

import argparse
import difflib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

PROGRAM = "python -m heartbeat"

_DESCRIPTION = """\
HeartBeat Engine fine-tunes Llama 4 Scout on your chat data and serves it on AWS.

  offline           check, plan               a dataset and what a run of it needs, takes and costs
                    catalog, backtest         the instances and prices, and the rates, that plans rest on
  with an account   run, watch, approve       one run, from the dataset to the endpoint
                    chat, report, status      what it made, and what bills now
                    base-model, images        what a run needs before it starts
                    destroy                   end what bills
  without one       demo                      all of it on this machine"""

_EPILOG = """\
Exit status: 0 done; 1 the answer is no (errors in the dataset, a refused plan, a failed run); 2 a mistake in what
was asked; 130 interrupted. HEARTBEAT_DEBUG=1 shows tracebacks. NO_COLOR=1 leaves out colours."""


_NUMBERS = {"int": "a whole number", "float": "a number"}
_MEANT = {"--budget": "dollars, such as 200", "--max-runtime-seconds": "whole seconds, such as 28800"}


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=min(shutil.get_terminal_size().columns, 112))


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage is one `--help` away."""

    def error(self, message: str) -> NoReturn:
        if found := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            known = [word.strip(" '") for word in found[2].split(",")]
            near = difflib.get_close_matches(found[1], known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            message = f"{found[1]!r} is not known here; {hint}"
        elif found := re.search(r"argument (\S+): invalid (int|float) value: '(.*)'", message):
            message = f"{found[1]} {found[3]}: give {_MEANT.get(found[1]) or _NUMBERS[found[2]]}"
        self.exit(2, f"heartbeat: {message} ({self.prog} --help shows how)\n")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command and its options; ends the process where they make no sense."""
    parser = make_parser()
    arguments, rest = parser.parse_known_args(argv)
    # argparse takes positional words only up to the first option; settings may stand after it too.
    settings = [word for word in rest if "=" in word and not word.startswith("-")]
    unknown = [word for word in rest if word not in settings]
    if unknown or (settings and not hasattr(arguments, "settings")):
        parser.error(f"{(unknown or settings)[0]!r} makes no sense here")
    if settings:
        arguments.settings = [*arguments.settings, *settings]
    return arguments


def make_parser() -> Parser:
    parser = Parser(
        prog=PROGRAM,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=_Formatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (
        _check,
        _plan,
        _catalog,
        _backtest,
        _run,
        _watch,
        _approve,
        _chat,
        _report,
        _status,
        _base_model,
        _images,
        _destroy,
        _demo,
    ):
        add(commands)
    return parser


_Commands = argparse._SubParsersAction  # what add_subparsers returns; it has no public name


def _add(commands: _Commands[Parser], name: str, module: str, summary: str, examples: str) -> Parser:
    parser: Parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"examples:\n{examples}".replace("  heartbeat ", f"  {PROGRAM} "),
        formatter_class=_Formatter,
    )
    parser.set_defaults(module=module)
    return parser


def _check(commands: _Commands[Parser]) -> None:
    parser = _add(
        commands,
        "check",
        "check",
        "check a dataset, line by line",
        "  heartbeat check examples/stanley/stanley.jsonl\n"
        "  heartbeat check data.jsonl --fix\n"
        "  heartbeat check s3://my-bucket/datasets/support.jsonl --held-out questions.jsonl --json",
    )
    parser.add_argument("dataset", metavar="FILE", help="a JSONL file, or s3://BUCKET/KEY")
    parser.add_argument("--max-length", type=int, metavar="TOKENS", help="MAX_LENGTH of the run (default 4096)")
    parser.add_argument("--max-findings", type=int, default=20, metavar="N", help="findings shown (default 20)")
    parser.add_argument("--held-out", metavar="FILE", help="your own held-out file: checked too, and for overlap")
    parser.add_argument("--fast", action="store_true", help="estimate tokens, do not look for near-duplicates")
    parser.add_argument(
        "--fix",
        action="store_true",
        help="write a repaired copy, NAME.fixed.jsonl (here for a file in S3), and say what changed",
    )
    _json(parser)


def _plan(commands: _Commands[Parser]) -> None:
    parser = _add(
        commands,
        "plan",
        "plan",
        "memory, hours and dollars of a run, before it is paid for",
        "  heartbeat plan examples/stanley/stanley.jsonl\n"
        "  heartbeat plan data.jsonl --rank cost MAX_STEPS=200 LORA_R=32\n"
        "  heartbeat plan data.jsonl --explain --chart plan.svg\n"
        "  heartbeat plan data.jsonl --instances ml.p5.4xlarge,ml.g7e.8xlarge --budget 60\n"
        "  heartbeat plan --card",
    )
    parser.add_argument("dataset", metavar="FILE", nargs="?", help="a JSONL file, or s3://BUCKET/KEY")
    _hyperparameters(parser)
    _limits(parser)
    parser.add_argument(
        "--rank", choices=("cost", "time"), help="the whole catalogue, or --instances, cheapest or fastest first"
    )
    parser.add_argument("--explain", action="store_true", help="show every term of memory and time of the first one")
    parser.add_argument("--chart", type=Path, metavar="FILE.svg", help="draw hours against dollars")
    _pairs(parser, "--price", "TYPE=USD", "your own price an hour, such as ml.p5.4xlarge=5.50; may be repeated")
    _pairs(parser, "--spot-price", "TYPE=USD", "the same of spot capacity, with --spot")
    _pairs(parser, "--rate", "TYPE=TOKENS", "your own measured tokens a second of the whole instance")
    _pairs(
        parser,
        "--assume",
        "WHAT=NUMBER",
        "what nobody has measured: START_UP_SECONDS, DOWNLOAD_GB_PER_SECOND, PREPARE_GB_PER_SECOND, UPLOAD_SECONDS",
    )
    parser.add_argument("--no-quotas", action="store_true", help="do not ask the account for its quotas")
    parser.add_argument("--context", type=int, default=8192, metavar="TOKENS", help="of the endpoint (default 8192)")
    parser.add_argument(
        "--concurrency", type=int, default=4, metavar="N", help="conversations at a time of the endpoint (default 4)"
    )
    parser.add_argument(
        "--adapters", type=int, default=1, metavar="N", help="that the endpoint serves side by side (default 1)"
    )
    parser.add_argument(
        "--busy-hours", type=float, default=8.0, metavar="H", help="a day that an endpoint that can sleep is awake (8)"
    )
    parser.add_argument(
        "--base-model", type=Path, metavar="FOLDER", help="checkpoint to plan for (default: Llama 4 Scout)"
    )
    parser.add_argument("--card", action="store_true", help="hold the model card's claims against arithmetic, and end")
    _json(parser)


def _catalog(commands: _Commands[Parser]) -> None:
    parser = _add(
        commands,
        "catalog",
        "catalog",
        "the instances that plans choose from, and their prices",
        "  heartbeat catalog show\n  heartbeat catalog refresh --region us-east-1",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    show = actions.add_parser("show", help="what is known of each, from when and of which source")
    show.set_defaults(action="show")
    refresh = actions.add_parser("refresh", help="renew the prices through the AWS Price List API")
    refresh.set_defaults(action="refresh")
    refresh.add_argument("--region", metavar="REGION", help="default: AWS_REGION, or us-east-1")


def _backtest(commands: _Commands[Parser]) -> None:
    parser = _add(
        commands,
        "backtest",
        "backtest",
        "predict every stored measurement from the others, and show the error",
        "  heartbeat backtest\n  heartbeat backtest --results my-results --json",
    )
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="default: benchmarks/results")
    _json(parser)


def _run(commands: _Commands[Parser]) -> None:
    parser = _add(
        commands,
        "run",
        "run",
        "upload a dataset, start a run, and watch it",
        "  heartbeat run\n"
        "  heartbeat run --dataset support.jsonl --name support-1 MAX_STEPS=200\n"
        "  heartbeat run --input '{\"budget_usd\": 60}' --no-watch",
    )
    _hyperparameters(parser)
    parser.add_argument("--dataset", metavar="FILE", help="a JSONL file, which is uploaded, or s3://BUCKET/KEY")
    parser.add_argument(
        "--held-out", metavar="FILE", help="rows of your own to judge by (default: a tenth of the dataset)"
    )
    _limits(parser)
    parser.add_argument("--no-deploy", action="store_true", help="train only")
    parser.add_argument("--endpoint", metavar="NAME", help="endpoint to deploy to")
    parser.add_argument("--adapter", metavar="NAME", help="name of the adapter on it (default stanley)")
    parser.add_argument("--approve", action="store_true", help="ask a person between the gate and the endpoint")
    parser.add_argument(
        "--input", metavar="JSON", help="the execution's input, or @FILE; the options above win over it"
    )
    parser.add_argument("--name", help="name of the execution")
    parser.add_argument("--no-watch", action="store_true", help="start it and return")
    _environment(parser)


def _watch(commands: _Commands[Parser]) -> None:
    parser = _add(
        commands,
        "watch",
        "watch",
        "follow a run: its states, its training, its end",
        "  heartbeat watch\n  heartbeat watch support-1 --environment prod",
    )
    _execution(parser)
    _environment(parser)


def _approve(commands: _Commands[Parser]) -> None:
    parser = _add(
        commands,
        "approve",
        "approve",
        "let a run that waits for approval deploy, or refuse it",
        "  heartbeat approve support-1\n  heartbeat approve support-1 --reject --because 'tone is off'",
    )
    parser.add_argument("execution", metavar="EXECUTION", help="name or ARN")
    parser.add_argument("--reject", action="store_true", help="do not deploy")
    parser.add_argument("--because", metavar="REASON", default="", help="why, for the run's report")
    _environment(parser)


def _chat(commands: _Commands[Parser]) -> None:
    parser = _add(
        commands,
        "chat",
        "chat",
        "talk to an endpoint",
        "  heartbeat chat\n"
        "  heartbeat chat --once 'Who leads the Canadiens in points?'\n"
        "  heartbeat chat --model base --once 'Who leads the Canadiens in points?'",
    )
    parser.add_argument("--endpoint", metavar="NAME", help="default: the environment's own")
    parser.add_argument("--once", metavar="QUESTION", help="ask one question and end")
    parser.add_argument(
        "--model", metavar="NAME", default="stanley", help="an adapter of the endpoint, base, or both (default stanley)"
    )
    parser.add_argument("--system", metavar="TEXT", help="system message, or @FILE (default: the example dataset's)")
    parser.add_argument(
        "--tools", type=Path, metavar="FILE", help="JSON list of tools (default: the example dataset's)"
    )
    parser.add_argument("--max-tokens", type=int, default=256, metavar="N", help="longest answer (default 256)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="default 0: always the likeliest")
    _environment(parser)


def _report(commands: _Commands[Parser]) -> None:
    parser = _add(
        commands,
        "report",
        "report",
        "fetch a run's report",
        "  heartbeat report --open\n  heartbeat report support-1 --output support.html",
    )
    _execution(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: .build/reports/EXECUTION.html")
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    _environment(parser)


def _status(commands: _Commands[Parser]) -> None:
    parser = _add(
        commands,
        "status",
        "status",
        "what runs now, and what it costs an hour",
        "  heartbeat status\n  heartbeat status --environment prod --json",
    )
    _json(parser)
    _environment(parser)


def _base_model(commands: _Commands[Parser]) -> None:
    parser = _add(
        commands,
        "base-model",
        "base_model",
        "put the base model's checkpoint where runs find it",
        "  heartbeat base-model token\n"
        "  heartbeat base-model bring --make bf16,nf4\n"
        "  heartbeat base-model upload ~/models/Llama-4-Scout-17B-16E-Instruct",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    upload = actions.add_parser("upload", help="check a checkpoint folder and upload it; goes on where it stopped")
    upload.set_defaults(action="upload")
    upload.add_argument("folder", type=Path, metavar="FOLDER")
    upload.add_argument("--force", action="store_true", help="upload also what is there already in the same size")
    _environment(upload)
    token = actions.add_parser("token", help="store the Hugging Face token that runs bring the weights with")
    token.set_defaults(action="token")
    _environment(token)
    bring = actions.add_parser("bring", help="bring the weights now, with packs and an FP8 copy; goes on likewise")
    bring.set_defaults(action="bring")
    bring.add_argument("--make", metavar="FORMATS", help="of bf16,nf4,fp8 (default: all)")
    bring.add_argument("--revision", metavar="NAME", help="branch, tag or commit on the hub (default main)")
    bring.add_argument("--no-watch", action="store_true", help="start it and return")
    _environment(bring)


def _images(commands: _Commands[Parser]) -> None:
    parser = _add(
        commands,
        "images",
        "images",
        "the serving image: which is pinned, and which is current",
        "  heartbeat images show\n  heartbeat images refresh --environment prod",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for action, summary in (
        ("show", "the pinned image and the SageMaker SDK's current one"),
        ("refresh", "pin the current one in cdk.json"),
    ):
        one = actions.add_parser(action, help=summary)
        one.set_defaults(action=action)
        one.add_argument("--region", metavar="REGION", help="default: AWS_REGION, or us-east-1")
        _environment(one)


def _destroy(commands: _Commands[Parser]) -> None:
    parser = _add(
        commands,
        "destroy",
        "destroy",
        "end what an environment's runs left that bills, and their models",
        "  heartbeat destroy\n  heartbeat destroy --environment prod --yes",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    _environment(parser)


def _demo(commands: _Commands[Parser]) -> None:
    parser = _add(
        commands,
        "demo",
        "demo",
        "all of it on this machine, with a tiny Llama 4: no account, no Docker, no GPU",
        "  make demo          makes the environment first\n"
        "  make demo KEEP=1   leaves it running\n"
        "  make demo-stop     ends it",
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--keep", action="store_true", help="leave it running and say how to use it")
    choice.add_argument("--stop", action="store_true", help="end a demo that was left running")


# --- options that several commands have


def _environment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--environment", default="dev", metavar="NAME", help="deployed environment (default dev)")


def _execution(parser: Parser) -> None:
    parser.add_argument("execution", nargs="?", metavar="EXECUTION", help="name or ARN (default: the latest)")


def _json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")


def _hyperparameters(parser: Parser) -> None:
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="hyperparameters, such as MAX_STEPS=200")


def _pairs(parser: Parser, option: str, metavar: str, text: str) -> None:
    parser.add_argument(option, action="append", default=[], metavar=metavar, help=text)


def _limits(parser: Parser) -> None:
    parser.add_argument("--instances", metavar="TYPES", help="training instances, best first: ml.p5.4xlarge,ml.…")
    parser.add_argument("--max-runtime-seconds", type=int, metavar="SECONDS", help="stop of the job (default 28800)")
    parser.add_argument("--budget", type=float, metavar="USD", help="refuse a run that would cost more")
    parser.add_argument("--spot", action="store_true", help="train on spot capacity")
