"""What stands out in seeds that were read well: a sentence each, with the remedy. Nothing here stops a run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from selfalign.seeds.rows import listed, show
from selfalign.text import counted, plain_name
from selfalign.types import Example

_FEW = 5
_CODE_PAGES = ("cp1252", "latin-1", "cp1251", "cp1250", "mac_roman")
_FOREIGN = re.compile(r"[^\x00-\x7f]{2,}")
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{2,5}|#x[0-9a-fA-F]{2,4});")
_MANY = 0.05
"""Share of the rows, and at least two, from which on a fault of the text is no chance (our own choice)."""


def seed_notes(seeds: Sequence[Example]) -> tuple[str, ...]:
    """All of this module's notes."""
    return (*_ignored(seeds), *_spoilt(seeds), *_few(seeds), *_categories(seeds))


def ignored_columns(seeds: Sequence[Example]) -> tuple[str, ...]:
    """The names of the columns that nothing is learned from: they are kept as metadata."""
    return tuple(dict.fromkeys(name for seed in seeds for name in seed.metadata))


def _ignored(seeds: Sequence[Example]) -> Iterator[str]:
    if names := ignored_columns(seeds):
        yield f"not learned, kept as metadata: {listed(names, 20)}; what an answer depends on belongs in its prompt"


def _spoilt(seeds: Sequence[Example]) -> Iterator[str]:
    for fault, find, remedy in _FAULTS:
        found = [(seed, what) for seed in seeds if (what := find(f"{seed.system}\n{seed.prompt}\n{seed.response}"))]
        if len(found) >= max(2, _MANY * len(seeds)):
            seed, what = found[0]
            yield f"{len(found)} of {counted(len(seeds), 'seed')} have {fault}, as {show(what)} in {seed.id}; {remedy}"


def _mojibake(text: str) -> str:
    """A piece of the text that is UTF-8 read in another code page: as bytes of that page it is valid UTF-8 again."""
    for found in _FOREIGN.finditer(text):
        for page in _CODE_PAGES:
            try:
                if len(found[0].encode(page).decode("utf-8")) < len(found[0]):
                    return text[max(found.start() - 8, 0) : found.end() + 8].strip()
            except UnicodeError:
                pass
    return "\ufffd" if "\ufffd" in text else ""


def _written_break(text: str) -> str:
    """A piece around a line break that stands as a backslash and an n, where the response has no real one."""
    prompt, _, response = text.lstrip("\n").partition("\n")
    found = re.search(r".{0,12}\\n.{0,12}", response or prompt)
    return found[0] if found and "\n" not in response else ""


def _entity(text: str) -> str:
    return found[0] if (found := _ENTITY.search(text)) else ""


_FAULTS: tuple[tuple[str, Callable[[str], str], str], ...] = (
    ("letters spoilt by a wrong encoding", _mojibake, "write the file anew from its source, as UTF-8"),
    (r"a line break written as \n", _written_break, "if it is no code, put real line breaks there"),
    ("characters written as HTML", _entity, "if it is no HTML, put the characters there"),
)


def _few(seeds: Sequence[Example]) -> Iterator[str]:
    if len(seeds) <= _FEW:
        yield (
            f"{counted(len(seeds), 'seed')}: too few to hold some out, so no round is checked or called the best, and too few"
            " to tell whether a rule or a metric fits them; 20 to 100 make sense"
        )


def _categories(seeds: Sequence[Example]) -> Iterator[str]:
    sizes = Counter(seed.category for seed in seeds if seed.category)
    single = [name for name, count in sizes.items() if count == 1]
    if len(sizes) > 1 and 2 * len(single) >= len(sizes):
        yield (
            f"{len(single)} of {len(sizes)} categories have one seed ({listed(single, 3)}): none of them can be held out or"
            " shown with another of its kind; merge categories"
        )
    spellings: dict[str, list[str]] = {}
    for name in sizes:
        spellings.setdefault(plain_name(name), []).append(name)
    for alike in (names for names in spellings.values() if len(names) > 1):
        yield f"{listed(alike)} are {len(alike)} categories, and differ in case, spaces or hyphens alone; write one of them"
    if sizes and (without := [seed.id for seed in seeds if not seed.category]):
        yield f"{len(without)} of {len(seeds)} seeds have no category ({listed(without, 3)}); give each one or none"
