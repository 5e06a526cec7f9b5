"""Writes the Stanley dataset: python examples/stanley/make.py --rows N --seed S > stanley.jsonl

Stanley is a Montreal Canadiens analyst who sends a question to pinecone_search (articles, commentary, rules,
history), to parquet_query (statistics, games, splits), to both, or to no tool, and answers from what came back.
Users ask one to six times; they refer back, correct themselves, change the subject, and ask for a form of answer.

The same rows and seed give the same bytes. The figures of parquet_query, the articles and the commentaries are
INVENTED sample data, marked `"sample": true` in every tool result; history.toml holds well-known facts.

What pinecone_search is asked for follows one rule, so that there is one right call: what is written or thought of a
player is searched for by his full name, and a page of history or rules by the title that history.toml gives it in the
language of the question, however the question is worded.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Kind:
    """What a kind of skater does, as bounds of the invented figures: a game's goals, assists and minutes."""

    position: str
    """Which of the articles and commentaries fit him: `forward` or `defence`."""
    goals: tuple[float, float]
    assists: tuple[float, float]
    minutes: tuple[float, float]
    shots_a_goal: tuple[int, int]


SCORER = Kind("forward", (0.24, 0.52), (0.36, 0.70), (17.5, 21.0), (6, 9))
FORWARD = Kind("forward", (0.12, 0.30), (0.14, 0.34), (13.5, 17.5), (7, 11))
CHECKER = Kind("forward", (0.08, 0.18), (0.10, 0.26), (12.5, 16.5), (8, 12))
RUSHER = Kind("defence", (0.06, 0.19), (0.36, 0.66), (21.0, 25.0), (11, 18))
DEFENDER = Kind("defence", (0.02, 0.08), (0.10, 0.26), (14.5, 21.0), (16, 30))

SKATERS = {
    "Nick Suzuki": (2022, SCORER),
    "Cole Caufield": (2022, SCORER),
    "Juraj Slafkovský": (2022, SCORER),
    "Kaiden Guhle": (2022, DEFENDER),
    "Mike Matheson": (2022, RUSHER),
    "Jake Evans": (2022, CHECKER),
    "Kirby Dach": (2022, FORWARD),
    "Brendan Gallagher": (2022, FORWARD),
    "Josh Anderson": (2022, CHECKER),
    "Arber Xhekaj": (2022, DEFENDER),
    "Alex Newhook": (2023, FORWARD),
    "Jayden Struble": (2023, DEFENDER),
    "Lane Hutson": (2024, RUSHER),
    "Ivan Demidov": (2025, SCORER),
    "Noah Dobson": (2025, RUSHER),
    "Zachary Bolduc": (2025, FORWARD),
}
"""The year in which the first season begins that the sample data has of a player, and of what kind he is."""
GOALIES = {"Sam Montembeault": 2022, "Jakub Dobeš": 2024, "Jacob Fowler": 2025}
CENTRES = ("Nick Suzuki", "Jake Evans", "Kirby Dach", "Alex Newhook")
OPPONENTS = (
    "Boston",
    "Toronto",
    "Ottawa",
    "Buffalo",
    "Tampa Bay",
    "Winnipeg",
    "Edmonton",
    "Chicago",
    "Calgary",
    "Vancouver",
    "Detroit",
    "Carolina",
    "Pittsburgh",
    "Philadelphia",
)
NOW = "2026-27"
GAMES_PLAYED = {"2022-23": 82, "2023-24": 82, "2024-25": 82, "2025-26": 82, NOW: 20}
"""Of the team, by season."""
LONG_AGO = ("1909-10", "1916-17", "1943-44", "1955-56", "1976-77", "1987-88", "1992-93", "2005-06")

ROUTES = {"parquet": 0.28, "pinecone": 0.35, "both": 0.21, "none": 0.16}
"""Share of rows by the tools that they call."""
USER_TURNS = (0.58, 0.20, 0.10, 0.06, 0.04, 0.02)
"""Share of rows with one, two … six questions. A row without a tool has three at most."""
FRENCH = 0.4
OTHER_SYSTEM = 0.1
"""Share of rows whose system prompt is in the other language than the user's."""
WITH_TOOLS = 0.11
"""Share of short rows that also declare their tools; in the others the system prompt alone names them."""
MOST_TURNS_WITH_TOOLS = 2
"""Declared tools are 200 tokens: a longer conversation would not fit a small model's context with them."""
LONGEST = 3600
"""Most characters of a row's messages as JSON: about 750 tokens."""
IN_FORM = 0.1
"""Share of answers from results whose form the user asks for."""
ALIKE = 0.6
"""Most of the sequences of three words that two conversations have in common."""
OPENED = 0.15
TRAPPED = 0.12
"""Shares of first questions with words before them, and with words that point to the wrong tool."""
CHASED = 0.2
"""Share of questions for both tools whose second call needs what the first found."""
BY_FULL_NAME = 0.6
RELATIVE = 0.45
"""Share of mentions of this season and the last that say so, rather than name the years."""

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

SKATING = ("totals", "home", "away", "power_play", "third_period", "back_to_back")
"""Intents whose rows have the same four figures: a follow-up may go from one to another, or set two side by side."""
PLAYED = (*SKATING, "versus", "last_10")
ONE_PLAYER = (*PLAYED, "shots", "ice_time", "faceoffs", "goalie", "goalie_home", "goalie_away")
FAMILIES = (
    (*SKATING, "shots", "ice_time"),
    ("goalie", "goalie_home", "goalie_away"),
    ("record", "record_home", "record_away", "special_teams", "scoring"),
    ("leaders_goals", "leaders_points"),
)
"""Intents that take the same player and season, or team and season."""
INTENTS = (*ONE_PLAYER, *FAMILIES[2], *FAMILIES[3], "series", "last_game", "compare")
BOTH = {
    "form": ("last_10", "commentary"),
    "press": ("totals", "article"),
    "pace": ("totals", "50 goals in 50 games"),
    "kill": ("special_teams", "minor and major"),
    "wall": ("goalie", "Carey Price"),
    "best": ("record", "1976-77 team"),
}
"""What needs both tools: the intent of its query, and what is searched for, a page by its English title."""

COUNTED = "goal|assist|point|game|win|start|shot|but|passe|match|victoire|gain|départ|défaite|tir"
"""What answers count, without its plural s."""
MONTHS = {"10": {"en": "October", "fr": "octobre"}, "11": {"en": "November", "fr": "novembre"}}
"""The months that the season under way has had."""
NUMBERS = {"en": ("", "one", "two", "three", "four"), "fr": ("", "une", "deux", "trois", "quatre")}

LANGUAGES = ("en", "fr")
WORDS_HELP = "what users ask with: the usual words (default), only those of other_words.toml, or all of them"

Message = dict[str, Any]
Call = tuple[str, dict[str, Any], Any]
"""Tool, arguments, result."""
Slots = dict[str, Any]


@dataclass
class Said:
    """An answer and all that could have been said in its place: what follow-ups refer to."""

    intent: str
    slots: Slots
    answers: Mapping[str, Sequence[str]]
    """By language."""
    given: str = ""
    """The answer that was chosen; empty where it was given a form."""
    items: Mapping[str, Sequence[str]] = field(default_factory=dict)
    table: Mapping[str, str] = field(default_factory=dict)


def load(name: str) -> dict[str, Any]:
    with (HERE / f"{name}.toml").open("rb") as file:
        return tomllib.load(file)


class World:
    """The invented figures: the same for the same seed, whoever asks for them and in whatever order."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.skaters = {season: self._without_ties(season) for season in GAMES_PLAYED}

    def _without_ties(self, season: str) -> dict[str, dict[str, int]]:
        """What every skater of a season did, drawn until nobody ties with one of the three that lead."""
        players = [player for player in SKATERS if season in _seasons(player)]
        drawn = ({player: self._line(player, season, attempt) for player in players} for attempt in itertools.count())
        return next(
            lines
            for lines in drawn
            if all(_leads_apart([line[what] for line in lines.values()]) for what in ("goals", "points"))
        )

    def _random(self, *key: str) -> Random:
        return Random(f"{self.seed}:{':'.join(key)}")

    def _line(self, player: str, season: str, attempt: int) -> dict[str, int]:
        random, most, kind = self._random(player, season, str(attempt)), GAMES_PLAYED[season], SKATERS[player][1]
        gp = random.randint(most * 3 // 4, most)
        goals, assists = round(gp * random.uniform(*kind.goals)), round(gp * random.uniform(*kind.assists))
        return {"gp": gp, "goals": goals, "assists": assists, "points": goals + assists}

    def skater(self, player: str, season: str) -> dict[str, int]:
        return dict(self.skaters[season][player])

    def split(self, player: str, season: str, split: str) -> dict[str, int]:
        """Of `home` and `away`, which add up to the total, of another split or of an opponent."""
        total = self.skater(player, season)
        if split == "away":
            home = self.split(player, season, "home")
            return {name: total[name] - home[name] for name in total}
        random = self._random(player, season, split)
        games = {
            "home": total["gp"] // 2,
            "last_10": 10,
            "power_play": total["gp"],
            "third_period": total["gp"],
            "back_to_back": max(2, total["gp"] // 7),
        }
        gp = games.get(split) or self.meetings(split, season)
        share = {"power_play": 0.3, "third_period": 0.4}.get(split, gp / total["gp"])
        goals, assists = (
            min(total[name], round(total[name] * share * random.uniform(0.6, 1.5))) for name in ("goals", "assists")
        )
        return {"gp": gp, "goals": goals, "assists": assists, "points": goals + assists}

    def faceoffs(self, player: str, season: str) -> dict[str, Any]:
        random = self._random(player, season, "faceoffs")
        games = self.skater(player, season)["gp"]
        return {"taken": games * random.randint(9, 18), "pct": random.randint(440, 560) / 10}

    def shots(self, player: str, season: str) -> dict[str, Any]:
        total = self.skater(player, season)
        a_goal = self._random(player, season, "shots").randint(*SKATERS[player][1].shots_a_goal)
        shots = max(total["goals"] * a_goal, total["gp"] * 3 // 2)
        return {"gp": total["gp"], "shots": shots, "shooting_pct": round(100 * total["goals"] / shots, 1)}

    def ice_time(self, player: str, season: str) -> dict[str, Any]:
        minutes = round(self._random(player, season, "ice_time").uniform(*SKATERS[player][1].minutes), 1)
        return {"gp": self.skater(player, season)["gp"], "minutes": minutes}

    def goalie(self, player: str, season: str) -> dict[str, Any]:
        random = self._random(player, season, "goalie")
        gp = GAMES_PLAYED[season] * random.randint(35, 50) // 100
        save_pct = random.randint(885, 925) / 1000
        gaa = (1 - save_pct) * random.uniform(26, 31)  # Of so many shots a game.
        return {
            "gp": gp,
            "wins": gp * random.randint(40, 62) // 100,
            "save_pct": save_pct,
            "gaa": (round(50 * gaa) * 2 + 1) / 100,  # Odd, so that JSON writes both decimals.
        }

    def goalie_split(self, player: str, season: str, split: str) -> dict[str, Any]:
        total = self.goalie(player, season)
        if split == "away":
            home = self.goalie_split(player, season, "home")
            found = {name: total[name] - home[name] for name in ("gp", "wins")}
            return {**found, "save_pct": round(2 * total["save_pct"] - home["save_pct"], 3)}
        random = self._random(player, season, "goalie", split)
        gp = total["gp"] // 2
        wins = max(0, min(gp, total["wins"], total["wins"] // 2 + random.randint(-1, 2)))
        wins = max(wins, total["wins"] - (total["gp"] - gp))
        return {"gp": gp, "wins": wins, "save_pct": round(total["save_pct"] + random.randint(-9, 9) / 1000, 3)}

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
            "goals_for": gp * random.randint(270, 340) // 100,
            "goals_against": gp * random.randint(270, 340) // 100,
        }

    def team_split(self, season: str, split: str) -> dict[str, int]:
        """Of `home` and `away`; losses in overtime count as losses."""
        total = self.team(season)
        home = min(total["wins"], total["gp"] // 2, total["wins"] // 2 + self._random("team", season).randint(0, 4))
        wins, gp = (home if split == "home" else total["wins"] - home), total["gp"] // 2
        return {"gp": gp, "wins": wins, "losses": gp - wins}

    def meetings(self, opponent: str, season: str) -> int:
        return 2 if season == NOW else self._random("meetings", opponent, season).randint(2, 4)

    def series(self, opponent: str, season: str) -> dict[str, int]:
        gp = self.meetings(opponent, season)
        wins = self._random("series", opponent, season).randint(0, gp)
        return {"gp": gp, "wins": wins, "losses": gp - wins}

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

    def leaders(self, season: str, what: str) -> list[dict[str, Any]]:
        lines = self.skaters[season]
        ranked = sorted(lines, key=lambda player: -lines[player][what])
        return [{"player": player, what: lines[player][what]} for player in ranked[:3]]


class Stanley:
    """Makes conversations, one route a method: each returns the messages after the system prompt."""

    def __init__(self, seed: int, words: str = "usual") -> None:
        self.random = Random(seed)
        self.world = World(seed)
        self.stats, self.talk, self.facts = load("stats"), load("talk"), load("history")["fact"]
        if words != "usual":
            _reword(self.stats, self.facts, keep=words == "all")
        self.names = _names(self.facts)
        self.language = "en"
        self.opening: set[str] = set()
        """What no other row may open with: the first question, and what would make another one much the same."""
        self.plainly = ""
        """The latest question from a template, with full name and season."""
        self.worded = False
        """Whether the question at hand has words around it: a form is then not asked for as well."""
        self.introduced: set[str] = set()
        """The words before questions that this user has used."""
        self.told: Said | None = None
        self.before: Said | None = None

    def conversation(self, route: str) -> dict[str, Any]:
        """One row of a route, in a language of the day."""
        self.language = "fr" if self._chance(FRENCH) else "en"
        self.opening, self.plainly, self.told, self.before = set(), "", None, None
        self.worded, self.introduced = False, set()
        in_system = _other(self.language) if self._chance(OTHER_SYSTEM) else self.language
        system = self.random.choice(self.talk["system"][in_system])
        (turns,) = self.random.choices(range(1, len(USER_TURNS) + 1), USER_TURNS)
        make: Callable[[int], list[Message]] = getattr(self, route)
        row: dict[str, Any] = {"messages": [{"role": "system", "content": system}, *make(turns)]}
        if turns <= MOST_TURNS_WITH_TOOLS and self._chance(WITH_TOOLS):
            row["tools"] = TOOLS
        return row

    # --- routes

    def parquet(self, turns: int) -> list[Message]:
        if turns > 1 and self._chance(0.15):
            messages, turns = self._unclear(), turns - 1
        elif self._chance(0.07):
            messages = self._nothing()
        elif self._chance(0.025):
            messages = self._broken()
        else:
            messages = self._statistic()
        return messages + self._go_on(turns - 1, self._after_statistic)

    def pinecone(self, turns: int) -> list[Message]:
        if self._chance(0.05):
            messages = self._injected()
        elif self._chance(0.45):
            messages = self._written(self._pick(("article", "article", "commentary")))
        else:
            messages = self._history()
        return messages + self._go_on(turns - 1, self._after_archive)

    def both(self, turns: int) -> list[Message]:
        if turns == 1 or self._chance(0.5):
            return self._together() + self._go_on(turns - 1, self._after_statistic)
        if self._chance(0.5):
            slots = self._slots("totals")
            messages = self._ask(self._pick(SKATING), slots)
            messages += self._written(self._pick(("article", "commentary")), slots, follows=True)
            return messages + self._go_on(turns - 2, self._after_statistic)
        if self._chance(0.5):
            messages, follow = self._statistic() + self._instead(self._history), self._after_archive
        else:
            messages, follow = self._history() + self._instead(self._statistic), self._after_statistic
        return messages + self._go_on(turns - 2, follow)

    def none(self, turns: int) -> list[Message]:
        if self._chance(0.24):
            return self._chat("hello", "ask") + self._go_on(min(turns, 3) - 1, self._after_chat)
        topic = self._pick(("outside", "attack"))
        messages = self._outside() if topic == "outside" else self._attack()
        if turns > 1:
            messages += self._again(topic)
        return messages + (self._last_words() if turns > 2 else [])

    # --- openings

    def _chat(self, *topics: str) -> list[Message]:
        words = [pair for topic in topics for pair in self.talk["chat"][topic][self.language]]
        question, answer = self._pick(words)
        self.opening = self.opening or {question}
        return self._turn(question, [], Said("chat", {}, {self.language: [answer], _other(self.language): []}))

    def _statistic(self) -> list[Message]:
        intent = self._pick(INTENTS)
        return self._ask(intent, self._slots(intent))

    def _history(self, fact: Mapping[str, Any] | None = None, question: str | None = None) -> list[Message]:
        fact = fact or self._pick(self.facts)
        question = question or self._stand_alone(self._pick(fact["questions"][self.language]), "archive")
        said = Said("history", {"fact": fact}, fact["answers"])
        return self._turn(question, [self._search(fact)], said)

    def _written(self, intent: str, slots: Slots | None = None, *, follows: bool = False) -> list[Message]:
        """What an article or the commentary says of a player."""
        slots = slots or self._slots("totals")
        call = self._view(intent, slots)
        question = self._then(intent, slots) if follows else self._stand_alone(self._question(intent, slots))
        return self._turn(question, [call], self._said(intent, slots))

    def _together(self) -> list[Message]:
        """Both tools for one question: at once, or in turn where the second call needs what the first found."""
        if self._chance(CHASED):
            return self._chase()
        intent = self._pick(tuple(BOTH))
        query, topic = BOTH[intent]
        slots = self._slots(query)
        calls = [self._query(query, slots)]
        calls.append(self._view(topic, slots) if topic in self.stats else self._search(self._fact(topic)))
        question = self._stand_alone(self._question(intent, slots))
        return self._turn(question, calls, self._said(intent, slots))

    def _chase(self) -> list[Message]:
        """Who leads, and then what is written of him."""
        slots = self._slots("leaders_points")
        leaders = self._query("leaders_points", slots)
        slots["player"] = slots["first"]
        calls = [leaders, self._view("article", slots)]
        question = self._stand_alone(self._question("chase", slots))
        return self._turn(question, calls, self._said("chase", slots), in_turn=True)

    def _unclear(self) -> list[Message]:
        """A question that names nobody; Stanley asks back, and the user says who and when."""
        words, slots = self.talk["unclear"], self._slots("totals")
        question = self._stand_alone(self._pick(words[self.language]))
        messages = [_user(question), _say(self._pick(words["answer"][self.language]))]
        then = _fill(self._pick(words["then"][self.language]), slots, self.language)
        return messages + self._ask("totals", slots, then)

    def _nothing(self) -> list[Message]:
        slots = self._slots("totals")
        early = [season for season in GAMES_PLAYED if season not in _seasons(slots["player"])]
        slots["long_ago"] = self._pick(early) if early and self._chance(0.5) else self._pick(LONG_AGO)
        question = self._stand_alone(self._question("nothing", slots))
        arguments = {"table": "skaters", "player": slots["player"], "season": slots["long_ago"]}
        said = self._said("nothing", slots)
        return self._turn(question, [("parquet_query", arguments, {"rows": [], "sample": True})], said)

    def _broken(self) -> list[Message]:
        intent = self._pick(INTENTS)
        slots = self._slots(intent)
        tool, arguments, _ = self._query(intent, slots)
        question = self._stand_alone(self._question(intent, slots))
        return self._turn(question, [(tool, arguments, {"error": "timeout"})], self._said("broken", slots))

    def _injected(self) -> list[Message]:
        words, slots = self.stats["injected"], self._slots("totals")
        intent = self._pick(("article", "commentary"))
        question = self._stand_alone(self._question(intent, slots))
        result = {"matches": [{"text": self._pick(words[self.language])}], "sample": True}
        call = "pinecone_search", {"query": slots["player"], "category": intent}, result
        return self._turn(question, [call], self._said("injected", slots))

    def _outside(self) -> list[Message]:
        words = self.talk["outside"]
        topic, answer = self._pick(words["topics"][self.language]), self._pick(words["answer"][self.language])
        question = str(self._pick(words[self.language])).format(topic=topic)
        self.opening = {question, f"{topic} {answer}"}
        return [_user(question), _say(answer)]

    def _attack(self) -> list[Message]:
        words = self.talk["attack"]
        demand, answers = self._pick(words[self.language])
        question, answer = self._put(words["fronts"][self.language], demand), self._pick(answers)
        self.opening = {question, f"{demand} {answer}"}
        return [_user(question), _say(answer)]

    # --- follow-ups: each returns no messages where it does not apply

    def _go_on(self, turns: int, follow: Callable[[], list[Message]]) -> list[Message]:
        messages: list[Message] = []
        for left in range(turns, 0, -1):
            messages += self._last_words() if left == 1 and self._chance(0.2) else follow()
        return messages

    def _after_statistic(self) -> list[Message]:
        moves: tuple[tuple[int, Callable[[], list[Message]]], ...] = (
            (6, self._other_split),
            (5, self._other_player),
            (5, self._other_season),
            (3, self._other_opponent),
            (3, self._year_before),
            (2, self._judge),
            (2, self._recall),
            (2, self._again_in_form),
            (2, lambda: self._instead(self._statistic)),
            (1, self._in_the_other_language),
        )
        weights = [weight for weight, _ in moves]
        for _ in range(30):
            ((_, move),) = self.random.choices(moves, weights)
            if messages := move():
                return messages
        return self._instead(self._statistic)

    def _after_archive(self) -> list[Message]:
        told = self.told
        if self._chance(0.15) and (messages := self._again_in_form()):
            return messages
        if told and told.intent in ("article", "commentary") and self._chance(0.7):
            if self._chance(0.4):
                other = "commentary" if told.intent == "article" else "article"
                return self._written(other, dict(told.slots), follows=True)
            slots = self._with_player(told.slots, self._pick(self._others(told.slots)))
            question = _fill(self._pick(self.talk["player"][self.language]), slots, self.language)
            return self._turn(question, [self._view(told.intent, slots)], self._said(told.intent, slots))
        if told and "next" in told.slots.get("fact", ()) and self._chance(0.8):
            follows = told.slots["fact"]["next"]
            return self._history(self._fact(follows["to"]), self._pick(follows[self.language]))
        return self._instead(self._history)

    def _after_chat(self) -> list[Message]:
        return (self._again_in_form() if self._chance(0.6) else []) or self._chat("ask")

    def _last_words(self) -> list[Message]:
        """Thanks or a farewell, as fits what was found, not found or refused."""
        told = self.told
        moods = ["found"]
        if told is None:
            moods = ["refused"]
        elif told.intent in ("nothing", "broken", "injected"):
            moods = ["nothing"]
        elif told.slots.get("fact", {}).get("category") == "history":
            moods = ["found", "archive"]
        question, answer = self._pick([pair for mood in moods for pair in self.talk["thanks"][mood][self.language]])
        return [_user(question), _say(answer)]

    def _other_split(self) -> list[Message]:
        told = self.told
        family = next((family for family in FAMILIES if told and told.intent in family), ())
        intents = [intent for intent in family if told and intent != told.intent]
        if not told or not intents:
            return []
        intent = self._pick(intents)
        return self._ask(intent, dict(told.slots), self._then(intent, told.slots))

    def _other_player(self) -> list[Message]:
        told = self.told
        others = self._others(told.slots) if told and told.intent in ONE_PLAYER else []
        if told and told.intent == "faceoffs":
            others = [name for name in others if name in CENTRES]
        if not told or not others:
            return []
        slots = self._with_player(told.slots, self._pick(others))
        corrects = self._chance(0.25)
        words = self.talk["not_player" if corrects else "player"][self.language]
        messages = self._ask(told.intent, slots, _fill(self._pick(words), slots, self.language))
        self.before = None if corrects or told.intent not in PLAYED else told
        return messages

    def _other_season(self) -> list[Message]:
        told = self.told
        if not told or told.intent not in INTENTS or told.intent in ("last_10", "last_game", "compare"):
            return []
        slots = dict(told.slots)
        known = _seasons(slots["player"]) if told.intent in ONE_PLAYER else list(GAMES_PLAYED)
        known = [season for season in known if season != slots["season"]]
        if not known:
            return []
        earlier = _before(slots["season"])
        if earlier in known and self._chance(0.45):
            slots["season"], words = earlier, "earlier"
        else:
            slots["season"], words = self._pick(known), self._pick(("season", "season", "not_season"))
        return self._ask(told.intent, slots, _fill(self._pick(self.talk[words][self.language]), slots, self.language))

    def _other_opponent(self) -> list[Message]:
        told = self.told
        if not told or told.intent not in ("versus", "series", "last_game"):
            return []
        slots = {**told.slots, "opponent": self._pick([one for one in OPPONENTS if one != told.slots["opponent"]])}
        return self._ask(
            told.intent, slots, _fill(self._pick(self.talk["opponent"][self.language]), slots, self.language)
        )

    def _year_before(self) -> list[Message]:
        told = self.told
        if (
            not told
            or told.intent not in SKATING
            or _before(told.slots["season"]) not in _seasons(told.slots["player"])
        ):
            return []
        slots = {**told.slots, "season": _before(told.slots["season"])}
        # {season} stays the season asked about first, whose figures are at hand; {before} is the one that is new.
        call = self._query(told.intent, slots)
        slots.update(before_points=slots["points"], before_gp=slots["gp"], before=slots["season"])
        slots.update({name: told.slots[name] for name in ("points", "gp", "season")})
        question = _fill(self._pick(self.stats["year_before"][self.language]), slots, self.language)
        return self._turn(question, [call], self._said("year_before", slots))

    def _judge(self) -> list[Message]:
        """Who of two players has more: both results are at hand, so no tool is called."""
        one, two = self.before, self.told
        if not one or not two or one.intent != two.intent or one.slots["points"] == two.slots["points"]:
            return []
        first, second = sorted((one, two), key=lambda said: -said.slots["points"])
        slots = {
            "first": first.slots["called"],
            "second": second.slots["called"],
            "n1": first.slots["points"],
            "n2": second.slots["points"],
            "season": two.slots["season"],
        }
        self.before = None
        return self._from_memory("judge", slots)

    def _recall(self) -> list[Message]:
        if not self.told or self.told.intent not in PLAYED:
            return []
        return self._from_memory("recall", self.told.slots)

    def _again_in_form(self) -> list[Message]:
        """The last answer in another form, from what is at hand; not where it was given in one already."""
        if not self.told or not self.told.given:
            return []
        request, answer = self._form(self.told, "again")
        self.told.given = ""
        return [_user(request), _say(answer)] if request else []

    def _instead(self, ask: Callable[[], list[Message]]) -> list[Message]:
        """Another question in place of the last."""
        self.told = self.before = None
        return self._introduced("instead", ask)

    def _in_the_other_language(self) -> list[Message]:
        self.language = _other(self.language)
        self.told = self.before = None
        return self._introduced("switch", self._statistic)

    def _introduced(self, topic: str, ask: Callable[[], list[Message]]) -> list[Message]:
        """A question with words of a topic before it, other ones each time."""
        self.worded = True
        messages = ask()
        choices = self.talk[topic][self.language]
        fresh = [words for words in choices if words not in self.introduced]
        return [_user(self._put(fresh or choices, messages[0]["content"])), *messages[1:]]

    def _put(self, choices: Sequence[str], question: str) -> str:
        """Words around a question, which keeps its capital where it begins a sentence, or with a name."""
        fit = [words for words in choices if ":" not in words or ":" not in question]
        words = str(self._pick(fit or choices))
        self.introduced.add(words)
        before = re.split(r"{\w+}", words)[0].rstrip()
        first = re.match(r"[\w.]+", question)
        if before and before[-1] not in ".?!" and first and first[0] not in self.names:
            question = question[0].lower() + question[1:]
        return re.sub(r"{(?:question|demand)}", lambda _: question, words)

    def _again(self, topic: str) -> list[Message]:
        question, answers = self._pick(self.talk[topic]["again"][self.language])
        return [_user(question), _say(self._pick(answers))]

    def _from_memory(self, topic: str, slots: Slots) -> list[Message]:
        words = self.talk[topic]
        question, answer = (self._pick(choices[self.language]) for choices in (words, words["answer"]))
        return [_user(_fill(question, slots, self.language)), _say(_fill(answer, slots, self.language))]

    # --- their parts

    def _pick(self, choices: Sequence[Any]) -> Any:
        return self.random.choice(choices)

    def _chance(self, share: float) -> bool:
        return self.random.random() < share

    def _slots(self, intent: str) -> Slots:
        """Who and when a question is about."""
        names = {"goalie": tuple(GOALIES), "faceoffs": CENTRES}.get(intent.split("_")[0], tuple(SKATERS))
        player = self._pick(names)
        season = NOW if intent == "last_10" else self._pick(_seasons(player))
        if intent in (*FAMILIES[2], *FAMILIES[3], "series", "special_teams"):
            season = self._pick(tuple(GAMES_PLAYED))
        slots = self._with_player({"season": season, "opponent": self._pick(OPPONENTS)}, player)
        if intent == "compare":
            points = self.world.skater(player, season)["points"]
            others = self._others(slots)
            slots["other"] = self._pick([one for one in others if self.world.skater(one, season)["points"] != points])
        return slots

    def _with_player(self, slots: Mapping[str, Any], player: str) -> Slots:
        """The same of another player, by his full or his last name."""
        called = player if self._chance(BY_FULL_NAME) else player.split()[-1]
        return {**slots, "player": player, "called": called}

    def _others(self, slots: Mapping[str, Any]) -> list[str]:
        """Players of the same kind who have played that season."""
        kind = GOALIES if slots["player"] in GOALIES else SKATERS
        return [name for name in kind if name != slots["player"] and slots["season"] in _seasons(name)]

    def _question(self, intent: str, slots: Slots) -> str:
        relative = {"en": {NOW: "this season", _before(NOW): "last season"}}
        relative["fr"] = {NOW: "cette saison", _before(NOW): "la saison dernière"}
        when = relative[self.language].get(slots["season"]) if self._chance(RELATIVE) else None
        words = self._pick(self.stats[intent][self.language])
        plainly = {**slots, "when": f"{'en' if self.language == 'fr' else 'in'} {slots['season']}"}
        self.plainly = _fill(words, {**plainly, "called": slots["player"]}, self.language)
        return _fill(words, {**plainly, "when": when} if when else plainly, self.language)

    def _then(self, intent: str, slots: Slots) -> str:
        """A question that follows on another one about the same."""
        return _fill(self._pick(self.stats[intent]["then"][self.language]), slots, self.language)

    def _stand_alone(self, question: str, trap: str = "") -> str:
        """A question; the first one at times with words around it, which may point to the wrong tool."""
        if self.opening:
            return question
        self.opening = {question, self.plainly or question}
        around = f"trap_{trap}" if trap and self._chance(TRAPPED) else "opener" if self._chance(OPENED) else ""
        self.worded = bool(around)
        return self._put(self.talk[around][self.language], question) if around else question

    def _ask(self, intent: str, slots: Slots, question: str | None = None) -> list[Message]:
        """A question for the statistics, its query and the answer from the rows that came back."""
        calls = [self._query(intent, slots)]
        if intent == "compare":
            other = self.world.skater(slots["other"], slots["season"])
            two = [(slots["points"], slots["gp"], slots["called"]), (other["points"], other["gp"], slots["other"])]
            (n1, gp1, first), (n2, gp2, second) = sorted(two, reverse=True)
            slots.update(first=first, n1=n1, gp1=gp1, second=second, n2=n2, gp2=gp2)
            arguments = {"table": "skaters", "player": slots["other"], "season": slots["season"]}
            calls.append(("parquet_query", arguments, self._rows(other)))
        question = question or self._stand_alone(self._question(intent, slots), "statistics")
        return self._turn(question, calls, self._said(intent, slots))

    def _turn(self, question: str, calls: Sequence[Call], said: Said, *, in_turn: bool = False) -> list[Message]:
        """A question, its calls with their results (at once, or `in_turn`), and the answer, now and then in a form."""
        answer = self._pick(said.answers[self.language])
        if self._chance(IN_FORM) and not self.worded and ":" not in question:
            request, shaped = self._form(said, "now")
            if request:
                question, answer = self._put([request], question), shaped
        self.worded = False
        said.given = answer if answer in said.answers[self.language] else ""
        groups = [[call] for call in calls] if in_turn else [calls] if calls else []
        self.told, self.before = said, None
        return [_user(question), *(message for group in groups for message in self._called(group)), _say(answer)]

    def _form(self, said: Said, when: str) -> tuple[str, str]:
        """A request on the answer's form and the answer that keeps it; nothing where no form fits."""
        names = list(self.talk["form"])
        self.random.shuffle(names)
        for name in names:
            answers, n = self._shaped(name, said)
            if answers:
                request = str(self._pick(self.talk["form"][name][when][self.language]))
                return request.replace("{n}", n), self._pick(answers)
        return "", ""

    def _shaped(self, name: str, said: Said) -> tuple[Sequence[str], str]:
        """The answers that have a form which the given one lacks, and the number that the request for it names."""
        answers = [answer for answer in said.answers[self.language] if answer != said.given]
        items = said.items.get(self.language, ())
        if name == "language":
            return said.answers[_other(self.language)], ""
        if name == "capitals":
            return [said.given.upper()] if said.given else [answer.upper() for answer in answers], ""
        if name == "few_words":
            most = self._pick((8, 10, 12, 15, 20, 25))
            fits = [answer for answer in answers if _words(answer) < most]
            return [] if said.given and _words(said.given) < most else fits, str(most)
        if name == "items":
            whole = "\n".join(f"- {item}" for item in items)
            return [whole] if items else [], NUMBERS[self.language][len(items)]
        if name == "table":
            return [said.table[self.language]] if said.table else [], ""
        number = {"one_sentence": 1, "two_sentences": 2}[name]
        fits = [answer for answer in answers if _sentences(answer) == number]
        return [] if said.given and _sentences(said.given) == number else fits, ""

    def _said(self, intent: str, slots: Slots) -> Said:
        """What can be said of an intent, from the figures in `slots`."""
        words = self.stats[intent]
        fill = {language: lambda text, to=language: _fill(text, slots, to) for language in LANGUAGES}
        return Said(
            intent,
            slots,
            {language: [fill[language](text) for text in words["answer"][language]] for language in fill},
            items={
                language: [fill[language](text) for text in words.get("item", {}).get(language, ())]
                for language in fill
            },
            table={language: fill[language](text) for language, text in words.get("table", {}).items()},
        )

    def _query(self, intent: str, slots: Slots) -> Call:
        """The call for an intent; its figures go into `slots` for the answer."""
        player, season, opponent, world = slots["player"], slots["season"], slots["opponent"], self.world
        of_player = {"table": "skaters", "player": player, "season": season}
        team = {"table": "team", "season": season}
        if intent in ("totals", "compare"):
            arguments, rows = of_player, [world.skater(player, season)]
        elif intent == "versus":
            arguments, rows = {**of_player, "opponent": opponent}, [world.split(player, season, opponent)]
        elif intent in PLAYED:
            arguments, rows = {**of_player, "split": intent}, [world.split(player, season, intent)]
        elif intent in ("faceoffs", "shots", "ice_time"):
            arguments, rows = {**of_player, "split": intent}, [getattr(world, intent)(player, season)]
        elif intent == "goalie":
            arguments, rows = {**of_player, "table": "goalies"}, [world.goalie(player, season)]
        elif intent in ("goalie_home", "goalie_away"):
            split = intent.removeprefix("goalie_")
            arguments = {**of_player, "table": "goalies", "split": split}
            rows = [world.goalie_split(player, season, split)]
        elif intent in ("record_home", "record_away"):
            split = intent.removeprefix("record_")
            arguments, rows = {**team, "split": split}, [world.team_split(season, split)]
        elif intent in ("record", "special_teams", "scoring"):
            names = {
                "record": ("gp", "wins", "losses", "ot_losses", "points"),
                "special_teams": ("pp_pct", "pk_pct"),
                "scoring": ("gp", "goals_for", "goals_against"),
            }[intent]
            arguments, rows = {**team, "split": intent}, [{name: world.team(season)[name] for name in names}]
        elif intent == "series":
            arguments = {"table": "games", "season": season, "opponent": opponent}
            rows = [world.series(opponent, season)]
        elif intent == "last_game":
            arguments, rows = {"table": "games", "split": "last", "opponent": opponent}, [world.last_game(opponent)]
        else:
            what = intent.removeprefix("leaders_")
            arguments = {"table": "leaders", "season": season, "split": what}
            rows = world.leaders(season, what)
            slots.update({key: row["player"] for key, row in zip(("first", "second", "third"), rows, strict=True)})
            slots.update({f"n{i}": row[what] for i, row in enumerate(rows, start=1)})
        slots.update({**rows[0], "player": player})
        if intent == "last_game":
            slots["result_en"], slots["result_fr"] = ("won", "gain") if rows[0]["won"] else ("lost", "revers")
        if "season" in arguments and len(rows) == 1:
            rows = [{"season": season, **rows[0]}]
        return "parquet_query", arguments, self._rows(*rows)

    def _rows(self, *found: Mapping[str, Any]) -> dict[str, Any]:
        """A result: rows by name, or, now and then, columns and values."""
        if self._chance(0.8):
            return {"rows": list(found), "sample": True}
        return {"columns": list(found[0]), "rows": [list(row.values()) for row in found], "sample": True}

    def _search(self, fact: Mapping[str, Any]) -> Call:
        texts = [fact["passage"][self.language]]
        if self._chance(0.15):  # What a search brings up beside what was asked for.
            texts.append(self._pick([other for other in self.facts if other is not fact])["passage"][self.language])
        arguments = {"query": fact["query"][self.language], "category": fact["category"]}
        return "pinecone_search", arguments, {"matches": self._matches(texts)}

    def _view(self, category: str, slots: Slots) -> Call:
        """The search for what is said of a player."""
        views = self.stats["views"]
        slots["view_en"], slots["view_fr"] = self._pick(views["any"] + views[SKATERS[slots["player"]][1].position])
        text = f"{slots['player']}{' ' if self.language == 'fr' else ''}: {slots[f'view_{self.language}']}."
        arguments = {"query": slots["player"], "category": category}
        return "pinecone_search", arguments, {"matches": self._matches([text]), "sample": True}

    def _matches(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        scores = sorted((self.random.randint(61, 97) / 100 for _ in texts), reverse=True)
        if self._chance(0.7):
            return [{"text": text} for text in texts]
        return [{"score": score, "text": text} for score, text in zip(scores, texts, strict=True)]

    def _fact(self, title: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = next(fact for fact in self.facts if fact["query"]["en"] == title)
        return found

    def _called(self, calls: Sequence[Call]) -> list[Message]:
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


def rows(count: int, seed: int, words: str = "usual") -> Iterator[dict[str, Any]]:
    """`count` conversations; no two open with the same question, or say much the same."""
    stanley, opened = Stanley(seed, words), set[str]()
    said: dict[tuple[str, str], list[set[str]]] = {}
    routes = [route for route, share in ROUTES.items() for _ in range(round(count * share))][:count]
    routes += ["parquet"] * (count - len(routes))
    stanley.random.shuffle(routes)
    for route in routes:
        yield _unheard(stanley, route, opened, said)


def _unheard(
    stanley: Stanley, route: str, opened: set[str], said: dict[tuple[str, str], list[set[str]]]
) -> dict[str, Any]:
    """A new conversation; one about statistics where the route has no more to say."""
    for attempt in range(2000):
        route = route if attempt < 200 else "parquet"
        row = stanley.conversation(route)
        if stanley.opening & opened or len(_json(row["messages"])) > LONGEST or _repeats(row["messages"]):
            continue
        # Only a conversation on the same route and in the same language can say the same.
        new, others = _sequences(row), said.setdefault((route, stanley.language), [])
        if all(len(new & other) <= ALIKE * len(new | other) for other in others):
            opened |= stanley.opening
            others.append(new)
            return row
    raise SystemExit(f"only {len(opened)} different conversations can be made; ask for fewer --rows")


def _sequences(row: Mapping[str, Any]) -> set[str]:
    """The sequences of three words that user and assistant say, calls included."""
    texts = []
    for message in row["messages"]:
        if message["role"] in ("user", "assistant"):
            calls = [call["function"] for call in message.get("tool_calls", ())]
            texts += [message["content"] or "", *(f"{call['name']} {call['arguments']}" for call in calls)]
    words = re.findall(r"\w+", " ".join(texts).lower())
    return {" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2))}


def _repeats(messages: Sequence[Message]) -> bool:
    """Whether somebody says the same twice, or a call asks for what is at hand."""
    said = [(message["role"], message["content"]) for message in messages if message["content"]]
    called = [call["function"]["arguments"] for message in messages for call in message.get("tool_calls", ())]
    return len(set(said)) < len(said) or len(set(called)) < len(called)


def _reword(stats: dict[str, Any], facts: Sequence[dict[str, Any]], *, keep: bool) -> None:
    """Have questions asked in the words of other_words.toml, in place of the usual ones or beside them (`keep`)."""
    other = load("other_words")
    pairs = [(stats[intent], words) for intent, words in other.items() if intent != "fact"]
    pairs += [(stats[intent]["then"], words["then"]) for intent, words in other.items() if "then" in words]
    titles = {fact["query"]["en"]: fact for fact in facts}
    pairs += [(titles[fact["title"]]["questions"], fact["questions"]) for fact in other["fact"]]
    for usual, words in pairs:
        for language in LANGUAGES:
            usual[language] = (usual[language] if keep else []) + words[language]


def _names(facts: Sequence[Mapping[str, Any]]) -> set[str]:
    """Words that keep their capital wherever they stand."""
    names = {word for name in (*SKATERS, *GOALIES, *OPPONENTS) for word in name.split()} | {"I"}
    for fact in facts:
        for language in LANGUAGES:
            # What begins a sentence may be any word; May before a figure is a month.
            names.update(re.findall(r"(?<=[\w,;] )[A-ZÉ][\w.]*\b(?! \d)", fact["passage"][language]))
            names.update(re.findall(r"\b[A-ZÉ][\w.]*", fact["query"][language]))
    return names


def _leads_apart(figures: Sequence[int]) -> bool:
    """Whether the three highest differ, and nobody else has as much as the third."""
    highest = sorted(figures, reverse=True)[:4]
    return len(set(highest)) == len(highest)


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _say(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _other(language: str) -> str:
    return "en" if language == "fr" else "fr"


def _seasons(player: str) -> list[str]:
    first = GOALIES[player] if player in GOALIES else SKATERS[player][0]
    return [season for season in GAMES_PLAYED if int(season[:4]) >= first]


def _before(season: str) -> str:
    year = int(season[:4]) - 1
    return f"{year}-{(year + 1) % 100:02d}"


def _fill(text: str, slots: Mapping[str, Any], language: str) -> str:
    """A template filled in, in the tense of its season, with dates and decimals as the language writes them."""
    shown = {name: _number(value, language) for name, value in slots.items()}
    shown["player"], shown["view"] = shown.get("called", ""), shown.get(f"view_{language}", "")
    shown["of_player"], shown["of_other"] = _of(shown["player"]), _of(shown.get("other", ""))
    if "save_pct" in slots:  # Three decimals, as in .930
        save_pct = f"{slots['save_pct']:.3f}"
        shown["save_pct"] = save_pct.replace(".", ",") if language == "fr" else save_pct.removeprefix("0")
    if "date" in slots:
        shown["date"] = _date(slots["date"], language)
    return _singular(_in_tense(text, slots.get("season") == NOW).format(**shown), language)


def _in_tense(text: str, now: bool) -> str:
    """`[is|was]`: the first of the season under way, the second of one that is over."""
    return re.sub(r"\[([^\[\]|]*)\|([^\[\]|]*)\]", r"\1" if now else r"\2", text)


def _of(name: str) -> str:
    return f"d'{name}" if name.startswith(tuple("AEIOU")) else f"de {name}"


def _date(date: str, language: str) -> str:
    year, month, day = date.split("-")
    name = MONTHS[month][language]
    return f"{day} {name} {year}" if language == "fr" else f"{name} {day}, {year}"


def _number(value: Any, language: str) -> str:
    return str(value).replace(".", ",") if isinstance(value, float) and language == "fr" else str(value)


def _singular(text: str, language: str) -> str:
    """`1 goals` is one goal; French has no plural for 0 either."""
    few = "[01]" if language == "fr" else "1"
    text = re.sub(rf"(?<![\d.,-])({few}) (loss)es\b", r"\1 \2", text)
    return re.sub(rf"(?<![\d.,-])({few}) ({COUNTED})s\b", r"\1 \2", text)


def _words(text: str) -> int:
    """Words, a figure with decimals counted as two: no way of counting finds more."""
    return len(re.findall(r"\w+", text))


def _sentences(text: str) -> int:
    return len(re.findall(r"[.!?](?=\s|$)", text))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the Stanley dataset to standard output.")
    parser.add_argument("--rows", type=int, default=1700, help="conversations (default 1700)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other conversations (default 0)")
    parser.add_argument("--words", choices=("usual", "other", "all"), default="usual", help=WORDS_HELP)
    options = parser.parse_args()
    for row in rows(options.rows, options.seed, options.words):
        sys.stdout.buffer.write(_json(row).encode() + b"\n")


if __name__ == "__main__":
    main()
