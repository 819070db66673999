"""The Parquet reader of seed files. Its limits are checked on the footer, before anything is unpacked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from selfalign.seeds.rows import MAX_COLUMNS, MAX_FILE, MAX_ROWS, Problem, Row, as_row, plain, show

_BATCH = 32  # rows unpacked at a time
_MAX_GROUPS = 10_000


def read_parquet(name: str, raw: bytes) -> Iterator[Row | Problem]:
    """Rows and problems of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        source = pa.BufferReader(raw)
        if what := _too_large(pq.read_metadata(source)):
            yield Problem(name, what)
            return
        file = pq.ParquetFile(source, pre_buffer=False)
        yield from arrow_rows(name, file.iter_batches(batch_size=_BATCH, use_threads=False))
    except (pa.ArrowException, OSError, ValueError, KeyError, IndexError, MemoryError) as error:
        reason = (str(error).splitlines() or [""])[0]
        yield Problem(name, f"cannot be read as Parquet ({show(reason, 100)}); write the file anew, without encryption")


def _too_large(metadata: Any) -> str:
    if metadata.num_rows > MAX_ROWS:
        return f"has more than {MAX_ROWS:,} rows; keep fewer"
    if metadata.num_columns > 4 * MAX_COLUMNS:  # a list or an object counts as each of its leaves here
        return f"has {metadata.num_columns} columns; at most {MAX_COLUMNS} are read, so drop some"
    if metadata.num_row_groups > _MAX_GROUPS:
        return f"has more than {_MAX_GROUPS:,} row groups; write it with larger ones"
    # Not the sizes of the columns, though they say the same: asking a damaged footer for a column can end the process.
    size = sum(max(metadata.row_group(index).total_byte_size, 0) for index in range(metadata.num_row_groups))
    if size > MAX_FILE:
        return f"unpacks to {size / 2**20:,.0f} MiB; at most {MAX_FILE // 2**20} are read, so keep fewer rows"
    return ""


def arrow_rows(name: str, batches: Iterable[Any]) -> Iterator[Row | Problem]:
    """The rows of Arrow's record batches, of columns of any type."""
    import pyarrow as pa

    number = size = 0
    for batch in batches:
        where = f"{name} rows {number + 1} to {number + batch.num_rows}"
        # A small file can hold a long text once and point to it from every row.
        dense = [each.dictionary_decode() if isinstance(each, pa.DictionaryArray) else each for each in batch.columns]
        size += sum(values.nbytes for values in dense)
        if size > MAX_FILE:
            yield Problem(where, f"unpacks to more than {MAX_FILE // 2**20} MiB; keep fewer rows")
            return
        columns = []
        for column, values in zip(batch.schema.names, dense, strict=True):
            try:
                columns.append(values.to_pylist())
            except UnicodeDecodeError:
                yield Problem(where, f"field {show(column)}: holds text that is not UTF-8; write the column anew as strings")
                return
        for cells in zip(*columns, strict=True):
            number += 1
            fields = {column: plain(cell) for column, cell in zip(batch.schema.names, cells, strict=True)}
            yield as_row(f"{name} row {number}", fields)
