"""A task is an instruction with the input it works on, or without one; a prompt holds both, with a blank line between."""

from __future__ import annotations

import re

NO_INPUT = "<noinput>"
"""What stands in a list of tasks where a task has no input, as in Alpaca's and I-SHEEP's prompts."""


def join_task(instruction: str, input: str = "") -> str:
    """The prompt of a task, as `read_seeds` writes it too."""
    return f"{instruction}\n\n{input}" if input else instruction


def split_task(prompt: str) -> tuple[str, str]:
    """(instruction, input): before and behind the first blank line, so that a plain prompt is all instruction.

    `join_task` of the two is the prompt again.
    """
    instruction, _, input = prompt.partition("\n\n")
    return (instruction, input) if input else (prompt, "")


def one_line(text: str) -> str:
    """White space collapsed: an instruction stands on one line of a list."""
    return re.sub(r"\s+", " ", text).strip()
