"""What a model's folder may hold, and the hash of what is read from it: no code, no pickles, nothing from outside the folder."""

from __future__ import annotations

import hashlib
import json
import logging
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from selfalign.cache import known_sha256
from selfalign.errors import UserError

_log = logging.getLogger(__name__)
WEIGHTS, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"
TEMPLATES = "additional_chat_templates"
SMALL = (".json", ".jinja", ".model", ".txt", ".tiktoken", ".bpe")
"""Suffixes of what is read besides the weights: configuration, tokenizer, templates."""
_HASHED = frozenset({".safetensors", ".gguf", *SMALL})
# Keys of a model's own files by which it could bring code along, or name files elsewhere.
_REFUSED = {
    **dict.fromkeys(
        ("auto_map", "trust_remote_code", "_attn_implementation_internal", "_experts_implementation_internal", "kernels"),
        "makes the model run code of its own",
    ),
    **dict.fromkeys(("kernel_config", "use_kernels", "custom_pipelines"), "makes the model run code of its own"),
    "megatron_config": "makes the adapter import a module by name",
    "transformers_weights": "names another file of weights",
}
_IMPLEMENTATIONS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
_PLAIN = frozenset({"eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", "grouped_mm", "batched_mm"})
"""Implementations that transformers brings itself; any other name is looked for on the hub."""
_MAX_SMALL = 2**28
_LONGEST_HEADER = 2**27
_POINTER = b"version https://git-lfs"
_DEEPEST = 60


_PRETENDED = {"start", "seed", "seed_weight", "rows"}
"""What stands in the configuration that `NullTrainer` writes."""


def check_folder(folder: Path, with_weights: bool = True) -> None:
    """Raises UserError: it is no model's folder, it would run code of its own, its weights are pickled, missing or elsewhere."""
    adapter = (folder / "adapter_config.json").is_file()
    if not adapter and not (folder / "config.json").is_file():
        raise UserError(f"{folder} is no model folder: it has neither config.json nor adapter_config.json{_meant(folder)}")
    for path in sorted(folder.iterdir()):
        if path.suffix in _HASHED and not (path.is_file() or path.is_dir()):  # to open a pipe would wait for ever
            raise UserError(f"{path} cannot be read: it is no regular file")
    for path in sorted(folder.glob("*config.json")):
        for key, value in _entries(path, whole := read_json(path)):
            if key in _REFUSED and value not in (None, False, {}, []) and not (key == "auto_map" and _built_in(whole, value)):
                raise UserError(f"{path} has the key {key!r}, which {_REFUSED[key]}; refused")
            if key in _IMPLEMENTATIONS and (other := _foreign(value)):
                raise UserError(f"{path}: {key} names {other!r}, code that is not part of transformers; refused")
    if with_weights:
        weights(folder)


def weights(folder: Path) -> list[str]:
    """The names of the files of weights that are loaded from a folder, relative to it.

    Raises:
        UserError: there are none that are not pickled, one is missing, a pointer to another place, or outside the folder; they
            are a whole model's beside the configuration of an adapter.
    """
    first = ADAPTER if (folder / "adapter_config.json").is_file() else WEIGHTS
    if first == ADAPTER and (whole := next((name for name in (WEIGHTS, INDEX) if (folder / name).is_file()), "")):
        beside = "an adapter's files" if (folder / ADAPTER).is_file() else "adapter_config.json, but no adapter"
        raise UserError(
            f"{folder} holds a whole model ({whole}) and {beside}: if the adapter is merged into the model, take"
            f" adapter_config.json out; if the adapter is meant, give a folder without {whole}"
        )
    if (folder / first).is_file():
        return [_no_pointer(folder, first)]
    if first == WEIGHTS and read_json(folder / "config.json").keys() >= _PRETENDED:
        raise UserError(
            f"{folder} is no model: NullTrainer wrote it, which only pretends to train, and of its run the data is left"
            " (`selfalign export DIR --data FILE`); run it anew with another --trainer, or give --engine Scripted here as well"
        )
    if first == ADAPTER or not (folder / INDEX).is_file():
        beside = "" if not any(folder.glob("*.safetensors")) else f"; others beside it are not read, it must be called {first}"
        raise UserError(
            f"{folder} has no .safetensors weights ({first}; pickled ones are refused){beside}; save it anew with save_pretrained"
        )
    for name in (names := named_by_index(folder)):
        if not (folder / name).is_file():
            raise UserError(f"{folder / INDEX} names {name}, which is not there; copy it there, or save the model again")
    return [_no_pointer(folder, name) for name in names]


def _no_pointer(folder: Path, name: str) -> str:
    with (folder / name).open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise UserError(
                f"{folder / name} is a pointer of Git LFS and no weights; fetch them with `git lfs pull` in the clone"
            )
    return name


def _meant(folder: Path) -> str:
    """What a folder that is no model's may hold instead, as the end of a sentence; "" for nothing that is known."""
    if any(folder.glob("*.gguf")):
        return "; GGUF files are what llama.cpp or Ollama serves: --engine OpenAI"
    inner = [path.parent for at in ("*", "snapshots/*") for path in sorted(folder.glob(f"{at}/*config.json"))]
    named = [path for path in inner if any((path / name).is_file() for name in ("config.json", "adapter_config.json"))]
    return f"; give one of the folders in it that have, such as {named[-1]}" if named else ""


def named_by_index(folder: Path) -> list[str]:
    """The files of weights that the folder's index names.

    Raises:
        UserError: it cannot be read, or names something that is no .safetensors file inside the folder.
    """
    placed = read_json(folder / INDEX).get("weight_map")
    names = sorted({str(name) for name in placed.values()}) if isinstance(placed, dict) else []
    if not names:
        raise UserError(f"{folder / INDEX} names no files of weights (weight_map); save the model again")
    for name in names:
        parts = Path(name).parts
        if Path(name).is_absolute() or ".." in parts or "\\" in name or not name.isprintable():
            raise UserError(f"{folder / INDEX} names {name!r}, which lies outside the model's folder; refused")
        if not name.endswith(".safetensors"):
            raise UserError(f"{folder / INDEX} names {name!r}, which are no .safetensors weights (pickled ones are refused)")
    return names


class Stored(NamedTuple):
    """One tensor of a file of weights."""

    name: str
    kind: str
    """Its number type, in the words of .safetensors: F32, BF16, F8_E4M3 …"""
    shape: list[int]


def header(file: Path) -> Iterator[Stored]:
    """What a .safetensors file holds: eight bytes say how long the JSON behind them is. Raises UserError: it is no such file."""
    try:
        with file.open("rb") as stream:
            length = struct.unpack("<Q", stream.read(8))[0]
            if length > _LONGEST_HEADER:
                raise ValueError("its header is too long")
            header = json.loads(stream.read(length))
        for name, about in header.items():
            if name != "__metadata__":
                yield Stored(name, str(about["dtype"]), [int(size) for size in about["shape"]])
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} cannot be read as .safetensors weights: {error}") from error


def model_hash(folder: Path, of_hub: bool = False) -> str:
    """SHA-256 over the names and contents of a folder's weights, configuration, templates and tokenizer files, its own folders'
    too.

    Args:
        of_hub: of a snapshot in the hub's cache, where other programs put other files of the same revision, only what is read.
    """
    manifest = hashlib.sha256()
    for name in sorted(_read_ones(folder) if of_hub else _all(folder), key=lambda name: Path(name).parts):
        manifest.update(f"{name}\0{known_sha256(folder / name)}\n".encode("utf-8", "surrogateescape"))
    return manifest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Raises UserError: it cannot be read, or holds something else than an object."""
    try:
        if path.stat().st_size > _MAX_SMALL:
            raise UserError(f"{path} cannot be read: it is larger than {_MAX_SMALL // 2**20} MiB")
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise UserError(f"{path} cannot be read: it is nested too deeply") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path} holds no JSON object")
    return loaded


def _all(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.suffix in _HASHED and path.is_file())
    names = {path.relative_to(folder).as_posix() for path in found}
    # An index may name a folder that is a link, into which the search does not go.
    linked = named_by_index(folder) if (folder / INDEX).is_file() else []
    return {name for name in names if not name.startswith(".")} | {name for name in linked if (folder / name).is_file()}


def _read_ones(folder: Path) -> set[str]:
    small = (path for place in (folder, folder / TEMPLATES) if place.is_dir() for path in place.iterdir())
    names = {path.relative_to(folder).as_posix() for path in small if path.suffix in SMALL and path.is_file()}
    first = [name for name in (ADAPTER, WEIGHTS) if (folder / name).is_file()]
    named = named_by_index(folder) if not first and (folder / INDEX).is_file() else []
    return names | {*first, *(name for name in named if (folder / name).is_file())}


def _entries(path: Path, value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth. Raises UserError: it is nested deeper than any real file is; the libraries that
    read it would run out of stack."""
    level = [value]
    for _ in range(_DEEPEST):
        below = list[Any]()
        for each in level:
            if isinstance(each, dict):
                yield from ((str(key), inner) for key, inner in each.items())
                below.extend(each.values())
            elif isinstance(each, list):
                below.extend(each)
        level = [each for each in below if isinstance(each, (dict, list))]
        if not level:
            return
    raise UserError(f"{path} cannot be read: it is nested too deeply")


def _built_in(config: Mapping[str, Any], auto_map: Any) -> bool:
    """Whether transformers has the model's type and every class that `auto_map` names: as no code is trusted, it takes its own.

    Its type alone would not do: a model may call itself a llama, and compute otherwise by a class of its own.
    """
    given = auto_map.values() if isinstance(auto_map, dict) else [auto_map]
    named = [str(name) for each in given for name in (each if isinstance(each, list) else [each]) if name]
    with suppress(ImportError):
        import transformers

        known = "model_type" not in config or config["model_type"] in transformers.CONFIG_MAPPING
        if known and {name.rpartition(".")[2] for name in named} <= set(dir(transformers)):
            _tell(", ".join(named))
            return True
    return False


@cache
def _tell(named: str) -> None:
    """Once, and not for every round's copy: a class of the same name may compute something else."""
    _log.warning(
        "the model brings code of its own (auto_map: %s), which is not run: the classes of these names that transformers has are;"
        " if its maker changed them, this is another model: compare some answers with those that it should give",
        named,
    )


def _foreign(value: Any) -> str:
    """The first implementation that a value of a configuration names and transformers does not bring; "" for none."""
    named = list(value.values()) if isinstance(value, dict) else [value]
    return next((str(name) for name in named if name is not None and str(name).removeprefix("paged|") not in _PLAIN), "")
