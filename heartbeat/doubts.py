"""What a sound row may hold that one would rather not train on: secrets, addresses, refusals; and its language."""

from __future__ import annotations

import functools
import marshal
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from heartbeat.conversation import PLAIN, is_supervised
from heartbeat.row_rules import Problem

_AWS_KEY = ("an AWS access key", re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"))
_AWS_SECRET = ("an AWS secret key", re.compile(r"secret_access_key\W{1,5}[A-Za-z0-9/+]{30,}", re.IGNORECASE))
_GITHUB = ("a GitHub token", re.compile(r"\b(?:gh[oprs]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{50,})"))
_PASSWORD = ("a password", re.compile(r"\bpassword\b['\"]?\s*[:=]\s*(?=\S*[\d!@#$%^&*])\S{4,}", re.IGNORECASE))
_SECRETS: Mapping[bytes, tuple[str, re.Pattern[str]]] = {
    b"AKIA": _AWS_KEY,
    b"ASIA": _AWS_KEY,
    b"PRIVATE KEY-----": ("a private key", re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")),
    b"sk-": ("an API key", re.compile(r"\bsk-[A-Za-z0-9_-]{20,}")),
    b"sk_live_": ("a Stripe key", re.compile(r"\bsk_live_[A-Za-z0-9]{16,}")),
    b"ghp_": _GITHUB,
    b"gho_": _GITHUB,
    b"ghr_": _GITHUB,
    b"ghs_": _GITHUB,
    b"github_pat_": _GITHUB,
    b"xox": ("a Slack token", re.compile(r"\bxox[abeprs]-[A-Za-z0-9-]{10,}")),
    b"AIza": ("a Google API key", re.compile(r"\bAIza[A-Za-z0-9_-]{35}")),
    b"hf_": ("a Hugging Face token", re.compile(r"\bhf_[A-Za-z0-9]{30,}")),
    b"eyJ": ("a JSON web token", re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}")),
    b"ret_": _AWS_SECRET,
    b"RET_": _AWS_SECRET,
    b"assword": _PASSWORD,
}
"""What must be in what is said -> what it then may be, and the form of it. Bytes are found at memory's speed."""
_PIECES: Mapping[bytes, bytes] = {
    b"AKIA": b"AKI",
    b"ASIA": b"ASI",
    b"PRIVATE KEY-----": b"EY-",
    b"sk-": b"sk-",
    b"sk_live_": b"sk_",
    b"ghp_": b"hp_",
    b"gho_": b"ho_",
    b"ghr_": b"hr_",
    b"github_pat_": b"ub_",
    b"RET_": b"ET_",
    b"hf_": b"hf_",
    b"eyJ": b"eyJ",
}
"""Three bytes of most of them. No byte is at two of the three places, so that with its place written for every byte one
search finds them all, and little else. The others are looked for one by one."""
_PLACES = bytes(next((piece.index(byte) + 1 for piece in _PIECES.values() if byte in piece), 0) for byte in range(256))
_EMAIL = re.compile(r"\b[\w.+-]{1,64}@(?!(?:[\w-]+\.)*example\.|\d+x\.)((?:[\w-]{1,63}\.)+[A-Za-z]{2,24})\b")
"""Addresses at example.com and its like (RFC 2606) are nobody's, and icon@2x.png is a picture's name."""
_REFUSAL = re.compile(
    r"\W*(?:as an ai\b|en tant qu'(?:ia|intelligence artificielle)\b"
    r"|(?:no[\s,.!]+)?(?:(?:i'm|i am|so|very|really|we're)?\s*sorry|i apologi[sz]e|unfortunately)?[\s,.!;-]*(?:but )?"
    r"(?:i|we)(?:'m| am|'re| are)?\s?(?:"
    r"(?:can'?t|cannot|can not|won't|will not|unable to|not able to|not allowed to)"
    r"\s(?:help|assist|answer|do (?:that|this|it)|comply|provide|discuss|share|fulfil)"
    r"|(?:must|have to|need to) (?:respectfully |politely )?(?:decline|refuse)"
    r"|(?:don't|do not) have access)"
    r"|(?:non[\s,.!]+)?(?:je suis |vraiment )*(?:désolée?|je regrette|malheureusement)?[\s,.!;-]*(?:mais )?"
    r"(?:je ne (?:peux|puis) (?:pas |malheureusement pas )?(?:vous |t'|te )?"
    r"(?:aider|répondre|faire (?:cela|ça)|fournir)"
    r"|je ne suis (?:malheureusement )?pas (?:en mesure|autorisée?)\b"
    r"|je n'ai pas accès\b|je dois (?:refuser|décliner)))"
)
"""English and French. It reads how an answer begins, in small letters; a refusal in other words is not told."""
_REFUSALS_BEGIN = frozenset(
    written
    for begin in ("i ", "i'", "i\u2019", "we", "as", "so", "ve", "re", "un", "no", "bu", "en", "je", "dé", "vr", "ma")
    for written in (begin, begin.capitalize(), begin.upper())
)
"""What _REFUSAL matches begins with one of these, or with no letter: few answers have to be read."""
_BEGIN_CHARACTERS = 120

_COMMON = {
    "en": "the and is are was of to in that it you for with on this what how who have be not a i me my can does by",
    "fr": "le la les de des est et une un dans que qui pour vous je ce pas sur avec du au en il te à ou où se sa",
    "de": "der die das und ist nicht ein eine mit von zu den für auf ich sie wie was im",
    "es": "el los las una es y que por para con como del su en más qué se lo está",
    "it": "il gli che di è una per con non sono della del come si nel questo anche più",
    "pt": "os as um uma é e que para com não por do da em se como mais você são",
    "nl": "het een van en niet dat met voor zijn op te aan er ook wat hoe maar naar",
}
_NAMES = tuple(_COMMON)
_LETTERS = {chr(ord("a") + i): name for i, name in enumerate(_COMMON)}
_LANGUAGES_OF: dict[str, str] = {}
"""Word -> a letter for each of its languages, so that votes are counted in a text."""
for _letter, _name in _LETTERS.items():
    for _word in _COMMON[_name].split():
        _LANGUAGES_OF[_word] = _LANGUAGES_OF.get(_word, "") + _letter
_WORD = re.compile(r"[^\W\d_]+")
_SCRIPTS = {
    "ja": "\u3040-\u30ff",
    "zh": "\u4e00-\u9fff",
    "ko": "\uac00-\ud7af",
    "ru or another in Cyrillic": "\u0400-\u04ff",
    "ar or another in Arabic script": "\u0600-\u06ff",
}
"""Language -> what tells it, the first that is found: Japanese has Chinese characters too."""
_OTHER_SCRIPT = re.compile(f"[{''.join(_SCRIPTS.values())}]")
_READ_CHARACTERS = 200
"""How much of a text its language is told from."""


def doubts(row: Mapping[str, Any], said: bytes) -> Iterator[Problem]:
    """Warnings about a sound row; `said` is as of `conversation.said`: in bytes a first look is quick."""
    suspected = suspects(said)
    places: list[tuple[str, Iterable[str]]] = []
    if suspected or b"@" in said:
        places += [(f"messages[{i}]", _texts(message)) for i, message in enumerate(row["messages"])]
    tools = row.get("tools")
    if tools:
        suspected_of_tools, text = _suspects_of_tools(marshal.dumps(tools, 2))
        if text:
            suspected = list(dict.fromkeys([*suspected, *suspected_of_tools]))
            places.append(("tools", [text]))
    if places:
        yield from _leaks(places, suspected)
    for i, message in enumerate(row["messages"]):
        content = message.get("content") if message["role"] == "assistant" else None
        if not content or (content[:2] not in _REFUSALS_BEGIN and content[0].isalpha()):
            continue
        if is_supervised(message) and _REFUSAL.match(_plain(content[:_BEGIN_CHARACTERS])):
            fix = "too many of these teach refusing; keep only those that are meant"
            yield _warning("refusal", f"messages[{i}] answers with a refusal ({_begin(content)}); {fix}")
            break


def suspects(said: bytes) -> list[tuple[str, re.Pattern[str]]]:
    """What may be in it of secrets: what it then is, and the form of it."""
    if (
        b"\1\2\3" in said.translate(_PLACES)
        or b"xox" in said
        or b"AIza" in said
        or b"ghs_" in said
        or b"assword" in said
        or b"ret_" in said
    ):
        return list(dict.fromkeys(entry for needle, entry in _SECRETS.items() if needle in said))
    return []


def language(row: Mapping[str, Any]) -> str:
    """Two letters of the language of a sound row's first question, from its commonest words.

    The last answer's where the question does not tell; "unknown" where that does not either. Two words tell.
    """
    messages = row["messages"]
    first = language_of(next((m["content"] for m in messages if m["role"] == "user"), ""))
    return first if first != "unknown" else language_of(messages[-1].get("content") or "")


def language_of(text: str) -> str:
    """Two letters of the language of a text, told from its beginning; "unknown" where it does not tell."""
    text = _plain(text[:_READ_CHARACTERS])
    if not text.isascii() and _OTHER_SCRIPT.search(text):
        return next(name for name, script in _SCRIPTS.items() if re.search(f"[{script}]", text))
    votes = _votes(text)
    counts = [votes.count(letter) for letter in _LETTERS]
    most = max(counts)
    return _NAMES[counts.index(most)] if most > 1 and counts.count(most) == 1 else "unknown"


def may_be(text: str, language: str) -> bool:
    """Whether a text is in a language for all that one can tell: none has more of its commonest words in the text.

    One word of it must be there, so that a text in no language at all is in none.
    """
    if language not in _COMMON:
        return language_of(text) == language
    votes = _votes(_plain(text[:_READ_CHARACTERS]))
    of = {letter: votes.count(letter) for letter in set(votes)}
    return any(_LETTERS[letter] == language and count == max(of.values()) for letter, count in of.items())


def _votes(text: str) -> str:
    """A letter (of _LETTERS) for each word that is common in a language; `text` is in small letters."""
    return "".join(filter(None, map(_LANGUAGES_OF.get, _WORD.findall(text))))


def _leaks(
    places: Sequence[tuple[str, Iterable[str]]], suspects: Sequence[tuple[str, re.Pattern[str]]]
) -> Iterator[Problem]:
    """At most one warning of each kind a row. What leaked is not said again: reports are passed on."""
    told: set[str] = set()
    for where, texts in places:
        for text in texts:
            for what, form in suspects:
                if what not in told and form.search(text):
                    told.add(what)
                    fix = "revoke it and take it out: a model can repeat what it was trained on"
                    yield _warning("secret", f"{where} holds what looks like {what}; {fix}")
            found = None if "email" in told else _EMAIL.search(text)
            if found:
                told.add("email")
                fix = "take it out, or write one at example.com"
                yield _warning("email", f"{where} holds an e-mail address (…@{found[1][:40]}); {fix}")


@functools.lru_cache(maxsize=64)
def _suspects_of_tools(marshalled: bytes) -> tuple[list[tuple[str, re.Pattern[str]]], str]:
    """Of a row's tools, which come again in row after row, in marshal's bytes; no text where nothing is to be found."""
    text = PLAIN.encode(marshal.loads(marshalled))
    said = text.encode()
    found = suspects(said)
    return found, text if found or b"@" in said else ""


def _texts(message: Mapping[str, Any]) -> Iterator[str]:
    if message.get("content"):
        yield message["content"]
    for call in message.get("tool_calls") or ():
        given = call["function"]["arguments"]
        yield given if isinstance(given, str) else str(given)


def _plain(text: str) -> str:
    return text.lower().replace("\u2019", "'")


def _begin(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 50 else f"{text[:47]}...")


def _warning(code: str, message: str) -> Problem:
    return Problem(code=code, message=message, severity="warning")
