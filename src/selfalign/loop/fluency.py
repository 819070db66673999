"""Whether a model's vocabulary has words of the seeds' language, or spells them out."""

from __future__ import annotations

from collections.abc import Sequence

from selfalign.protocols import Engine, EngineLimits, declared
from selfalign.types import Example, ModelRef

WHOLE = 3.2
"""Bytes (UTF-8) of words that a token holds on average: below, a language is spelled out. SmolLM2-135M's tokens hold 4.0 to 5.7
of English words, also in code, labels and JSON, 2.8 to 3.0 of German and Spanish ones, and 1.0 to 2.4 of eight other scripts (our
own measurement, ten to twenty-four pairs each)."""
_LEAST, _SAMPLE = 40, 256


def spelled_out(engine: Engine, model: ModelRef, seeds: Sequence[Example]) -> str:
    """A warning where the model was hardly trained on the seeds' language, by its vocabulary; "" where nothing speaks for it.

    Nothing else could say so: a text of made-up words is whole, new, of the right length, and of the right language to a
    classifier of languages. Of 64 German candidates of SmolLM2-135M, which are all made up, the filters kept 39.
    """
    import regex

    drawn = seeds[:: -(-len(seeds) // _SAMPLE) or 1]
    words = regex.findall(r"\p{L}[\p{L}\p{M}]+", " ".join(f"{seed.prompt} {seed.response}" for seed in drawn))
    text = " ".join(words)
    if len(text) < _LEAST:
        return ""
    (tokens,) = declared(engine, EngineLimits).token_lengths(model, [text])
    size = len(text.encode()) / tokens
    if size >= WHOLE:
        return ""
    return (
        f"the model's tokens hold {size:.1f} bytes of the seeds' words on average, where a language that a model knows has 4 and"
        " more: it may write texts that look like this language and mean nothing; read some of them before you trust a figure"
    )
