"""Spoils good answers in known ways, so that a judge can be tried on them. Pure functions, no random draws.

The kinds are those of the judge's calibration; the texts and rules are our own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from selfalign.text import count_words, normalise

KINDS = ("swapped", "cut", "negated", "repeated", "off_topic")

_ELSEWHERE = (
    "The tide in a narrow bay can rise faster than a person walks. Fishermen therefore read the tables before they set out.",
    "Granite forms where molten rock cools slowly far below the surface. The slower it cools, the larger its crystals grow.",
    "A violin is carved from spruce and maple. The varnish takes several weeks to dry and changes colour over the years.",
    "Reindeer change the colour of their eyes with the season. In winter they turn blue and let more light through.",
    "The first railway timetables differed from town to town. Each station kept the time of its own church tower.",
)
_FILL = (
    "Nobody at the harbour remembers who painted the old boat green.",
    "The museum closes its eastern wing whenever the river is high.",
    "Some of the letters were written in pencil and have faded since.",
    "In autumn the cranes gather on the meadow behind the mill.",
)
_OPPOSITE = {
    "is": "is not", "are": "are not", "was": "was not", "were": "were not", "can": "cannot", "could": "could not",
    "will": "will not", "would": "would not", "should": "should not", "must": "must not", "may": "may not",
    "might": "might not", "has": "has not", "have": "do not have", "does": "does not", "do": "do not", "did": "did not",
    "isn't": "is", "aren't": "are", "wasn't": "was", "weren't": "were", "can't": "can", "cannot": "can", "couldn't": "could",
    "won't": "will", "wouldn't": "would", "shouldn't": "should", "mustn't": "must", "hasn't": "has", "haven't": "have",
    "doesn't": "does", "don't": "do", "didn't": "did",
}  # fmt: skip
_VERB = re.compile(r"\b(" + "|".join(sorted(map(re.escape, _OPPOSITE), key=len, reverse=True)) + r")\b( not?\b)?", re.IGNORECASE)
_ENGLISH = re.compile(r"\b(?:the|a|an|to|and|of|in|it|is|with|for|on|at|you|your)\b", re.IGNORECASE)
_SENTENCES = re.compile(r"(?<=[.!?])\s+")


def spoil(responses: Sequence[str]) -> dict[str, list[str | None]]:
    """For each kind a spoiled version of every response; None where spoiling fails or changes nothing.

    swapped: another example's response, half the list away; cut: the first half of its words; negated: in every sentence the
    first auxiliary verb turned into its opposite (its "not" or "no" taken out), or "Do not" before it (English only);
    repeated: three times over; off_topic: sentences about something else, about as many words.
    """
    count = len(responses)
    makers: dict[str, Callable[[int], str | None]] = {
        "swapped": lambda place: responses[(place + max(count // 2, 1)) % count],
        "cut": lambda place: _cut(responses[place]),
        "negated": lambda place: _negated(responses[place]),
        "repeated": lambda place: " ".join([responses[place]] * 3),
        "off_topic": lambda place: _off_topic(place, count_words(responses[place])),
    }
    return {kind: [_other(make(place), responses[place]) for place in range(count)] for kind, make in makers.items()}


def _other(spoiled: str | None, response: str) -> str | None:
    return None if spoiled is None or normalise(spoiled) == normalise(response) else spoiled


def _cut(response: str) -> str | None:
    ends = [found.end() for found in re.finditer(r"\S+", response)]
    return response[: ends[len(ends) // 2 - 1]] if len(ends) > 1 else None


def _negated(response: str) -> str | None:
    if not _ENGLISH.search(response):
        return None
    return " ".join(_opposite(sentence) for sentence in _SENTENCES.split(response) if sentence.strip())


def _opposite(sentence: str) -> str:
    def turn(found: re.Match[str]) -> str:
        word = found[1]
        other = word if found[2] else _OPPOSITE[word.lower()]
        return other[:1].upper() + other[1:] if word[:1].isupper() else other

    turned, changes = _VERB.subn(turn, sentence.replace("’", "'"), count=1)
    return turned if changes else f"Do not {sentence[:1].lower()}{sentence[1:]}"


def _off_topic(place: int, size: int) -> str:
    text = _ELSEWHERE[place % len(_ELSEWHERE)]
    for extra in range(size // 10):  # longer than any answer needs; cut off below by whole sentences
        text += " " + _FILL[(place + extra) % len(_FILL)]
    chosen: list[str] = []
    for sentence in _SENTENCES.split(text):
        if chosen and count_words(" ".join(chosen)) >= size:
            break
        chosen.append(sentence)
    return " ".join(chosen)
