"""Chinese in answers that are to be English."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.filters._shared import Verdict, split
from selfalign.protocols import Context
from selfalign.types import Example, FilterResult

_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


@dataclass(frozen=True)
class HanCharacters:
    """Drops a response with a Han character in it (I-SHEEP, whose models fall into Chinese; a rule for English seeds)."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rule: `han_character`."""
        return split(examples, _judge)


def _judge(example: Example) -> Verdict:
    found = _HAN.search(example.response)
    if found is None:
        return None
    return "han_character", f"the response contains {found[0]} (U+{ord(found[0]):04X}) at character {found.start()}"
