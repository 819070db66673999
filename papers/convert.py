"""Published weights in a form that selfalign loads: safetensors, a standard architecture, no code of their own.

    python papers/convert.py weights SOURCE OUT     pickled weights (OPT, Beaver-Dam) to safetensors
    python papers/convert.py reward SOURCE OUT      Beaver's reward model (`score_head`) to a sequence classifier of equal scores

SOURCE is a local folder, as `hf download NAME --local-dir SOURCE` leaves it. OUT appears whole or not at all.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfalign.errors import UserError

_COPIED = {".json", ".model", ".txt", ".jinja"}
_CODE = ("auto_map", "trust_remote_code")
"""Keys of configurations that name code to run."""


def weights(source: Path, out: Path) -> str:
    """Writes the model of `source` with its weights as safetensors to `out`; returns how the child's network was closed.

    The pickles are read in a process of its own by `torch.load(weights_only=True)`, which makes tensors and nothing else.

    Raises:
        UserError: no pickled weights there, something in them that is no tensor, or `out` is there already.
    """
    files = sorted(source.glob("pytorch_model*.bin"))
    if not files or not (source / "config.json").is_file():
        raise UserError(f"{source}: needs config.json and pytorch_model*.bin; download the model's folder and name that")
    if len(files) > 1 and not (source / "pytorch_model.bin.index.json").is_file():
        raise UserError(f"{source}: has {len(files)} files of weights and no pytorch_model.bin.index.json; download it too")
    with _whole(out) as partial:
        told = _read_apart(partial, files)
        if len(files) > 1:
            _write_index(source / "pytorch_model.bin.index.json", partial, told["files"])
        else:
            (partial / "pytorch_model.safetensors").rename(partial / "model.safetensors")
        _copy_rest(source, partial)
    return str(told["network"])


def reward(source: Path, out: Path) -> str:
    """Writes a model with a `score_head` (PKU's safe-rlhf) as a sequence classifier with one output, of equal scores, to `out`.

    Both take the last token's last hidden state times one row of weights, so it is a matter of names. What has no place in a
    classifier is refused: a bias, or scores that are normalised afterwards.

    Raises:
        UserError: as `weights` for pickled ones; no `score_head`, or one that a classifier cannot stand for.
    """
    config = _json(source / "config.json")
    if config.get("do_normalize"):
        raise UserError(f"{source}: its scores are normalised afterwards (do_normalize), which a classifier does not do")
    pickled = not any(source.glob("*.safetensors"))
    with _whole(out) as partial:
        plain = partial / "weights" if pickled else source
        told = weights(source, plain) if pickled else ""
        if "score.weight" not in _renamed(plain, partial):
            raise UserError(f"{source}: has no score_head.weight; is it a reward model of safe-rlhf?")
        _copy_rest(plain, partial)
        kind = str(config.get("model_type", "")).capitalize()
        given = {key: value for key, value in config.items() if key not in (*_CODE, "score_dim", "score_type", "bias")}
        given |= {"architectures": [f"{kind}ForSequenceClassification"], "id2label": {"0": "reward"}, "label2id": {"reward": 0}}
        (partial / "config.json").write_text(json.dumps(given, indent=1), encoding="utf-8")
        shutil.rmtree(partial / "weights", ignore_errors=True)
    return told


def _renamed(source: Path, out: Path) -> dict[str, str]:
    """Copies the files of weights with `score_head` called `score`; returns in which file each tensor stands."""
    from safetensors.torch import load_file, save_file

    where: dict[str, str] = {}
    for file in sorted(source.glob("*.safetensors")):
        tensors = load_file(file)
        kept = {}
        for name, tensor in tensors.items():
            if name == "score_head.bias" and bool(tensor.any()):
                raise UserError(f"{source}: its score_head has a bias, for which a sequence classifier has no place")
            if name == "score_head.weight" and tensor.shape[0] != 1:
                raise UserError(f"{source}: its score_head has {tensor.shape[0]} outputs, a reward model has one")
            if name != "score_head.bias" and not name.startswith("normalizer."):
                new = "score.weight" if name == "score_head.weight" else name
                kept[new], where[new] = tensor, file.name
        save_file(kept, out / file.name, metadata={"format": "pt"})
    if (source / "model.safetensors.index.json").is_file():
        index = _json(source / "model.safetensors.index.json")
        (out / "model.safetensors.index.json").write_text(json.dumps({**index, "weight_map": where}, indent=1), encoding="utf-8")
    return where


def _read_apart(out: Path, files: Sequence[Path]) -> dict[str, Any]:
    """What the child says of its work; its own words where it failed."""
    command = [sys.executable, "-I", str(Path(__file__).with_name("_unpickle.py")), str(out), *map(str, files)]
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "HOME", "TMPDIR", "LD_LIBRARY_PATH")}
    done = subprocess.run(command, capture_output=True, text=True, env=kept, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"]
        reason = next((line for line in reversed(lines) if line[:1].strip() and "Error" in line), lines[-1])
        raise UserError(f"{files[0].parent}: the weights cannot be read as tensors alone: {reason}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _write_index(index: Path, out: Path, files: Mapping[str, Sequence[str]]) -> None:
    """The files by their usual names, and the index with them."""
    place: dict[str, str] = {}
    for old, tensors in files.items():
        new = old.replace("pytorch_model", "model")
        (out / old).rename(out / new)
        place |= dict.fromkeys(tensors, new)
    said = _json(index)
    if missing := sorted(set(said.get("weight_map", {})) - set(place)):
        raise UserError(f"{index}: names {missing[0]} and {len(missing) - 1} more tensors that no file holds; download all files")
    written = {"metadata": said.get("metadata", {}), "weight_map": place}
    (out / "model.safetensors.index.json").write_text(json.dumps(written, indent=1), encoding="utf-8")


def _copy_rest(source: Path, out: Path) -> None:
    """Configuration and tokenizer, without the keys that name code to run."""
    for file in sorted(source.iterdir()):
        if file.is_file() and file.suffix in _COPIED and not file.name.endswith(".index.json"):
            if file.name in ("config.json", "tokenizer_config.json", "generation_config.json"):
                plain = {key: value for key, value in _json(file).items() if key not in _CODE}
                (out / file.name).write_text(json.dumps(plain, indent=1, ensure_ascii=False), encoding="utf-8")
            else:
                shutil.copyfile(file, out / file.name)


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder to write to, which becomes `out` at the end of the block and is gone where something fails."""
    if out.exists():
        raise UserError(f"{out} is there already; name a new folder")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{file} holds no JSON object")
    return found


def main(arguments: Sequence[str]) -> int:
    """Exit code 0, or 2 with a line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="papers/convert.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("weights", "reward"))
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args(arguments)
    try:
        told = {"weights": weights, "reward": reward}[given.what](given.source, given.out)
    except UserError as error:
        print(f"papers: {error}", file=sys.stderr)
        return 2
    print(f"{given.out} is ready" + (f"; while pickles were read, the network was {told}" if told else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
