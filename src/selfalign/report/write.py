"""The report's files: the page, and beside it the figures as SVG and the tables as CSV; each appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

from selfalign.errors import UserError
from selfalign.record.disk import whole_file
from selfalign.report.charts import standalone
from selfalign.report.data import read_run
from selfalign.report.page import run_charts, run_page
from selfalign.report.study import NAME as STUDY
from selfalign.report.study import read_study, study_charts, study_page, study_tables
from selfalign.report.tables import csv_text, run_tables


def write_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Writes the page of a run or a study, `DIR/report.html`, and its figures into `DIR/report/`.

    With `out` the page goes there, the figures into the folder of the same name without `.html`.

    Raises:
        UserError: no run or study folder, or a file that cannot be written.
        RunFailed: the disk is full or failing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not the folder of a run or a study: there is no such folder")
    page = folder / "report.html" if out is None else Path(out)
    if page.is_dir() or not page.parent.is_dir():
        raise UserError(f"{page} {'is a folder' if page.is_dir() else 'is in no folder that exists'}: name an HTML file to write")
    if page.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{page} is not called .html: the report is an HTML page, name one")
    if (folder / STUDY).is_file():
        study = read_study(folder)
        charts, tables, text = study_charts(study), study_tables(study), study_page(study)
    else:
        run = read_run(folder)
        charts, tables, text = run_charts(run), run_tables(run), run_page(run)
    try:
        figures = page.with_suffix("")
        figures.mkdir(exist_ok=True)
        for name, chart in charts.items():
            _write(figures / f"{name}.svg", standalone(chart))
        for name, table in tables.items():
            _write(figures / f"{name}.csv", csv_text(*table))
        _write(page, text)
    except OSError as error:
        where = error.filename or page
        raise UserError(f"{where} cannot be written ({error.strerror}): use --out FILE in another folder") from error
    return page


def _write(path: Path, text: str) -> None:
    with whole_file(path, "export") as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
