"""A round's pairs as a file for a person to decide on, and the decisions read back from it: a review without a browser."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from selfalign.errors import UserError
from selfalign.record.exports import write_lines
from selfalign.record.review import Decision, Review, Verdict, shown_pairs
from selfalign.text import counted

_VERDICTS: Mapping[str, Verdict] = {"keep": "kept", "reject": "rejected", "edit": "edited", "": "undone"}
_WORDS = {verdict: word for word, verdict in _VERDICTS.items()}
_TOLD = 20
"""Bad lines named in a message; all are counted."""


def write_review(review: Review, file: str | Path, sample: int | None = None, blind: bool = False) -> int:
    """The pairs as JSON lines, with what is decided already, and how many they are.

    Args:
        sample: as `shown_pairs`; so is `blind`.

    Raises:
        UserError: a file that is there (it may hold somebody's decisions), or that is not called .jsonl.
    """
    if Path(file).suffix != ".jsonl":
        raise UserError(f"--review_out {file}: must be called .jsonl")
    if Path(file).exists():
        raise UserError(f"--review_out {file}: is there already, and may hold decisions; name another file")
    decided = review.decisions()
    found = []
    for row in shown_pairs(review, sample, blind):
        said = decided.get(row["id"], Decision(row["id"], "undone"))
        response = said.response if said.verdict == "edited" else row["response"]
        found.append({"decision": _WORDS[said.verdict], "reason": said.reason, **row, "response": response})
    try:
        return write_lines(Path(file), found)
    except OSError as error:
        raise UserError(f"--review_out {file}: cannot be written ({error.strerror})") from error


def read_review(review: Review, rows: Iterable[tuple[str, Mapping[str, Any] | str]]) -> list[Decision]:
    """What a file decides anew, in its order; a row that says what the record says already is left out.

    Args:
        rows: (place, fields), or (place, what is wrong with the row).

    Raises:
        UserError: rows that cannot be, each with its place: a pair that is none or comes twice, another prompt, another answer
            without the decision `edit`, a decision that is none.
    """
    now, wrong, found = review.decisions(), list[str](), list[Decision]()
    places: dict[str, str] = {}
    for where, fields in rows:
        try:
            if isinstance(fields, str):
                raise UserError(fields)
            said = _decision(review, fields)
            if (first := places.setdefault(said.id, where)) != where:
                raise UserError(f"{said.id} stands at {first} too; keep one of the two")
            if _says(said) != _says(now.get(said.id, Decision(said.id, "undone"))):
                found.append(said)
        except UserError as error:
            wrong.append(f"{where}: {error}")
    if wrong:
        more = f"\n… and {len(wrong) - _TOLD} more" if len(wrong) > _TOLD else ""
        raise UserError("\n".join([f"nothing is recorded; {counted(len(wrong), 'row')} cannot be taken:", *wrong[:_TOLD]]) + more)
    return found


def _says(said: Decision) -> tuple[str, ...]:
    return said.verdict, said.reason, said.response


def _decision(review: Review, fields: Mapping[str, Any]) -> Decision:
    for name in ("id", "prompt", "response"):
        if not isinstance(fields.get(name), str):
            raise UserError(f"has no text {name!r}; hand the rows back with the fields that they were written with")
    for name in ("decision", "reason"):
        if not isinstance(fields.get(name, ""), str | None):
            raise UserError(f"{name!r} is no text; write it in quotes")
    if (pair := review.pairs.get(fields["id"])) is None:
        raise UserError(f"{fields['id'][:40]!r} is no pair that round {review.round} waits to have reviewed")
    word = (fields.get("decision") or "").strip().lower()
    if word not in _VERDICTS:
        raise UserError(f"the decision {word[:40]!r} of {pair.id} is none of keep, reject, edit, or empty")
    if fields["prompt"] != pair.prompt:
        raise UserError(f"the prompt of {pair.id} is not the one that was written; answers can be edited, prompts cannot")
    if word != "edit" and fields["response"] != pair.response:
        raise UserError(f'the answer of {pair.id} was changed; give it "decision": "edit", or put the answer back')
    response = fields["response"] if word == "edit" else ""
    return review.checked(Decision(pair.id, _VERDICTS[word], fields.get("reason") or "", response))
