"""A round's model as a GGUF file for llama.cpp, with a Modelfile for Ollama: proven, or not written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from selfalign.errors import UserError, handle_signals
from selfalign.export import llama_cpp
from selfalign.export.base import check_base
from selfalign.export.cards import model_card
from selfalign.export.gguf_proof import REFERENCES, TOKENS, Proof, canaries, check_modelfile, check_tokens, compare, judge
from selfalign.export.ollama import Conversation, go_template, modelfile, refuse_dates
from selfalign.models.merge import load_float32, write_merged
from selfalign.models.rendering import Renderer, folder_renderer
from selfalign.models.sizes import read_sizes
from selfalign.models.templates import Template
from selfalign.record.disk import free_folder, require_space, whole_folder
from selfalign.record.exports import best_round, model_files
from selfalign.record.store import Store
from selfalign.types import Example, Turns, shared_system

Kind = Literal["F16", "Q8_0", "Q4_K_M"]
_REMEDY = "name a new folder for the file with --gguf_out"


@dataclass(frozen=True)
class Written:
    """What was written and found."""

    file: Path
    proof: Proof
    modelfile: Path | None
    refused: str
    """Why there is no Modelfile though one was asked for; else ""."""
    notes: tuple[str, ...]


def export_gguf(
    store: Store,
    kind: Kind,
    folder: str | Path | None = None,
    *,
    round: int | None = None,
    ollama: bool = False,
    license: str | None = None,
    tools: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Written:
    """Writes the model of a round (without one, of the best round) as `model-KIND.gguf` to a folder of its own, with its card,
    `proof.json`, and with `ollama` a Modelfile. Where no folder is named it is `gguf-KIND` in the round's.

    An adapter is merged first. The float16 file must have the model's token ids and its greedy choices; of a quantised one, made
    of that, the figures are measured. The Modelfile's template must write what the model was trained on.

    Args:
        tools: a folder of llama.cpp; else see `llama_cpp.find_tools`.
        say: told what is being done.

    Raises:
        UserError: llama.cpp is missing, no such model, or the folder is taken; before any model loads.
        RunFailed: llama.cpp cannot convert the model, or the file is not the model; nothing is written.
    """
    programs = llama_cpp.find_tools(tools, quantises=kind != "F16")
    chosen = best_round(store) if round is None else round
    check_base(store, chosen)
    source, card = model_files(store, chosen), model_card(store, chosen, license=license, merged=True)
    examples = (*store.validation_seeds(), *store.seeds())
    if not examples:
        raise UserError("a file is compared with its model on the run's seeds, and this run has none; it cannot be proven")
    target = free_folder(store.round_folder(chosen) / f"gguf-{kind}" if folder is None else folder, f"{_REMEDY}, or remove it")
    with handle_signals(), whole_folder(target, _REMEDY) as temporary:
        work = temporary / "work"
        work.mkdir()
        model, format = store.model(chosen), store.identity().get("format", "auto")
        if model.adapter is not None:
            say("merging the adapter with its base, in float32")
            source = work / "merged"
            write_merged(model, source, examples, format)
        making = _Making(programs, source, folder_renderer(source, format), examples, say)
        title = f"round {chosen} of {store.identity().get('name', 'a run')}, from {Path(store.model(0).base).name}"
        written = making.write(kind, temporary, ollama, title)
        shutil.rmtree(work)
        lines = "\n".join(f"- {line}" for line in written.proof.lines())
        (temporary / "README.md").write_text(f"{card}\n## The {kind} file\n\nBy `proof.json`:\n\n{lines}\n", "utf-8")
        proof = {"file": written.file.name, "kind": kind, "round": chosen, **written.proof.plain()}
        (temporary / "proof.json").write_text(json.dumps(proof, indent=1) + "\n", "utf-8")
    made = None if written.modelfile is None else target / written.modelfile.name
    return replace(written, file=target / written.file.name, modelfile=made)


@dataclass(frozen=True)
class _Making:
    """One model on its way to a file."""

    tools: llama_cpp.Tools
    source: Path
    """The folder of its whole weights."""
    renderer: Renderer
    examples: Sequence[Example]
    say: Callable[[str], None]

    def write(self, kind: Kind, folder: Path, ollama: bool, title: str) -> Written:
        """The file, and the Modelfile if wanted, in a folder; what is needed on the way in its folder `work`.

        The float16 file is proven whatever is wanted: what a quantised one lacks then comes from quantising alone.
        """
        # Q8_0 has 34 bytes for 32 weights, and Q4_K_M never more.
        require_space(folder, int(read_sizes(self.source).weights * (2 if kind == "F16" else 2 + 34 / 32)))
        exact, file = folder / "work" / "model-F16.gguf", folder / f"model-{kind}.gguf"
        self.say("converting to float16")
        llama_cpp.convert(self.tools, self.source, exact)
        model = load_float32(str(self.source))
        references = [one for one in self.examples if one.response][:REFERENCES]
        if kind == "F16":
            exact.rename(file)
        else:
            self._prove("F16", exact, model, [], ollama=False)
            self.say(f"quantising to {kind}")
            llama_cpp.quantise(self.tools, exact, file, kind)
            exact.unlink()
        proof, template, refused = self._prove(kind, file, model, references, ollama)
        made = None
        if template:
            try:
                text = self._modelfile(file.name, template, [title, f"{kind}, made and proven by selfalign"])
            except UserError as error:
                refused = str(error)
            else:
                made = folder / "Modelfile"
                made.write_text(text, "utf-8")
        return Written(file, proof, made, refused, tuple(self._notes(made is not None)))

    def _prove(self, kind: Kind, file: Path, model: Any, references: Sequence[Example], ollama: bool) -> tuple[Proof, str, str]:
        """The proof; for `ollama` the Go template as this file wants it, without the token that llama.cpp puts in front by
        itself; and why there is none."""
        self.say(f"proving the {kind} file against the model, in float32")
        asked = canaries(self.examples)
        template = refused = ""
        pairs = ((one.prompt, one.response or "-", one.history, one.system) for one in (*asked, *references))
        window = 64 + TOKENS + max(len(self.renderer.pair_ids(*pair)[0]) for pair in pairs)
        with llama_cpp.serving(self.tools, file, window, file.parent / "server.log") as server:
            check_tokens(server, self.renderer, asked)
            if ollama:
                begin = server.tokens("", begin=True)
                template, refused = self._template(str(self.renderer.tokenizer.decode(begin)) if begin else "")
                refused = refused or check_modelfile(server, self.renderer, asked, template)
            proof, where = compare(server, model, self.renderer, asked, references)
        (file.parent / "server.log").unlink()
        judge(proof, kind, where)
        return proof, "" if refused else template, refused

    def _template(self, begin: str) -> tuple[str, str]:
        """The Go template of the Modelfile, and why there is none."""

        def write(system: str, history: Turns, prompt: str) -> str:
            return self.renderer.prompt_text((), prompt, history, system)

        try:
            refuse_dates(str(self.renderer.tokenizer.chat_template), write("", (), "Hi"))
            return go_template(write, begin, self.renderer.style.end, map(Conversation.of, canaries(self.examples))), ""
        except UserError as error:
            return "", str(error)

    def _modelfile(self, file: str, template: str, notes: Sequence[str]) -> str:
        stops, tokenizer = self.renderer.response_stops, self.renderer.tokenizer
        texts = [*(str(tokenizer.decode([token])) for token in sorted(stops.ids)), *stops.strings]
        configuration = self.source / "generation_config.json"
        generation = json.loads(configuration.read_text("utf-8")) if configuration.is_file() else {}
        system = shared_system(self.examples).strip()
        return modelfile(file, template, system=system, stops=texts, generation=generation, notes=notes)

    def _notes(self, ollama: bool) -> Iterator[str]:
        """What a user of the file has to know."""
        style = self.renderer.style
        own = self.renderer.tokenizer.chat_template
        if not isinstance(style, Template):
            carries = "a chat template that the model was not trained with here" if own else "no chat template"
            what = f"the file carries {carries}, and llama-server's chat asks otherwise"
            remedy = "; the Modelfile's template is that of the run" if ollama else ""
            yield f"the run's format is {self.renderer.format}: {what}{remedy}"
            return
        if style.arguments:
            given = json.dumps(dict(style.arguments))
            yield f"the run gives its chat template arguments: start llama-server with --chat-template-kwargs '{given}'"
        if not style.system_role and not style.into and any(one.system for one in self.examples):
            yield "the chat template has no place for a system text: for llama-server put it in front of the first prompt"
        asked = style.messages("", (), "Hi")
        own = self.renderer.tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True, **style.arguments)
        if own != (trained := self.renderer.prompt_text((), "Hi")):
            other = "ask llama-server for completions of such a prompt"
            other = "the Modelfile's template asks as the run does" if ollama else other
            yield f"the run's prompts end with {trained[-40:]!r}, those of the file's chat template with {own[-40:]!r}: {other}"
