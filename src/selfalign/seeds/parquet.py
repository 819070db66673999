"""The Parquet reader of seed files. Its limits are checked on the footer, before anything is unpacked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from selfalign.seeds.rows import MAX_COLUMNS, MAX_FIELD, MAX_FILE, MAX_ROWS, Item, JsonNumber, Problem, Row, checked_header, show

_BATCH = 32  # rows unpacked at a time
_MAX_GROUPS = 10_000


def read_parquet(name: str, raw: bytes) -> Iterator[Item]:
    """Header, rows and problems of a Parquet file of flat columns of strings (integers and booleans as metadata)."""
    import pyarrow as pa

    try:
        yield from _items(name, raw)
    except (pa.ArrowException, OSError, ValueError, KeyError, IndexError, MemoryError) as error:
        reason = (str(error).splitlines() or [""])[0]
        yield Problem(name, f"cannot be read as Parquet ({show(reason, 100)}); write the file anew, without encryption")


def _items(name: str, raw: bytes) -> Iterator[Item]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = pa.BufferReader(raw)
    metadata = pq.read_metadata(source)
    if what := _too_large(metadata):
        yield Problem(name, what)
        return
    schema = metadata.schema.to_arrow_schema()
    header = checked_header(name, list(schema.names))
    yield header
    if isinstance(header, Problem):
        return
    for column in schema:
        if not _is_text(column.type) and not pa.types.is_boolean(column.type) and not pa.types.is_integer(column.type):
            remedy = "write such rows as JSONL" if pa.types.is_nested(column.type) else "write it as strings"
            yield Problem(name, f"field {show(column.name)}: has the Parquet type {show(str(column.type))}; {remedy}")
            return
    texts = [column.name for column in schema if _is_text(column.type)]
    # Kept as dictionaries, because a small file can hold a long text once and point to it from every row.
    yield from _rows(name, pq.ParquetFile(source, read_dictionary=texts, pre_buffer=False))


def _too_large(metadata: Any) -> str:
    if metadata.num_rows > MAX_ROWS:
        return f"has more than {MAX_ROWS:,} rows; keep fewer"
    if metadata.num_columns > MAX_COLUMNS:
        return f"has {metadata.num_columns} columns; at most {MAX_COLUMNS} are read, so drop some"
    if metadata.num_row_groups > _MAX_GROUPS:
        return f"has more than {_MAX_GROUPS:,} row groups; write it with larger ones"
    # Not the sizes of the columns, though they say the same: asking a damaged footer for a column can end the process.
    size = sum(max(metadata.row_group(index).total_byte_size, 0) for index in range(metadata.num_row_groups))
    if size > MAX_FILE:
        return f"unpacks to {size / 2**20:,.0f} MiB; at most {MAX_FILE // 2**20} are read, so keep fewer rows"
    return ""


def _is_text(type_: Any) -> bool:
    from pyarrow import types

    plain = type_.value_type if types.is_dictionary(type_) else type_
    return bool(types.is_string(plain) or types.is_large_string(plain) or types.is_string_view(plain) or types.is_null(plain))


def _rows(name: str, file: Any) -> Iterator[Item]:
    number = size = 0
    for batch in file.iter_batches(batch_size=_BATCH, use_threads=False):
        where = f"{name} rows {number + 1} to {number + batch.num_rows}"
        columns = []
        for column, values in zip(batch.schema.names, batch.columns, strict=True):
            if _longest(values) > 4 * MAX_FIELD:  # bytes: no character takes more than 4
                yield Problem(where, f"field {show(column)}: a text is longer than {MAX_FIELD:,} characters; shorten it")
                return
            try:
                columns.append(values.to_pylist())
            except UnicodeDecodeError:
                yield Problem(where, f"field {show(column)}: holds text that is not UTF-8; write the column anew as strings")
                return
        for cells in zip(*columns, strict=True):
            number += 1
            size += sum(len(cell) for cell in cells if isinstance(cell, str))
            if size > MAX_FILE:
                yield Problem(where, f"unpacks to more than {MAX_FILE // 2**20} MiB of text; keep fewer rows")
                return
            fields = {column: _json_value(cell) for column, cell in zip(batch.schema.names, cells, strict=True)}
            yield Row(f"{name} row {number}", fields)


def _longest(values: Any) -> int:
    """Bytes of the longest text a column may hold."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = values.dictionary if isinstance(values, pa.DictionaryArray) else values
    if not _is_text(texts.type) or pa.types.is_null(texts.type):
        return 0
    return pc.max(pc.binary_length(texts)).as_py() or 0


def _json_value(value: str | bool | int | None) -> str | bool | JsonNumber | None:
    return JsonNumber(str(value)) if isinstance(value, int) and not isinstance(value, bool) else value
