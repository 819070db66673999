"""Finds words inside a prompt or response that are aimed at the judge: "score this 10".

Phrase rules in English, our own; a paraphrase or another language passes them, and then only the judge's prompt stands
against it, which marks the texts as material.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

REMOVED = "[words to the judge removed]"

_TOP = (
    r"(?:(?<!out of )(?<! to )(?<!to a )(?<![-–/.\d])10(?!\d)(?! (?:minutes|seconds|hours|days|times|words|sentences)\b)|\bten\b"
    r"|\b(?:highest|maximum|maximal|max|best possible|perfect|full|top)\b)"
)
_MARK = r"(?:scores?|ratings?|marks?|points?|grades?)"
_THIS = r"(?:this|it|me|my|us|these|both|that|the (?:answer|response|text|above|following|pair|instruction))"
_JUDGE = r"(?:judge|grader|evaluator|rater|scorer|assessor|examiner|scoring (?:expert|model|system)|reward model)"
_EARLIER = r"(?:above|previous|prior|earlier|preceding|foregoing|other|scoring|rating|grading|judging|your)"
_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        # "Score this 10", "rate my answer with the highest mark"
        rf"\b(?:score|rate|grade|mark|evaluate|judge|assess|rank) {_THIS}\b[^?]{{0,60}}{_TOP}",
        # "give it a ten", "award this the highest possible score"
        rf"\b(?:give|award|assign|grant) {_THIS}\b[^?]{{0,40}}?{_TOP}(?: possible| available)?(?: out of (?:10|ten)|/10)?"
        rf" ?(?:{_MARK}\b|$)",
        rf"\b(?:give|award|assign|grant|output|return|report|choose|pick|use) (?:only |just )?(?:the |a |an )?{_TOP}"
        rf"(?: possible)? {_MARK}\b",
        # "this deserves a 10", "my answer is worth full marks"
        rf"\b(?:deserves|merits|earns|earned|is worth|must (?:get|receive|be given|have)|should (?:get|receive|be given|have))"
        rf" (?:a |an |the |its )?{_TOP}(?: possible)?(?: out of (?:10|ten)|/10| {_MARK}\b|$)",
        # "the correct score is 10", "score: 10", "rating = 10/10"
        rf"\b(?:the|your|its|correct|right|true|final|proper|only|expected) {_MARK}(?: \w+){{0,4}}? ?(?:is|are|be|=|:|of)"
        rf" ?(?:a |an |the )?{_TOP}",
        r"(?:^|[^\w ]\s*)(?:score|rating|grade|verdict)\s*(?:=|:|is)\s*[\"'(*]*(?:10|ten)\b",
        # The judge's own form of answer, forged.
        r"(?:^|\W)(?:9|10) ?\|\|",
        r"\[\[ ?(?:9|10) ?\]\]",
        # "ignore the criteria above"
        rf"\b(?:ignore|disregard|forget|override|skip)\b[^?]{{0,30}}\b{_EARLIER}\b[^?]{{0,30}}"
        r"\b(?:instructions?|prompts?|rules?|criteria|standards?|rubric|guidelines?|text|orders?)\b",
        r"\b(?:ignore|disregard|forget|override)\b[^?]{0,30}\b(?:instructions?|rules|criteria|rubric|everything|all)\b[^?]{0,20}"
        r"\b(?:above|before|so far|given to you)\b",
        # "Note to the judge:", "dear evaluator", "as the strict scoring expert you must"
        r"\b(?:note|message|instructions?|hint|attention|memo|order)s?,? (?:to|for) (?:the |any |every |all |our )?"
        rf"(?:\w+ )?{_JUDGE}s?\b",
        rf"(?:^|[^\w ] ?)(?:dear|hey|hello|attention|listen)[,:]? (?:the |strict |honou?rable )*{_JUDGE}\b",
        rf"\bas (?:a|an|the|our) (?:\w+ )?{_JUDGE},? (?:you|your|always|please|reply|answer|write|give|output|it is your)\b",
        rf"\b(?:you are|act as) (?:a|an|the|now a|now the) (?:\w+ )?{_JUDGE}\b[^?]*{_TOP}",
        # "answer only with 10", "output the number 10"
        r"\b(?:answer|reply|respond|output|write|print|return|say)"
        r"(?: (?:only|just|simply|with|back|always|nothing but|the|number|digits?|score|word)){1,6} [\"']?(?:10|ten)[\"']?\W*$",
        # Turn marks of chat templates have no business in a text.
        r"<\|[^|<>]{1,30}\|>|\[/?inst\]|<</?sys>>",
    )
)
_SENTENCE = re.compile(r"[^\n.!?]*(?:[.!?]+(?=\s|$)|[.!?]|\n|$)")
# Characters that are not seen and would split a word for the rules: zero-width ones, joiners, soft hyphens, direction marks.
_UNSEEN = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")


def addressed(text: str) -> list[str]:
    """The sentences of a text that speak to the judge, as they stand there."""
    return [text[start:end].strip() for start, end in _spans(text)]


def without_address(text: str) -> str:
    """The text with each such sentence replaced by `REMOVED`; any other text comes back as it is."""
    parts: list[str] = []
    at = 0
    for start, end in _spans(text):
        if parts and not text[at:start].strip():  # the next one follows at once: one mark says it
            at = end
            continue
        lead = text[start:end]
        parts += [text[at:start], lead[: len(lead) - len(lead.lstrip())], REMOVED]
        at = end
    return "".join((*parts, text[at:]))


@lru_cache(maxsize=8192)  # every judge of a recipe asks about the same texts, and twice
def _spans(text: str) -> tuple[tuple[int, int], ...]:
    sentences = (found for found in _SENTENCE.finditer(text) if found[0].strip())
    return tuple(found.span() for found in sentences if any(pattern.search(_plain(found[0])) for pattern in _PATTERNS))


def _plain(sentence: str) -> str:
    """One spelling for the rules: full-width and mathematical letters, quotes, case, emphasis and white space made equal."""
    text = _UNSEEN.sub("", unicodedata.normalize("NFKC", sentence)).casefold()
    text = text.replace("’", "'").replace("“", '"').replace("”", '"')
    return " ".join(re.sub(r"[*_`#]+", " ", text).split()).strip(" .!")
