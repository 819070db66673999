"""Pure functions over text: words, ROUGE-L, sentence ends, clean-up. Nothing here knows of models or runs."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

ISARA_MARKERS = ("BEGIN", "END", "USER", "ASSISTANT", "\\begin", "\\end", "ANS")
"""Where ISARA's authors cut a raw completion; case-sensitive, as theirs are."""

_NOT_ASCII_WORD = re.compile(r"[^a-z0-9]+")
# Scripts written without spaces between words: Thai, Lao, Myanmar, Khmer, kana, Han (with its extensions).
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNICODE_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_UNSPACED_CHARACTER = re.compile(rf"[{_UNSPACED}]")

_ROWS, _COLUMNS = 256, 16_384  # the block of the distance matrix held at once: 32 MiB as float64


class Overlap(NamedTuple):
    """The text most like another one: its ROUGE-L F1 and its position; position -1 where there was none to compare with."""

    score: float
    position: int


def words(text: str, *, unicode: bool = False) -> list[str]:
    """The tokens ROUGE-L is counted over.

    By default exactly those of Google's `rouge-score` without stemming: lower case, runs of a-z and 0-9. Text in another
    script has no such tokens, so its overlap would always be 0 and every copy would pass as new. With `unicode=True` a token
    is a run of letters or digits of any script, case-folded, and every character by itself in scripts written without spaces.
    For ASCII text both are the same.
    """
    if unicode:
        return _UNICODE_WORD.findall(text.casefold())
    return _NOT_ASCII_WORD.sub(" ", text.lower()).split()


def count_words(text: str) -> int:
    """Words as ISARA's code counts them, between white space; in scripts without spaces every character counts as one."""
    unspaced = len(_UNSPACED_CHARACTER.findall(text))
    return unspaced + len(_UNSPACED_CHARACTER.sub(" ", text).split()) if unspaced else len(text.split())


def normalise(text: str) -> str:
    """Case-folded, white space collapsed: equal results are the same text to a reader."""
    return " ".join(text.casefold().split())


def rouge_l(a: str, b: str, *, unicode: bool = False) -> float:
    """ROUGE-L F1 of two texts in [0, 1]: 2·LCS / (words of a + words of b); 0 where either has no words."""
    return float(rouge_l_matrix([a], [b], unicode=unicode)[0, 0])


def rouge_l_matrix(a: Sequence[str], b: Sequence[str], *, unicode: bool = False) -> NDArray[np.float64]:
    """ROUGE-L F1 of every text of `a` with every text of `b`, shape (len(a), len(b))."""
    vocabulary = _Vocabulary(unicode)
    return _f1([vocabulary.ids(text) for text in a], [vocabulary.ids(text) for text in b])


def rouge_l_max(texts: Sequence[str], references: Sequence[str], *, unicode: bool = False) -> list[Overlap]:
    """For each text the reference it overlaps most with, by ROUGE-L F1; the first one among equals."""
    vocabulary = _Vocabulary(unicode)
    pool = [vocabulary.ids(text) for text in references]
    rows = [vocabulary.ids(text) for text in texts]
    return [overlap for start in range(0, len(rows), _ROWS) for overlap in _nearest(rows[start : start + _ROWS], pool)]


def rouge_l_growing(
    texts: Sequence[str], references: Sequence[str], max_overlap: float, *, unicode: bool = False
) -> list[Overlap]:
    """`rouge_l_max` against references and, beyond those, all earlier texts that passed (score <= max_overlap).

    A position at or past len(references) is that of an earlier text: `texts[position - len(references)]`. Exact: equal to
    comparing one text after the other with a growing pool. Texts go in blocks because a block against the pool is one call of
    a vectorised routine; only the triangle inside a block has to be walked in order.
    """
    vocabulary = _Vocabulary(unicode)
    pool = [vocabulary.ids(text) for text in references]
    place = list(range(len(references)))
    rows = [vocabulary.ids(text) for text in texts]
    result: list[Overlap] = []
    for start in range(0, len(rows), _ROWS):
        block = rows[start : start + _ROWS]
        inside = _f1(block, block)
        passed: list[int] = []
        for i, (score, position) in enumerate(_nearest(block, pool)):
            best = Overlap(score, place[position] if position >= 0 else -1)
            for j in passed:
                if best.position < 0 or inside[i, j] > best.score:
                    best = Overlap(float(inside[i, j]), len(references) + start + j)
            if best.score <= max_overlap:
                passed.append(i)
            result.append(best)
        pool += [block[i] for i in passed]
        place += [len(references) + start + i for i in passed]
    return result


class _Vocabulary:
    """Words to small integers: exact, and what the vectorised routine compares fastest."""

    def __init__(self, unicode: bool) -> None:
        self._unicode = unicode
        self._next = count()
        self._ids: dict[str, int] = {}

    def ids(self, text: str) -> list[int]:
        return [self._ids[word] if word in self._ids else self._new(word) for word in words(text, unicode=self._unicode)]

    def _new(self, word: str) -> int:
        return self._ids.setdefault(word, next(self._next))


def _f1(a: Sequence[list[int]], b: Sequence[list[int]]) -> NDArray[np.float64]:
    if not a or not b:
        return np.zeros((len(a), len(b)))
    scores: NDArray[np.float64] = process.cdist(a, b, scorer=LCSseq.similarity, dtype=np.int32).astype(np.float64)
    total = np.add.outer(*(np.array([len(x) for x in side], dtype=np.float64) for side in (a, b)))
    scores *= 2.0  # in place, here and below: fresh matrices of this size took as long as the comparison
    scores /= np.maximum(total, 1.0, out=total)
    return scores


def _nearest(rows: Sequence[list[int]], pool: Sequence[list[int]]) -> list[Overlap]:
    best, where = np.full(len(rows), -1.0), np.full(len(rows), -1)
    for start in range(0, len(pool), _COLUMNS):
        scores = _f1(rows, pool[start : start + _COLUMNS])
        position = scores.argmax(axis=1)
        score = scores[np.arange(len(rows)), position]
        better = score > best
        best[better], where[better] = score[better], position[better] + start
    return [Overlap(max(float(score), 0.0), int(position)) for score, position in zip(best, where, strict=True)]


# Closing quotes, brackets and emphasis that may follow the end of a sentence, and marks that end one in the larger scripts.
_CLOSING = "\"'”’»›)]}*_`」』）】〉》"
_SENTENCE_END = ".!?…。！？｡．؟۔।॥։"
_LIST_NUMBER = re.compile(r"(?:^|\n)\W*\d+[.)]\W*$")


def is_finished(text: str) -> bool:
    """Whether a text ends where a sentence may: at its final mark, closing quotes after it allowed, or at a closed code block.

    A bare list number at the end ("3.") is the beginning of an item that never came.
    """
    text = text.rstrip()
    if text.endswith("```"):
        return text.count("```") % 2 == 0
    if text.count("```") % 2:
        return False
    body = text.rstrip(_CLOSING + " ")
    return body.endswith(tuple(_SENTENCE_END)) and any(map(str.isalnum, body)) and not _LIST_NUMBER.search(text)


def cut_at_markers(text: str, markers: Sequence[str] = ISARA_MARKERS) -> str:
    """The text before the first of the markers, stripped (ISARA's clean-up of a raw completion)."""
    found = [position for marker in markers if (position := text.find(marker)) >= 0]
    return text[: min(found, default=len(text))].strip()


def longest_repeat(text: str, size: int = 4) -> tuple[float, str, int]:
    """How much of a text is loops: the share of its word `size`-grams that repeat an earlier one, in [0, 1].

    Also the most frequent n-gram and how often it stands there. Texts shorter than `size` words give (0.0, "", 0).
    """
    tokens = words(text, unicode=True)
    grams: dict[tuple[str, ...], int] = {}
    for start in range(len(tokens) - size + 1):
        gram = tuple(tokens[start : start + size])
        grams[gram] = grams.get(gram, 0) + 1
    if not grams:
        return 0.0, "", 0
    most = max(grams, key=lambda gram: grams[gram])
    return 1.0 - len(grams) / sum(grams.values()), " ".join(most), grams[most]


NO_INPUT = "<noinput>"
"""What stands in a list of tasks where a task has no input, as in Alpaca's and I-SHEEP's prompts."""


def join_task(instruction: str, input: str = "") -> str:
    """The prompt of a task, as `read_seeds` writes it too."""
    return f"{instruction}\n\n{input}" if input else instruction


def split_task(prompt: str) -> tuple[str, str]:
    """(instruction, input): before and behind the first blank line, so that a plain prompt is all instruction.

    `join_task` of the two is the prompt again.
    """
    instruction, _, input = prompt.partition("\n\n")
    return (instruction, input) if input else (prompt, "")


def one_line(text: str) -> str:
    """White space collapsed: an instruction stands on one line of a list."""
    return re.sub(r"\s+", " ", text).strip()


_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    """Without control characters (line breaks and tabs stay), marks that reverse the direction of writing, and what no
    terminal can encode. Without its escape character a terminal sequence is harmless text."""
    return "".join(char for char in text if char in "\n\t" or not (char in _BIDI or unicodedata.category(char) in ("Cc", "Cs")))


def finite(value: float) -> float | None:
    """JSON for other tools knows no NaN and no infinity."""
    return value if math.isfinite(value) else None


def decimals(value: float | None, low: float | None = None, high: float | None = None) -> int:
    """How many a figure, with its interval where it is told by that, is given: two, one from 10 on, more where the interval (or
    the figure, where the interval is a point) is smaller than two can show."""
    known = [abs(each) for each in (value, low, high) if each is not None and math.isfinite(each)]
    if max(known, default=0.0) >= 10.0:
        return 1
    width = high - low or abs(value or 0.0) if low is not None and high is not None else math.inf
    return 2 if width >= 0.1 or not width else 3 if width >= 0.01 else 4


def counted(count: int, noun: str) -> str:
    """1 seed example, 2 seed examples: nouns whose plural is an s more."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
