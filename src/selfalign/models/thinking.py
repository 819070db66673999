"""Answers of models that think first: where the thoughts end and the answer begins."""

from __future__ import annotations

MARKERS = (
    ("<think>", "</think>"),  # DeepSeek, Qwen, GLM, Nemotron, SmolLM3, MiniMax
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),  # EXAONE Deep
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),  # Kimi
    ("<|begin_of_thought|>", "<|end_of_thought|>"),  # OpenThinker, Sky-T1
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),  # gpt-oss
    ("<|channel>thought", "<channel|>"),  # Gemma 4
    ("<unused94>thought", "<unused95>"),  # MedGemma
)
"""What opens and closes the thoughts of the families that are known."""


def split_thinking(text: str) -> tuple[str, str | None]:
    """(thoughts, answer) of a completion, both stripped; the answer is None where the thoughts never end.

    Thoughts are a block at the beginning; its opening mark may stand in the prompt, so that only the closing one is there, at an
    end of a line. Marks further on are a part of the answer, which may speak of them.
    """
    thoughts, rest = list[str](), text.strip()
    while marks := next((pair for pair in MARKERS if rest.startswith(pair[0])), None):
        thought, closed, rest = rest.removeprefix(marks[0]).partition(marks[1])
        thoughts.append(thought.strip())
        rest = rest.strip()
        if not closed:
            return "\n\n".join(thoughts), None
    for start, end in () if thoughts else MARKERS:
        thought, closed, behind = rest.partition(end)
        if closed and start not in thought and (thought.endswith("\n") or behind[:1] in ("", "\n")):
            return thought.strip(), behind.strip()
    return "\n\n".join(filter(None, thoughts)), rest


def join_thinking(thoughts: str, answer: str) -> str:
    """Both as one text that `split_thinking` takes apart again, whatever marks the model has for itself."""
    return f"<think>\n{thoughts}\n</think>\n\n{answer}" if thoughts else answer


def open_thoughts(text: str) -> str:
    """The mark that opens thoughts in a text and is not closed behind it, "" for none."""
    opened = [start for start, end in MARKERS if text.rfind(start) > text.rfind(end)]
    return opened[0] if opened else ""
