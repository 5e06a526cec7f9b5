"""What the demo's tiny base learns of a dataset, and what the gate says of it: `python -m benchmarks.demo_learns`.

Trains with the trainer's own code, lets base and tuned model answer the held-out rows' cases, scores them as the gate
does, and prints one line of JSON for each seed. A seed decides the adapter's start and the order of rows, not the
split: all seeds train on the same rows and answer the same questions.

`--set LEARNING_RATE=5e-3 --set MAX_STEPS=100` overrides the base's training_defaults.json.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from heartbeat import cases, held_out, persona, probes, score_gate, scores
from heartbeat.cases import Case
from heartbeat.chat import END_OF_TURN, render
from heartbeat.dataset import read
from heartbeat.job import FineTuneJob, SettingError, resolve
from heartbeat.probes import Question
from training_code import data, loading, placing
from training_code.base_files import open_base
from training_code.clock import Clock
from training_code.generate import generate
from training_code.llama import Llama
from training_code.ranks import Ranks
from training_code.run import Run
from training_code.tokenizer import ChatTokenizer

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
BASE = EXAMPLES / "tiny_base" / "checkpoint"
STANLEY = EXAMPLES / "stanley" / "stanley.jsonl"
CPU = torch.device("cpu")
MAX_NEW_TOKENS = 256
BATCH_SIZE = 64

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """What something took: by the clock, and of all cores together, which a busy machine hardly changes."""

    wall: float
    cpu: float


class Watch:
    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def read(self) -> Seconds:
        wall, cpu = time.monotonic() - self._wall, time.process_time() - self._cpu
        return Seconds(wall=round(wall, 1), cpu=round(cpu, 1))


@dataclass(frozen=True, kw_only=True)
class Learned:
    """A tuned model, and what it was and was not trained on."""

    job: FineTuneJob
    llama: Llama
    tokenizer: ChatTokenizer
    training: Sequence[Row]
    heldout: Sequence[Row]
    tools: cases.Tools
    base_loss: float | None
    tuned_loss: float | None
    steps: int
    tokens: int
    seconds: Seconds
    """Of the steps alone."""

    def cases(self, num_rows: int | None = None) -> list[Case]:
        """Of the held-out rows, or of the first so many."""
        return cases.cases(self.heldout[:num_rows], self.tools)

    def say(self, asked: Sequence[Case | Question], *, adapted: bool) -> list[str]:
        """What the tuned model answers to these, or the base."""
        pieces = [
            render(one.prompt, one.declared or None, generation_prompt=True)
            if isinstance(one, Case)
            else render(one.messages, generation_prompt=True)
            for one in asked
        ]
        prompts = [self.tokenizer.encode(some).ids for some in pieces]
        stop = self.tokenizer.end_of_turn
        answers = generate(
            self.llama, prompts, max_new_tokens=MAX_NEW_TOKENS, stop_ids=[stop], adapted=adapted, batch_size=BATCH_SIZE
        )
        return [self.tokenizer.decode(answer).removesuffix(END_OF_TURN) for answer in answers]


def learn(
    rows: Sequence[Row],
    settings: Mapping[str, object],
    *,
    base: Path = BASE,
    train: bool = True,
    heldout: Sequence[Row] | None = None,
) -> Learned:
    """Fine-tune `base` on the training side of `rows`, as a training job does; not at all where not `train`.

    `heldout`: rows to ask about in place of those that are held out of `rows`.
    Raises SettingError and TrainingError as the job would.
    """
    defaults = json.loads((base / "training_defaults.json").read_text())
    job, _ = resolve(("--set", settings), ("training_defaults.json", defaults))
    split = held_out.split(rows, job.held_out_fraction, FineTuneJob.seed)
    heldout = split.heldout if heldout is None else heldout
    files = open_base(base)
    tokenizer, ranks = ChatTokenizer(base), Ranks()
    with tempfile.TemporaryDirectory() as folder:
        channels = Path(folder, "training"), Path(folder, "heldout")
        for channel, some in zip(channels, (split.training, heldout), strict=True):
            channel.mkdir()
            (channel / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
        encoded = data.load(
            *channels,
            tokenizer,
            max_length=job.max_length,
            held_out_fraction=job.held_out_fraction,
            seed=job.seed,
        )
        shape = files.architecture.shape
        arrangement = placing.choose(job, shape, encoded, CPU, ranks, is_quantised=files.is_quantised)
        llama = loading.load(
            files, job, arrangement=arrangement, device=CPU, dtype=torch.float32, ranks=ranks, report=print
        )
        run = Run(
            clock=Clock(limit_seconds=math.inf, started=time.monotonic()),
            job=job,
            data=encoded,
            sources={},
            arrangement=arrangement,
            llama=llama,
            ranks=ranks,
            checkpoints=Path(folder, "checkpoints"),
        )
        run.evaluate_base()
        watch = Watch()
        while train and run.progress.step < job.max_steps:
            run.step()
        seconds = watch.read()
        run.evaluate_tuned()
    found = run.heldout()
    return Learned(
        job=job,
        llama=run.llama,
        tokenizer=tokenizer,
        training=split.training,
        heldout=heldout,
        tools=cases.known_tools(rows),
        base_loss=found.base_loss,
        tuned_loss=found.tuned_loss,
        steps=run.progress.step,
        tokens=run.progress.tokens,
        seconds=seconds,
    )


def main() -> None:
    arguments = _parser().parse_args()
    try:
        settings = dict(_setting(given) for given in arguments.set)
        for seed in arguments.seeds:
            print(json.dumps(measure({**settings, "SEED": seed}, arguments)), flush=True)
    except SettingError as error:
        raise SystemExit(str(error)) from None


def measure(settings: Mapping[str, object], arguments: argparse.Namespace) -> dict[str, Any]:
    """One seed's training, answers and scores."""
    rows = _rows(arguments.data)
    heldout = _rows(arguments.held_out) if arguments.held_out else None
    learned = learn(rows, settings, base=arguments.base, heldout=heldout)
    asked, questions = learned.cases(arguments.rows), probes.of_base(arguments.base)
    base: list[str] = []
    tuned: list[str] = []
    seconds = {"training": learned.seconds}
    for answers, name in ((base, "base"), (tuned, "tuned")):
        watch = Watch()
        answers += learned.say([*asked, *questions], adapted=answers is tuned)
        seconds[name] = watch.read()
    general = probes.score(questions, base[len(asked) :], tuned[len(asked) :])
    found = scores.measure(asked, base[: len(asked)], tuned[: len(asked)], persona.load(), general=general).to_dict()
    verdict = score_gate.verdict(found)
    if arguments.failures:
        for failure in found["failures"]:
            print(json.dumps(failure, ensure_ascii=False, indent=1))
    return {
        "metrics": {name: _shown(metric) for name, metric in found["metrics"].items()},
        "confusion": found["confusion"],
        "passed": verdict.passed,
        "reasons": verdict.reasons,
        "heldout_loss": {"base": learned.base_loss, "tuned": learned.tuned_loss},
        "rows": {"training": len(learned.training), "heldout": len(learned.heldout[: arguments.rows])},
        "cases": len(asked),
        "steps": learned.steps,
        "tokens": learned.tokens,
        "seconds": {name: asdict(took) for name, took in seconds.items()},
        "threads": torch.get_num_threads(),
        "settings": learned.job.to_hyperparameters(),
        "data": str(arguments.data),
        "held_out": arguments.held_out and str(arguments.held_out),
        "base": str(arguments.base),
    }


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as lines:
        return list(read(lines))


def _shown(metric: Mapping[str, Any]) -> dict[str, Any]:
    shown = {"turns": metric["turns"], "conversations": metric["conversations"]}
    for name in ("base", "tuned", "difference"):
        estimate = metric[name]
        shown[name] = estimate and [round(estimate[part], 3) for part in ("value", "low", "high")]
    return shown


def _setting(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals:
        raise SettingError(f"--set {given}: write NAME=VALUE, such as MAX_STEPS=100")
    return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=STANLEY, help="JSONL file of chats (examples/stanley)")
    parser.add_argument("--base", type=Path, default=BASE, help="checkpoint folder (examples/tiny_base/checkpoint)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the job")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the training (0)")
    parser.add_argument("--held-out", type=Path, help="JSONL file to ask about in place of rows held out of --data")
    parser.add_argument("--rows", type=int, help="held-out rows that are asked, the first so many (all)")
    parser.add_argument("--failures", action="store_true", help="print failed turns before each line")
    return parser


if __name__ == "__main__":
    main()
