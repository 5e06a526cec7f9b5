"""Generic hockey chat, generated: what the tiny base model is pre-trained on.

A plain assistant that talks about hockey in English and some French, writes simple SQL, JSON and Python, and reads
facts out of the question. It has no persona and calls no tools: those are what fine-tuning adds. Facts about clubs
and rules are common knowledge, stated once below; game lines and statistics are invented for each conversation and
always given in it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Conversation = list[dict[str, Any]]

# club: (city, nickname, founded, Stanley Cups to 2025, arena)
CLUBS: dict[str, tuple[str, str, int, int, str]] = {
    "Montreal Canadiens": ("Montreal", "Habs", 1909, 24, "the Bell Centre"),
    "Toronto Maple Leafs": ("Toronto", "Leafs", 1917, 13, "Scotiabank Arena"),
    "Boston Bruins": ("Boston", "Bruins", 1924, 6, "TD Garden"),
    "Detroit Red Wings": ("Detroit", "Wings", 1926, 11, "Little Caesars Arena"),
    "Chicago Blackhawks": ("Chicago", "Hawks", 1926, 6, "the United Center"),
    "New York Rangers": ("New York", "Rangers", 1926, 4, "Madison Square Garden"),
    "Edmonton Oilers": ("Edmonton", "Oilers", 1972, 5, "Rogers Place"),
    "Pittsburgh Penguins": ("Pittsburgh", "Pens", 1967, 5, "PPG Paints Arena"),
    "Colorado Avalanche": ("Denver", "Avs", 1972, 3, "Ball Arena"),
    "Tampa Bay Lightning": ("Tampa", "Bolts", 1992, 3, "Amalie Arena"),
    "Philadelphia Flyers": ("Philadelphia", "Flyers", 1967, 2, "the Wells Fargo Center"),
    "Ottawa Senators": ("Ottawa", "Sens", 1992, 0, "the Canadian Tire Centre"),
    "Florida Panthers": ("Sunrise", "Cats", 1993, 2, "Amerant Bank Arena"),
    "Vancouver Canucks": ("Vancouver", "Canucks", 1945, 0, "Rogers Arena"),
    "Calgary Flames": ("Calgary", "Flames", 1972, 1, "the Saddledome"),
    "Winnipeg Jets": ("Winnipeg", "Jets", 1999, 0, "Canada Life Centre"),
}
PLAYERS = (
    "Nick Suzuki", "Cole Caufield", "Juraj Slafkovsky", "Lane Hutson", "Kirby Dach", "Alex Newhook", "Josh Anderson",
    "Jake Evans", "Mike Matheson", "Kaiden Guhle", "Sam Montembeault", "Brendan Gallagher", "Patrik Laine",
    "Ivan Demidov", "Auston Matthews", "Connor McDavid", "Sidney Crosby", "David Pastrnak", "Brady Tkachuk",
    "Leon Draisaitl", "Nathan MacKinnon", "Cale Makar", "Nikita Kucherov", "Dylan Larkin",
)  # fmt: skip
TERMS = {
    "a hat trick": "three goals by one player in one game",
    "a power play": "the time when a team has more players on the ice because the other took a penalty",
    "icing": "shooting the puck from your own half over the far goal line without anyone touching it",
    "offside": "entering the attacking zone before the puck does",
    "a shutout": "a game in which the goalie lets in no goal",
    "a penalty kill": "playing with fewer skaters while a teammate sits in the box",
    "a faceoff": "the way play starts, with two centres fighting for a dropped puck",
    "a minor penalty": "two minutes in the box",
    "a major penalty": "five minutes in the box",
    "an assist": "a pass that leads to a goal; up to two are given for each goal",
    "plus-minus": "the goals for and against while a player is on the ice at even strength",
    "save percentage": "the share of shots that a goalie stops",
    "overtime": "extra time that is played when a game is tied",
    "a shootout": "penalty shots that settle a game after overtime",
    "forechecking": "pressing the other team in its own zone to win the puck",
}
RULES = (
    ("How long is a period?", "A period lasts 20 minutes, and a game has three of them."),
    ("How many players are on the ice?", "Each team has six players on the ice: five skaters and a goalie."),
    ("How many points is a win worth?", "A win is worth two points, and an overtime loss is worth one."),
    ("How many games are in a season?", "Each team plays 82 games in the regular season."),
    ("How are the playoffs played?", "In the playoffs four rounds are played, each the best of seven games."),
    ("What is the Stanley Cup?", "The Stanley Cup is the trophy of the team that wins the playoffs."),
    ("How many rounds are in the draft?", "The draft has seven rounds, and each team has one pick in each."),
    ("What does a centre do?", "A centre takes faceoffs and helps both in attack and in defence."),
    ("What does a goalie do?", "A goalie keeps the puck out of the net."),
    ("What does a defenceman do?", "A defenceman guards his own zone and moves the puck up the ice."),
    ("What does a winger do?", "A winger plays along the boards and tries to score."),
)
GREETINGS = ("Hello", "Hi", "Hey there", "Good evening", "Good morning")
SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful assistant who knows hockey.",
    "Answer in one or two sentences.",
    "You answer questions about hockey, statistics and code.",
    "You are an expert on sports. Answer clearly and use the facts you are given.",
)
SEASONS = ("2021-22", "2022-23", "2023-24", "2024-25")
STATISTICS = ("goals", "assists", "points", "shots", "hits", "blocked shots")
COLUMNS = ("player", "team", "season", "goals", "assists", "points", "games_played", "save_percentage", "date")
TABLES = ("skaters", "goalies", "games", "teams", "players", "stats", "standings")


def conversation(rng: random.Random) -> Conversation:
    """One conversation in OpenAI's form, of one to three exchanges on different subjects."""
    messages: Conversation = []
    if rng.random() < 0.6:
        messages.append({"role": "system", "content": rng.choice(SYSTEMS)})
    for _ in range(rng.choice((1, 1, 2, 3))):
        family = rng.choices(list(_FAMILIES), weights=list(_FAMILIES.values()))[0]
        question, answer = family(rng)
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


def _greeting(rng: random.Random) -> tuple[str, str]:
    return rng.choice(
        (
            (f"{rng.choice(GREETINGS)}!", f"{rng.choice(GREETINGS)}! What would you like to know about hockey?"),
            ("Who are you?", "I am an assistant. I can answer questions about hockey and write simple code."),
            ("What can you do?", "I can explain the rules, talk about teams and players, and write simple code."),
            ("Thank you!", "You are welcome. Ask me anything else you want to know."),
            ("Bonjour!", "Bonjour! Que voulez-vous savoir sur le hockey?"),
            ("Merci!", "De rien. Posez-moi une autre question si vous voulez."),
            ("Qui es-tu?", "Je suis un assistant. Je peux répondre à des questions sur le hockey."),
        )
    )


def _club(rng: random.Random) -> tuple[str, str]:
    name = rng.choice(list(CLUBS))
    city, nickname, founded, cups, arena = CLUBS[name]
    won = "has not won the Stanley Cup" if cups == 0 else f"won the Stanley Cup {_times(cups)}"
    have = "have not won the Stanley Cup yet" if cups == 0 else f"have won the Stanley Cup {_times(cups)}"
    return rng.choice(
        (
            (f"How many Stanley Cups have the {name} won?", f"The {name} {have}."),
            (f"How often did the {nickname} win the Cup?", f"The {name} {have}."),
            (f"Where do the {name} play?", f"The {name} play in {city}, at {arena}."),
            (f"When were the {name} founded?", f"The {name} were founded in {founded}."),
            (f"Tell me about the {nickname}.", f"The {name} play at {arena}. The team was founded in {founded} and "
             f"{won}."),
            (f"What are the {name} called?", f"Fans call the {name} the {nickname}."),
            (f"Où jouent les {nickname}?", f"Les {name} jouent à {city}."),
            (f"Combien de coupes Stanley ont gagné les {name}?", f"Les {name} ont gagné {cups} coupes Stanley."),
        )
    )  # fmt: skip


def _rule(rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.5:
        return rng.choice(RULES)
    term, meaning = rng.choice(list(TERMS.items()))
    asked = rng.choice((f"What is {term}?", f"Explain {term}.", f"What does {term} mean?", f"Define {term}."))
    return asked, f"{term[0].upper()}{term[1:]} is {meaning}."


def _leader(rng: random.Random) -> tuple[str, str]:
    """Read a statistic out of the question."""
    players = rng.sample(PLAYERS, rng.choice((2, 3)))
    what, season = rng.choice(STATISTICS), rng.choice(SEASONS)
    counts = rng.sample(range(2, 60), len(players))
    lines = ", ".join(f"{player} {count}" for player, count in zip(players, counts, strict=True))
    best = max(counts)
    leader = players[counts.index(best)]
    asked = rng.choice((f"Who had the most {what}?", f"Who led the team in {what}?", f"Who was first in {what}?"))
    said = rng.choice((f"{leader} led with {best} {what}.", f"{leader} had the most {what}, with {best} in {season}."))
    return f"In {season} the {what} were: {lines}. {asked}", said


def _one_line(rng: random.Random) -> tuple[str, str]:
    """Read one player's line out of a small record."""
    player, season, club = rng.choice(PLAYERS), rng.choice(SEASONS), rng.choice(list(CLUBS))
    goals, assists, games = rng.randint(2, 50), rng.randint(2, 60), rng.randint(20, 82)
    record = rng.choice(
        (
            f'{{"player": "{player}", "team": "{club}", "season": "{season}", "goals": {goals}, "assists": {assists}, '
            f'"games": {games}}}',
            f"{player} ({club}, {season}): {goals} goals, {assists} assists in {games} games",
            f"player | season | goals | assists\n{player} | {season} | {goals} | {assists}",
        )
    )
    question, answer = rng.choice(
        (
            (f"How many goals did {player} score?", f"{player} scored {goals} goals in {season}."),
            (f"How many assists did {player} have?", f"{player} had {assists} assists in {season}."),
            ("Sum up this line.", f"{player} had {goals} goals and {assists} assists in {season}."),
            ("Combien de buts?", f"{player} a marqué {goals} buts en {season}."),
        )
    )
    return f"{record}\n{question}", answer


def _game(rng: random.Random) -> tuple[str, str]:
    """Say who won a game whose score is given."""
    first, second = rng.sample(list(CLUBS), 2)
    win, lose = rng.choice(((5, 2), (4, 3), (3, 1), (2, 1), (6, 4), (3, 2), (4, 1), (1, 0)))
    scores = [(first, win), (second, lose)]
    rng.shuffle(scores)
    line = f"{scores[0][0]} {scores[0][1]}, {scores[1][0]} {scores[1][1]}"
    scorer = rng.choice(PLAYERS)
    return rng.choice(
        (
            (f"Final score: {line}. Who won?", f"The {first} beat the {second} {win}-{lose}."),
            (f"{line}. {scorer} scored the winner. Write one sentence about the game.",
             f"{scorer} scored the winning goal as the {first} beat the {second} {win}-{lose}."),
            (f"Score final: {line}. Qui a gagné?", f"Les {first} ont battu les {second} {win} à {lose}."),
        )
    )  # fmt: skip


def _sql(rng: random.Random) -> tuple[str, str]:
    table, column, number = rng.choice(TABLES), rng.choice(STATISTICS[:4]), rng.choice((1, 3, 5, 10))
    player, season, club = rng.choice(PLAYERS), rng.choice(SEASONS), rng.choice(list(CLUBS))
    return rng.choice(
        (
            (f"Write SQL for the top {number} in {column} from {table}.",
             f"SELECT player, {column} FROM {table} ORDER BY {column} DESC LIMIT {number}"),
            (f"Write SQL for the {column} of {player} in {season}, table {table}.",
             f"SELECT {column} FROM {table} WHERE player = '{player}' AND season = '{season}'"),
            (f"Write a query that sums {column} by team in {table}.",
             f"SELECT team, SUM({column}) AS {column} FROM {table} GROUP BY team ORDER BY SUM({column}) DESC"),
            (f"Count the rows of {table} for the {club}.",
             f"SELECT COUNT(*) FROM {table} WHERE team = '{club}'"),
            (f"Write SQL for the average {column} in {season}, table {table}.",
             f"SELECT AVG({column}) FROM {table} WHERE season = '{season}'"),
        )
    )  # fmt: skip


def _code(rng: random.Random) -> tuple[str, str]:
    """Data as JSON, and calls as Python writes them."""
    player, season, club = rng.choice(PLAYERS), rng.choice(SEASONS), rng.choice(list(CLUBS))
    goals, column, number = rng.randint(2, 50), rng.choice(COLUMNS), rng.randint(1, 10)
    function = rng.choice(("count_goals", "load_table", "find_games", "sort_rows", "plot", "read_file", "get_team"))
    return rng.choice(
        (
            (f"Write as JSON: {player}, {season}, {goals} goals.",
             f'{{"player": "{player}", "season": "{season}", "goals": {goals}}}'),
            (f"Write as a JSON list: {club}, {season}, {number}.", f'["{club}", "{season}", {number}]'),
            (f"Write a Python list that calls {function} with name {player} and n {number}.",
             f'[{function}(name="{player}", n={number})]'),
            (f"Call {function} in Python with column {column}.", f'{function}(column="{column}")'),
            (f"Call {function} in Python with team {club} and season {season}.",
             f'{function}(team="{club}", season="{season}")'),
        )
    )  # fmt: skip


def _opinion(rng: random.Random) -> tuple[str, str]:
    player, club = rng.choice(PLAYERS), rng.choice(list(CLUBS))
    strength = rng.choice(
        ("skates fast", "shoots well", "sees the ice well", "wins faceoffs", "plays hard", "passes well", "is calm")
    )
    return rng.choice(
        (
            (f"What do you think of {player}?", f"{player} {strength} and helps the team in many ways."),
            (f"Is {player} a good player?", f"Yes, {player} {strength}, which every team needs."),
            (f"Will the {club} win tonight?", f"Nobody knows, but the {club} have a fair chance if they play well."),
            (f"Who should I watch on the {club}?", f"Watch {player}, who {strength}."),
            (f"Que penses-tu de {player}?", f"{player} est un bon joueur qui aide son équipe."),
            ("What happened last night?", "I do not have last night's results. Tell me the score and I can sum it up."),
            ("Who is in first place?", "I do not have the standings. Share them and I can read them for you."),
        )
    )


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


_Family = Callable[[random.Random], tuple[str, str]]
_FAMILIES: dict[_Family, int] = {
    _greeting: 2,
    _club: 5,
    _rule: 4,
    _leader: 5,
    _one_line: 5,
    _game: 4,
    _sql: 4,
    _code: 4,
    _opinion: 3,
}
