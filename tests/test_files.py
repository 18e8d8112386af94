"""What is written is there whole or not at all, and a failure leaves what was there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sdpo_megatron.files import clear_drafts, whole_folder, write_whole


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    write_whole(path, "ä old, longer")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    write_whole(path, "ä")
    assert path.read_bytes() == b"\xc3\xa4"
    assert _names(tmp_path) == ["note.json"]


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_failure_keeps_the_old_file(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "note.json"
    write_whole(path, "old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if call == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert _names(tmp_path) == ["note.json"]


def test_the_new_name_appears_only_when_the_content_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content is synced before the rename, the folder after it."""
    order: list[str] = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("sync"), sync(handle))[1])
    monkeypatch.setattr(
        Path, "replace", lambda self, other: (order.append("rename"), replace(self, other))[1]
    )
    write_whole(tmp_path / "note", "x")
    assert order == ["sync", "rename", "sync"]


def test_a_folder_takes_the_place_of_another_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "above" / "model"
    with whole_folder(target) as draft:
        (draft / "a").touch()
        assert not target.exists()
    with whole_folder(target) as draft:
        (draft / "b").touch()
        assert _names(target) == ["a"]
    assert _names(target) == ["b"]
    assert _names(target.parent) == ["model"]


def test_a_block_that_raises_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with whole_folder(target) as draft:
        (draft / "a").touch()
    with pytest.raises(FileNotFoundError), whole_folder(target) as draft:
        (draft / "absent").rename(draft / "b")
    assert _names(target) == ["a"]
    assert _names(tmp_path) == ["model"]


def test_drafts_of_killed_processes_are_cleared_and_nothing_else(tmp_path: Path) -> None:
    for name in (".note.partial-17", "note", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / ".model.partial-4" / "inside").mkdir(parents=True)
    clear_drafts(tmp_path)
    assert _names(tmp_path) == [".hidden", "note"]
