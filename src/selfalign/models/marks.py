"""The plain text that a chat template writes around turns: `[INST]`, `<|user|>`, `USER:`, `### Instruction:`.

Where such a mark is no special token of the tokenizer, a text that spells it out is read as a turn all the same, and nothing in
its tokens shows it. What counts as a mark is read off the template's own renderings, so that `user:` is one to a model whose
template writes it and a word to all others.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from selfalign.models.thinking import MARKERS

_BRACKETED = re.compile(r"<+[^<>\s]{1,40}>+|\[/?[^\[\]\s]{1,40}\]|\b[A-Z]{3,}(?: [A-Z]{2,})+\b:?")
"""In brackets, or two words and more in capitals (END OF CONVERSATION)."""
_NAME = re.compile(r"(?:#{1,6} ?)?\S+[:：]$")
_INLINE, _LINE = r"(?:^|(?<=\s))", r"(?:^|(?<=\n))"
_WORDS = 4
"""Most words of a turn's name on a line of its own (`GPT4 Correct User:`); of a longer line the last word alone is one, for a
template may begin with sentences."""
_THOUGHTS = {mark for pair in MARKERS for mark in pair}


def turn_marks(before: Iterable[str], behind: Iterable[str], special: Collection[str]) -> tuple[re.Pattern[str], ...]:
    """What finds the marks in a text, the longest first; `group()` is the mark.

    Args:
        before: what the template writes in front of texts.
        behind: what it writes behind texts; what stands between two texts is both.
        special: the tokenizer's special tokens, which are found otherwise.
    """
    pieces = [(_without(piece, special), -1) for piece in before] + [(_without(piece, special), 0) for piece in behind]
    brackets, names = set[str](), dict[str, bool]()
    for piece, side in pieces:
        lines = [line for line in piece.splitlines() if line.strip()]
        if not lines:
            continue
        line = lines[side].strip()
        brackets.update(mark for mark in _BRACKETED.findall(line) if mark not in _THOUGHTS)
        if name := _name(_BRACKETED.sub(" ", line).strip(), side):
            place = piece.rfind(name) if side else piece.find(name)
            alone = name.isupper() or name.startswith("#")  # in capitals it gives itself away in the middle of a line too
            names[name] = names.get(name, alone) or piece[max(place - 1, 0) : place] == " "
    found = {re.escape(mark): mark for mark in brackets}
    # Where a template writes a name in the middle of a line, it is one there.
    found |= {(_INLINE if inline else _LINE) + re.escape(name): name for name, inline in names.items()}
    return tuple(re.compile(pattern) for pattern in sorted(found, key=lambda pattern: (-len(found[pattern]), pattern)))


def marks_in(text: str, marks: Sequence[re.Pattern[str]]) -> list[str]:
    """The marks that stand in a text."""
    return [found.group() for mark in marks if (found := mark.search(text.strip()))]


def _without(piece: str, special: Collection[str]) -> str:
    for token in sorted(special, key=len, reverse=True):
        piece = piece.replace(token, "\n")
    return piece


def _name(line: str, side: int) -> str:
    """The name of a turn next to a text, "" for none."""
    words = line.split()
    if len(words) <= _WORDS:
        return line if line.endswith((":", "：")) or re.match(r"###+ ?\w", line) else ""
    found = _NAME.search(line) if side else None
    return found.group() if found else ""
