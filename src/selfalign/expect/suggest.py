"""What a user could expect, by the answers of the seeds."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from selfalign.expect.json_answers import object_or_list, shared_fields
from selfalign.text import count_words

LEAST, MOST_LABELS, LABEL_WORDS, MOST_FIELDS = 6, 20, 5, 6
"""Seeds that it takes to see a rule, labels of a closed set, words of a label and fields at most (our own choice)."""


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
