"""Writes the page of a run or a study; it appears whole or not at all."""

from __future__ import annotations

import shlex
from pathlib import Path

from selfalign.errors import UserError
from selfalign.record.disk import whole_file
from selfalign.report.data import read_run
from selfalign.report.page import run_page
from selfalign.report.study import NAME as STUDY
from selfalign.report.study import PLAN, read_study, study_page


def write_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Writes the page of a run or a study to `out`, by default `DIR/report.html`.

    Raises:
        UserError: no run or study folder, or a file that cannot be written.
        RunFailed: the disk is full or failing.
    """
    folder = Path(folder)
    _check(folder)
    page = folder / "report.html" if out is None else Path(out)
    if page.is_dir() or not page.parent.is_dir():
        raise UserError(f"{page} {'is a folder' if page.is_dir() else 'is in no folder that exists'}: name an HTML file to write")
    if page.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{page} is not called .html: the report is an HTML page, name one")
    text = page_text(folder, linked=page.resolve().parent == folder.resolve())
    try:
        with whole_file(page) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        where = error.filename or page
        raise UserError(f"{where} cannot be written ({error.strerror}): use --out FILE in another folder") from error
    return page


def page_text(folder: Path, linked: bool = False) -> str:
    """The page of a run or a study.

    Args:
        linked: whether it stands in the folder, so that links from a study to its runs lead somewhere.

    Raises:
        UserError: no run or study folder.
    """
    _check(folder)
    if not (folder / STUDY).is_file():
        return run_page(read_run(folder))
    study = read_study(folder, linked)
    try:
        return study_page(study)
    except (LookupError, TypeError, ValueError, AttributeError) as error:  # a word where a number stands in those that we write
        raise UserError(f"{folder / STUDY} is no study ({error}): let `selfalign study` write it again") from error


def _check(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"{folder} is not the folder of a run or a study: there is no such folder")
    if (folder / PLAN).is_file() and not (folder / STUDY).is_file():
        go_on = f"`selfalign study --config {shlex.quote(str(folder / 'study.yaml'))}` goes on with it"
        told = "has nothing to compare yet: all its arms must be through with one random seed"
        raise UserError(f"the study {folder} {told}; {go_on}, `selfalign list {shlex.quote(str(folder))}` shows its runs")
