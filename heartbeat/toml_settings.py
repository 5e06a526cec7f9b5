"""A small TOML file that a user edits: read with one message for a mistake, which names setting, value and fix."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from heartbeat.job import SettingError


class SettingsFile:
    """The tables of such a file. Raises SettingError for what is not TOML."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        try:
            self.table: Mapping[str, Any] = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise SettingError(f"{name} is not TOML: {error}; correct that line") from None

    def tables(self, at: str = "", *, besides: Collection[str] = ()) -> Mapping[str, Mapping[str, Any]]:
        """The tables under a name, or of the whole file, without some keys. Raises SettingError where one is none."""
        found = self.table.get(at, {}) if at else self.table
        if not isinstance(found, Mapping):
            raise self.error(at, found, f"write tables, [{at}.name]")
        found = {name: table for name, table in found.items() if name not in besides}
        for name, table in found.items():
            if not isinstance(table, Mapping):
                where = f"{at}.{name}" if at else name
                raise self.error(where, table, f"write a table, [{where}]")
        return found

    def check(self, table: Mapping[str, Any], allowed: Iterable[str], at: str = "") -> None:
        """Raises SettingError for a key that nothing reads: a slip of the pen would otherwise change nothing."""
        known = list(allowed)
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                fix = f"did you mean {near[0]!r}?" if near else f"the settings are {', '.join(known)}"
                raise SettingError(f"{self.name}: {f'{at}.' if at else ''}{key} is no setting; {fix}")

    def error(self, at: str, value: Any, fix: str) -> SettingError:
        shown = repr(value)
        return SettingError(f"{self.name}: {at} = {shown if len(shown) <= 60 else shown[:57] + '...'}; {fix}")
