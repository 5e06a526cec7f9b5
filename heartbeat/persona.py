"""The rules of a persona, which a user edits: what it never says, and what it says when it is asked.

The rules are data (heartbeat/persona.toml has the defaults and the form): nobody else's persona is Stanley's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heartbeat.toml_settings import SettingsFile

FILE = Path(__file__).with_name("persona.toml")
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule. `must` is of answers alone: a tool call has no words to say a name with."""

    name: str
    never: Sequence[re.Pattern[str]] = ()
    must: Sequence[re.Pattern[str]] = ()
    when: Sequence[re.Pattern[str]] = ()

    def problem(self, said: str, user: str, *, is_answer: bool) -> str | None:
        """How a turn breaks the rule; None where it keeps it, or where the user's message does not call for it."""
        said, user = _plain(said), _plain(user)
        if self.when and not _found(self.when, user):
            return None
        broken = _found(self.never, said)
        if broken:
            return f"{self.name}: says {broken[0][:_SHOWN_CHARACTERS]!r}"
        if is_answer and self.must and not _found(self.must, said):
            return f"{self.name}: does not say {self.must[0].pattern[:_SHOWN_CHARACTERS]!r}"
        return None


Persona = Sequence[Rule]


def load(path: Path = FILE) -> Persona:
    """The rules in a file. Raises SettingError that names the file, the setting and the fix."""
    return read(path.read_text(encoding="utf-8"), str(path.name))


def read(text: str, name: str = FILE.name) -> Persona:
    """The same of a file's text; `name` is what messages call it."""
    file = SettingsFile(name, text)
    file.check(file.table, ("rules",))
    return [_rule(file, title, table) for title, table in file.tables("rules").items()]


def _rule(file: SettingsFile, name: str, table: Mapping[str, Any]) -> Rule:
    at = f"rules.{name}"
    file.check(table, ("never", "must", "when"), at)
    rule = Rule(name=name, **{key: list(_patterns(file, f"{at}.{key}", given)) for key, given in table.items()})
    if not rule.never and not rule.must:
        raise file.error(at, table, "add never or must, or drop the rule: it forbids nothing and asks for nothing")
    return rule


def _patterns(file: SettingsFile, at: str, given: Any) -> Iterator[re.Pattern[str]]:
    if not isinstance(given, list) or not given or not all(isinstance(one, str) and one for one in given):
        raise file.error(at, given, "write a list of regular expressions, ['…']")
    for pattern in given:
        try:
            yield re.compile(pattern, re.IGNORECASE)
        except (re.error, OverflowError, RecursionError) as error:
            raise file.error(at, pattern, f"correct the regular expression ({error})") from None


def _found(patterns: Sequence[re.Pattern[str]], text: str) -> re.Match[str] | None:
    return next((found for pattern in patterns if (found := pattern.search(text))), None)


def _plain(text: str) -> str:
    return " ".join(text.replace("\u2019", "'").split())
