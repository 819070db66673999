"""What stands out in seeds that were read well: a sentence each, with the remedy. Nothing here stops a run."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from selfalign.seeds.names import ANSWERING, told
from selfalign.seeds.rows import has_words, is_conversation, listed, show
from selfalign.seeds.turns import ROLES
from selfalign.seeds.verdicts import number
from selfalign.text import counted, is_finished, normalise, plain_name, words
from selfalign.types import Example

_FEW = 5
_CODE_PAGES = ("cp1252", "latin-1", "cp1251", "cp1250", "mac_roman")
_FOREIGN = re.compile(r"[^\x00-\x7f]{2,}")
_HTML = re.compile(
    r"_x000[dD]_"
    r"|&(?:amp|lt|gt|quot|apos|nbsp|#\d{2,5}|#x[0-9a-fA-F]{2,4});|</?(?:p|br|div|span|strong|em|ul|ol|li)(?: [^<>]*)?/?>"
)
_SWAPPED = re.compile(r"\b(?:[а-яё]|[ЪЬ](?=[А-ЯЁ]))[А-ЯЁ]{2,}\b")
"""Letters of KOI8-R read as Windows-1251, or the other way round: small ones became capitals and capitals small ones."""
_DOS = re.compile(r".{0,8}(?:(?<=[a-z]{2})[‚„”ŠŒŽ‰ˆ³÷](?=[a-z])|[\x80-\x84\x86-\x9f]).{0,8}")
"""Letters with accents of DOS or of a Mac read as those of Windows, or the other way round; and control characters, which
Windows has quotes and dashes for."""
_RTF = re.compile(r"\{\\rtf\d")
_UNSEEN = re.compile("[\u00ad\u200b\u2060\ufeff\u0085\u2028\u2029]")
"""Characters of no width that no script needs, and line breaks that no editor shows; those that join signs or set a direction are
not among them."""
_GUARDED = re.compile(r"'[=+@-]")
"""What programs put before a cell, so that a spreadsheet takes it for no formula."""
_MARKS = re.compile(
    r"<\|\w{2,20}\|>|\[/?INST\]|</?s>(?!\w)|<(?:start|end)_of_turn>|\n###\s*$|^(?:User|Human|Assistant|Question|Answer|Q|A): ",
    re.M,
)
_LAST_NAME = re.compile(r"\n([^\W\d]\w{0,15})\s?[:：]\s*\Z")
_ESCAPES = re.compile(
    r"\\u[0-9a-fA-F]{4}|%[CDE][0-9A-F]%[89AB][0-9A-F]|=[CDE][0-9A-F]=[89AB][0-9A-F]"
    r"|(?:^|(?<=\s))[A-Za-z]+\?{1,2}[a-z]+(?=[\s,.!]|$)"
)
"""Letters as \\u00e9, as %C3%A9 or =C3=A9, or lost to a question mark."""
_TEX = r"(?:abla|e[gq]|u|i|ot|otin|mid|exists|ewline|ewcommand|leq|geq|onumber)\b"
"""How commands of TeX go on that begin as \\n."""
_EMPTY = "n/a na nan null none nil undefined todo tbd - – — ... … ? placeholder #name? #ref! #value! #n/a #error!"
"""What stands in empty cells: programs and people write it there."""
_KINDS = frozenset(
    (
        *("topic", "categories", "label", "labels", "type", "kind", "class"),
        *("intent", "tag", "tags", "task", "domain", "taskcategory", "group"),
    )
)
_OTHER_SPLITS = frozenset(("test", "validation", "valid", "val", "dev", "eval", "held_out", "heldout"))
_THOUGHTS = re.compile(r"rationale|reasoning|thinking|thought|scratchpad|(^|complex)cot$")
_ANSWERS = re.compile(r"(answer|response|output|completion|reply|replie|generation)s?$")
_EARLIER = re.compile(
    r"(?:prev|previous|prior|preceding|earlier)(?:question|answer|prompt|response|user|assistant|message|turn|repl)"
)
_REJECTED = re.compile(r"rejected(_\d+)?")
_ASIDE = re.compile(r"note|comment|explanation|source|url|author|tags?$")
"""Columns whose sentences are about a row, and not what its answer is about."""
_RATES = re.compile(
    r"rating|score|quality|helpful|correctness|coherence|honesty|truthfulness|reward|stars|grade|rank|likert|bewertung|оценка|评分"
)
_OF_PAIRS = re.compile(r"chosen|rejected")
_WORDS = 4
"""Words from which on a cell is a sentence (our own choice)."""
_MANY = 0.05
"""Share of the rows, and at least two, from which on a fault of the text is no chance (our own choice)."""
_SOME = 0.2
"""Share of the rows, up to which their ends are an exception (our own choice)."""
_COMPARED = 500
"""Seeds of one answer that each is compared with, to end soon where thousands are answered alike."""
_LONG = 40
"""Characters from which on an answer may be cut off; a shorter one is a name or a label (our own choice)."""


def seed_notes(seeds: Sequence[Example]) -> tuple[str, ...]:
    """All of this module's notes."""
    return (
        *_ignored(seeds),
        *_rated(seeds),
        *_spoilt(seeds),
        *_cut_off(seeds),
        *_few(seeds),
        *_one_answer(seeds),
        *_repeated(seeds),
        *_splits(seeds),
        *_categories(seeds),
        *_spellings(seeds),
    )


def ignored_columns(seeds: Sequence[Example]) -> tuple[str, ...]:
    """The names of the columns that nothing is learned from: they are kept as metadata."""
    return tuple(dict.fromkeys(name for seed in seeds for name in seed.metadata))


def _ignored(seeds: Sequence[Example]) -> Iterator[str]:
    names = [name for name in ignored_columns(seeds) if not _REJECTED.fullmatch(name)]
    if rejected := [name for name in ignored_columns(seeds) if name not in names]:
        yield f"{listed(rejected)}: answers to which dpo and ditto prefer the seeds' own; other recipes do not look at them"
    if names:
        yield f"not learned, kept as metadata: {listed(names, 20)}; what an answer depends on belongs in its prompt"
    if thoughts := [name for name in names if _THOUGHTS.search(plain_name(name))]:
        remedy = "to have them learned write them before the answers as <think>…</think> and give --keep_thinking true"
        yield f"{listed(thoughts)}: thoughts next to the answers are not learned; {remedy}"
    said = {text for seed in seeds for text in _texts(seed)}
    if turns := [name for name in names if any(_holds_turns(seed, name) for seed in seeds)]:
        yield f"{listed(turns)}: turns that no example holds; if they come before the prompt, name the column history"
    if earlier := [name for name in names if _EARLIER.match(plain_name(name))]:
        yield f"{listed(earlier)}: what was said earlier is not learned; put it into a column history, as [[asked, answered], …]"
    told_of = (*thoughts, *turns, *earlier)
    others = {name: sum(_is_other(seed, name, said) for seed in seeds) for name in names if name not in told_of}
    if answers := [name for name, count in others.items() if count and _ANSWERS.search(plain_name(name))]:
        yield f"{listed(answers)}: other answers than the learned ones; if they are the better ones, put them in their place"
    texts = [name for name, count in others.items() if 2 * count > len(seeds) and not _ASIDE.search(plain_name(name))]
    if texts := [name for name in texts if name not in answers]:
        yield f"{listed(texts)}: sentences that no prompt holds; if answers depend on them, name the column context or system"


def _texts(seed: Example) -> tuple[str, ...]:
    return (seed.system, seed.prompt, seed.response, *(text for turn in seed.history for text in turn))


def _is_other(seed: Example, name: str, said: set[str]) -> bool:
    """Whether a column holds a sentence that stands nowhere in what is learned."""
    text = seed.metadata.get(name, "")
    if seed.prompt in text and seed.response in text:  # the pair once more, in a template
        return False
    return any(
        has_words(each, _WORDS) and each not in said and not any(each.strip() in other for other in _texts(seed))
        for each in _strings(_json(text) if text[:1] in ("[", "{") else text)
    )


def _holds_turns(seed: Example, name: str) -> bool:
    """Whether a column holds turns, or pairs of texts, that are no part of the conversation."""
    value = _json(seed.metadata.get(name, ""))
    pairs = isinstance(value, list) and value and all(isinstance(each, list) and len(each) == 2 for each in value)
    return (bool(pairs) or is_conversation(value)) and any(
        each not in ROLES and not any(each in other for other in _texts(seed)) for each in _strings(value)
    )


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _strings(each)


def _rated(seeds: Sequence[Example]) -> Iterator[str]:
    """What rates answers with numbers: nobody but the user knows from which one on an answer is good."""
    found: dict[str, tuple[float, float]] = {}
    lowest = ""
    for name in ignored_columns(seeds):
        rates = [(rate, seed.id) for seed in seeds if (rate := _rate(seed.metadata.get(name, ""))) is not None]
        if rates and min(rates)[0] < max(rates)[0] and _RATES.search(plain_name(name)) and not _OF_PAIRS.search(plain_name(name)):
            found[name], lowest = (min(rates)[0], max(rates)[0]), lowest or min(rates)[1]
    if found:
        ranges = ", ".join(f"{show(name)} ({low:g} to {high:g})" for name, (low, high) in found.items())
        yield f"{ranges}: answers are learned whatever their rating; remove rows of bad ones, as {lowest} with the lowest number"


def _rate(text: str) -> float | None:
    """The number of a rating, also of one as 4/5, 4 stars or ★★★★."""
    text = text.strip('["] ')
    found = re.fullmatch(r"(\d+(?:[.,]\d+)?)\s*(?:(?:/|of|out of|von|sur|de|из)\s*\d+|%|\w*st[ae]r\w*|points?)", text)
    stars = float(len(re.findall("[★⭐🌟]", text))) if re.fullmatch("[★☆⭐🌟\ufe0f ]+", text) else None
    return number(found[1].replace(",", ".")) if found else number(text) if stars is None else stars


def _spoilt(seeds: Sequence[Example]) -> Iterator[str]:
    for fault, find, remedy in _FAULTS:
        found = [(seed, what) for seed in seeds if (what := find(seed))]
        if len(found) >= (1 if find in _TOLD_OF_ONE else max(2, _MANY * len(seeds))):
            seed, what = found[0]
            yield f"{len(found)} of {counted(len(seeds), 'seed')} have {fault}, as {show(what)} in {seed.id}; {remedy}"


def _said(seed: Example) -> str:
    return f"{seed.system}\n{seed.prompt}\n{seed.response}"


def _mojibake(seed: Example) -> str:
    """A piece of the text that is UTF-8 read in another code page: as bytes of that page it is valid UTF-8 again; or one of
    another script read in Latin-1, of whose languages none has five different letters with accents in a row."""
    text = _said(seed)
    for found in _FOREIGN.finditer(text):
        piece = text[max(found.start() - 8, 0) : found.end() + 8].strip()
        if len(set(found[0])) > 4 and max(found[0]) <= "\xff":
            return piece
        for page in _CODE_PAGES:
            try:
                if len(found[0].encode(page).decode("utf-8")) < len(found[0]):
                    return piece
            except UnicodeError:
                pass
    if (swapped := _SWAPPED.search(text)) and 2 * len(re.findall("[А-ЯЁ]", text)) > len(re.findall("[А-яЁё]", text)):
        return swapped[0]
    dos = _DOS.search(re.sub(r"(?<!\w)[“„][^“”„]*[”“]", "", text))  # but for quotes that are some: the “Titanic”s crew
    return dos[0] if dos else "\ufffd" if "\ufffd" in text else ""


def _decomposed(seed: Example) -> str:
    return next((word for word in _said(seed).split() if len(unicodedata.normalize("NFC", word)) < len(word)), "")


def _written_break(seed: Example) -> str:
    """A piece around a line break that stands as a backslash and an n, where the response has no real one."""
    found = re.search(rf".{{0,12}}\\n(?!{_TEX}).{{0,12}}", seed.response or seed.prompt)
    return found[0] if found and "\n" not in seed.response else ""


def _escaped(seed: Example) -> str:
    texts = (text for text in (seed.prompt, seed.response) if not text.lstrip().startswith(("{", "[")))
    return next((found[0] for text in texts if (found := _ESCAPES.search(text))), "")


def _html(seed: Example) -> str:
    return found[0] if (found := _HTML.search(_said(seed)) or _RTF.search(_said(seed))) else ""


def _unseen(seed: Example) -> str:
    found = re.search(rf".{{0,8}}{_UNSEEN.pattern}.{{0,8}}", _said(seed))
    return ascii(found[0])[1:-1] if found else ""


def _hard_spaces(seed: Example) -> str:
    """A piece of a text most of whose spaces are such; a few stand before marks and units, in French at many places."""
    text = _said(seed)
    found = re.findall(r"[^\W\d]{2,}\u00a0[^\W\d]{2,}", text) if text.count("\u00a0") > text.count(" ") else []
    return found[0].replace("\u00a0", r"\u00a0") if len(found) > 1 else ""


def _guarded(seed: Example) -> str:
    return next((text[:20] for text in (seed.prompt, seed.response) if _GUARDED.match(text)), "")


def _quoted(seed: Example) -> str:
    is_so = all(len(text) > 1 and text[0] == text[-1] and text[0] in "'\"`" for text in (seed.prompt, seed.response))
    return seed.prompt[:20] if is_so else ""


def _windows_break(seed: Example) -> str:
    return found[0] if (found := re.search(r".{0,8}\r\n?.{0,8}", seed.response)) else ""


def _mark(seed: Example) -> str:
    if last := _LAST_NAME.search(seed.prompt):  # such as Antwort: for a model that goes on
        return last[0].strip() if told(last[1]) in ANSWERING or ROLES.get(last[1].casefold()) == "assistant" else ""
    return found[0].strip() if (found := _MARKS.search(seed.prompt) or _MARKS.search(seed.response)) else ""


def _loose_end(seed: Example) -> str:
    return seed.response if seed.response != seed.response.strip() else ""


def _no_answer(seed: Example) -> str:
    return next((text for text in (seed.response, seed.category) if text.strip().casefold() in _EMPTY.split()), "")


def _broken_json(seed: Example) -> str:
    """The beginning of what looks like JSON as a whole and is none."""
    text = seed.response.strip()
    looks_so = re.match(r"\{\s*[\"'“”„}]|\[\s*[\"'“”„{\[]", text) and text[-1] in "]}"
    is_one = _json(text) is not text or all(_json(line) is not line for line in text.splitlines())  # or several, a line each
    return text[:40] if looks_so and not is_one else ""


def _echo(seed: Example) -> str:
    return seed.response if normalise(seed.response) == normalise(seed.prompt) and seed.response else ""


_FAULTS: tuple[tuple[str, Callable[[Example], str], str], ...] = (
    ("letters spoilt by a wrong encoding", _mojibake, "write the file anew from its source, as UTF-8"),
    ("letters that are escaped or lost", _escaped, "if it is no code, write the file anew from its source, as UTF-8"),
    ("letters in parts (normal form D)", _decomposed, "they are learned so; write the file anew in normal form C"),
    (r"a line break written as \n", _written_break, "if it is no code, put real line breaks there"),
    ("marks of HTML, RTF or Excel", _html, "if they are not meant, put the characters there and take the tags out"),
    ("marks of a chat template or names of speakers", _mark, "the model's own template writes them; take them out"),
    ("white space before or behind the answer", _loose_end, "it is left out of what is learned, indents of a first line too"),
    ("line breaks of Windows in the answer", _windows_break, r"they are learned; write \n for each \r\n"),
    ("characters that are not seen", _unseen, "if they are not meant, take them out"),
    ("spaces that do not break in place of spaces", _hard_spaces, "they are learned, as other tokens; write plain spaces"),
    ("quotes around the whole prompt and the whole answer", _quoted, "they are learned; take them out"),
    ("an apostrophe before a sign, as programs guard cells", _guarded, "if it is not meant, take it out"),
    ("what empty cells hold for an answer or a category", _no_answer, "if it is not meant, fill it in or remove the row"),
    ("an answer that looks like JSON and is none", _broken_json, "if JSON is meant, mend quotes, commas and brackets"),
    ("their prompt as the answer", _echo, "write an answer or remove the row"),
)
_TOLD_OF_ONE = (_no_answer, _broken_json, _echo)
"""What is wrong by itself, and not by how often it stands there."""


def _cut_off(seeds: Sequence[Example]) -> Iterator[str]:
    """Where nearly all answers end as sentences do, a long one that does not may have been cut off, at a limit of tokens."""
    usual = sorted(len(seed.response) for seed in seeds)[len(seeds) // 2] if seeds else 0
    open_ended = [seed for seed in seeds if not is_finished(seed.response)]
    cut = [seed for seed in open_ended if len(seed.response) >= max(usual, _LONG)]
    if cut and len(open_ended) <= _SOME * len(seeds):
        end = show("…" + cut[0].response.rstrip()[-20:])
        yield f"{len(cut)} of {counted(len(seeds), 'seed')} end within a sentence, as {end} in {cut[0].id}; mend what was cut off"


def _splits(seeds: Sequence[Example]) -> Iterator[str]:
    splits = Counter(seed.metadata.get("split", "").strip().casefold() for seed in seeds)
    if len(splits) > 1 and (others := sorted(splits.keys() & _OTHER_SPLITS)):
        rows = counted(sum(splits[name] for name in others), "seed")
        yield f"the column 'split' says {listed(others)} of {rows}; they are learned as the others are: put them into --held_out"


def _few(seeds: Sequence[Example]) -> Iterator[str]:
    if len(seeds) <= _FEW:
        yield (
            f"{counted(len(seeds), 'seed')}: too few to check a round or call one the best (six of eighteen would be held out),"
            " and too few to tell whether a rule or a metric fits them; 20 to 100 make sense"
        )


def _one_answer(seeds: Sequence[Example]) -> Iterator[str]:
    if len(seeds) > _FEW and seeds[0].response and len({normalise(seed.response) for seed in seeds}) == 1:
        remedy = "add pairs that are answered otherwise, as a model learns to say this whatever it is asked"
        yield f"all {len(seeds)} seeds have the same answer, {show(seeds[0].response)}; {remedy}"


def _repeated(seeds: Sequence[Example]) -> Iterator[str]:
    """Seeds that ask what another one asks, in the same words and some more, and are answered alike."""
    alike: dict[str, list[tuple[Counter[str], str]]] = {}
    found = []
    for seed in seeds:
        asked, group = Counter(words(seed.full_prompt, unicode=True)), alike.setdefault(normalise(seed.response), [])
        first = next((id for other, id in group[:_COMPARED] if other <= asked or asked <= other), "")
        if first and min(len(seed.full_prompt.split()), _WORDS) == _WORDS:
            found.append(f"{seed.id} and {first}")
        group.append((asked, seed.id))
    if found:
        what = f"{len(found)} of {counted(len(seeds), 'seed')} have a prompt and an answer of another one, but for a few words"
        why = "such copies among new prompts count as new then, and validation knows what was trained"
        yield f"{what} ({', '.join(found[:3])}); {why}: keep one of each"


def _categories(seeds: Sequence[Example]) -> Iterator[str]:
    sizes = Counter(seed.category for seed in seeds if seed.category)
    single = [name for name, count in sizes.items() if count == 1]
    if len(sizes) > 1 and 2 * len(single) >= len(sizes):
        yield (
            f"{len(single)} of {len(sizes)} categories {'has' if len(single) == 1 else 'have'} one seed ({listed(single, 3)}),"
            " which cannot be held out or shown with another of its kind; merge categories"
        )
    spellings: dict[str, list[str]] = {}
    for name in sizes:
        spellings.setdefault(plain_name(name).replace("ı", "i"), []).append(name)  # the Turkish I
    for alike in (names for names in spellings.values() if len(names) > 1):
        yield f"{listed(alike)} are {len(alike)} categories, and differ in case, spaces or hyphens alone; write one of them"
    parts = {name: [part.strip() for part in re.split(r"[,;|、，]", name)] for name in sizes}
    known = {name for name, each in parts.items() if 2 * sum(map(sizes.__contains__, each)) >= len(each) > 1}
    if known:
        what = "several categories in one field are a category of their own"
        yield f"{listed(sorted(known), 3)}: {what}; write the one that fits best"
    for column in ignored_columns(seeds) if not sizes else ():
        kinds = Counter(seed.metadata.get(column, "") for seed in seeds)
        if plain_name(column) in _KINDS and 1 < len(kinds) <= len(seeds) / 2:
            what = f"no seed has a category, and {show(column)} has {len(kinds)} values"
            yield f"{what}; rename it to category if it says what kind of answer fits"
            return
    if sizes and (without := [seed.id for seed in seeds if not seed.category]):
        yield f"{len(without)} of {len(seeds)} seeds have no category ({listed(without, 3)}); give each one or none"


def _spellings(seeds: Sequence[Example]) -> Iterator[str]:
    """Answers of a closed set, as labels are, that differ in what nobody means to be learned."""
    alike: dict[str, dict[str, None]] = {}
    for seed in seeds:
        alike.setdefault(normalise(seed.response).rstrip(".。।"), {})[seed.response.strip()] = None
    if len(alike) <= len(seeds) / 3 and (several := [names for names in alike.values() if len(names) > 1]):
        what = f"{listed(several[0])} are the same answer in {len(several[0])} spellings"
        yield f"{what} (case, normal form, a full stop); write one of them, or the model learns each as another label"
