"""What base and tuned model are asked: the turns of held-out rows, and the general probe set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heartbeat import cases, held_out_sample, persona, probes
from heartbeat.cases import Case, Message
from heartbeat.chat import render
from heartbeat.job import FineTuneJob
from heartbeat.persona import Persona
from heartbeat.probes import Question
from training_code.data import Data
from training_code.environment import read_json_object
from training_code.tokenizer import ChatTokenizer

GENERATION_CONFIG = "generation_config.json"


@dataclass(frozen=True, kw_only=True)
class Questions:
    """The prompts as token ids, those of the cases first."""

    cases: list[Case]
    general: tuple[Question, ...]
    persona: Persona
    prompts: list[list[int]]
    stop_ids: frozenset[int]
    """That end an answer."""
    max_new_tokens: int
    num_rows: int
    """Held-out rows that are asked about."""
    num_over_long: int
    """Cases whose own turn has more than `max_new_tokens` tokens: what is said there is cut."""
    sample: dict[str, Any]
    """What of them the endpoint will be asked: see heartbeat.held_out_sample."""

    @property
    def digest(self) -> str:
        """Of all that the answers of one model depend on."""
        asked = [self.prompts, sorted(self.stop_ids), self.max_new_tokens]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def of_run(job: FineTuneJob, rows: Data, tokenizer: ChatTokenizer, base: Path) -> Questions | None:
    """The questions of a job; None where it asks none. `base`: the base model's folder, which may bring probes.

    A row over MAX_LENGTH is not held out; of all others every turn is asked, however long: an answer may go beyond
    MAX_LENGTH, which is training's limit and not the model's. Raises SettingError for a wrong file of probes or
    persona.toml, TrainingError for a wrong generation_config.json.
    """
    chosen = cases.chosen(rows.heldout_rows, job.eval_generate_rows)
    if not chosen:
        return None
    asked = cases.cases(chosen, rows.tools)
    general = probes.of_base(base)
    expected = (tokenizer.encode_text(cases.expected_text(case)) for case in asked)

    def prompt(messages: Sequence[Message], declared: Sequence[Any] | None) -> list[int]:
        return list(tokenizer.encode(render(messages, declared or None, generation_prompt=True)).ids)

    return Questions(
        cases=asked,
        general=general,
        persona=persona.load(),
        prompts=[
            *(prompt(case.prompt, case.declared) for case in asked),
            *(prompt(question.messages, None) for question in general),
        ],
        stop_ids=_stop_ids(base, tokenizer),
        max_new_tokens=job.eval_max_new_tokens,
        num_rows=len(chosen),
        num_over_long=sum(len(ids) >= job.eval_max_new_tokens for ids in expected),
        sample=held_out_sample.keep(
            chosen,
            rows.tools,
            max_new_tokens=job.eval_max_new_tokens,
            count=lambda case: len(prompt(case.prompt, case.declared)),
        ),
    )


def _stop_ids(base: Path, tokenizer: ChatTokenizer) -> frozenset[int]:
    """The end of a turn, and what else the checkpoint says that its model ends with."""
    given = read_json_object(base / GENERATION_CONFIG, missing={}).get("eos_token_id")
    listed = given if isinstance(given, list) else [given]
    return frozenset({tokenizer.end_of_turn, *(one for one in listed if type(one) is int)})
