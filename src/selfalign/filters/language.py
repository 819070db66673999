"""Texts in another language than the seeds'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.filters._shared import Field, Verdict, split, text_of
from selfalign.protocols import Context
from selfalign.text import in_language, language, languages
from selfalign.types import Example, FilterResult


@dataclass(frozen=True)
class Language:
    """Drops an example whose text is in none of the languages that the seeds' texts are in (our own addition).

    A small model falls back into English: of nine pairs kept for German seeds two were in English and one in French. Nothing is
    dropped where the seeds' language is unclear, or that of the text: too short, a label, JSON, code.
    """

    field: Field = "response"
    """Which text of an example is looked at."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `other_language`; evidence: both languages (ISO 639 codes) and the text."""
        wanted = languages([text_of(seed, self.field) for seed in context.pool.seeds])

        def judge(example: Example) -> Verdict:
            text = text_of(example, self.field)
            if in_language(text, wanted) is not False:
                return None
            return "other_language", f"{language(text)} where the seeds are {', '.join(wanted)}: {text[:200]}"

        return split(examples, judge)
