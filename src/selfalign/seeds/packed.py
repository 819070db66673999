"""Compressed seed files, and archives that hold one of them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Collection
from pathlib import PurePosixPath

from selfalign.errors import SeedError
from selfalign.seeds.rows import MAX_FILE, listed

PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")


def unpacked(name: str, raw: bytes, suffix: str, suffixes: Collection[str]) -> tuple[str, bytes]:
    """The name of what is packed, where that says more than the file's own, and its bytes.

    Args:
        suffix: one of `PACKED`.
        suffixes: those of files that can be read, to find the one in an archive.

    Raises:
        SeedError: it is damaged or too large, or an archive with none of them, or several.
    """
    try:
        inner, found = _member(name, raw, suffixes) if suffix == ".zip" else ("", _decompressed(raw, suffix))
    except SeedError:
        raise
    except (OSError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise SeedError(f"{name}: cannot be unpacked as {suffix[1:]} ({error}); pack it anew") from None
    if len(found) > MAX_FILE:
        raise SeedError(f"{name}: unpacks to more than {MAX_FILE // 2**20} MiB; keep fewer rows")
    return inner, found


def _decompressed(raw: bytes, suffix: str) -> bytes:
    source = io.BytesIO(raw)
    if suffix == ".zst":
        import pyarrow as pa

        return bytes(pa.CompressedInputStream(pa.BufferReader(raw), "zstd").read(MAX_FILE + 1))
    with gzip.open(source) if suffix == ".gz" else bz2.open(source) if suffix == ".bz2" else lzma.open(source) as file:
        return file.read(MAX_FILE + 1)


def _member(name: str, raw: bytes, suffixes: Collection[str]) -> tuple[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        paths = [PurePosixPath(each) for each in archive.namelist()]
        data = [path for path in paths if path.suffix.lower() in suffixes and not path.name.startswith(".")]
        data = [path for path in data if "__MACOSX" not in path.parts]
        if len(data) != 1:
            what = f"is an archive with {len(data)} files that could be read ({listed(map(str, data or paths))})"
            raise SeedError(f"{name}: {what}; unpack it and name one of them")
        with archive.open(str(data[0])) as file:
            return data[0].name, file.read(MAX_FILE + 1)
