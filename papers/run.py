"""Re-runs a table or figure of a paper: its data, its runs, and our figures beside the paper's.

    python papers/run.py                                             lists papers and tables, and what each needs
    python papers/run.py isara table2 --out runs/isara --scale tiny  on a processor, in seconds, with invented data
    python papers/run.py isara table2 --out runs/isara --data DATA   the paper's sizes

The same command goes on where it stopped. Tables of one paper share an --out: what one has run, the others only read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # run as a script, Python knows this folder and not the one it lies in


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 done, 1 a run that failed, 2 bad options or data, 130 or 143 interrupted and resumable."""
    from selfalign.errors import Interrupted, RunFailed, UserError

    options = _parser().parse_args(arguments)
    try:
        if options.paper is None or options.table is None:
            print(_listing(options.paper))
            return 0
        return _run(options)
    except (UserError, RunFailed) as error:
        print(f"papers: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except Interrupted as stop:
        print("papers: interrupted; the same command goes on from here", file=sys.stderr)
        return 128 + stop.signal_number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="papers/run.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("paper", nargs="?", help="isara, isheep …")
    parser.add_argument("table", nargs="?", help="table2, figure3 …")
    parser.add_argument("--out", type=Path, help="the folder for data, runs and the table")
    parser.add_argument(
        "--scale", choices=("tiny", "small", "paper"), default="paper", help="small: all seeds, a thirty-second of the candidates"
    )
    parser.add_argument("--data", type=Path, help="the folder with what the table needs; at --scale tiny it is invented")
    parser.add_argument("--model", default="", help="of the table's, SHORT=FOLDER, or any other; several with commas between")
    parser.add_argument("--repeats", type=int, default=1, help="random seeds for each arm (1, as in the papers; 3 for intervals)")
    parser.add_argument("--batch_size", type=int, help="rows that the engine takes at once")
    parser.add_argument("--unsafe_run_code", action="store_true", help="let a table run code that a model wrote")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


def papers() -> dict[str, list[str]]:
    """Every paper with its tables; what tables share stands in files that begin with an underscore."""
    folders = sorted(path.parent for path in HERE.glob("*/__init__.py"))
    return {folder.name: sorted(path.stem for path in folder.glob("[!_]*.py")) for folder in folders}


def _listing(paper: str | None) -> str:
    from papers.table import Table

    lines = []
    for name, tables in papers().items():
        if paper in (None, name):
            lines.append(name)
            for each in tables:
                table: Table = import_module(f"papers.{name}.{each}").TABLE
                lines.append(f"  {each:<18}  {table.title}\n  {'':<18}  needs {', '.join(table.needs) or 'nothing'}")
    if paper is not None and not lines:
        lines = [f"there is no paper {paper!r}; there are {', '.join(papers())}"]
    return "\n".join(lines)


def _run(options: argparse.Namespace) -> int:

    from papers.kit import SCALES, Kit, chosen_models
    from papers.table import Table, as_json, as_markdown
    from selfalign.errors import UserError, handle_signals
    from selfalign.loop.progress import on_screen
    from selfalign.record.checkpoints import write_synced

    known = papers()
    if options.table not in known.get(options.paper, ()):
        raise UserError(f"there is no {options.paper} {options.table}; `python papers/run.py` lists papers and tables")
    if options.out is None:
        raise UserError("which folder shall data, runs and the table live in? give --out")
    if options.repeats < 1 or (options.batch_size is not None and options.batch_size < 1):
        raise UserError("--repeats and --batch_size must be at least 1")
    table: Table = import_module(f"papers.{options.paper}.{options.table}").TABLE
    scale = SCALES[options.scale]
    models = chosen_models(table, [name.strip() for name in options.model.split(",") if name.strip()], scale)
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    data = options.data if options.data is not None else _invented(out, table.needs) if options.scale == "tiny" else out
    with handle_signals(), nullcontext() if options.quiet else on_screen() as progress:
        kit = Kit(out, scale, data, models, options.repeats, options.batch_size, progress, options.unsafe_run_code)
        cells = list(table.fill(kit))
    facts = {"scale": scale.name, "models": ", ".join(models.values()), "random_seeds": options.repeats}
    name = f"{options.paper} {options.table}"
    text = as_markdown(name, table, cells, facts)
    file = out / f"{options.paper}-{options.table}"
    write_synced(file.with_suffix(".md"), text.encode())
    write_synced(file.with_suffix(".json"), (json.dumps(as_json(name, table, cells, facts), indent=1) + "\n").encode())
    print(text)
    return 0


def _invented(out: Path, needs: Sequence[str]) -> Path:
    from papers import tiny

    return tiny.invent(out / "invented", needs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
