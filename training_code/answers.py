"""Asking base and tuned model, from the same weights, and scoring what they say."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from heartbeat import asking, held_out_sample, probes, scores
from heartbeat.durations import about
from heartbeat.job import FineTuneJob
from training_code import shortage
from training_code.clock import Clock
from training_code.environment import write_json
from training_code.generate import Interrupted, cache_bytes, generate
from training_code.llama import Llama
from training_code.questions import Questions
from training_code.ranks import Ranks
from training_code.tokenizer import ChatTokenizer

SCHEMA = 1
BASE_FILE = "base-answers.json"
"""In the checkpoint folder: a resumed job does not ask the base model again."""
BASE_SHARE = 0.25
"""Of the time that is left, what the base model may take. The tuned model takes as long again, so at least half is
left for training."""
TUNED_MARGIN = 1.3
"""The tuned model is expected to take what the base took times this: it goes through the adapter as well."""
SECONDS_TO_SCORE_A_TURN = 0.005
"""Measured on one core: 0.45 s for the 279 turns of 128 Stanley rows."""
_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Of one model, in the order of the prompts."""

    texts: list[str]
    seconds: float
    tokens: int
    num_cut: int
    """Answers that had not ended after `max_new_tokens`."""

    def figures(self) -> dict[str, float]:
        speed = self.tokens / self.seconds if self.seconds else 0.0
        return {
            "seconds": self.seconds,
            "tokens": self.tokens,
            "tokens_per_second": speed,
            "answers_cut": self.num_cut,
        }


@dataclass(kw_only=True)
class Asking:
    """The proof of quality of one run, on all ranks. Answers are kept by the first alone."""

    job: FineTuneJob
    questions: Questions | None
    num_heldout_rows: int
    heldout_lines: Mapping[str, int]
    """Where held-out rows stand in their file, by heartbeat.cases.name_of."""
    llama: Llama
    tokenizer: ChatTokenizer
    ranks: Ranks
    clock: Clock
    folder: Path
    """Of the checkpoints."""
    identity: str
    """Of the base model's weights."""
    free_bytes: Callable[[], float]
    """Of memory, for a batch."""
    say: Callable[[str], None]
    base: Answers | None = None
    tuned: Answers | None = None
    why_not: str = field(init=False)
    """Why there are no scores, as long as there are none."""

    def __post_init__(self) -> None:
        self.why_not = "the job ended before the tuned model had answered"
        if self.questions is None:
            self.why_not = (
                "EVAL_GENERATE_ROWS=0 asks for no answers"
                if self.is_turned_off
                else "there are no held-out rows to ask about; raise HELD_OUT_FRACTION or add rows"
            )

    @property
    def is_turned_off(self) -> bool:
        return self.job.eval_generate_rows == 0

    def seconds_expected(self) -> float:
        """Of what is still to do at the end of the run."""
        if self.base is None or self.tuned is not None:
            return 0.0
        return self.base.seconds * TUNED_MARGIN + len(self.base.texts) * SECONDS_TO_SCORE_A_TURN

    def ask_base(self) -> None:
        """Once a run, also where it is resumed. Gives up where it would take more than its share of the time left."""
        if self.questions is None:
            return
        if self.ranks.is_first:
            self.base = self._read_base()
        if self._told(self.base is not None):
            return
        left = self.clock.seconds_left()
        found = self._ask(self.questions, adapted=False, seconds_at_most=left * BASE_SHARE)
        if found is not None:
            self.base = found
            self._write_base()

    def ask_tuned(self) -> None:
        """At the end. There is an answer of the tuned model to every question, or none to any."""
        if self.questions is None or not self._told(self.base is not None):
            return
        left, needed = self.clock.seconds_left(), self.seconds_expected()
        if self._told(needed > left):
            self.why_not = self._too_late(
                f"the tuned model's answers take about {about(needed)}, of {about(left)} left"
            )
            self.say(f"warning: {self.why_not}")
            return
        self.tuned = self._ask(self.questions, adapted=True, seconds_at_most=left)
        if self.tuned is not None and self.ranks.is_first:
            # Now, not with the questions: S3 counts the days until it expires from here.
            write_json(self.folder / held_out_sample.FILE, self.questions.sample)

    def record(self) -> dict[str, Any]:
        """What scores.json holds: the scores with transcripts of what failed, or why there are none."""
        questions, base, tuned = self.questions, self.base, self.tuned
        asked: dict[str, Any] = {
            "heldout_rows": self.num_heldout_rows,
            "rows": questions.num_rows if questions else 0,
            "turns": len(questions.cases) if questions else 0,
            "turns_over_max_new_tokens": questions.num_over_long if questions else 0,
            "probes": len(questions.general) if questions else 0,
            "max_new_tokens": self.job.eval_max_new_tokens,
            "base": base.figures() if base else None,
            "tuned": tuned.figures() if tuned else None,
        }
        if questions is None or base is None or tuned is None:
            found = scores.unscored(self.why_not, turned_off=self.is_turned_off)
        else:
            count = len(questions.cases)
            found = scores.measure(
                questions.cases,
                base.texts[:count],
                tuned.texts[:count],
                questions.persona,
                general=probes.score(questions.general, base.texts[count:], tuned.texts[count:]),
                lines=self.heldout_lines,
                seed=self.job.seed,
            ).to_dict()
        return {"schema": SCHEMA, "asked": asked, **found}

    # --- one model

    def _ask(self, questions: Questions, *, adapted: bool, seconds_at_most: float) -> Answers | None:
        """None where it was left before the end, with the reason in `why_not`; then on every rank."""
        who = "tuned" if adapted else "base"
        started = time.monotonic()
        order = sorted(range(len(questions.prompts)), key=lambda i: -len(questions.prompts[i]))
        like_base = self.base.seconds * TUNED_MARGIN if self.base else None
        told = _Progress(self.say, f"answers of the {who} model", len(order), like_base)
        ids: dict[int, list[int]] = {}

        def too_late() -> bool:
            # The base's answers are of no use to a job that is to stop; the tuned model's still are, if there is time.
            stop = self.clock.signalled and not adapted
            return stop or time.monotonic() - started > seconds_at_most or self.clock.seconds_left() <= 0

        together = self._rows_together(questions)
        while len(ids) < len(order):
            batch = order[len(ids) : len(ids) + together * self.ranks.world_size]
            try:
                said = generate(
                    self.llama,
                    [questions.prompts[i] for i in batch],
                    max_new_tokens=questions.max_new_tokens,
                    stop_ids=questions.stop_ids,
                    adapted=adapted,
                    batch_size=together,
                    ranks=self.ranks,
                    progress=told.of_batch(len(ids), len(batch), self.ranks.world_size),
                    interrupted=too_late,
                )
            except Interrupted:
                self._note_interrupted(who, len(ids), len(order))
                return None
            except Exception as error:
                # Several ranks cannot agree on a smaller batch in the midst of this one.
                if not shortage.is_of_gpu(error) or self.ranks.world_size > 1 or together == 1:
                    raise
                together //= 2
                self.say(f"out of memory; {together} prompts are answered together")
                torch.cuda.empty_cache()
                continue
            ids.update(zip(batch, said, strict=True))
            told.expected = (time.monotonic() - started) / len(ids) * len(order)
            if len(ids) < len(order) and self._told(told.expected > seconds_at_most):
                self._note_too_slow(who, told.expected)
                return None
        seconds = time.monotonic() - started
        tokens = sum(map(len, ids.values()))
        cut = sum(one[-1] not in questions.stop_ids for one in ids.values())
        self.say(
            f"{len(ids)} answers of the {who} model, {tokens:,} tokens, {tokens / seconds:,.0f} tokens/s; {cut} cut"
        )
        texts = [self._text(ids[i], questions) for i in range(len(order))]
        return Answers(texts=texts, seconds=seconds, tokens=tokens, num_cut=cut)

    def _text(self, ids: Sequence[int], questions: Questions) -> str:
        return self.tokenizer.decode(ids[:-1] if ids[-1] in questions.stop_ids else ids)

    def _rows_together(self, questions: Questions) -> int:
        """Prompts that each rank answers together: as many as memory is free for, by the longest."""
        longest, shape = max(map(len, questions.prompts)), self.llama.architecture.shape
        itemsize = self.llama.dtype.itemsize
        needed = asking.row_bytes(shape, prompt_tokens=longest, new_tokens=questions.max_new_tokens, itemsize=itemsize)
        together = asking.rows_together(
            free_bytes=self.free_bytes(),
            row_bytes=needed,
            num_rows=-(-len(questions.prompts) // self.ranks.world_size),
        )
        # The first rank's, for all: free memory differs a little from GPU to GPU. Then what all of them can have.
        together = self.ranks.of_first(together, self.llama.device)
        cached = cache_bytes(self.llama.architecture, longest + questions.max_new_tokens, self.llama.dtype)
        while together > 1 and self._any(not _can_have(together * cached, self.llama.device)):
            together //= 2
        return together

    # --- agreement

    def _told(self, value: bool) -> bool:
        """What the first rank finds, on every rank."""
        return bool(self.ranks.of_first(int(value), self.llama.device))

    def _any(self, value: bool) -> bool:
        return self.ranks.totals([value], self.llama.device) != [0]

    # --- reasons

    def _note_interrupted(self, who: str, done: int, count: int) -> None:
        if self.clock.signalled:
            self.why_not = f"a request to stop came when {done} of {count} answers of the {who} model were there"
        else:
            self.why_not = self._too_late(f"{done} of {count} answers of the {who} model were there when it ran out")
        self.say(f"warning: {self.why_not}")

    def _note_too_slow(self, who: str, expected: float) -> None:
        twice = "" if who == "tuned" else ", and as long again with the adapter"
        self.why_not = self._too_late(f"the {who} model's answers would take {about(expected)}{twice}")
        self.say(f"warning: {self.why_not}")

    def _too_late(self, what: str) -> str:
        return (
            f"there was not enough time ({what}); raise max_runtime_seconds, or lower EVAL_GENERATE_ROWS="
            f"{self.job.eval_generate_rows} or EVAL_MAX_NEW_TOKENS={self.job.eval_max_new_tokens}"
        )

    # --- the base model's answers, kept

    def _read_base(self) -> Answers | None:
        try:
            found = json.loads((self.folder / BASE_FILE).read_text(encoding="utf-8"))
            known = found["identity"] == self._asked_as
            return Answers(**found["answers"]) if known else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # what cannot be read is asked again

    def _write_base(self) -> None:
        if self.ranks.is_first and self.base is not None:
            write_json(self.folder / BASE_FILE, {"identity": self._asked_as, "answers": asdict(self.base)})

    @property
    def _asked_as(self) -> str:
        assert self.questions is not None
        return f"{self.identity}:{self.questions.digest}"


class _Progress:
    """A line about answers, now and then."""

    def __init__(self, say: Callable[[str], None], what: str, count: int, expected: float | None) -> None:
        self._say, self._what, self._count = say, what, count
        self.expected = expected
        """Seconds of all answers; None where nothing tells. In the midst of a batch those that are there do not: they
        all take as many walks, and end together."""
        self._started = self._told_at = time.monotonic()

    def of_batch(self, before: int, size: int, num_ranks: int) -> Callable[[int], None]:
        """To be told how many of one rank's prompts of a batch are answered; the other ranks are as far."""
        return lambda mine: self._tell(before + min(size, mine * num_ranks))

    def _tell(self, done: int) -> None:
        now = time.monotonic()
        if now - self._told_at < _SECONDS_BETWEEN_LINES:
            return
        self._told_at = now
        left = None if self.expected is None else max(0.0, self.expected - (now - self._started))
        words = "" if left is None else f", about {about(left)} left"
        self._say(f"{self._what}: {done} of {self._count}{words}")


def _can_have(num_bytes: int, device: torch.device) -> bool:
    try:
        torch.empty(num_bytes, dtype=torch.uint8, device=device)
    except (torch.OutOfMemoryError, RuntimeError):
        return False
    return True
