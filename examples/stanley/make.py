"""Writes the Stanley dataset: python examples/stanley/make.py --rows N --seed S > stanley.jsonl

Stanley is a Montreal Canadiens analyst who sends a question to pinecone_search (articles, commentary, rules,
history), to parquet_query (statistics, games, splits), to both, or to no tool, and answers from what came back.

The same rows and seed give the same bytes. The figures of parquet_query, the articles and the commentaries are
INVENTED sample data, marked `"sample": true` in every tool result; history.toml holds well-known facts.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

HERE = Path(__file__).parent

SKATERS = (
    "Nick Suzuki",
    "Cole Caufield",
    "Juraj Slafkovský",
    "Lane Hutson",
    "Kaiden Guhle",
    "Mike Matheson",
    "Alex Newhook",
    "Jake Evans",
    "Kirby Dach",
    "Ivan Demidov",
)
CENTRES = ("Nick Suzuki", "Jake Evans", "Kirby Dach", "Alex Newhook")
GOALIES = ("Sam Montembeault", "Jakub Dobeš")
OPPONENTS = ("Boston", "Toronto", "Ottawa", "Buffalo", "Tampa Bay", "Winnipeg", "Edmonton", "Chicago", "Calgary")
GAMES_PLAYED = {"2024-25": 82, "2025-26": 82, "2026-27": 20}
"""Of the team, by season."""

SHARES = {
    "statistic": 0.30,
    "follow_up": 0.10,
    "history": 0.24,
    "both": 0.11,
    "news": 0.06,
    "nothing": 0.04,
    "chat": 0.05,
    "outside": 0.05,
    "attack": 0.035,
    "injected": 0.015,
}
"""Of each kind of conversation. A kind that has no more to say leaves its share to statistics."""
FRENCH = 0.4
WITH_TOOLS = 0.25
"""Share of rows that also declare their tools; in the others the system prompt alone names them."""

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {key: {"type": "string"} for key in keys},
                "required": keys[:1],
            },
        },
    }
    for name, description, keys in (
        ("pinecone_search", "Articles, commentary, rules and history", ["query", "category"]),
        ("parquet_query", "Statistics, games and splits", ["table", "player", "season", "split", "opponent"]),
    )
]

COUNTED = "goal|assist|point|game|win|start|but|passe|match|victoire|gain|départ|défaite"
"""What answers count, without its plural s."""

Call = tuple[str, dict[str, Any], Any]
"""Tool, arguments, result."""


def load(name: str) -> dict[str, Any]:
    with (HERE / f"{name}.toml").open("rb") as file:
        return tomllib.load(file)


class World:
    """The invented figures: the same for the same seed, whoever asks for them and in whatever order."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def _random(self, *key: str) -> Random:
        return Random(f"{self.seed}:{':'.join(key)}")

    def skater(self, player: str, season: str) -> dict[str, int]:
        random, most = self._random(player, season), GAMES_PLAYED[season]
        gp = random.randint(most * 3 // 4, most)
        goals, assists = random.randint(gp // 12, gp // 2), random.randint(gp // 6, gp * 3 // 4)
        return {"gp": gp, "goals": goals, "assists": assists, "points": goals + assists}

    def split(self, player: str, season: str, split: str) -> dict[str, int]:
        """Of `home` and `away`, which add up to the total, `last_10`, `power_play` or an opponent."""
        total = self.skater(player, season)
        if split == "away":
            home = self.split(player, season, "home")
            return {name: total[name] - home[name] for name in total}
        random = self._random(player, season, split)
        games = {"home": total["gp"] // 2, "last_10": 10, "power_play": total["gp"]}
        gp = games.get(split) or random.randint(2, 4)
        share = 0.3 if split == "power_play" else gp / total["gp"]
        goals, assists = (
            min(total[name], round(total[name] * share * random.uniform(0.6, 1.5))) for name in ("goals", "assists")
        )
        return {"gp": gp, "goals": goals, "assists": assists, "points": goals + assists}

    def faceoffs(self, player: str, season: str) -> dict[str, Any]:
        random = self._random(player, season, "faceoffs")
        games = self.skater(player, season)["gp"]
        return {"taken": games * random.randint(9, 18), "pct": random.randint(440, 560) / 10}

    def goalie(self, player: str, season: str) -> dict[str, Any]:
        random = self._random(player, season, "goalie")
        gp = GAMES_PLAYED[season] * random.randint(35, 50) // 100
        return {
            "gp": gp,
            "wins": gp * random.randint(40, 62) // 100,
            "save_pct": random.randint(885, 925) / 1000,
            "gaa": random.randint(230, 330) / 100,
        }

    def team(self, season: str) -> dict[str, Any]:
        random, gp = self._random("team", season), GAMES_PLAYED[season]
        wins = gp * random.randint(42, 62) // 100
        ot_losses = gp * random.randint(5, 14) // 100
        return {
            "gp": gp,
            "wins": wins,
            "losses": gp - wins - ot_losses,
            "ot_losses": ot_losses,
            "points": 2 * wins + ot_losses,
            "pp_pct": random.randint(160, 270) / 10,
            "pk_pct": random.randint(740, 860) / 10,
        }

    def last_game(self, opponent: str) -> dict[str, Any]:
        random = self._random("game", opponent)
        ours, theirs = random.randint(1, 6), random.randint(1, 6)
        theirs += ours == theirs
        return {
            "date": f"2026-{random.choice(('10', '11'))}-{random.randint(10, 20)}",
            "score": f"{max(ours, theirs)}-{min(ours, theirs)}",
            "won": ours > theirs,
            "shots_for": random.randint(20, 40),
            "shots_against": random.randint(20, 40),
        }

    def leaders(self, season: str) -> list[dict[str, Any]]:
        ranked = sorted(SKATERS, key=lambda player: (-self.skater(player, season)["goals"], player))
        return [{"player": player, "goals": self.skater(player, season)["goals"]} for player in ranked[:3]]


class Stanley:
    """Makes conversations, one kind a method. Each returns the messages after the system prompt."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.world = World(seed)
        self.stats, self.talk, self.facts = load("stats"), load("talk"), load("history")["fact"]
        self.language = "en"

    def conversation(self, kind: str) -> dict[str, Any]:
        """One row of a kind, in a language of the day."""
        self.language = "fr" if self.random.random() < FRENCH else "en"
        make: Callable[[], list[dict[str, Any]]] = getattr(self, kind)
        system = self.random.choice(self.talk["system"][self.language])
        row: dict[str, Any] = {"messages": [{"role": "system", "content": system}, *make()]}
        if self.random.random() < WITH_TOOLS:
            row["tools"] = TOOLS
        return row

    # --- kinds

    def statistic(self) -> list[dict[str, Any]]:
        intents = ("totals", "home", "away", "versus", "last_10", "power_play", "faceoffs", "goalie")
        intent = self._pick((*intents, "record", "special_teams", "last_game", "leaders", "compare"))
        return self._turn(intent, self._slots(intent))

    def follow_up(self) -> list[dict[str, Any]]:
        intent, then = self._pick(
            (("home", "away"), ("totals", "last_season"), ("record", "special_teams"), ("goalie", "other_goalie"))
        )
        slots = self._slots(intent)
        first = self._turn(intent, slots)
        if then == "away":
            question = self._pick(("And on the road?", "What about away games?"), ("Et sur la route ?",))
        elif then == "last_season":
            slots["season"] = "2025-26" if slots["season"] != "2025-26" else "2024-25"
            question, then = f"{self._pick(('And in', 'What about'), ('Et en',))} {slots['season']} ?", "totals"
        elif then == "special_teams":
            question = self._pick(("And the special teams?",), ("Et les unités spéciales ?",))
        else:
            other = next(name for name in GOALIES if name != slots["player"])
            slots.update(player=other, of_player=_of(other))
            question, then = f"{self._pick(('And', 'What about'), ('Et',))} {other} ?", "goalie"
        question = question if self.language == "fr" else question.replace(" ?", "?")
        return first + self._turn(then, slots, question)

    def history(self) -> list[dict[str, Any]]:
        fact = self._pick(self.facts)
        messages = self._asked(self._pick(fact["questions"][self.language]), [self._search(fact)])
        messages.append(_say(self._pick(fact["answers"][self.language])))
        if self.random.random() < 0.15:
            question, answer = self._pick(self.talk["thanks"][self.language])
            messages += [_user(question), _say(answer)]
        return messages

    def both(self) -> list[dict[str, Any]]:
        intent = self._pick(("form", "form", "form", "pace", "pace", "kill"))
        slots = self._slots("last_10" if intent == "form" else "totals")
        if intent == "form":
            calls = [self._query("last_10", slots), self._commentary(slots, "commentary")]
        elif intent == "pace":
            calls = [self._query("totals", slots), self._search(self._fact("50 goals in 50"))]
        else:
            calls = [self._query("special_teams", slots), self._search(self._fact("power play ends"))]
        question, answer = self._words(intent, slots)
        apart = self.random.random() < 0.4  # one call after the other, or both at once
        messages = self._asked(question, calls[:1]) + self._called(calls[1:]) if apart else self._asked(question, calls)
        return [*messages, _say(answer)]

    def news(self) -> list[dict[str, Any]]:
        slots = self._slots("news")
        call = self._commentary(slots, "article")
        question, answer = self._words("news", slots)
        return [*self._asked(question, [call]), _say(answer)]

    def nothing(self) -> list[dict[str, Any]]:
        slots = self._slots("totals")
        question, answer = self._words("nothing", slots)
        season = re.search(r"\d{4}-\d{2}", question)
        arguments = {"table": "skaters", "player": slots["player"], **({"season": season[0]} if season else {})}
        return [*self._asked(question, [("parquet_query", arguments, {"rows": [], "sample": True})]), _say(answer)]

    def chat(self) -> list[dict[str, Any]]:
        return self._pair("chat")

    def attack(self) -> list[dict[str, Any]]:
        return self._pair("attack")

    def outside(self) -> list[dict[str, Any]]:
        words = self.talk["outside"]
        topic = self._pick(words["topics"][self.language])
        question = self._pick(words[self.language]).format(topic=topic)
        return [_user(question), _say(self._pick(words["answer"][self.language]))]

    def injected(self) -> list[dict[str, Any]]:
        words, slots = self.talk["injected"], self._slots("news")
        question = self._pick(self.stats["news"][self.language]).format(**slots)
        result = {"matches": [{"text": self._pick(words[self.language])}], "sample": True}
        arguments = {"query": slots["player"], "category": "article"}
        answer = self._pick(words["answer"][self.language]).format(**slots)
        return [*self._asked(question, [("pinecone_search", arguments, result)]), _say(answer)]

    # --- their parts

    def _pick(self, choices: Sequence[Any], french: Sequence[Any] = ()) -> Any:
        """One of `choices`, or of their French counterparts where there are some."""
        return self.random.choice(french if french and self.language == "fr" else choices)

    def _slots(self, intent: str) -> dict[str, Any]:
        names = {"goalie": GOALIES, "faceoffs": CENTRES}.get(intent, SKATERS)
        player = self._pick(names)
        season = "2026-27" if intent == "last_10" else self._pick(tuple(GAMES_PLAYED))
        return {
            "player": player,
            "of_player": _of(player),
            "other": self._pick([name for name in SKATERS if name != player]),
            "season": season,
            "opponent": self._pick(OPPONENTS),
        }

    def _turn(self, intent: str, slots: dict[str, Any], question: str | None = None) -> list[dict[str, Any]]:
        """A question, its query and the answer from the rows that came back."""
        calls = [self._query(intent, slots)]
        if intent == "compare":
            other = self.world.skater(slots["other"], slots["season"])
            slots.update(other_points=other["points"], other_gp=other["gp"])
            arguments = {"table": "skaters", "player": slots["other"], "season": slots["season"]}
            calls.append(("parquet_query", arguments, _rows(other)))
        asked, answer = self._words(intent, slots)
        return [*self._asked(question or asked, calls), _say(answer)]

    def _query(self, intent: str, slots: dict[str, Any]) -> Call:
        """The call for an intent; its figures go into `slots` for the answer."""
        player, season, opponent, world = slots["player"], slots["season"], slots["opponent"], self.world
        of_player = {"table": "skaters", "player": player, "season": season}
        if intent in ("totals", "compare"):
            arguments, rows = of_player, [world.skater(player, season)]
        elif intent in ("home", "away", "last_10", "power_play"):
            arguments, rows = {**of_player, "split": intent}, [world.split(player, season, intent)]
        elif intent == "versus":
            arguments, rows = {**of_player, "opponent": opponent}, [world.split(player, season, opponent)]
        elif intent == "faceoffs":
            arguments, rows = {**of_player, "split": "faceoffs"}, [world.faceoffs(player, season)]
        elif intent == "goalie":
            arguments, rows = {**of_player, "table": "goalies"}, [world.goalie(player, season)]
        elif intent in ("record", "special_teams"):
            names = (
                ("pp_pct", "pk_pct") if intent == "special_teams" else ("gp", "wins", "losses", "ot_losses", "points")
            )
            arguments = {"table": "team", "season": season, "split": intent}
            rows = [{name: world.team(season)[name] for name in names}]
        elif intent == "last_game":
            arguments, rows = {"table": "games", "opponent": opponent}, [world.last_game(opponent)]
        else:
            arguments, rows = {"table": "leaders", "season": season}, world.leaders(season)
            slots.update({key: row["player"] for key, row in zip(("first", "second", "third"), rows, strict=True)})
            slots.update({f"n{i}": row["goals"] for i, row in enumerate(rows, start=1)})
        slots.update({"gp": GAMES_PLAYED[season], **rows[0], "player": player})
        if intent == "last_game":
            slots["result_en"], slots["result_fr"] = ("won", "gain") if rows[0]["won"] else ("lost", "revers")
        return "parquet_query", arguments, _rows(*rows)

    def _search(self, fact: Mapping[str, Any]) -> Call:
        matches = [fact["passage"][self.language]]
        if self.random.random() < 0.3:  # What a search brings up beside what was asked for.
            matches.append(self._pick([other for other in self.facts if other is not fact])["passage"][self.language])
        arguments = {"query": fact["query"][self.language], "category": fact["category"]}
        return "pinecone_search", arguments, {"matches": [{"text": text} for text in matches]}

    def _commentary(self, slots: dict[str, Any], category: str) -> Call:
        slots["view"] = self._pick(self.stats["views"][self.language])
        text = (
            f"{slots['player']} : {slots['view']}." if self.language == "fr" else f"{slots['player']}: {slots['view']}."
        )
        arguments = {"query": slots["player"], "category": category}
        return "pinecone_search", arguments, {"matches": [{"text": text}], "sample": True}

    def _fact(self, query: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = next(fact for fact in self.facts if query in fact["query"]["en"])
        return found

    def _words(self, intent: str, slots: Mapping[str, Any]) -> tuple[str, str]:
        """Question and answer of an intent, filled in, decimals as the language writes them."""
        shown = {name: _number(value, self.language) for name, value in slots.items()}
        if "save_pct" in slots and self.language == "en":
            shown["save_pct"] = shown["save_pct"].removeprefix("0")
        question = self._pick(self.stats[intent][self.language]).format(**shown)
        answer = self._pick(self.stats[intent]["answer"][self.language]).format(**shown)
        return question, _singular(answer, self.language)

    def _pair(self, topic: str) -> list[dict[str, Any]]:
        question, answer = self._pick(self.talk[topic][self.language])
        return [_user(question), _say(answer)]

    def _asked(self, question: str, calls: Sequence[Call]) -> list[dict[str, Any]]:
        return [_user(question), *self._called(calls)]

    def _called(self, calls: Sequence[Call]) -> list[dict[str, Any]]:
        ids = [f"call_{self.random.randrange(16**6):06x}" for _ in calls]
        called = [
            {"id": id_, "type": "function", "function": {"name": tool, "arguments": _json(arguments)}}
            for id_, (tool, arguments, _) in zip(ids, calls, strict=True)
        ]
        results = [
            {"role": "tool", "tool_call_id": id_, "content": _json(result)}
            for id_, (_, _, result) in zip(ids, calls, strict=True)
        ]
        return [{"role": "assistant", "content": None, "tool_calls": called}, *results]


def rows(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """`count` conversations; no two open with the same question."""
    stanley, seen = Stanley(seed), set[str]()
    kinds = [kind for kind, share in SHARES.items() for _ in range(round(count * share))][:count]
    kinds += ["statistic"] * (count - len(kinds))
    stanley.random.shuffle(kinds)
    for kind in kinds:
        yield _unheard(stanley, kind, seen)


def _unheard(stanley: Stanley, kind: str, seen: set[str]) -> dict[str, Any]:
    for attempt in range(2000):
        row = stanley.conversation(kind if attempt < 200 else "statistic")
        question = row["messages"][1]["content"]
        if question not in seen:
            seen.add(question)
            return row
    raise SystemExit(f"only {len(seen)} different conversations can be made; ask for fewer --rows")


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _say(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _rows(*found: Mapping[str, Any]) -> dict[str, Any]:
    return {"rows": list(found), "sample": True}


def _of(player: str) -> str:
    return f"d'{player}" if player[0] in "AEIOU" else f"de {player}"


def _number(value: Any, language: str) -> str:
    return str(value).replace(".", ",") if isinstance(value, float) and language == "fr" else str(value)


def _singular(text: str, language: str) -> str:
    """`1 goals` is one goal; French has no plural for 0 either."""
    return re.sub(rf"(?<![\d.,-])({'[01]' if language == 'fr' else '1'}) ({COUNTED})s\b", r"\1 \2", text)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the Stanley dataset to standard output.")
    parser.add_argument("--rows", type=int, default=360, help="conversations (default 360)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other conversations (default 0)")
    options = parser.parse_args()
    for row in rows(options.rows, options.seed):
        sys.stdout.buffer.write(_json(row).encode() + b"\n")


if __name__ == "__main__":
    main()
