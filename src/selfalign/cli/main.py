"""`selfalign COMMAND …`: one file per command, imported when it is asked for."""

from __future__ import annotations

import logging
import sys
import traceback
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from errno import EDQUOT, EFBIG, ENOMEM, ENOSPC
from importlib import import_module
from pathlib import Path
from types import TracebackType

from selfalign.errors import Interrupted, RunFailed, TimeUp, UserError, exit_place, without_passwords

COMMANDS = {
    "init": "write a seed file, held-out prompts and options to begin with: init NAME",
    "run": "start a run, or go on where it stopped",
    "extend": "add seeds to the coming rounds of a run: extend DIR more.jsonl [--rounds N]",
    "forget": "train a run again without some of its samples: forget DIR ID … --out NEW",
    "list": "the runs and studies below a folder, with their state and best round",
    "compare": "how two runs differ: options, seeds, metrics prompt by prompt",
    "status": "where a run stands: rounds, yields, drops by rule, metrics",
    "show": "the lineage of a sample: where it came from and what became of it",
    "report": "one HTML page of a run or study: verdict, metrics, drops, costs, every sample",
    "view": "the report on a local page that follows a run while it writes",
    "export": "write training data (JSONL, Parquet) or a round's model",
    "review": "keep, reject or edit a round's pairs before they are trained on (with `run --review`)",
    "rate": "write pairs of answers for people to rate blind; read what their ratings say",
    "push": "upload a round's model, or the data, with its card to the Hugging Face hub",
    "preview": "a few candidates with their verdicts, and whether examples in context teach the model anything",
    "check": "everything that can be known before a model generates",
    "chat": "talk to a run's model or any other, or to two at once",
    "eval": "measure a model, alone or with demonstrations, on held-out prompts; compare it with another",
    "gate": "whether a run's model should be shipped, with reasons and as an exit code",
    "study": "a recipe against baselines over several random seeds, with intervals and a verdict",
    "completion": "print a script that completes commands, recipes and options: completion bash (or zsh)",
}

EPILOG = """Examples:
  selfalign run isara seeds.jsonl --model HuggingFaceTB/SmolLM2-360M-Instruct --out runs/first
  selfalign run self_distill in_scope --model smollm2-135m --out runs/demo   (bundled seeds and model)
  selfalign status runs/first
  selfalign export runs/first --data kept.jsonl --model better-model
  selfalign eval runs/first --held_out mine.jsonl --compare HuggingFaceTB/SmolLM2-360M-Instruct
  selfalign study isara safe_helpful --model smollm2-135m --baselines pretrained,icl_knn,sft --out studies/first
  selfalign report runs/first                     (one HTML page; of a study too)
  selfalign push runs/first --repo user/name      (the best round's model and its card to the hub)

`selfalign COMMAND --help` lists a command's options; `selfalign run RECIPE --help` those of a recipe.
Exit codes: 0 done, 1 a run that failed, 2 bad input or options, 130 or 143 interrupted and resumable;
of `selfalign gate` also 3 do not ship, 4 cannot tell."""


_NO_MEMORY = ("cannot allocate memory", "can't allocate memory", "failed to map segment", "can't start new thread", "bad_alloc")
EXTRAS = {
    **dict.fromkeys(("torch", "transformers", "accelerate", "peft", "safetensors", "huggingface_hub"), "hf"),
    **dict.fromkeys(("sentence_transformers", "sklearn", "threadpoolctl"), "hf"),
    **dict.fromkeys(("openvino", "openvino_genai", "openvino_tokenizers"), "cpu"),
    **dict.fromkeys(("httpx2", "anyio"), "server"),
    **dict.fromkeys(("lm_eval", "datasets", "rouge_score", "langdetect", "nltk"), "eval"),
    **dict.fromkeys(("starlette", "uvicorn"), "review"),
    "gguf": "demo",
    "openpyxl": "notebook",
    "ray": "ray",
}
"""Packages that a bare install lacks, and the extra that brings each."""


def main(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        _say(_help())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        _say(f"selfalign {version('selfalign')}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean `selfalign {near[0]}`?" if near else "`selfalign --help` lists them"
        return _fail(f"no command {name!r}; {hint}", 2)
    try:
        code: int = import_module(f"selfalign.cli.{name}").main(rest)
    except UserError as error:
        return _fail(str(error), 2)
    except RunFailed as error:
        return _fail(str(error), 1)
    except ModuleNotFoundError as error:
        if (extra := EXTRAS.get((error.name or "").partition(".")[0])) is None:
            raise  # of a file of the user's own, or a fault of ours
        return _fail(f"{name} needs the package {error.name}: pip install 'selfalign[{extra}]'", 2)
    except SystemExit as stop:
        if _by_the_parser(stop):  # its help, and what it says itself of wrong options
            raise
        return _fail(exit_place(stop), 1)
    except TimeUp as stop:
        return _fail(f"{stop}; the same command goes on from here", 0)
    except Interrupted as stop:
        return _fail("interrupted; the same command goes on from here", 128 + stop.signal_number)
    except KeyboardInterrupt:
        return _fail("interrupted; the same command goes on from here", 130)
    except BrokenPipeError:  # the reader of our output has left (`| head`)
        sys.stderr.close()
        return 0
    except Exception as error:
        if (line := _of_the_machine(error)) is None:
            raise
        return _fail(line, 1)
    return code


def _of_the_machine(error: Exception) -> str | None:
    """A line on what the machine lacks, for an exception that nothing else handles; None where it is a fault of ours."""
    said = next((f"{type(error).__name__}: {line}" for line in str(error).splitlines() if line.strip()), type(error).__name__)
    wide = str(error).lower()
    if isinstance(error, MemoryError) or any(each in wide for each in _NO_MEMORY) or getattr(error, "errno", None) == ENOMEM:
        return (
            f"there is not enough memory ({said[:300]}); close other programs, lift a limit (ulimit -v), or use a smaller model"
        )
    if getattr(error, "errno", None) in (ENOSPC, EDQUOT, EFBIG) or "no space left on device" in wide:
        where = f" of {error.filename}" if isinstance(error, OSError) and error.filename else ""
        return f"the disk{where} is full ({said[:300]}); free some space, then give the same command again"
    if type(error).__module__ == "sqlite3":
        return (
            f"the record of a run cannot be used ({said[:300]}); if no other program holds it, it is damaged: use another --out"
        )
    return None


def entry() -> None:
    """The console script. Texts that are not ours show control characters as codes, also in warnings and tracebacks."""
    if logging.lastResort is not None:
        logging.lastResort.addFilter(_harmless)
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")  # PEFT asks transformers by the attribute's old name
    sys.excepthook = _show
    sys.exit(main(sys.argv[1:]))


OPTIONAL = "bitsandbytes.backends.cpu.ops"
"""transformers imports it where it is installed. It then warns of a missing package that nothing here needs."""


def _harmless(record: logging.LogRecord) -> bool:
    record.msg, record.args = _fit(record.getMessage()), ()
    return record.name != OPTIONAL


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(_fit("".join(traceback.format_exception(kind, error, trace))))


def _fit(text: str) -> str:
    """For a terminal: control characters by their codes, and no passwords."""
    try:
        from selfalign.record.plain import escaped
    except (ImportError, MemoryError):  # there may not be the memory for what it imports
        return ascii(without_passwords(text))
    return escaped(without_passwords(text))


def _by_the_parser(stop: SystemExit) -> bool:
    last = traceback.extract_tb(stop.__traceback__)[-1:]
    return any(Path(frame.filename).name == "argparse.py" for frame in last)


def _help() -> str:
    lines = "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
    return (
        "selfalign: fewer than 100 examples in, a better-aligned model out, with proof.\n\n"
        f"usage: selfalign COMMAND …\n\ncommands:\n{lines}\n\n{EPILOG}"
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"selfalign: {_fit(message)}\n")
    return code
