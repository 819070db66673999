"""What a user could expect, by the answers of the seeds."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Sequence

from selfalign.expect.json_answers import object_or_list, shared_fields
from selfalign.expect.results import MARKER
from selfalign.text import count_words
from selfalign.types import Example

LEAST, MOST_LABELS, LABEL_WORDS, MOST_FIELDS = 6, 20, 5, 6
"""Seeds that it takes to see a rule, labels of a closed set, words of a label and fields at most (our own choice)."""

_RESULTS = ("\\boxed{", "<answer>")
"""Further marks before a result, as models of mathematics write them."""

FREE = 8
"""Words: of longer answers, JSON aside, two that mean the same are seldom the same (our own choice)."""


def free_texts(responses: Sequence[str]) -> int:
    """How many of them could be put in many ways."""
    return sum(count_words(text) > FREE and bool(object_or_list(text)) for text in responses)


def suggested(seeds: Sequence[Example]) -> str:
    """The first of `suggestion`, `frame` and `frames` that has something to say."""
    responses = [seed.response for seed in seeds]
    return suggestion(responses) or marked(responses) or frame(responses) or frames(seeds)


def marked(responses: Sequence[str]) -> str:
    """One sentence with the option, where all responses give their result behind GSM8K's mark, or another one; "" elsewhere."""
    texts = [text.strip() for text in responses if text.strip()]
    last = opening([text.splitlines()[-1] for text in texts]) if texts and all("\n" in text for text in texts) else ""
    own = re.match(r"[^\W\d][^:：]{0,30}[:：]", last)
    marks = [mark for mark in (MARKER, *_RESULTS, own[0] if own else "") if mark and all(mark in text for text in texts)]
    if len(texts) < LEAST or not marks:
        return ""
    option = "result" if marks[0] == MARKER else shlex.quote(f"result:{marks[0]}")
    said = f"all {len(texts)} seeds give a result, with '{marks[0]}' before it"
    return f"{said}: --expect {option} would count the held-out answers that come to the reference's"


def suggestion(responses: Sequence[str]) -> str:
    """One sentence with the option, where all responses are JSON or from a closed set of labels, each of which three seeds have
    on average; "" elsewhere."""
    texts = [text.strip() for text in responses if text.strip()]
    if len(texts) < LEAST:
        return ""
    if not any(map(object_or_list, texts)):
        fields = [name for name in shared_fields(texts) if re.fullmatch(r"\w+", name)][:MOST_FIELDS]
        counts = " ".join(f"--expect exact:{name}" for name in fields)
        each = f"; {counts} would count the held-out answers that have the reference's value there" if fields else ""
        return f"all {len(texts)} seeds answer in JSON: --expect json would drop and count every answer that is none{each}"
    labels = sorted(set(texts))
    short = all(count_words(label) <= LABEL_WORDS and "\n" not in label for label in labels)
    if not short or not 2 <= len(labels) <= min(MOST_LABELS, len(texts) // 3):
        return ""
    import regex

    pattern = shlex.quote(f"regex:{'|'.join(regex.escape(label, special_only=True, literal_spaces=True) for label in labels)}")
    return (
        f"all {len(texts)} seeds answer with one of {len(labels)} labels: --expect {pattern} would drop and count every other "
        "answer, and --expect exact counts the right ones among held-out answers"
    )


def frame(responses: Sequence[str]) -> str:
    """One sentence with the option, where all responses begin with the same words or sign, or end with the same; "" elsewhere.

    A heading, a tag, a fence, the semicolon of a query or the question mark of a tutor: rules that learn from the seeds judge how
    long and how whole an answer is, and keep one in prose where these are code.
    """
    said, pattern = _frame(responses)
    if not said:
        return ""
    number = sum(bool(text.strip()) for text in responses)
    return (
        f"the answers of all {number} seeds {said}: --expect {shlex.quote(f'regex:{pattern}')} would drop and count"
        " every answer that does not"
    )


def frames(seeds: Sequence[Example]) -> str:
    """As `frame`, where each of two categories or more has one of its own: what is to be escalated, and what is not."""
    kinds = {
        kind: [seed.response for seed in seeds if seed.category == kind]
        for kind in dict.fromkeys(seed.category for seed in seeds)
    }
    found = {kind: _frame(texts) for kind, texts in kinds.items() if kind}
    if not 2 <= len(found) <= MOST_FIELDS or "" in kinds or not all(said for said, _ in found.values()):
        return ""
    said = ", ".join(f"of {kind!r} {each}" for kind, (each, _) in found.items())
    options = " ".join(f"--expect {shlex.quote(f'{kind}=regex:{pattern}')}" for kind, (_, pattern) in found.items())
    return f"the answers {said}: {options} would drop and count every answer that does not"


def _frame(responses: Sequence[str]) -> tuple[str, str]:
    """(how all begin and end, in words; as a pattern), or nothing."""
    texts = [text.strip() for text in responses if text.strip()]
    if len(texts) < LEAST or len(set(texts)) < 2:
        return "", ""
    first, last = (opening(side).split("\n")[0].rstrip() for side in (texts, [text[::-1] for text in texts]))
    last = last[::-1]
    first = first if count_words(first) > 1 or not first[:1].isalnum() or first.endswith(":") else ""
    last = last if last.strip(".!。।…۔።։།॥᠃᱾") and len(first + last) < min(map(len, texts)) else ""
    if (not first and not last) or "think" in first.casefold():  # a mark of thoughts, which are cut off unless they are kept
        return "", ""
    import regex

    before, behind = (regex.escape(part, special_only=True, literal_spaces=True) for part in (first, last))
    said = " and ".join(f"{verb} with {part!r}" for verb, part in (("begin", first), ("end", last)) if part)
    return said, f"{before}.*{behind}"


def opening(texts: Sequence[str]) -> str:
    """What all of them begin with: whole words."""
    same = next((place for place, signs in enumerate(zip(*texts, strict=False)) if len(set(signs)) > 1), min(map(len, texts)))
    common = texts[0][:same]
    if any(_letter(text[len(common) :][:1]) for text in texts):
        common = common[: next((place for place in range(len(common), 0, -1) if not _letter(common[place - 1])), 0)]
    return common


def _letter(sign: str) -> bool:
    return bool(sign) and unicodedata.category(sign)[0] in "LMN"
