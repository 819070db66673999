"""Pure functions over text: words, ROUGE-L, sentence ends, languages, clean-up. Nothing here knows of models or runs.

What a letter, a mark, a stop or an emoji is follows the tables of the package `regex`, which are the same whatever Python's are.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, lru_cache
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

ISARA_MARKERS = ("BEGIN", "END", "USER", "ASSISTANT", "ASSISTENT", "\\begin", "\\end", "ANS")
"""Where ISARA's authors cut a raw completion; case-sensitive and one of them misspelt, as theirs are."""

_NOT_ASCII_WORD = re.compile(r"[^a-z0-9]+")
# Scripts written without spaces between words: Thai, Lao, Khmer, Burmese and their kin (class SA of Unicode's line breaking),
# Han, kana. A letter of one of these with its marks is a token.
_UNSPACED = r"[[\p{Line_Break=SA}\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}]&&[\p{L}\p{N}]]"
_UNSPACED_LETTER = rf"(?={_UNSPACED})\X"
_WORD = rf"{_UNSPACED_LETTER}|[[\p{{L}}\p{{N}}]--{_UNSPACED}][[\p{{L}}\p{{N}}\p{{M}}]--{_UNSPACED}]*"
_IGNORABLE = r"\p{Default_Ignorable_Code_Point}"  # zero-width characters, soft hyphens, marks of direction

_ROWS, _COLUMNS = 256, 16_384  # the block of the distance matrix held at once: 32 MiB as float64


@cache
def _pattern(expression: str) -> Any:
    """Compiled by `regex`, which is loaded where a text needs more than ASCII."""
    import regex

    return regex.compile(f"(?V1){expression}")


class Overlap(NamedTuple):
    """The text most like another one: its ROUGE-L F1 and its position; position -1 where there was none to compare with."""

    score: float
    position: int


def words(text: str, *, unicode: bool = False) -> list[str]:
    """The tokens ROUGE-L is counted over.

    By default exactly those of Google's `rouge-score` without stemming: lower case, runs of a-z and 0-9. Text in another
    script has no such tokens, so its overlap would always be 0 and every copy would pass as new. With `unicode=True` a token
    is a run of letters or digits of any script with their combining marks, case-folded, and every character (grapheme) by itself
    in scripts written without spaces. For ASCII text both are the same.
    """
    if not unicode or text.isascii():
        return _NOT_ASCII_WORD.sub(" ", text.lower()).split()
    found: list[str] = _pattern(_WORD).findall(_folded(text))
    return found


def count_words(text: str) -> int:
    """Words as ISARA's code counts them, between white space; in scripts without spaces every character counts as one."""
    if text.isascii() or not _pattern(_UNSPACED).search(text):
        return len(text.split())
    rest, unspaced = _pattern(_UNSPACED_LETTER).subn(" ", _pattern(_IGNORABLE).sub("", text))
    return int(unspaced) + len(rest.split())


def normalise(text: str) -> str:
    """Case-folded, composed (NFC), without zero-width characters, white space collapsed: equal results read the same."""
    return " ".join(_folded(text).split())


def plain_name(name: str) -> str:
    """A name without what its writers differ in: case, spaces, hyphens and underscores."""
    return normalise(re.sub(r"[\s_-]+", "", name))


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    composed = unicodedata.normalize("NFC", _pattern(_IGNORABLE).sub("", text))
    return unicodedata.normalize("NFC", composed.casefold().replace("i\u0307", "i"))  # what becomes of the Turkish İ


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
        self._ids: dict[str, int] = defaultdict(count().__next__)

    def ids(self, text: str) -> list[int]:
        return [self._ids[word] for word in words(text, unicode=self._unicode)]


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


_STOP = r"[\p{Sentence_Terminal}…⋯‥།༎༏༐༑๚๛]"  # those outside the class: dots in a row, Tibetan and old Thai stops
# What keyboards write for the stop of a script: a semicolon, a colon, two colons, a bar.
_TYPED = r"\p{Greek}\P{L}{0,3};|\p{Armenian}:|\p{Ethiopic}(?:::|፡፡)|[\p{Devanagari}\p{Bengali}] ?\|"
_SMILE = (  # an emoji, or one made of signs
    r"(?P<smile>(?=[[\p{Extended_Pictographic}\p{RI}]--[©®™‼⁉ℹ]])\X"
    r"|(?:(?<=\s)|^)(?:[:;=][-'^]?[()\[\]DPp/\\|*]+|:3|<3+|\^_?\^|[xX]D+))"
)
# What may follow the end of a sentence: closing quotes (in German “, ‘ and « are some) and brackets, emphasis, a note, an emoji.
_AFTER = rf"(?:\[\p{{N}}{{1,3}}\]|{_SMILE}|[(（][笑泣汗][)）]|[\p{{Pe}}\p{{Pf}}\p{{Pi}}\"'*_`~～〜†‡⁰¹²³⁴-⁹\s]|{_IGNORABLE})$"
_LIST_NUMBER = re.compile(r"(?:^\W*1|\n\W*\d+)[.)]\W*$")  # a list begins with 1: all of "120." is a sum
_SIGNED = re.compile(r"(.*\S)\s*\n\s*(?:[—–―]|-- )\s?\S[^\n]{0,40}", re.DOTALL)
_CODE = re.compile(  # ends with a tag, a query, a block of statements, a statement, a formula of TeX, an address
    r".*</[\w:.-]+>|\s*(?:(?:with|select|delete)\b.*\bfrom|insert\s+into|update\b.*\bset|(?:create|alter|drop)\s+\w+)\b.*;"
    r"|.*;\s*\}|.*(?:=|\w\(|\{)[^\n]*;|.*(?:\\[\])]|\\end\{[^{}]*\}|\$[^$]+\$\$?)|.*(?:https?://|\w@[\w-]+\.)\S*[^\s,:;(]",
    re.DOTALL | re.IGNORECASE,
)


def is_finished(text: str) -> bool:
    """Whether a text ends where a sentence may, in any script, or as a whole piece of code.

    Its last mark is a full stop of its script (in those of Thai and its kin, which have none, a letter will do), with closing
    quotes, notes and emoji allowed behind it; or it ends in an emoji, a signature, a closed code block, whole JSON, a tag, a
    statement of code or an address. A bare list number at the end ("3.") is the beginning of an item that never came.
    """
    text = text.rstrip()
    if text.count("```") % 2:
        return False
    if text.endswith("```") or _is_json(text):
        return True
    if _LIST_NUMBER.search(text):
        return False
    body, smiles, after = text, False, _pattern(_AFTER)
    while found := after.search(body, max(0, len(body) - 32)):
        smiles |= found["smile"] is not None
        body = body[: found.start()]
    if smiles and (not body or any(map(str.isalnum, body))):
        return True
    if _pattern(rf"(?:{_STOP}|\p{{Line_Break=SA}}|{_TYPED})$").search(body, max(0, len(body) - 8)):
        return any(map(str.isalnum, body))
    return bool(_CODE.fullmatch(text)) or bool((signed := _SIGNED.fullmatch(text)) and is_finished(signed[1]))


def _is_json(text: str) -> bool:
    try:
        return text.startswith(("{", "[")) and json.loads(text) is not None
    except (ValueError, RecursionError):
        return False


TENTH = 0.1
"""What at most so many of the examples do is an exception, and no rule is learned from it (our own choice)."""


def finished_like(texts: Sequence[str]) -> Callable[[str], bool]:
    """`is_finished` for answers that end as these texts do: labels, lists, poems and code have no full stop.

    The commonest endings that `is_finished` does not know are taken over, by their last sign and whether braces were opened,
    until at most a tenth of the texts is left (a word and a figure are one); for texts about as long as those that end so, so
    that labels without a stop do not let half a paragraph pass. Where most texts end in none of the known ways and in two
    others (of any length: three) or more (queries, patterns, formulas), any end will do that leaves no block open.
    """
    lengths: dict[str, list[int]] = {}
    for text in texts:
        if not is_finished(text):
            lengths.setdefault(_ending(text), []).append(count_words(text))
    left, allowed = sum(map(len, lengths.values())), dict[str, int]()
    if 2 * left > len(texts) and len(lengths) > 1:
        most = math.inf if len(lengths) > 2 else 2 * max(map(max, lengths.values())) + 3
        return lambda text: not _is_open(text.strip()) and (is_finished(text) or 0 < count_words(text) <= most)
    for ending, those in sorted(lengths.items(), key=lambda item: -len(item[1])):
        if left > TENTH * len(texts):
            alike = ending.replace("figure", "letter")
            allowed[alike], left = max(allowed.get(alike, 0), 2 * max(those) + 3), left - len(those)
    return lambda text: is_finished(text) or count_words(text) <= allowed.get(_ending(text).replace("figure", "letter"), -1)


def _is_open(text: str) -> bool:
    return not text or text.count("```") % 2 > 0 or any(text.startswith(a) and not text.endswith(b) for a, b in ("{}", "[]"))


def _ending(text: str) -> str:
    text = text.strip()
    kinds = {"letter": r"[\p{L}\p{M}]", "figure": r"[\p{N}\p{Sc}%‰°]"}
    kind = next((name for name, signs in kinds.items() if _pattern(signs).fullmatch(text[-1:])), text[-1:])
    opened = "open block" if text.count("```") % 2 else text[:1] if text.startswith(("{", "[")) else ""
    return f"{'number' if _LIST_NUMBER.search(text) else ''} {opened} {kind}"


def cut_at_markers(text: str, markers: Sequence[str] = ISARA_MARKERS) -> str:
    """The text before the first of the markers, stripped (ISARA's clean-up of a raw completion)."""
    found = [position for marker in markers if (position := text.find(marker)) >= 0]
    return text[: min(found, default=len(text))].strip()


def longest_repeat(text: str, size: int = 4) -> tuple[float, str, int]:
    """How much of a text is loops: the share of its word `size`-grams that repeat an earlier one, in [0, 1].

    Also the most frequent n-gram and how often it stands there. Texts shorter than `size` words give (0.0, "", 0). In scripts
    without spaces a word counts as two and a half characters: the ending of a polite sentence has five to ten and is no loop.
    """
    tokens = words(text, unicode=True)
    unspaced = not text.isascii() and 2 * sum(bool(_pattern(_UNSPACED).match(token)) for token in tokens) > len(tokens)
    size = size * 5 // 2 if unspaced else size
    grams = Counter(tuple(tokens[start : start + size]) for start in range(len(tokens) - size + 1))
    if not grams:
        return 0.0, "", 0
    most, times = grams.most_common(1)[0]
    return 1.0 - len(grams) / grams.total(), ("" if unspaced else " ").join(most), times


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
# Code points that have no character yet are faults too, but for those kept free for emoji, which may have one by now.
_CONTROL = r"\uFFFD|[[\p{Cc}\p{Cs}\p{Cn}]--[\n\t\r\p{Extended_Pictographic}]]"


def control_characters(text: str) -> list[str]:
    """What no honest text has: control characters (line breaks and tabs are none), broken ones, and U+FFFD in their place."""
    found: list[str] = _pattern(_CONTROL).findall(text)
    return found


def printable(text: str) -> str:
    """Without control characters (line breaks and tabs stay), marks that reverse the direction of writing, and what no
    terminal can encode. Without its escape character a terminal sequence is harmless text."""
    return "".join(char for char in text if char in "\n\t" or not (char in _BIDI or unicodedata.category(char) in ("Cc", "Cs")))


SURE, IMPOSSIBLE = 0.8, 0.05
"""A text can be judged where three languages (often cousins: Danish and two Norwegians) have at least the first probability
together, and is in none of a set of languages that has less than the second. Of 1,223 English sentences of 25 letters and more
one was called foreign so, a list of Italian dishes (our own choice and measurement)."""
_NO_PROSE = re.compile(r"```.*?(?:```|$)|`[^`\n]*`|https?://\S+|<[^<>\n]*>", re.DOTALL)
_CHINESE = re.compile(r"[。！？，；,.!?]|[\u3400-\u9fff]{9}")  # a sentence: names and labels in Han alone may be Japanese


@cache
def language_identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@lru_cache(maxsize=16_384)
def _probabilities(text: str) -> Mapping[str, float]:
    """Of the languages a text may be in, by code (ISO 639); empty where it is unclear: too short, a label, JSON or code."""
    prose = "" if _is_json(text.strip()) else " ".join(_NO_PROSE.sub(" ", text).split())
    ranked = language_identifier().rank(prose) if prose else []
    if sum(probability for _, probability in ranked[:3]) < SURE or ranked[0][0] == "zxx":  # the code of what is no language
        return {}
    return {} if ranked[0][0] in ("zh", "yue", "wuu") and not _CHINESE.search(prose) else dict(ranked)


def languages(texts: Sequence[str]) -> dict[str, float]:
    """The languages that texts are in, with their shares: the commonest ones, until at most a tenth of the texts is in none.

    Empty where fewer than half of the texts can be judged, or fewer than three, or most are in a language of their own.
    """
    judged = [found for text in texts if (found := _probabilities(text))]
    likeliest = Counter(next(iter(found)) for found in judged)
    alone = sum(not _may_be(f, likeliest.keys() - {next(iter(f))}) for f in judged if likeliest[next(iter(f))] == 1)
    if len(judged) < max(3, len(texts) / 2) or 2 * alone > len(judged):
        return {}
    total, kept = Counter[str](), dict[str, float]()
    for found in judged:
        total.update(found)
    for code, value in total.most_common():
        if sum(not _may_be(found, kept) for found in judged) > TENTH * len(judged):
            kept[code] = value / len(judged)
    return kept


def in_language(text: str, wanted: Collection[str]) -> bool | None:
    """Whether a text may be in one of these languages (codes as `languages` gives them); None where it cannot be judged."""
    found = _probabilities(text)
    return _may_be(found, wanted) if found and wanted else None


def _may_be(found: Mapping[str, float], wanted: Collection[str]) -> bool:
    return sum(found.get(code, 0.0) for code in wanted) >= IMPOSSIBLE


def language(text: str) -> str:
    """The code of the likeliest language of a text; "" where it cannot be judged."""
    return next(iter(_probabilities(text)), "")


def finite(value: float) -> float | None:
    """JSON for other tools knows no NaN and no infinity."""
    return value if math.isfinite(value) else None


def decimals(value: float | None, low: float | None = None, high: float | None = None) -> int:
    """How many a figure, with its interval where one is given, has: two, one from 10 on, more where the interval (or
    the figure, where the interval is a point) is smaller than two can show."""
    known = [abs(each) for each in (value, low, high) if each is not None and math.isfinite(each)]
    if max(known, default=0.0) >= 10.0:
        return 1
    width = high - low or abs(value or 0.0) if low is not None and high is not None else math.inf
    return 2 if width >= 0.1 or not width else 3 if width >= 0.01 else 4


def counted(count: int, noun: str) -> str:
    """1 seed example, 2 seed examples: nouns whose plural is an s more."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
