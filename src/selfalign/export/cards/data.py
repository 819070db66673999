"""The dataset card: what the pairs are, where they came from, what was dropped, and what is known against them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from selfalign.errors import UserError
from selfalign.export.cards._facts import Facts, base_name, check_license, hub_library, licence_text, options_text
from selfalign.export.cards._markdown import bullets, code, document, one_line, table
from selfalign.record import rows
from selfalign.record.plain import portable
from selfalign.record.store import Store
from selfalign.text import counted

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (math.inf, "1M<n<10M"))
_CATEGORIES_AT_MOST = 30
_SYSTEM = ("system", "instructions before the whole conversation; empty for rows without any")
_HISTORY = ("history", "earlier turns of the conversation, [prompt, response] each; empty for most rows")
_CONVERSATIONAL = (
    ("prompt", "messages: the system text and the earlier turns, where there are some, and the prompt"),
    ("completion", "one message: the response"),
)
_FOR_ALL = (
    ("id", "names the pair in its run"),
    ("round", "0: a seed example; k: generated in round k"),
    ("category", "the kind of prompt, where the seeds have categories"),
    ("validation", "whether the seed example was held out to choose the best round"),
    ("metadata", "other columns of the seed file, and notes on generated pairs; there where any pair has some"),
)
_FIELDS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "plain": (("prompt", "the prompt"), ("response", "the response")),
    "messages": (("messages", "system, user and assistant turns; the last two are the prompt and its response"),),
    "sharegpt": (("conversations", "system, human and gpt turns; the last two are the prompt and its response"),),
    "prompt-completion": (("prompt", "the prompt"), ("completion", "the response")),
    "alpaca": (("instruction", "the prompt"), ("input", "always empty"), ("output", "the response")),
}


def data_card(store: Store, *, license: str | None = None, file: str = "data.jsonl", format: str = "plain") -> str:
    """Markdown with front matter for the pairs of a run, as `export_data` writes them to `file` in the form `format`.

    Raises:
        UserError: a format that does not exist, a licence that is no identifier, or huggingface_hub is not installed.
    """
    hub, chosen = hub_library(), check_license(license)
    if format not in _FIELDS:
        raise UserError(f"no data format {format!r}: use one of {', '.join(_FIELDS)}")
    with store.snapshot() as connection:
        facts, categories = Facts.of(store), _categories(store)
        in_data = "verdict != 'dropped'"
        told, later = rows.has_system(connection, in_data), rows.has_later_turn(connection, in_data)
    pairs = facts.seeds + facts.validation + facts.kept
    data = hub.DatasetCardData(
        license=chosen,
        pretty_name=one_line(f"{facts.recipe}: {counted(pairs, 'pair')}"),
        task_categories=["text-generation"],
        annotations_creators=["machine-generated"],
        size_categories=[next(name for limit, name in _SIZES if pairs < limit)],
        tags=["selfalign", "self-alignment", "synthetic"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": _glob_safe(Path(file).name)}]}],
    )
    about = (
        f"{counted(pairs, 'pair')} of prompt and response in {code(Path(file).name)}: "
        f"{counted(facts.seeds + facts.validation, 'seed example')} (round 0, {facts.validation} of them held out for "
        f"validation) and {counted(facts.kept, 'pair')} that a model wrote itself and that passed every filter. Written by "
        f"selfalign {version('selfalign')}."
    )
    own = _CONVERSATIONAL if (told or later) and format == "prompt-completion" else _FIELDS[format]
    if format in ("plain", "alpaca"):
        own += (*((_SYSTEM,) if told else ()), *((_HISTORY,) if later else ()))
    fields = (*_FOR_ALL, *own)
    return document(
        data.to_yaml(),
        f"# Pairs of {code(facts.recipe)}",
        about,
        ("## Fields", table(("field", "meaning"), [(code(name), meaning) for name, meaning in fields])),
        ("## Rounds", _yields(facts)),
        ("## Drops by rule", _drops(facts)),
        ("## Categories", table(("category", "pairs"), categories)),
        ("## How the pairs were generated", _generation(store, facts)),
        ("## Limits", bullets(_limits(facts))),
        ("## Licence", licence_text(chosen, "the seed examples and the model that wrote the rest")),
    )


def _yields(facts: Facts) -> str:
    rows = [("0", "", "", f"{facts.seeds + facts.validation:,} seed examples")]
    for row in facts.rounds[1:]:
        rows.append((str(row["round"]), f"{row['candidates']:,}", f"{sum(row['dropped'].values()):,}", f"{row['kept']:,}"))
    return table(("round", "candidates", "dropped", "in the data"), rows)


def _drops(facts: Facts) -> str:
    rows = [(str(row["round"]), code(rule), f"{n:,}") for row in facts.rounds for rule, n in row["dropped"].items()]
    return table(("round", "rule", "candidates dropped"), rows) if rows else "Nothing was dropped."


def _generation(store: Store, facts: Facts) -> str:
    if not facts.kept:
        return "No pair was generated."
    identity = facts.identity
    writers = [row["round"] - 1 for row in facts.rounds if row["kept"]]
    rows = [
        ("base model", code(base_name(facts.start))),
        *((f"hash of the model that wrote round {k + 1}", code(store.model(k).hash or "unknown")) for k in writers),
        ("prompts proposed by", _part(identity.get("proposer"))),
        ("demonstrations chosen by", _part(identity.get("retriever"))),
        ("responses sampled with", _part(identity.get("sampling"))),
        ("random seed", code(str(identity.get("seed", "unknown")))),
    ]
    return f"{table(('what', 'value'), rows)}\n\n{options_text(identity)}"


def _limits(facts: Facts) -> Iterable[str]:
    if facts.kept:
        yield f"A language model wrote {facts.kept} of the pairs: what it wrote may be wrong, biased or harmful."
        yield "Filters checked their form (the rules are above and in the options); no person has checked their content."
    yield "Prompts in the seed examples may ask for harmful things, and generated prompts may do so too."
    if facts.validation:
        yield f"{facts.validation} of the pairs (round 0) chose the round to ship: leave them out to compare with its model."
    yield "Neither the languages nor personal data in the texts were checked."


def _categories(store: Store) -> list[tuple[str, str]]:
    with store.snapshot() as connection:
        query = "SELECT category, count(*) FROM samples WHERE verdict != 'dropped' GROUP BY category ORDER BY 2 DESC, 1"
        found = [(code(name) if name.strip() else "none given", n) for name, n in connection.execute(query)]
    shown, rest = found[:_CATEGORIES_AT_MOST], found[_CATEGORIES_AT_MOST:]
    more = [(f"{len(rest)} more", sum(n for _, n in rest))] if rest else []
    return [(name, f"{n:,}") for name, n in (*shown, *more)]


def _part(options: Any) -> str:
    """A part by its class name with its options."""
    if not isinstance(options, Mapping):
        return "unknown"
    rest = {key: value for key, value in options.items() if key != "part"}
    return f"{code(str(options.get('part', 'unknown')).rpartition('.')[2])} {code(json.dumps(portable(rest)))}"


def _glob_safe(name: str) -> str:
    """The hub reads data files as patterns."""
    return re.sub(r"([*?\[])", r"[\1]", one_line(name))
