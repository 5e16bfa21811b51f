"""MLflow as a replay of the run's folder: whatever happens to either, the next call catches up.

A training never waits for the tracker. `sync` brings MLflow up to date with what the folder holds:
one MLflow run for one training, however often it restarted.
"""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from dlde.files import write_json
from dlde.registry.registry import client, experiment
from dlde.spec import digest_of

BATCH = 1000  # metrics in one request; MLflow's limit
SYNC_SECONDS = 5.0

logger = logging.getLogger(__name__)


def sync(root: Path, folder: Path, *, name: str) -> str:
    """Bring MLflow up to date with a run's folder; returns the MLflow run's id.

    Parameters, new rows of the curves, metrics and figures; nothing is sent twice but what was in
    flight when a process was killed, and that is the same again.
    """
    job = json.loads((folder / "job.json").read_text())
    state = _state(root, folder)
    api = client(root)
    if "mlflow_run" not in state:
        state["mlflow_run"] = _find_or_create(api, root, folder, job, name)
        _keep(folder, state)
    run = state["mlflow_run"]
    for curve in sorted((folder / "curves").glob("*.jsonl")):
        _send_curve(api, run, curve, state, folder, start=job["started"])
    evaluation = folder / "evaluation.json"
    if evaluation.exists():
        _send_evaluation(api, run, evaluation, state, folder)
    for figure in sorted((folder / "figures").glob("*.png")):
        stamp = figure.stat().st_mtime_ns
        if state.setdefault("figures", {}).get(figure.name) != stamp:
            api.log_artifact(run, str(figure), "figures")
            state["figures"][figure.name] = stamp
            _keep(folder, state)
    if (folder / "model" / "model.json").exists() and not state.get("finished"):
        api.set_terminated(run)
        state["finished"] = True
        _keep(folder, state)
    return str(run)


def sync_if_possible(root: Path, folder: Path, *, name: str) -> None:
    """`sync`, or a warning: a tracker that is gone stops nothing, and a later call sends what is missing."""
    try:
        sync(root, folder, name=name)
    except Exception as error:  # whatever a server or its database does
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        logger.warning("MLflow is not up to date, everything else goes on: %s", reason)


class Tracker:
    """Keeps MLflow up to date beside a training, in a thread; a tracker that fails stops nothing."""

    def __init__(self, root: Path, folder: Path, *, name: str) -> None:
        self.root, self.folder, self.name = root, folder, name
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Tracker:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self.thread.join()

    def _follow(self) -> None:
        while True:
            sync_if_possible(self.root, self.folder, name=self.name)
            if self.ended.wait(SYNC_SECONDS):
                return


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
    digest = folder.name
    known = api.search_runs([place], f"tags.`dlde.run` = '{digest}'", max_results=1)
    if known:
        return str(known[0].info.run_id)
    tags = {
        "dlde.run": digest,
        "mlflow.source.name": "dlde",
        **{f"dlde.code.{key}": str(value) for key, value in job["code"].items()},
    }
    run = api.create_run(place, tags=tags, run_name=digest, start_time=int(job["started"] * 1000)).info.run_id
    parameters = list(_flat("", job["job"]))
    for start in range(0, len(parameters), 100):
        api.log_batch(run, params=[Param(k, v[:6000]) for k, v in parameters[start : start + 100]])
    api.log_dict(run, job["job"], "job.json")
    return str(run)


def _send_curve(
    api: Any, run: str, curve: Path, state: dict[str, Any], folder: Path, *, start: float
) -> None:
    from mlflow.entities import Metric

    sent = state.setdefault("curves", {}).get(curve.stem, 0)
    lines = curve.read_text().splitlines()
    rows = [row for row in map(_row, lines) if row is not None and row["step"] > sent]
    metrics = [
        Metric(f"{curve.stem}/{key}", value, int((start + row["seconds"]) * 1000), row["step"])
        for row in rows
        for key, value in row.items()
        if key != "step"
    ]
    for first in range(0, len(metrics), BATCH):
        batch = metrics[first : first + BATCH]
        api.log_batch(run, metrics=batch)
        state["curves"][curve.stem] = batch[-1].step - (first + BATCH < len(metrics))
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
    api.log_batch(run, metrics=metrics)
    api.log_artifact(run, str(path))
    model = path.parent / "model" / "model.json"
    for role, data in json.loads(model.read_text())["lineage"]["data"].items():
        api.set_tag(run, f"dlde.data.{role}", data["content_digest"])
    state["evaluation"] = digest
    _keep(folder, state)


def _row(line: str) -> dict[str, Any] | None:
    try:
        row: dict[str, Any] = json.loads(line)
    except ValueError:  # a row that is being written
        return None
    return row


def _flat(place: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        return [
            pair for key, inner in value.items() for pair in _flat(f"{place}.{key}" if place else key, inner)
        ]
    return [(place, value if isinstance(value, str) else json.dumps(value))]
