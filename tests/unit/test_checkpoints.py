from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from selfalign.record.checkpoints import (
    MANIFEST,
    manifest_hash,
    newest_verified,
    publish,
    read_manifest,
    verify,
    write_manifest,
    write_synced,
)


def checkpoint(work: Path, step: int, key: str = "k") -> Path:
    folder = work / f"checkpoint-{step}"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 4)
    (folder / "sub" / "state.json").write_text(f'{{"step": {step}}}')
    write_manifest(folder, key)
    return folder


def test_an_untouched_checkpoint_verifies(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 5)
    assert verify(folder, read_manifest(folder), exact=True) == []
    assert newest_verified(tmp_path, "k") == (folder, [])


def test_without_any_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert newest_verified(tmp_path / "absent", "k") == (None, [])


@pytest.mark.parametrize("name", ["model.safetensors", "sub/state.json", MANIFEST])
def test_every_truncation_is_found_and_the_one_before_is_taken(tmp_path: Path, name: str) -> None:
    for place, cut in enumerate(("0", "1", "half", "size-1")):
        work = tmp_path / cut
        older, newest = checkpoint(work, 5), checkpoint(work, 10)
        size = (newest / name).stat().st_size
        content = (newest / name).read_bytes()[: (0, 1, size // 2, size - 1)[place]]
        (newest / name).write_bytes(content)
        found, notes = newest_verified(work, "k")
        assert found == older
        assert len(notes) == 1 and name in notes[0]
        assert not newest.exists() and (work / "damaged-checkpoint-10").is_dir()


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    manifest, path = read_manifest(folder), folder / "model.safetensors"
    whole, draw = path.read_bytes(), random.Random(3)
    for _ in range(500):
        bit = draw.randrange(len(whole) * 8)
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        assert verify(folder, manifest) != []
    path.write_bytes(whole)
    assert verify(folder, manifest) == []


def test_a_missing_file_is_found_and_an_added_one_where_asked(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    manifest = read_manifest(folder)
    (folder / "README.md").write_text("mine")
    assert verify(folder, manifest) == []
    assert "README.md" in verify(folder, manifest, exact=True)[0]
    (folder / "sub" / "state.json").unlink()
    assert "missing" in verify(folder, manifest)[0]


def test_an_unfinished_checkpoint_and_one_of_another_training_are_removed(tmp_path: Path) -> None:
    mine = checkpoint(tmp_path, 5)
    unfinished, foreign = checkpoint(tmp_path, 10), checkpoint(tmp_path, 20, key="other")
    (unfinished / MANIFEST).unlink()
    found, notes = newest_verified(tmp_path, "k")
    assert found == mine
    assert len(notes) == 1 and "other data or options" in notes[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-5"]
    assert not unfinished.exists() and not foreign.exists()


@pytest.mark.parametrize("name", ["checkpoint-99999", "checkpoint-7"])
def test_a_renamed_checkpoint_is_none_of_that_step(tmp_path: Path, name: str) -> None:
    older, newer = checkpoint(tmp_path, 5), checkpoint(tmp_path, 6)
    newer.rename(tmp_path / name)
    found, notes = newest_verified(tmp_path, "k")
    assert found == older and "renamed" in notes[0]


@pytest.mark.parametrize(
    "make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(path)]
)
def test_a_manifest_that_is_no_file_is_a_damaged_one(tmp_path: Path, make: Any) -> None:
    older, newer = checkpoint(tmp_path, 5), checkpoint(tmp_path, 6)
    (newer / MANIFEST).unlink()
    make(newer / MANIFEST)
    found, notes = newest_verified(tmp_path, "k")
    assert found == older and MANIFEST in notes[0]
    assert newest_verified(tmp_path, "other")[0] is None


def test_steps_are_compared_as_numbers(tmp_path: Path) -> None:
    checkpoint(tmp_path, 9)
    newest = checkpoint(tmp_path, 10)
    assert newest_verified(tmp_path, "k")[0] == newest


def test_the_hash_is_of_content_not_of_place(tmp_path: Path) -> None:
    one, two = checkpoint(tmp_path / "a", 1), checkpoint(tmp_path / "b", 1, key="other")
    assert manifest_hash(read_manifest(one)) == manifest_hash(read_manifest(two))
    (two / "model.safetensors").write_bytes(b"x")
    assert manifest_hash(read_manifest(one)) != manifest_hash(read_manifest(two))


def test_publishing_and_writing_leave_only_the_finished_thing(tmp_path: Path) -> None:
    (tmp_path / "model.tmp").mkdir()
    write_synced(tmp_path / "model.tmp" / "config.json", b"{}")
    write_synced(tmp_path / "model.tmp" / "config.json", b'{"a": 1}')
    publish(tmp_path / "model.tmp", tmp_path / "model")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "config.json"]
    assert (tmp_path / "model" / "config.json").read_bytes() == b'{"a": 1}'
