"""Cut-off text: a model trained on it learns to stop in the middle of a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.filters._shared import Verdict, split
from selfalign.protocols import Context
from selfalign.text import is_finished
from selfalign.types import Example, FilterResult


@dataclass(frozen=True)
class Finished:
    """Drops prompts and responses that ran out of tokens or of window, and responses that do not end as a sentence does.

    Our own addition: ISARA's code keeps answers cut at 100 tokens, and 36 % of the short answers of its trained LLaMA-7B in
    the AlpacaEval dump end without a final mark (16 % of those trained on the seeds alone).
    """

    sentence_end: bool = True
    """Whether a response must end with a final mark or a closed code block; a prompt need not."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        """Rules: `no_room` (no window left to begin), `cut_off` (ran into max_tokens), `unfinished` (no final mark)."""
        return split(examples, self._judge)

    def _judge(self, example: Example) -> Verdict:
        for name, finish, text in (
            ("prompt", example.prompt_finish, example.prompt),
            ("response", example.response_finish, example.response),
        ):
            if finish == "context":
                return "no_room", f"the model's window left no room to begin the {name}"
            if finish == "length":
                return "cut_off", f"the {name} ran into max_tokens: …{text[-80:]}"
        if self.sentence_end and not is_finished(example.response):
            return "unfinished", f"the response ends: …{example.response[-80:]}"
        return None
