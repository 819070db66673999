"""A round's model, or the pairs of a run, to a repository of the Hugging Face hub, with their card."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from selfalign.errors import RunFailed, UserError
from selfalign.export.cards import data_card, model_card
from selfalign.export.data import export_data
from selfalign.record.checkpoints import AVERAGE
from selfalign.record.exports import best_round, model_files
from selfalign.record.store import Store

_NAME = r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9])?"
_DATA = "train.jsonl"
_WEIGHTS = ("model*.safetensors*", "pytorch_model*", "adapter_*")
"""What a push of a model takes the place of: an adapter next to another model's weights would load as a mixture of both."""


@dataclass(frozen=True)
class Pushed:
    """What was sent to the hub, or with `dry_run` would be."""

    kind: str
    """model or dataset."""
    repo: str
    address: str
    """The repository's; "" where nothing was sent."""
    private: bool
    """Whether that was asked for."""
    files: tuple[tuple[str, int], ...]
    """Name and bytes of each."""

    def text(self) -> str:
        if self.address:
            return f"{self.kind} in {self.address}"
        visible = " (private)" if self.private else " (public, if it is new)"
        files = [f"  {name}  {size:,} bytes" for name, size in self.files]
        return "\n".join((f"{self.kind} {self.repo}{visible} would get:", *files, "nothing was sent"))

    def plain(self) -> dict[str, Any]:
        files = [{"file": name, "bytes": size} for name, size in self.files]
        sent = {"sent": bool(self.address), "address": self.address or None}
        return {"kind": self.kind, "repo": self.repo, **sent, "private": self.private, "files": files}


def push(
    store: Store,
    repo: str,
    *,
    data: bool = False,
    round: int | None = None,
    license: str | None = None,
    private: bool = False,
    dry_run: bool = False,
) -> Pushed:
    """Uploads a model or, with `data`, seeds and kept pairs as a data set.

    Args:
        repo: user/name; made if it is not there.
        round: whose model; the best round's without it.
        license: named in the card, as the hub spells it.
        private: only for a repository that is private, or new.
        dry_run: says what would be uploaded and sends nothing.

    Raises:
        UserError: a name, token, round or licence that cannot be, a run that is not done, or what the hub refuses.
        RunFailed: the upload broke off; the same call again sends what is missing.
    """
    _check_repo(repo)
    token, kind = "" if dry_run else _token(), "dataset" if data else "model"
    with TemporaryDirectory(prefix="selfalign-push-") as folder:
        work = Path(folder)
        if data:
            best_round(store)  # raises while the run is not done: half a data set is not pushed
            (work / "README.md").write_text(data_card(store, license=license, file=_DATA), "utf-8")
            export_data(store, work / _DATA)
        else:
            _stage_model(store, work, round, license)
        files = tuple((path.relative_to(work).as_posix(), path.stat().st_size) for path in _files(work))
        address = "" if dry_run else _upload(work, repo, kind, private, token)
    return Pushed(kind, repo, address, private, files)


def _check_repo(repo: str) -> None:
    if not re.fullmatch(f"{_NAME}/{_NAME}", repo, re.ASCII) or ".." in repo or "--" in repo or repo.endswith(".git"):
        raise UserError(f"--repo {repo[:120]!r} is no name of a repository: give user/name (letters, digits, - _ . in each)")


def _token() -> str:
    """From HF_TOKEN alone: a token that some other program left on the disk was not meant for this. No error says what it is."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise UserError("no token: set HF_TOKEN to a token of the hub that may write (its settings page makes one)")
    if not re.fullmatch(r"[!-~]+", token):
        raise UserError("HF_TOKEN holds blanks or letters that no token has: copy it again")
    return token


def _stage_model(store: Store, work: Path, round: int | None, license: str | None) -> None:
    """Links instead of copies: weights may be larger than the disk for temporary files."""
    chosen = best_round(store) if round is None else round
    if chosen == 0:
        raise UserError("round 0 is the base model: there is nothing of this run in it to push; --round N pushes another")
    source = model_files(store, chosen)
    for path in (path for path in _files(source) if path.parent.name != AVERAGE):
        link = work / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    (work / "README.md").unlink(missing_ok=True)
    (work / "README.md").write_text(model_card(store, chosen, license=license), "utf-8")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _upload(folder: Path, repo: str, kind: str, private: bool, token: str) -> str:
    """The address of the repository. Nothing is uploaded where `private` was asked for and the repository is public."""
    import huggingface_hub.utils
    from huggingface_hub import HfApi

    words: Any = huggingface_hub.utils
    words.logging.set_verbosity_error()  # its retries are its own affair; what comes of them is reported below
    if not sys.stderr.isatty():
        words.disable_progress_bars()
    api = HfApi(token=token)
    with _one_line_errors(repo, api.endpoint, token):
        address = str(api.create_repo(repo, repo_type=kind, private=private or None, exist_ok=True))
        if private and not api.repo_info(repo, repo_type=kind).private:
            raise UserError(f"{repo} exists and is public: nothing was uploaded; name another --repo, or make it private first")
        if not sys.stderr.isatty():  # on a terminal the library has bars
            files = _files(folder)
            sys.stderr.write(f"uploading {len(files)} files, {sum(path.stat().st_size for path in files):,} bytes\n")
            sys.stderr.flush()
        old, said = list(_WEIGHTS) if kind == "model" else None, "Made by selfalign"
        api.upload_folder(repo_id=repo, repo_type=kind, folder_path=folder, commit_message=said, delete_patterns=old)
    return address


@contextmanager
def _one_line_errors(repo: str, hub: str, token: str) -> Iterator[None]:
    """What the hub, its storage or the way to them says, as one line without the token."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    # Its bases are OSError and the error of the HTTP library in use, which differs between versions.
    broken: tuple[type[BaseException], ...] = (*HfHubHTTPError.__bases__, RuntimeError, ValueError)
    try:
        yield
    except OfflineModeIsEnabled:
        raise UserError("HF_HUB_OFFLINE is set: unset it to push") from None
    except broken as error:
        # Git LFS hides what went wrong with a file behind an error that names the file.
        what = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        file = "" if what is error else f"; {_one_line(str(error), token)}"
        if isinstance(what, HfHubHTTPError):
            raise _refused(what, repo, hub, token, file) from None
        remedy = "the same command again sends what is missing"
        if isinstance(what, ConnectionError):  # of xet alone: the HTTP library has its own kind
            remedy += "; where xet, the hub's storage, is out of reach or there is none, HF_HUB_DISABLE_XET=1 goes by Git LFS"
        said = f"{type(what).__name__}: {_one_line(str(what), token)}{file}"
        raise RunFailed(f"the upload to {repo} failed ({said}): {remedy}") from None


def _refused(error: Any, repo: str, hub: str, token: str, file: str) -> UserError | RunFailed:
    """What a status means, of the hub or of its storage: that knows no token, but addresses signed for a while."""
    status = error.response.status_code
    said = _one_line(error.server_message or error.response.reason_phrase, token) + file
    if not str(error.response.url).startswith(f"{hub}/"):
        return RunFailed(f"the hub's storage answered {status} ({said}): the same command again sends what is missing")
    remedy = {
        401: "HF_TOKEN is not valid there",
        403: f"HF_TOKEN may not write to {repo}",
        404: f"there is no {repo} for this token",
    }.get(status)
    if remedy is None:
        return RunFailed(f"the hub answered {status} ({said}): try the same command again later")
    return UserError(f"the hub answered {status} ({said}): {remedy}")


def _one_line(text: str, token: str) -> str:
    plain = re.sub(r"<[^<>]*>", " ", text.replace(token, "…"))  # the storage speaks XML
    return " ".join(plain.split())[:300]
