"""Converts a tiny model for llama.cpp, by its own converter: `python to_gguf.py LLAMA_CPP MODEL --outfile FILE …`.

Three things stand in the way of the tokenizer of `tests/tiny.py`, whose tokens are single bytes. The converter tries another
package first (SentencePiece); it knows the rule that cuts a text into words by a check sum of real tokenizers alone; and the
server wants one merge at least. So all three are said here: none of them changes a token of a text.
"""

from __future__ import annotations

import runpy
import sys
from typing import Any

sources = sys.argv.pop(1)
sys.path[:0] = [sources, f"{sources}/gguf-py"]

from conversion.base import TextModel  # noqa: E402
from conversion.llama import LlamaModel  # noqa: E402


def set_vocab(model: Any) -> None:
    model._set_vocab_gpt2()
    model.gguf_writer.add_token_merges(["Ā Ā"])  # of two zero bytes, into a token that there is not


LlamaModel.set_vocab = set_vocab
TextModel.get_vocab_base_pre = lambda model, tokenizer: "gpt-2"
runpy.run_path(f"{sources}/convert_hf_to_gguf.py", run_name="__main__")
