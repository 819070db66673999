"""Web addresses: pages that a model cannot read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.filters._shared import Verdict, split
from selfalign.protocols import Context
from selfalign.types import Example, FilterResult

_ADDRESS = re.compile(r"(?:\bhttps?://|\bwww\.)\S*", re.IGNORECASE)


@dataclass(frozen=True)
class Links:
    """Drops a prompt with a web address in it (I-SHEEP)."""

    responses: bool = False
    """Look at responses too (our own choice: a small model makes addresses up)."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `link`."""
        return split(examples, self._judge)

    def _judge(self, example: Example) -> Verdict:
        for name, text in (("prompt", example.prompt), *([("response", example.response)] if self.responses else [])):
            if found := _ADDRESS.search(text):
                return "link", f"{found[0][:200]} in the {name}"
        return None
