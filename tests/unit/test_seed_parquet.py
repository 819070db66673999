"""Parquet seed files: flat columns of strings are read, everything else is refused before it is unpacked."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from selfalign.seeds.read import read_seeds
from tests.unit.test_seeds import refusal, write


def test_parquet_columns(tmp_path: Path) -> None:
    columns = {"prompt": ["a", "b"], "response": pa.array(["x", "x"]).dictionary_encode(), "n": [1, None], "ok": [True, False]}
    pq.write_table(pa.table(columns), tmp_path / "s.parquet")
    one, two = read_seeds(tmp_path / "s.parquet")
    assert (one.response, one.metadata, two.metadata) == ("x", {"n": "1", "ok": "true"}, {"n": "null", "ok": "false"})


def repeated(text: str, rows: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))


@pytest.mark.parametrize(
    ("columns", "start", "remedy"),
    [
        ({"prompt": ["a"], "response": [1.5]}, " row 1: field 'response': is the number 1.5", "quotes"),
        ({"prompt": ["a"], "response": [7]}, " row 1: field 'response': is the number 7", "quotes"),
        ({"prompt": ["a", "b"], "response": ["x", None]}, " row 2: field 'response': is null", "remove the row"),
        ({"prompt": pa.array([b"\xff"]).view(pa.string()), "response": ["x"]}, " rows 1 to 1: field 'prompt'", "not UTF-8"),
        ({"prompt": ["a"], "remark": ["x"]}, " row 1: field 'response': is missing among 'prompt', 'remark'", "expected"),
        ({"prompt": pa.array([], pa.string()), "response": pa.array([], pa.string())}, ": has no rows", "at least one"),
        ({f"c{i}": ["x"] for i in range(65)}, " row 1: has 65 fields", "drop some"),
        ({"prompt": repeated("x", 200_001)}, ": has more than 200,000 rows", "keep fewer"),
        ({"prompt": ["x" * (80 * 2**20)], "response": ["x"]}, ": unpacks to 80 MiB", "keep fewer"),
        (
            {"prompt": list(map(str, range(99))), "response": repeated("x" * 2**20, 99)},
            " rows 33 to 64: unpacks to more than 64 MiB",
            "fewer",
        ),
        (
            {"prompt": ["a"], "response": repeated("x" * 5 * 2**20, 1)},
            " row 1: field 'response': is longer",
            "shorten",
        ),
    ],
)
def test_parquet_refusals(tmp_path: Path, columns: dict[str, object], start: str, remedy: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "s.parquet", compression="zstd")
    message = refusal(tmp_path / "s.parquet")
    assert message.startswith(start)
    assert remedy in message


def test_parquet_cut_anywhere_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"], "response": ["x"]}), tmp_path / "whole.parquet")
    raw = (tmp_path / "whole.parquet").read_bytes()
    for end in range(1, len(raw), 7):
        assert "cannot be read as Parquet" in refusal(write(tmp_path, "s.parquet", raw[:end]))


class OpenKms(pe.KmsClient):
    """A key store that gives the keys away."""

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
        return key_bytes.hex()

    def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:
        return bytes.fromhex(wrapped_key)


@pytest.mark.parametrize("is_footer_plain", [False, True])
def test_encrypted_parquet_is_refused(tmp_path: Path, is_footer_plain: bool) -> None:
    table = pa.table({"prompt": ["a"], "response": ["x"]})
    keys = pe.EncryptionConfiguration("key", column_keys={"key": table.schema.names}, plaintext_footer=is_footer_plain)
    factory = pe.CryptoFactory(lambda _: OpenKms())
    encryption = factory.file_encryption_properties(pe.KmsConnectionConfig(), keys)
    with pq.ParquetWriter(tmp_path / "s.parquet", table.schema, encryption_properties=encryption) as writer:
        writer.write_table(table)
    message = refusal(tmp_path / "s.parquet")
    assert message.startswith(": cannot be read as Parquet")
    assert "without encryption" in message
