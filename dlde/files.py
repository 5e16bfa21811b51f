"""Files: written whole or not at all, locked against a second writer, and found by name."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from dlde.errors import RunningError, StorageFullError, UnknownNameError, UnwritableError, nearest

Folder = Literal["data", "pipelines", "cluster"]


def storage_root(explicit: str | Path | None = None) -> Path:
    """Where all results go: `explicit`, else $DLDE_ROOT, else `.dlde/` in the working directory."""
    return Path(explicit or os.environ.get("DLDE_ROOT") or ".dlde").expanduser().resolve()


@contextlib.contextmanager
def unwritable_named(path: Path) -> Iterator[None]:
    """Turn "no space left" and "you may not write here" into errors that name the place and the cure."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError(
                f"no space left while writing {path}: free some, then run the same command again; "
                "it continues where it stopped",
                path=str(path),
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise UnwritableError(
                f"cannot write {path}: {error.strerror}; choose another storage root by --root or "
                "$DLDE_ROOT, or another place for an output that you named",
                path=str(path),
                reason=error.strerror,
            ) from error
        raise


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace `path` in one step that survives a crash. Raises StorageFullError."""
    data = content.encode() if isinstance(content, str) else content
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with unwritable_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_json(path: Path, plain: Any) -> None:
    """`write_atomically` of plain data as indented JSON."""
    write_atomically(path, json.dumps(plain, indent=1, allow_nan=False) + "\n")


def append_line(path: Path, plain: Any) -> None:
    """Add one line of JSON to a file, in one write: lines of several processes do not mix."""
    with unwritable_named(path), path.open("a") as file:
        file.write(json.dumps(plain, allow_nan=False) + "\n")


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold `folder` for this process alone; the lock goes with the process, however it ends.

    Raises RunningError where another process holds it, and UnwritableError.
    """
    with unwritable_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        opened = (folder / ".lock").open("a+")
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RunningError(
                f"{what} is being worked on by process {file.read().strip() or '?'}; "
                "wait for it, or end it, then run the same command again",
                folder=str(folder),
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


@contextlib.contextmanager
def beside(path: Path, *, alone: bool, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Work among others who hold `path` for their time, or, `alone`, wait until nobody does.

    Others wait for one who is alone. `waiting` is called once where this has to wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, kind)
        yield


def find_yaml(folder: Folder, name: str) -> Path:
    """The file of a recipe, pipeline or cluster: a path, or a name looked up here and among the shipped ones.

    Raises UnknownNameError with the nearest names.
    """
    if name.endswith((".yaml", ".yml")) or os.sep in name:
        path = Path(name)
        if not path.is_file():
            raise UnknownNameError(f"no such file: {name}", name=name)
        return path
    known = yaml_files(folder)
    if name not in known:
        noun = {"data": "recipe", "pipelines": "pipeline", "cluster": "cluster"}[folder]
        raise UnknownNameError(f"unknown {noun} {name!r}; {nearest(name, known)}", name=name)
    return known[name]


def yaml_files(folder: Folder) -> dict[str, Path]:
    """Name -> file of all recipes, pipelines or clusters: the working directory's before the shipped ones."""
    package = Path(__file__).parent
    found: dict[str, Path] = {}
    for place in (package / "resources" / folder, package.parent / folder, Path(folder)):
        if place == package.parent / folder and not (package.parent / "pyproject.toml").is_file():
            continue
        for path in sorted(place.glob("*.yaml")) if place.is_dir() else ():
            found[path.stem] = path
    return found
