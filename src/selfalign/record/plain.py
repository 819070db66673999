"""Plain data, as JSON knows it: writing it down, passing it on, and finding where two pieces of it differ."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from typing import Any

from selfalign.text import finite, printable
from selfalign.types import Metric


def dumps(value: Any) -> str:
    """Compact JSON for the record; NaN and infinity pass, as Python reads them back."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def json_line(row: Mapping[str, Any]) -> str:
    """One line of JSON for other tools, whatever text is in it: separators that some readers break lines at are escaped."""
    line = json.dumps(row, ensure_ascii=False)
    for mark in ("\x85", "\u2028", "\u2029"):
        line = line.replace(mark, f"\\u{ord(mark):04x}")
    return line + "\n"


def escaped(text: str) -> str:
    """As `printable`, but with its code in place of each character left out: `\\u009b`, as JSON writes it too; and of the two
    that some readers break lines at."""
    return "".join(char if printable(char) and char not in "\u2028\u2029" else f"\\u{ord(char):04x}" for char in text)


def metric_table(metrics: Iterable[Metric]) -> dict[str, dict[str, Any]]:
    """{name: {"value", "low", "high", "n", "unit", "better"}}."""
    return {
        m.name: {
            **{key: finite(getattr(m, key)) for key in ("value", "low", "high")},
            "n": m.n,
            "unit": m.unit,
            "better": m.better,
        }
        for m in metrics
    }


_SECRET = re.compile(r"(?:key|token|secret|password|credentials?|authorization)$", re.IGNORECASE)
_ADDRESS = re.compile(r"(\b[a-z][a-z0-9+.-]*://)(?:[^/?#\s@]*@)?([^?#\s]*)(?:[?#]\S*)?", re.IGNORECASE)
_ABSOLUTE = re.compile(r"(?<![\w/.…<])(?:~[\w.-]+/|(?:~/|/(?=[^\s/]))[^/\n]*/)(?:[^/\n]*/)*([^/\s]+)/?")
"""A path with a folder in it, or a user's name: `/data` and `~/data` tell nothing of the machine, and `</s>` is none. From the
first slash to the last one, spaces between them included: rather too much than too little."""


def portable(value: Any) -> Any:
    """Options, or text about a run, as they may be passed on: without what belongs to one machine or person.

    Of an absolute path the last part is left, of an address neither the user nor what follows a question mark, and of what is
    called a key, token, secret, password or the like nothing.
    """
    if isinstance(value, Mapping):
        return {key: "(left out)" if _SECRET.search(str(key)) else portable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [portable(each) for each in value]
    if isinstance(value, str):
        return _ABSOLUTE.sub(r"…/\1", _ADDRESS.sub(r"\1\2", value.replace("file://", "")))
    return value


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value inside mappings and lists of mappings with its dotted name; parts in a list count from 1."""
    inner: Any = value.items() if isinstance(value, Mapping) and value else None
    if isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        inner = enumerate(value, 1)
    if inner is None:
        yield path, value
    else:
        for key, each in inner:
            yield from flat(each, f"{path}.{key}" if path else str(key))


def difference(old: Any, new: Any, path: str = "") -> str:
    """The first thing in which two values differ, as "rounds = 2, now 3"; "" where they are equal."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in (*old, *(key for key in new if key not in old)):
            inner = f"{path}.{key}" if path else str(key)
            if key not in old or key not in new:
                was, now = (dumps(side[key]) if key in side else "not set" for side in (old, new))
                return f"{inner} = {was}, now {now}"
            if change := difference(old[key], new[key], inner):
                return change
        return ""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        changes = (difference(a, b, f"{path}[{i}]") for i, (a, b) in enumerate(zip(old, new, strict=True)))
        return next((change for change in changes if change), "")
    if isinstance(old, list) and isinstance(new, list) and old and new:
        return _more_or_fewer(old, new, path)
    return "" if dumps(old) == dumps(new) else f"{path} = {dumps(old)}, now {dumps(new)}"


def _more_or_fewer(old: list[Any], new: list[Any], path: str) -> str:
    """What two lists of other lengths have between what both begin and end with: all of a recipe's filters fill a screen."""
    at = _alike(old, new)
    behind = _alike(old[at:][::-1], new[at:][::-1])
    parts = (side[at : len(side) - behind] for side in (old, new))
    was, now = (dumps(some[0] if len(some) == 1 else some) if some else "not set" for some in parts)
    return f"{path}[{at}] = {was}, now {now}"


def _alike(one: list[Any], other: list[Any]) -> int:
    """With how many equal values both begin."""
    return sum(1 for _ in takewhile(lambda pair: not difference(*pair), zip(one, other, strict=False)))


CONTENTS = {
    "model_hash": "other files of the model than now",
    "seeds_hash": "other seed examples than now",
    "held_out_hash": "other held-out examples than now",
    "proposer.prompts.content": "other given prompts than now",
    "replay.prompts.content": "other replay prompts than now",
}
"""What differs where a hash does: its digits tell a person nothing."""


_REVISIONS = re.compile(r'(?:model|adapter) = "([^"@]+)@([^"@]+)", now "\1@([^"@]+)"')

_ROUNDS = re.compile(r"rounds = (\d+), now (\d+)")


def in_words(change: str) -> str:
    """A difference, as `difference` gives it, for a person to read."""
    if found := _REVISIONS.fullmatch(change):
        name, old, new = found.groups()
        return f"revision {old} of {name}, and now it is {new} (--model {name}@{old} goes on with that one)"
    if (counts := _ROUNDS.fullmatch(change)) and int(counts[1]) > int(counts[2]):
        return f"{change} (rounds can be added to a run, not taken away)"
    if counts:
        return f"{change} (rounds are added to runs of their own, and to none with aim_over_refusal or train_seeds = last)"
    return CONTENTS.get(change.partition(" = ")[0], change)


PERMISSIONS = ("ignore_calibration", "ignore_seed_rules", "allow_overlap", "allow_other_versions")
"""Options that change nothing but whether a run ends where it would otherwise: one that ended there can be gone on with."""


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What differs between the software that a run was worked on with and that of now, in words: (what changes the bytes that are
    written, what need not).

    Our own line: another patch release mends without changing results; any other release, another build (behind a +) and any
    other content of a user's own file may change texts and weights, and no test could tell.
    """
    grave, slight = list[str](), list[str]()
    for name in sorted({*old, *new} - {"files"}):
        if old.get(name) != new.get(name):
            same = name == "python" or _release(old.get(name)) == _release(new.get(name))
            (slight if same else grave).append(
                f"{name} {old.get(name) or 'not installed'}, now {new.get(name) or 'not installed'}"
            )
    before, now = old.get("files") or {}, new.get("files") or {}
    grave += [f"another content of {name}" for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return grave, slight


def _release(version: Any) -> tuple[str, str]:
    """What must be equal of two versions: the first two numbers, and the build."""
    numbers, _, build = str(version).partition("+")
    return ".".join(numbers.split(".")[:2]), build


MEMORY = ("micro_batch", "gradient_checkpointing")
"""Options of our own trainer that change what it takes of memory and time, and its results by rounding alone: a run whose
training ran out of memory can be gone on with."""


def granted(known: Mapping[str, Any], identity: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was started with, the permissions that it is given now, where one that it may have used is not taken back, and
    how its training goes about memory."""
    was, now = known.get("trainer"), identity.get("trainer")  # a trainer that is no dataclass stands there as text
    trainer = was
    if isinstance(was, Mapping) and isinstance(now, Mapping) and str(was.get("part")).startswith("selfalign."):
        trainer = {**was, **{name: now[name] for name in MEMORY if name in was and name in now}}
    return {
        **known,
        **({"trainer": trainer} if "trainer" in known else {}),
        **{name: True for name in PERMISSIONS if identity.get(name) is True},
    }


def raised(known: Mapping[str, Any], identity: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was started with, and the rounds that it is given now where they are more, with the steps of those that were
    added: nothing that a round makes depends on how many follow. None are added to a run that ends with a point on its
    curve (`aim_over_refusal`), which has the next number, or whose last round is another one (`train_seeds`)."""
    was, now, steps = known.get("rounds"), identity.get("rounds"), identity.get("steps")
    ends = known.get("aim_over_refusal") is not None or known.get("train_seeds") == "last"
    if was is None or now is None or now <= was or ends:
        return {**known}
    same = steps is not None and steps[:was] == known.get("steps")
    return {**known, "rounds": now, **({"steps": steps} if same else {})}


def news(known: Mapping[str, Any], identity: Mapping[str, Any], state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(kind, text) of the events that tell what is new where a run is gone on with: rounds that were added, permissions.

    Args:
        state: how the run had ended, if it had (`Store.state`).
    """
    more = raised(known, identity)
    if more != known:
        after = f", when the run was done with round {state['best_round']} as its best" if state.get("state") == "done" else ""
        yield "rounds", f"raised from {known['rounds']} to {more['rounds']}{after}"
    if change := difference(more, identity):
        yield "granted", change
