"""The runs of a storage root: what they are, where they stand; ended and removed."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dlde.errors import InputError, RunningError, TrainingError, UnknownNameError, nearest
from dlde.files import locked, write_atomically
from dlde.training import job as jobs
from dlde.training.launch import STOP

STOP_SECONDS = 120.0  # that a run may take to save and end
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Entry:
    """One run in a list."""

    run: str
    pipeline: str  # that it was last started from; "" where that is not known
    state: str  # "running" | "finished" | "stopped" | "failed" | "interrupted"
    step: int  # that its newest curve has reached
    losses: dict[str, float]  # of that step
    metrics: dict[str, float]  # of its evaluation
    started: float  # seconds since 1970
    bytes: int  # on disk

    def dump(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def entries(root: Path) -> list[Entry]:
    """All runs, the newest first."""
    found = [_entry(root, root / "runs" / name) for name in jobs.runs(root)]
    return sorted(found, key=lambda entry: -entry.started)


def inspect(root: Path, run: str) -> dict[str, Any]:
    """Everything about one run. Raises UnknownNameError with the nearest names."""
    folder = _folder(root, run)
    tracked = _read(folder / "tracking.json")
    job = _read(folder / "job.json")
    return {
        **_entry(root, folder).dump(),
        "folder": str(folder),
        "job": job["job"],
        "code": job["code"],
        "execution": jobs.execution_of(folder),
        "failure": _read(folder / "failure.json") or None,
        "mlflow_run": tracked.get("mlflow_run"),
        "checkpoints": {
            str(path.relative_to(folder)): path.stat().st_size
            for path in sorted((folder / "checkpoints").rglob("*.pt"))
        },
        "figures": [str(path) for path in sorted((folder / "figures").glob("*.png"))],
        "model": str(folder / "model") if jobs.is_trained(folder) else None,
        "data": jobs.content_digests(folder) if jobs.is_trained(folder) else {},
    }


def stop(root: Path, run: str) -> Entry:
    """Ask a run to save its state and end, and wait until it has.

    Raises InputError for a run that nobody works on, TrainingError for one that has not ended in time.
    """
    folder = _folder(root, run)
    if not _is_running(root, run):
        raise InputError(f"run {run!r} is not running: there is nothing to stop", run=run)
    write_atomically(folder / STOP, "dlde runs stop\n")
    until = time.monotonic() + STOP_SECONDS
    while _is_running(root, run):
        if time.monotonic() > until:
            raise TrainingError(
                f"run {run!r} was asked to end and has not within {STOP_SECONDS:g} s; it ends at its next "
                "look at its folder, or by a signal to its process",
                run=run,
            )
        time.sleep(POLL_SECONDS)
    return _entry(root, folder)


def remove(root: Path, runs: list[str], *, checkpoints_only: bool = False) -> int:
    """Remove runs, with their MLflow runs, or free their checkpoints alone; returns the bytes freed.

    Nothing is removed where one of them may not be: raises InputError for one that runs, one that is
    not finished whose checkpoints are to go, and one that a registered model comes from.
    """
    folders = [_folder(root, run) for run in runs]
    needed = {} if checkpoints_only else _registered(root, folders)
    for folder in folders:
        run = folder.name
        if _is_running(root, run):
            raise InputError(f"run {run!r} is being worked on; `dlde runs stop {run}` first", run=run)
        if checkpoints_only and not jobs.is_trained(folder):
            raise InputError(
                f"run {run!r} is not finished: without its checkpoints it would begin anew. Finish it, or "
                f"remove it whole by `dlde runs remove {run}`",
                run=run,
            )
        if run in needed:
            raise InputError(
                f"run {run!r} is where the registered model {needed[run]} comes from; its checkpoints alone "
                f"can go: `dlde runs remove {run} --checkpoints`. To remove it whole, delete that version "
                "from the registry first",
                run=run,
            )
    freed = 0
    for folder in folders:
        with locked(root / "runs" / ".locks" / folder.name, f"run {folder.name}"):
            target = folder / "checkpoints" if checkpoints_only else folder
            freed += _bytes(target)
            if not checkpoints_only:
                _forget(root, folder)
            if target.exists():
                removed = target.with_name(f".{target.name}.removed")  # at once, then file by file
                shutil.rmtree(removed, ignore_errors=True)
                target.rename(removed)
                shutil.rmtree(removed)
    return freed


def _entry(root: Path, folder: Path) -> Entry:
    job = _read(folder / "job.json")
    row = _last_row(folder)
    losses = {key: value for key, value in row.items() if key not in ("step", "seconds")}
    return Entry(
        run=folder.name,
        pipeline=_pipeline(folder),
        state=_state(root, folder),
        step=int(row.get("step", 0)),
        losses=losses,
        metrics=_read(folder / "evaluation.json").get("metrics", {}),
        started=job.get("started", 0.0),
        bytes=_bytes(folder),
    )


def _state(root: Path, folder: Path) -> str:
    if _is_running(root, folder.name):
        return "running"
    if jobs.is_trained(folder):
        return "finished"
    failure = _read(folder / "failure.json")
    if failure:
        return "stopped" if failure.get("type") == "StoppedError" else "failed"
    return "interrupted"


def _is_running(root: Path, run: str) -> bool:
    try:
        with locked(root / "runs" / ".locks" / run, f"run {run}"):
            return False
    except RunningError:
        return True


def _folder(root: Path, run: str) -> Path:
    known = jobs.runs(root)
    if run not in known:
        raise UnknownNameError(f"unknown run {run!r}; {nearest(run, known)}", name=run)
    return root / "runs" / run


def _pipeline(folder: Path) -> str:
    """`name` is the first line of a pipeline as it is written out; the whole file would take long to read."""
    with contextlib.suppress(OSError), (folder / "pipeline.yaml").open() as file:
        key, _, value = file.readline().partition(":")
        return value.strip() if key == "name" else ""
    return ""


def _last_row(folder: Path) -> dict[str, Any]:
    """The last whole row of the curve that was written last."""
    curves = sorted((folder / "curves").glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
    for path in reversed(curves):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 65536))
            lines = file.read().splitlines()
        for line in reversed(lines):
            with contextlib.suppress(ValueError):
                row: dict[str, Any] = json.loads(line)
                return row
    return {}


def _registered(root: Path, folders: list[Path]) -> dict[str, str]:
    """Run -> the registered model that comes from it."""
    from dlde.registry import registry

    tracked = {_read(folder / "tracking.json").get("mlflow_run"): folder.name for folder in folders}
    tracked.pop(None, None)
    if not tracked:
        return {}
    return {
        tracked[version.run_id]: f"{version.name}/{version.version}"
        for version in registry.models(root)
        if version.run_id in tracked
    }


def _forget(root: Path, folder: Path) -> None:
    """The run's MLflow run counts as deleted; `mlflow gc` removes it and its files for good."""
    from dlde.training import tracking

    run = _read(folder / "tracking.json").get("mlflow_run")
    if run is not None:
        tracking.delete_if_possible(root, run)


def _bytes(folder: Path) -> int:
    return sum(_sizes(folder)) if folder.exists() else 0


def _sizes(folder: Path) -> Iterator[int]:
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # a training may be replacing it
            if path.is_file():
                yield path.stat().st_size


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content
