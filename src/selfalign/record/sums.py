"""Sums over the rows of the record, kept by the database itself, that tell damaged content from what was written.

SQLite finds a page that makes no sense, but not another letter in a text. So every table has the number of its rows and the sum
of their CRC-32, which triggers bring up to date inside the transaction that writes; whoever opens the record adds the rows up
again.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator
from typing import Any

_FUNCTION = "row_sum"
TABLE = "CREATE TABLE sums (name TEXT PRIMARY KEY, rows INTEGER NOT NULL, total INTEGER NOT NULL)"


def prepare(connection: sqlite3.Connection) -> None:
    """What every connection needs, to write or to check."""
    connection.create_function(_FUNCTION, -1, _row_sum, deterministic=True)
    connection.execute("PRAGMA trusted_schema = ON")  # or triggers may not call it


def pass_on_interruption(error: BaseException) -> None:
    """SQLite makes an error of its own of what a function raises that it calls, and ours raises nothing but a signal's exception.

    Raises:
        KeyboardInterrupt: `error` is such a one.
    """
    if isinstance(error, sqlite3.OperationalError) and "user-defined function raised exception" in str(error):
        raise KeyboardInterrupt from error


def statements(connection: sqlite3.Connection) -> Iterator[str]:
    """What makes the sums for the tables that there are."""
    yield TABLE
    for table, columns in _tables(connection):
        yield f"INSERT INTO sums VALUES ('{table}', 0, 0)"
        added = f"rows = rows + 1, total = total + {_FUNCTION}({_list(columns, 'new.')})"
        taken = f"rows = rows - 1, total = total - {_FUNCTION}({_list(columns, 'old.')})"
        both = f"total = total + {_FUNCTION}({_list(columns, 'new.')}) - {_FUNCTION}({_list(columns, 'old.')})"
        for event, change in (("INSERT", added), ("DELETE", taken), ("UPDATE", both)):
            yield (
                f"CREATE TRIGGER {table}_{event.lower()} AFTER {event} ON {table}"
                f" BEGIN UPDATE sums SET {change} WHERE name = '{table}'; END"
            )


def damage(connection: sqlite3.Connection, schema: list[str]) -> str:
    """The first thing found wrong, "" where every page, index and row is as it was written.

    Args:
        schema: the SQL of the tables, indexes and triggers that there must be.
    """
    # First of all: the rest trusts it.
    if sql_of(connection) != schema:
        return "its tables are not as they were made"
    said = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if said is None or said[0] != "ok":
        return " ".join(str(said and said[0]).replace("***", " ").split())
    known = {name: (rows, total) for name, rows, total in connection.execute("SELECT name, rows, total FROM sums")}
    for table, columns in _tables(connection):
        query = f"SELECT count(*), coalesce(sum({_FUNCTION}({_list(columns)})), 0) FROM {table}"
        if connection.execute(query).fetchone() != known.get(table):
            return f"the rows of its table {table} are not those that were written"
    return ""


def sql_of(connection: sqlite3.Connection) -> list[str]:
    return [str(sql) for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY sql")]


def _tables(connection: sqlite3.Connection) -> list[tuple[str, list[str]]]:
    found = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name != 'sums' AND name NOT LIKE 'sqlite%' ORDER BY name"
    )
    names = [str(name) for (name,) in found]
    return [(name, [str(row[1]) for row in connection.execute(f"PRAGMA table_info({name})")]) for name in names]


def _list(columns: list[str], before: str = "") -> str:
    return ", ".join(before + column for column in columns)


def _row_sum(*values: Any) -> int:
    return zlib.crc32(json.dumps(values, separators=(",", ":"), default=repr).encode())
