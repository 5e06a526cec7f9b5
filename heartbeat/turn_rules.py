"""What one generated turn did right and wrong, by metric, held against the turn of a held-out row.

routing            the tools called are those that the row calls (each set of tools is a route; none is one too)
answering          with the results at hand it answers, where the row does, rather than calling again
validity           a call where the row calls: the served reader reads it, the tool exists, arguments are as declared
exact_arguments    the same calls with the same arguments, in whatever order
persona            the rules of heartbeat/persona.toml
language           the answer is in the user's language
figures            no figure that neither the user nor a tool gave
instruction        what the user asked of the answer's form, where a program can verify it (heartbeat/constraints.py)

Which metrics count for a case is decided by the row alone, before the model speaks: base and tuned are scored on the
same turns, a model cannot leave out what it is bad at, and doing better at one turn never lowers a score. So a turn
of another kind than the row's (a call where it answers, or the reverse) fails what it was to be scored by, and
nothing said fails everything. Where the row's own turn breaks a rule, that rule is not scored there: the row teaches
the exception.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from heartbeat import schema
from heartbeat.cases import Case, expected_text
from heartbeat.chat import PYTHON_START
from heartbeat.constraints import Constraint, constraints
from heartbeat.doubts import language_of, may_be
from heartbeat.figures import unsupported
from heartbeat.persona import Persona
from heartbeat.tool_call_parser import ToolCall, parse_calls

METRICS = (
    "routing",
    "answering",
    "validity",
    "exact_arguments",
    "persona",
    "language",
    "figures",
    "instruction",
)

NO_TOOL, NOTHING_SAID, UNREADABLE, UNKNOWN_TOOL = "(no tool)", "(nothing said)", "(unreadable call)", "(unknown tool)"
"""Routes that are not sets of tools. No tool has such a name: parentheses are not allowed in one."""

_CALL_BEGINS = re.compile(r"\[\s*[A-Za-z_]\w*\s*\(")


@dataclass(frozen=True, kw_only=True)
class TurnScore:
    """One turn: what is wrong by metric (None where it is right; a metric that does not count is left out)."""

    problems: Mapping[str, str | None]
    expected_route: str
    """Of the routes that are right the one taken; else the row's."""
    route: str


@dataclass(frozen=True, kw_only=True)
class _Turn:
    """What was said, read as the endpoint reads it."""

    text: str
    calls: Sequence[ToolCall]
    route: str

    @property
    def answer(self) -> str | None:
        return self.text if self.route == NO_TOOL else None


class TurnRules:
    """Scores turns of one case."""

    def __init__(self, case: Case, persona: Persona) -> None:
        self._case = case
        self._user = next((m.get("content") or "" for m in reversed(case.prompt) if m["role"] == "user"), "")
        expected = _read(expected_text(case), case)
        self._expected_route = expected.route
        said = _words(expected)
        self._persona = [rule for rule in persona if rule.problem(said, self._user, is_answer=case.is_answer) is None]
        found: list[Constraint] = constraints(self._user) if case.is_answer else []
        self._asked_language = any(constraint.asks.startswith("language") for constraint in found)
        self._constraints = [constraint for constraint in found if constraint.is_kept_by(said)]
        self._language = self._told_language()
        self._counts = frozenset(name for name, problem in self._problems(expected).items() if problem is None)

    def score(self, text: str) -> TurnScore:
        """The score of a turn that a model said: its text without the end-of-turn token. Never raises."""
        turn = _read(text, self._case)
        found = self._problems(turn)
        problems = {name: found[name] for name in METRICS if name in self._counts}
        right = problems.get("routing", "not scored") is None
        return TurnScore(
            problems=problems, expected_route=turn.route if right else self._expected_route, route=turn.route
        )

    def _problems(self, turn: _Turn) -> dict[str, str | None]:
        """By metric; which ones are there depends on the case alone."""
        case = self._case
        found: dict[str, str | None] = {}
        if case.is_answer and case.follows_results:
            found["answering"] = None if turn.answer is not None else f"does not answer: {turn.route}"
        else:
            found["routing"] = self._routing(turn)
        if not case.is_answer:
            found["validity"] = self._validity(turn)
            found["exact_arguments"] = self._exactness(turn)
        if self._persona:
            found["persona"] = self._said_badly(turn) or self._out_of_character(turn)
        found["figures"] = self._said_badly(turn) or self._figures(turn)
        if self._language:
            wrong = f"not in the user's language ({self._language})"
            found["language"] = self._said_badly(turn) or (None if may_be(turn.text, self._language) else wrong)
        if self._constraints:
            missed = [asked.asks for asked in self._constraints if not asked.is_kept_by(turn.text)]
            found["instruction"] = self._said_badly(turn) or (f"not as asked: {', '.join(missed)}" if missed else None)
        return found

    def _routing(self, turn: _Turn) -> str | None:
        accepted = {_route(calls, self._case) for calls in self._case.accepted} or {NO_TOOL}
        return None if turn.route in accepted else f"route {turn.route}, not {self._expected_route}"

    def _validity(self, turn: _Turn) -> str | None:
        if not turn.calls:
            return f"no call that can be read: {turn.route}"
        for call in turn.calls:
            if call.name not in self._case.tools:
                return f"calls {call.name[:60]!r}, which is no tool"
            declared = self._case.tools[call.name]
            problem = schema.mismatch(call.arguments, declared) if declared else None
            if problem:
                return f"calls {call.name} with arguments that {problem}"
        return None

    def _exactness(self, turn: _Turn) -> str | None:
        if any(_same_calls(turn.calls, calls) for calls in self._case.accepted):
            return None
        return "other calls or arguments than the row's"

    def _said_badly(self, turn: _Turn) -> str | None:
        if turn.route == NOTHING_SAID:
            return "says nothing"
        return f"does not answer: {turn.route}" if self._case.is_answer and turn.answer is None else None

    def _out_of_character(self, turn: _Turn) -> str | None:
        said, is_answer = _words(turn), self._case.is_answer
        broken = (rule.problem(said, self._user, is_answer=is_answer) for rule in self._persona)
        return next((problem for problem in broken if problem), None)

    def _figures(self, turn: _Turn) -> str | None:
        # The assistant's own earlier words are no source: a figure does not become true by being repeated.
        sources = [m.get("content") or "" for m in self._case.prompt if m["role"] != "assistant"]
        claimed = unsupported(_words(turn), sources)
        return f"no source for {', '.join(claimed[:5])}" if claimed else None

    def _told_language(self) -> str | None:
        """The user's language, from the latest message that tells; None where none does, or where one was asked for."""
        if not self._case.is_answer or self._asked_language:
            return None
        asked = [m.get("content") or "" for m in reversed(self._case.prompt) if m["role"] == "user"]
        return next((found for text in asked if (found := language_of(text)) != "unknown"), None)


def _read(text: str, case: Case) -> _Turn:
    text = text.strip()
    calls = parse_calls(text) or ()
    if calls:
        return _Turn(text=text, calls=calls, route=_route(calls, case))
    if not text:
        return _Turn(text="", calls=(), route=NOTHING_SAID)
    attempt = (
        text.startswith(PYTHON_START) or _CALL_BEGINS.match(text) or any(_names(text, name) for name in case.tools)
    )
    return _Turn(text=text, calls=(), route=UNREADABLE if attempt else NO_TOOL)


def _words(turn: _Turn) -> str:
    """What the user would read: a call's arguments are not said to anybody."""
    return "" if turn.calls else turn.text


def _names(text: str, tool: str) -> bool:
    """Whether a text holds a call of a tool in some form that the endpoint does not read."""
    name = re.escape(tool)
    return bool(re.search(rf"\b{name}\s*\(|\"name\"\s*:\s*\"{name}\"|<function={name}\b", text))


def _route(calls: Sequence[ToolCall], case: Case) -> str:
    names = {call.name if call.name in case.tools else UNKNOWN_TOOL for call in calls}
    return " + ".join(sorted(names))


def _same_calls(some: Sequence[ToolCall], others: Sequence[ToolCall]) -> bool:
    """Whether these are the same calls, in any order: calls of one turn have none."""
    left = list(others)
    for call in some:
        match = next((i for i, other in enumerate(left) if _same_call(call, other)), None)
        if match is None:
            return False
        del left[match]
    return not left


def _same_call(one: ToolCall, other: ToolCall) -> bool:
    return one.name == other.name and schema.same(one.arguments, other.arguments)
