"""Files are written whole or not at all; names are looked up; two writers exclude each other."""

from __future__ import annotations

import errno
import multiprocessing
import os
from pathlib import Path

import pytest

from dlde import files
from dlde.errors import InputError, StorageFullError, UnknownNameError, UnwritableError


def test_write_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    files.write_atomically(path, "one")
    files.write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_full_disk_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    files.write_atomically(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFullError, match=r"no space left while writing .*a.txt: free some"):
        files.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def _hold(folder: str, ready: object, end: object) -> None:
    with files.locked(Path(folder), "it"):
        ready.set()  # type: ignore[attr-defined]
        end.wait(60)  # type: ignore[attr-defined]


def test_lock_names_its_holder_and_goes_with_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(str(tmp_path), ready, end))
    holder.start()
    assert ready.wait(60)
    with (
        pytest.raises(InputError, match=f"store is being worked on by process {holder.pid}"),
        files.locked(tmp_path, "store"),
    ):
        pass
    holder.kill()
    holder.join()
    with files.locked(tmp_path, "store"):
        pass


def test_a_place_that_cannot_be_written_is_named_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = (
        r"cannot write .*/file/runs.*: Not a directory; choose another storage root by --root or \$DLDE_ROOT"
    )
    with pytest.raises(UnwritableError, match=told), files.locked(tmp_path / "file" / "runs", "run x"):
        pass
    with pytest.raises(UnwritableError, match=told):
        files.write_json(tmp_path / "file" / "runs" / "facts.json", {})


def test_root_comes_from_option_environment_or_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DLDE_ROOT", raising=False)
    assert files.storage_root() == tmp_path / ".dlde"
    monkeypatch.setenv("DLDE_ROOT", str(tmp_path / "b"))
    assert files.storage_root() == tmp_path / "b"
    assert files.storage_root(tmp_path / "c") == tmp_path / "c"


def test_names_are_found_here_before_the_shipped_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = files.find_yaml("pipelines", "neural-operator")
    own = tmp_path / "pipelines" / "neural-operator.yaml"
    own.parent.mkdir()
    own.write_text("a: 1")
    assert files.find_yaml("pipelines", "neural-operator").resolve() == own
    assert shipped.resolve() != own
    with pytest.raises(
        UnknownNameError, match="unknown recipe 'burgers-1d-gfr'; did you mean 'burgers-1d-grf'"
    ):
        files.find_yaml("data", "burgers-1d-gfr")
    with pytest.raises(UnknownNameError, match=r"no such file: x/y\.yaml"):
        files.find_yaml("data", "x/y.yaml")
