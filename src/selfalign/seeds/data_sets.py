"""Data sets of the library `datasets`: folders that it saved, folders of data files, and those of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfalign.errors import SeedError
from selfalign.seeds.parquet import arrow_rows
from selfalign.seeds.rows import MAX_ROWS, Problem, Row, listed, show

_ROWS_AT_ONCE = 32


def read_data_set(name: str, source: str, split: str) -> Iterator[Row | Problem]:
    """The rows of one split of a data set.

    Args:
        name: how messages call it.
        source: a folder, or a name on the hub.
        split: its name, with that of a configuration before it as "main/train"; "" for the only one, or for "train".

    Raises:
        SeedError: there is no such data set or split, or `datasets` is not installed.
    """
    folder = Path(source)
    if (folder / "dataset_dict.json").is_file():
        splits = _listed_in(name, folder / "dataset_dict.json", "splits")
        chosen = _chosen(name, splits, split)
        return _noted(_saved(name, folder / chosen), [] if split else splits, chosen)
    if (folder / "state.json").is_file():
        if split:
            raise SeedError(f"{name}: is a data set without splits; name it without {split!r}")
        return _saved(name, folder)
    loaded = _loaded(name, source, split)
    chosen = _chosen(name, list(loaded), split.rpartition("/")[2])
    if loaded[chosen].num_rows > MAX_ROWS:
        raise SeedError(f"{name}: has more than {MAX_ROWS:,} rows; keep fewer")
    rows = arrow_rows(name, loaded[chosen].with_format("arrow").iter(batch_size=_ROWS_AT_ONCE))
    return _noted(rows, [] if split.rpartition("/")[2] else list(loaded), chosen)


def _noted(rows: Iterator[Row | Problem], splits: list[str], chosen: str) -> Iterator[Row | Problem]:
    """The rows, with a note where the user named none of several splits."""
    others = [name for name in splits if name != chosen]
    note = (
        f"the split {chosen!r}; {listed(others)} left out, a colon and a name behind the data set take another" if others else ""
    )
    return (replace(row, note=note) if isinstance(row, Row) else row for row in rows)


def _saved(name: str, folder: Path) -> Iterator[Row | Problem]:
    """What `save_to_disk` wrote: Arrow streams, their names in a JSON file."""
    import pyarrow as pa

    batches = (
        batch
        for file in _listed_in(name, folder / "state.json", "_data_files")
        for batch in pa.ipc.open_stream((folder / file["filename"]).read_bytes())
        for batch in pa.Table.from_batches([batch]).to_batches(max_chunksize=_ROWS_AT_ONCE)
    )
    try:
        yield from arrow_rows(name, batches)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        yield Problem(name, f"cannot be read as a saved data set ({show(str(error), 100)}); save it anew")


def _listed_in(name: str, file: Path, key: str) -> list[Any]:
    try:
        found: dict[str, list[Any]] = json.loads(file.read_bytes())
        return found[key]
    except (OSError, ValueError, TypeError, KeyError):
        raise SeedError(f"{name}: {file.name} is not that of a saved data set; save it anew with save_to_disk") from None


def _loaded(name: str, source: str, split: str) -> Any:
    is_folder = Path(source).is_dir()
    try:
        import datasets
    except ImportError:
        what = "is a folder; name one file in it, or let" if is_folder else "no such file; a data set of the hub needs"
        raise SeedError(f"{name}: {what} the package datasets {'read it' if is_folder else ''}: pip install datasets") from None
    configuration = split.rpartition("/")[0]
    bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(str(Path(source).resolve()) if is_folder else source, configuration or None)
    except Exception as error:  # the library raises what its many readers raise
        reason = show(" ".join(str(error).split()) or type(error).__name__, 200)
        what = "is a folder that is no data set" if is_folder else "no such file, and no data set that the hub gives"
        remedy = "name one file in it" if is_folder else "check the name and the connection, or download one file and name that"
        raise SeedError(f"{name}: {what} ({reason}); {remedy}") from None
    finally:
        if bars:
            datasets.enable_progress_bars()


def _chosen(name: str, splits: list[str], split: str) -> str:
    if split in splits:
        return split
    if split or (len(splits) > 1 and "train" not in splits):
        what = f"has no split {split!r}" if split else "has several splits"
        raise SeedError(f"{name}: {what}; write one of {listed(splits)} behind a colon, as in {splits[0]!r}")
    return splits[0] if len(splits) == 1 else "train"
