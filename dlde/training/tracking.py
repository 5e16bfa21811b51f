"""MLflow as a replay of the run's folder: whatever happens to either, the next call catches up.

A training never waits for the tracker. `sync` brings MLflow up to date with what the folder holds:
one MLflow run for one training, however often it restarted. Beside a training a process of its own does
so (`Tracker`), because MLflow in a thread would take every tenth of a short step: it works in Python
for as long as it sends.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from dlde.errors import DldeError, StoppedError
from dlde.files import append_line, write_json
from dlde.registry.registry import client, experiment
from dlde.spec import digest_of

BATCH = 1000  # metrics in one request; MLflow's limit
# Rows of a curve that are sent at once; of more, every k-th. All are in the curve's file, which is sent
# when the training has ended: a server takes thousands of numbers a second, not hundreds of thousands.
ROWS = 5000
SYNC_SECONDS = 5.0
END_SECONDS = 120.0  # that a tracker may take to send the rest

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

# A tracker waits with its imports, which take seconds, until the training has begun: it would take the
# processor from what the training imports meanwhile.
_BEGIN = """
import glob, json, os, select, sys
settings = json.loads(sys.argv[1])
curves = os.path.join(glob.escape(settings["folder"]), "curves", "*.jsonl")
while not any(map(os.path.getsize, glob.glob(curves))) and not select.select([sys.stdin], [], [], 0.5)[0]:
    pass
from dlde.training import tracking
tracking.follow(settings)
"""

logger = logging.getLogger(__name__)


def parent(
    root: Path,
    name: str,
    *,
    key: str,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """The MLflow run that the trials of a study or a search are children of; the same key, the same run."""
    from mlflow.entities import Param

    api = client(root)
    place = experiment(root, name)
    known = api.search_runs([place], f"tags.`dlde.trials_of` = '{key}'", max_results=1)
    if known:
        return str(known[0].info.run_id)
    named = {"dlde.trials_of": key, "mlflow.source.name": "dlde", **(tags or {})}
    run = api.create_run(place, tags=named, run_name=f"{name}-{key[:12]}").info.run_id
    parameters = _flat("", dict(params or {}))
    for start in range(0, len(parameters), 100):
        api.log_batch(run, params=[Param(k, v[:6000]) for k, v in parameters[start : start + 100]])
    return str(run)


def parent_if_possible(root: Path, name: str, **settings: Any) -> str | None:
    """`parent`, or a warning and None."""
    try:
        return parent(root, name, **settings)
    except Exception as error:  # whatever a server or its database does
        _warn(error)
        return None


def end_if_possible(root: Path, run: str, status: Status) -> None:
    """Say how a parent run ended, or warn."""
    try:
        client(root).set_terminated(run, status=status)
    except Exception as error:  # whatever a server or its database does
        _warn(error)


def delete_if_possible(root: Path, run: str) -> None:
    """Mark a run as deleted in MLflow, or warn; a run that MLflow no longer knows needs nothing."""
    try:
        client(root).delete_run(run)
    except Exception as error:  # whatever a server or its database does
        _warn(error)


def sync(
    root: Path,
    folder: Path,
    *,
    name: str,
    parent: str | None = None,
    status: Status | None = None,
    reason: str | None = None,
) -> str:
    """Bring MLflow up to date with a run's folder; returns the MLflow run's id.

    Parameters, pipeline, environment, new rows of the curves and of the system's metrics, figures,
    evaluation; nothing is sent twice but what was in flight when a process was killed, and that is the
    same again. A run whose model is there is FINISHED; `status` and `reason` say how another one stands.
    """
    job = json.loads((folder / "job.json").read_text())
    state = _state(root, folder)
    api = client(root)
    if "mlflow_run" not in state:
        state["mlflow_run"] = _find_or_create(api, root, folder, job, name)
        _keep(folder, state)
    run = state["mlflow_run"]
    if parent is not None and state.get("parent") != parent:
        api.set_tag(run, "mlflow.parentRunId", parent)
        state["parent"] = parent
        _keep(folder, state)
    _send_launch(api, run, state, folder)
    for curve in sorted((folder / "curves").glob("*.jsonl")):
        _send_rows(api, run, curve, f"{curve.stem}/", state, folder, start=job["started"])
    if (folder / "system.jsonl").exists():
        _send_rows(api, run, folder / "system.jsonl", "system/", state, folder, start=job["started"])
    evaluation = folder / "evaluation.json"
    if evaluation.exists():
        _send_evaluation(api, run, evaluation, state, folder)
    for figure in sorted((folder / "figures").glob("*.png")):
        _send_file(api, run, figure, "figures", state, folder)
    if (folder / "model" / "model.json").exists():
        status = "FINISHED"
        for curve in sorted((folder / "curves").glob("*.jsonl")):
            _send_file(api, run, curve, "curves", state, folder)
    if status is not None and state.get("status") != status:
        if reason is not None:
            api.set_tag(run, "dlde.reason", reason[:5000])
        if status == "RUNNING":
            api.update_run(run, status=status)
        else:
            api.set_terminated(run, status=status)
        state["status"] = status
        _keep(folder, state)
    return str(run)


def sync_if_possible(root: Path, folder: Path, **settings: Any) -> None:
    """`sync`, or a warning: a tracker that is gone stops nothing, and a later call sends what is missing."""
    try:
        sync(root, folder, **settings)
    except Exception as error:  # whatever a server or its database does
        _warn(error)


class Tracker:
    """Keeps MLflow up to date beside a training, in a process of its own; one that fails stops nothing.

    How the training ended is told by what ends the block: nothing, a wish (StoppedError), or an error.
    """

    def __init__(self, root: Path, folder: Path, *, name: str, parent: str | None = None) -> None:
        self._settings = {
            "root": str(root),
            "folder": str(folder),
            "name": name,
            "parent": parent,
            "watched": os.getpid(),
        }
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Tracker:
        try:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-c", _BEGIN, json.dumps(self._settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
                start_new_session=True,  # a signal to the training is not one to its tracker
            )
        except OSError as error:
            _warn(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        stopped = isinstance(error, (StoppedError, KeyboardInterrupt, SystemExit))
        told = {
            "status": None if error is None else "KILLED" if stopped else "FAILED",
            "reason": None
            if error is None
            else error.message
            if isinstance(error, DldeError)
            else repr(error),
        }
        try:
            self._process.communicate(json.dumps(told), timeout=END_SECONDS)
        except (subprocess.TimeoutExpired, OSError) as late:
            self._process.kill()
            self._process.wait()
            _warn(late)


def follow(settings: Mapping[str, Any]) -> None:
    """What the tracker's process does until its standard input ends, with how the training ended.

    A training that ended well is sent by whoever evaluates it: nothing is left to do here. An input
    that ends with nothing is of a training that was killed.
    """
    root, folder = Path(settings["root"]), Path(settings["folder"])
    options = {"name": settings["name"], "parent": settings["parent"]}
    sending, ended = threading.Lock(), threading.Event()
    last: dict[str, Any] = {}

    def listen() -> None:
        told = sys.stdin.read()
        last.update(json.loads(told) if told else {"status": "KILLED", "reason": "the process was killed"})
        if last["status"] is None:
            with sending:
                os._exit(0)
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    os.nice(10)
    system = _System(folder, settings["watched"])
    with contextlib.suppress(Exception):  # a server that is gone is told of below
        client(root)  # takes seconds, in which the training may end
    while not ended.is_set():
        with sending:
            system.sample()
            sync_if_possible(root, folder, **options, status="RUNNING")
        ended.wait(SYNC_SECONDS)
    sync_if_possible(root, folder, **options, **last)


class _System:
    """Use of the machine while a training runs, as rows of `system.jsonl` in its folder."""

    def __init__(self, folder: Path, process: int) -> None:
        import psutil

        self._psutil, self._process = psutil, process
        self._path = folder / "system.jsonl"
        self._started = json.loads((folder / "job.json").read_text())["started"]
        self._folder = folder
        self._step = sum(1 for _ in _lines(self._path))
        self._gpu = _gpu()
        psutil.cpu_percent()  # the first call measures from here

    def sample(self) -> None:
        """One row, of the machine and of the training's process with all that it started."""
        psutil = self._psutil
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(self._folder))
        self._step += 1
        row = {
            "step": self._step,
            "seconds": round(time.time() - self._started, 3),
            "cpu_percent": psutil.cpu_percent(),
            "memory_percent": memory.percent,
            "memory_used_bytes": memory.used,
            "disk_free_bytes": disk.free,
        }
        with contextlib.suppress(psutil.Error):  # they may end while we look
            process = psutil.Process(self._process)
            family = [process, *process.children(recursive=True)]
            row["process_memory_bytes"] = sum(one.memory_info().rss for one in family)
        with contextlib.suppress(OSError, DldeError):  # a full disk is the training's to report
            append_line(self._path, row | self._gpu())


def _gpu() -> Any:
    """A function that gives use and memory of every NVIDIA GPU, nothing where there is none."""
    try:
        import pynvml  # type: ignore[import-not-found]

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except Exception:  # no such library, no driver, no device
        return dict

    def look() -> dict[str, float]:
        found = {}
        for index, handle in enumerate(handles):
            found[f"gpu_{index}_percent"] = float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
            found[f"gpu_{index}_memory_used_bytes"] = float(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
        return found

    return look


def _warn(error: BaseException) -> None:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    logger.warning("MLflow is not up to date, everything else goes on: %s", reason)


def _state(root: Path, folder: Path) -> dict[str, Any]:
    """What MLflow already has, for the tracking server that is configured now."""
    path = folder / "tracking.json"
    server = digest_of(client(root).tracking_uri)
    state: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return state if state.get("server") == server else {"server": server}


def _keep(folder: Path, state: dict[str, Any]) -> None:
    write_json(folder / "tracking.json", state)


def _find_or_create(api: Any, root: Path, folder: Path, job: dict[str, Any], name: str) -> str:
    from mlflow.entities import Param

    place = experiment(root, name)
    digest, started = folder.name, f"{job['started']:.3f}"
    wanted = f"tags.`dlde.run` = '{digest}' and tags.`dlde.started` = '{started}'"
    known = api.search_runs([place], wanted, max_results=1)
    if known:
        return str(known[0].info.run_id)
    tags = {
        "dlde.run": digest,
        "dlde.started": started,  # another one where the training was begun afresh
        "mlflow.source.name": "dlde",
        **{f"dlde.code.{key}": str(value) for key, value in job["code"].items()},
    }
    if job["code"].get("commit"):
        tags["mlflow.source.git.commit"] = job["code"]["commit"]
    run = api.create_run(place, tags=tags, run_name=digest, start_time=int(job["started"] * 1000)).info.run_id
    parameters = _flat("", job["job"])
    for start in range(0, len(parameters), 100):
        api.log_batch(run, params=[Param(k, v[:6000]) for k, v in parameters[start : start + 100]])
    api.log_dict(run, job["job"], "job.json")
    return str(run)


def _send_launch(api: Any, run: str, state: dict[str, Any], folder: Path) -> None:
    """What may differ from start to start: the pipeline as it was resolved, workers and environment."""
    from mlflow.entities import RunTag

    if (folder / "pipeline.yaml").exists():
        _send_file(api, run, folder / "pipeline.yaml", None, state, folder)
    path = folder / "execution.json"
    execution = json.loads(path.read_text()) if path.exists() else {}
    shown = {key: execution[key] for key in ("workers", "alone", "environment") if key in execution}
    digest = digest_of(shown)
    if state.get("execution") != digest:
        tags = [RunTag(f"dlde.{key}", value) for key, value in _flat("", shown)]
        api.log_batch(run, tags=tags)
        state["execution"] = digest
        _keep(folder, state)


def _send_rows(
    api: Any, run: str, path: Path, prefix: str, state: dict[str, Any], folder: Path, *, start: float
) -> None:
    from mlflow.entities import Metric

    sent = state.setdefault("curves", {}).get(path.stem, 0)
    rows = [row for row in map(_row, _lines(path)) if row is not None and row["step"] > sent]
    every = -(-len(rows) // ROWS) or 1
    chosen = rows[every - 1 :: every]
    if rows and (not chosen or chosen[-1] is not rows[-1]):
        chosen.append(rows[-1])
    metrics = [
        Metric(f"{prefix}{key}", value, int((start + row["seconds"]) * 1000), row["step"])
        for row in chosen
        for key, value in row.items()
        if key != "step"
    ]
    for first in range(0, len(metrics), BATCH):
        batch = metrics[first : first + BATCH]
        api.log_batch(run, metrics=batch)
        state["curves"][path.stem] = batch[-1].step - (first + BATCH < len(metrics))
        _keep(folder, state)


def _send_file(
    api: Any, run: str, path: Path, place: str | None, state: dict[str, Any], folder: Path
) -> None:
    """Once, and again where it was written anew."""
    stamp, label = path.stat().st_mtime_ns, f"{place or ''}/{path.name}"
    if state.setdefault("files", {}).get(label) != stamp:
        api.log_artifact(run, str(path), place)
        state["files"][label] = stamp
        _keep(folder, state)


def _send_evaluation(api: Any, run: str, path: Path, state: dict[str, Any], folder: Path) -> None:
    from mlflow.entities import Metric

    content = json.loads(path.read_text())
    digest = digest_of(content)
    if state.get("evaluation") == digest:
        return
    now = int(path.stat().st_mtime * 1000)
    metrics = [Metric(f"test/{key}", value, now, 0) for key, value in content["metrics"].items()]
    metrics += [
        Metric(f"curve/{name}", value, now, int(x))
        for name, curve in content["curves"].items()
        for x, value in curve
    ]
    for first in range(0, len(metrics), BATCH):
        api.log_batch(run, metrics=metrics[first : first + BATCH])
    api.log_artifact(run, str(path))
    model = path.parent / "model" / "model.json"
    for role, data in json.loads(model.read_text())["lineage"]["data"].items():
        api.set_tag(run, f"dlde.data.{role}", data["content_digest"])
    state["evaluation"] = digest
    _keep(folder, state)


def _lines(path: Path) -> Iterator[str]:
    if path.is_file():
        with path.open() as file:
            yield from file


def _row(line: str) -> dict[str, Any] | None:
    try:
        row: dict[str, Any] = json.loads(line)
    except ValueError:  # a row that is being written
        return None
    return row


def _flat(place: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict) and (value or not place):  # MLflow takes no name that is empty
        return [
            pair for key, inner in value.items() for pair in _flat(f"{place}.{key}" if place else key, inner)
        ]
    return [(place, value if isinstance(value, str) else json.dumps(value))]
