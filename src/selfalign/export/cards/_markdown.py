"""Markdown out of text that may hold anything: it stands in code spans, as entities where it holds marks."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from selfalign.text import printable

# Within backticks these mean nothing, to no renderer and in no table cell; all else becomes an entity.
_HARMLESS = re.compile(r"[\w .,:;+/%()='\"…→@#?!*^~$\[\]{}-]+")


def document(front: str, title: str, summary: str, *sections: tuple[str, str]) -> str:
    body = "\n\n".join(f"{head}\n\n{text}" for head, text in sections)
    return f"---\n{front}\n---\n\n{title}\n\n{summary}\n\n{body}\n"


def code(text: str) -> str:
    line = one_line(text)
    if _HARMLESS.fullmatch(line):
        return f"`{line}`"
    return "<code>" + "".join(c if c.isalnum() or c == " " else f"&#{ord(c)};" for c in line) + "</code>"


def one_line(text: str) -> str:
    """One line without control characters and marks that reverse the direction of writing."""
    return " ".join(printable(text).split())


def number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "unknown"
    return f"{value:.3f}" if math.isfinite(value) else ("∞" if value > 0 else "-∞")


def fenced(text: str, language: str) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines: list[Sequence[str]] = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
