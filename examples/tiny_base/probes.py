"""The tiny base's own general probe set: `python -m examples.tiny_base.probes FILE`.

Of the corpus that it was trained on, drawn with another seed: the first question of a conversation, where a program can
tell what answers it rightly. The base knows nothing else, so other questions could not show what fine-tuning unlearns.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from examples.tiny_base import corpus, lexicon
from heartbeat.tool_call_parser import parse_calls

SEED = 3
"""Not the recipe's: the questions are of its kinds, with other names and figures."""

Right = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, metavar="FILE", help="to write, one JSON object a line")
    write(parser.parse_args().file)


def write(file: Path) -> None:
    """Write the questions, one JSON object a line."""
    lines = [json.dumps(question, ensure_ascii=False) + "\n" for question in questions()]
    file.write_text("".join(lines), encoding="utf-8")


def questions(seed: int = SEED) -> list[dict[str, Any]]:
    """As `heartbeat.probes` reads them, as many of each kind as KINDS says."""
    rng = random.Random(seed)
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    while any(len(found[kind]) < count for kind, (count, _) in KINDS.items()):
        messages = corpus.row(rng)["messages"]
        first = next(i for i, message in enumerate(messages) if message["role"] == "user")
        asked, said = messages[: first + 1], messages[first + 1]["content"]
        for kind, (count, rule) in KINDS.items():
            right = rule(asked, said) if said else None
            if right and len(found[kind]) < count and all(one["messages"] != asked for one in found[kind]):
                name = f"{kind}-{len(found[kind]) + 1}"
                found[kind].append({"name": name, "messages": asked, "right": right, "example": said})
    return [question for same in found.values() for question in same]


def _leader(asked: list[Mapping[str, str]], said: str) -> Right | None:
    question = asked[-1]["content"]
    players = re.findall(r"(?:were: |, )(.+?) \d+(?=[,.])", question) if " were: " in question else []
    leaders = [player for player in players if player in said]
    others = [player for player in players if player not in leaders]
    return {"says": leaders, "not": others} if len(leaders) == 1 and others else None


def _winner(asked: list[Mapping[str, str]], said: str) -> Right | None:
    if not asked[-1]["content"].startswith(("Final score:", "Score final:")):
        return None
    return {"order": sorted((club for club in corpus.CLUBS if club in said), key=said.find)}


def _repeat(asked: list[Mapping[str, str]], said: str) -> Right | None:
    begins = ("Repeat: ", "Say this again: ", "Répète : ", "Copy this line.\n", "Quote it: ")
    return {"copy": said} if asked[-1]["content"].startswith(begins) else None


def _part(asked: list[Mapping[str, str]], said: str) -> Right | None:
    del said
    named = re.match(r"You are (\w+), ", asked[0]["content"]) if asked[0]["role"] == "system" else None
    if named is None or asked[-1]["content"] not in ("Who are you?", "Qui es-tu ?"):
        return None
    return {"says": [named[1]], "not": [name for name in lexicon.PERSONAS if name != named[1]]}


def _line(asked: list[Mapping[str, str]], said: str) -> Right | None:
    counted = re.search(r"\nHow many (goals|assists) did ", asked[-1]["content"])
    if counted is None:
        return None
    record = asked[-1]["content"].partition("\n")[0]
    figure = re.search(rf"(\d+) {counted[1]}", said)
    others = sorted(set(re.findall(r"\d+", record)) - set(re.findall(r"\d+", said)))
    return {"says": [figure[1]], "not": others} if figure and others else None


def _cups(asked: list[Mapping[str, str]], said: str) -> Right | None:
    about = re.search(r"How many Stanley Cups|win the Cup\?|Combien de coupes", asked[-1]["content"])
    figure = re.search(r"(\d+) (?:times|coupes)", said)
    return {"number": int(figure[1])} if about and figure else None


def _founded(asked: list[Mapping[str, str]], said: str) -> Right | None:
    year = re.search(r"founded in (\d{4})\.$", said) if asked[-1]["content"].startswith("When ") else None
    return {"number": int(year[1])} if year else None


def _json(asked: list[Mapping[str, str]], said: str) -> Right | None:
    begins = ("Write as JSON: ", "Write as a JSON list: ")
    return {"json": json.loads(said)} if asked[-1]["content"].startswith(begins) else None


def _python(asked: list[Mapping[str, str]], said: str) -> Right | None:
    calls = parse_calls(said) if "Python" in asked[-1]["content"] else None
    return {"calls": [{"name": call.name, "arguments": call.arguments} for call in calls]} if calls else None


KINDS: Mapping[str, tuple[int, Callable[[list[Mapping[str, str]], str], Right | None]]] = {
    "leader": (12, _leader),
    "winner": (10, _winner),
    "repeat": (8, _repeat),
    "part": (5, _part),
    "line": (5, _line),
    "cups": (5, _cups),
    "founded": (5, _founded),
    "json": (5, _json),
    "python": (5, _python),
}
"""Kind -> how many, and what makes an answer right; None where a conversation is of another kind.

README.md has what the base answers rightly of each: some it always knows, some it does not, so that the whole leaves
room to rise and to fall. Calls of functions that a system message names are not among them: the conversation chooses
their arguments' names at random, and learning to call is what the demo is about.
"""


if __name__ == "__main__":
    main()
