"""One trial of a search, in the process that Ray Tune gives it.

A trial is a training like any other, in a run's folder of its own: killed, it goes on from its last
checkpoint wherever it is started again. A member of a population lives in a folder of the search, as
what it computes is no one job: its fields change on the way.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dlde.errors import DldeError, InputError, RunningError
from dlde.files import append_line, write_json
from dlde.pipeline import Pipeline, Search, Walk, Watch
from dlde.search import space
from dlde.training import job as jobs
from dlde.training import launch
from dlde.training.run import Execution, Progress

TAKEN_SECONDS = 90.0  # that the processes of a killed search may hold its runs
POLL_SECONDS = 0.5
HANDED = "handed.json"
KEPT = 4  # states of a member that others may still take
SCHEDULE = "schedule.jsonl"
FREED = "freed.json"  # of a run whose model is gone: what it had logged last, its step, its metrics

Report = Callable[[dict[str, Any]], None]


def run(config: dict[str, Any], *, plain: dict[str, Any], root: str, folder: str, numbers: list[int]) -> None:
    """The function that Ray Tune calls: `config` holds the trial's number and its point.

    Of a population it holds the point alone, and `numbers` the trials' numbers in Ray's order: whoever
    takes over another's fields has all of its configuration.

    An error of ours is a result, as another try would end in the same.
    """
    from ray import tune

    pipeline = Pipeline.parse(plain, source="search")
    search = pipeline.search
    assert search is not None
    import torch

    torch.set_num_threads(max(1, int(search.cpus)))
    about: dict[str, Any] = {}
    try:
        if search.algorithm == "pbt":
            number = numbers[place_of(tune.get_context().get_trial_id())]
            point = {path: config[path] for path in search.space}
            place = Path(folder) / f"member-{number:03d}"
            _member(point, place, pipeline, search, Path(root), tune)
        else:
            point = space.from_optuna(search, config.get("listed", config)["point"])
            chosen = trial_of(pipeline, point)
            about = {"run": chosen.job.run, "point": point}
            _alone(chosen, about, search, Path(root), tune.report)
    except DldeError as error:
        tune.report({**about, "objective": _worst(search), "step": 0, "failure": error.message})


def place_of(trial_id: str) -> int:
    """A trial's place in Ray's order, from 0."""
    return int(trial_id.rsplit("_", 1)[1])


def _alone(chosen: Pipeline, about: dict[str, Any], search: Search, root: Path, report: Report) -> None:
    def follow(progress: Progress) -> None:
        value = progress.terms.get(search.metric)
        if value is not None and progress.step < progress.steps:
            report({**about, "objective": value, "step": progress.step})

    walk = Walk(chosen, root, watch=Watch(training=follow), tracked=False)
    freed = _freed(walk.folder, search)
    if freed is not None:
        report({**about, **freed, "own": False, "ended": True})
        return
    own = not jobs.is_trained(walk.folder)
    deadline = time.monotonic() + TAKEN_SECONDS
    while not jobs.is_trained(walk.folder):
        try:
            walk.train()
        except RunningError:  # an orphan of a killed search still holds the run; it ends by itself
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)
    objective = objective_of(walk, search)
    report({**about, "objective": objective, "step": _steps(walk.folder), "own": own, "ended": True})


def free(folder: Path, *, model: bool) -> None:
    """Give back the disk of a trial that has ended: its checkpoints, and its model with `model`.

    What it had reached stays, so that an equal trial need not be trained.
    """
    if model and jobs.is_trained(folder):
        logged = jobs.curves(folder, jobs.logged(folder))
        last = {name: rows[-1]["value"] for name, rows in logged.items() if rows}
        plain = {"logged": last, "step": _steps(folder), "metrics": jobs.metrics_of(folder)}
        write_json(folder / FREED, plain)
        shutil.rmtree(folder / "model")
    for name in ("checkpoints", "handed"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _freed(folder: Path, search: Search) -> dict[str, Any] | None:
    """Objective and step of a run whose model was freed, None where that does not tell them."""
    if jobs.is_trained(folder) or not (folder / FREED).is_file():
        return None
    plain = json.loads((folder / FREED).read_text())
    test = search.metric.startswith("test/")
    values = (plain["metrics"] or {}) if test else plain["logged"]
    value = values.get(search.metric.removeprefix("test/"))
    return None if value is None else {"objective": float(value), "step": plain["step"]}


def trial_of(pipeline: Pipeline, point: space.Point) -> Pipeline:
    """The pipeline of one point, over as many workers as the search says."""
    search = pipeline.search
    assert search is not None
    fields = {**point, "training.workers": search.workers}
    return pipeline.with_fields(fields, source="search")


def objective_of(walk: Walk, search: Search) -> float:
    """The metric of a finished trial: the last logged value, or one of the evaluation.

    Raises InputError for a metric that was never logged, naming those that were.
    """
    if search.metric.startswith("test/"):
        metrics = walk.evaluate(pictures=False).detail["metrics"]
        name = search.metric.removeprefix("test/")
        if name not in metrics:
            raise InputError(
                f"search.metric {search.metric!r}: the evaluation has {', '.join(sorted(metrics))}"
            )
        return float(metrics[name])
    return _logged(walk.folder, search)


def _logged(folder: Path, search: Search) -> float:
    rows = jobs.curves(folder, (search.metric,)).get(search.metric)
    if not rows:
        names = ", ".join(jobs.logged(folder))
        raise InputError(f"search.metric {search.metric!r} is never logged; logged are {names}")
    return float(rows[-1]["value"])


def _steps(folder: Path) -> int:
    rows = jobs.curves(folder, jobs.logged(folder))
    return int(max((values[-1]["step"] for values in rows.values() if values), default=0))


def _member(
    point: space.Point, folder: Path, pipeline: Pipeline, search: Search, root: Path, tune: Any
) -> None:
    """A member of a population: trains by its fields until it takes over another's state and other fields."""
    taken = tune.get_checkpoint()
    if taken is not None:
        point = space.within(search, point)
        with taken.as_directory() as given:
            _take_over(folder, Path(json.loads((Path(given) / HANDED).read_text())["place"]))
    elif (folder / "point.json").exists():  # the whole search goes on
        point = json.loads((folder / "point.json").read_text())
    write_json(folder / "point.json", point)
    chosen = pipeline.with_fields(point, source="search")
    job = chosen.job
    jobs.prepare(job, root, workers=1, folder=folder)
    about_run = json.loads((folder / "job.json").read_text())
    write_json(folder / "job.json", {**about_run, "job": job.dump()})
    passed = schedule(folder)
    if not passed or passed[-1]["point"] != json.loads(json.dumps(point)):
        append_line(folder / SCHEDULE, {"step": _newest(folder), "point": point})
    execution = Execution(
        **{
            **{key: getattr(chosen.training, key) for key in Execution.model_fields},
            "checkpoint_steps": search.perturb,
            "checkpoint_seconds": 1e9,
        }
    )
    about = {"run": str(folder), "point": point}
    reported = -1

    def follow(progress: Progress) -> None:
        nonlocal reported
        value, saved = progress.terms.get(search.metric), _newest(folder)
        if value is None or saved <= reported or saved != progress.step:
            return
        reported = saved
        with _handed(folder, saved) as pointer:
            tune.report(
                {**about, "objective": value, "step": saved},
                checkpoint=tune.Checkpoint.from_directory(pointer),
            )

    if not jobs.is_trained(folder):
        launch.train(job, root, workers=None, execution=execution, progress=follow, folder=folder)
    jobs.evaluate(job, root, pictures=False, folder=folder)
    steps = _steps(folder)
    with _handed(folder, steps) as pointer:
        tune.report(
            {**about, "objective": _logged(folder, search), "step": steps, "ended": True},
            checkpoint=tune.Checkpoint.from_directory(pointer),
        )


def schedule(folder: Path) -> list[dict[str, Any]]:
    """The fields that a member's state went through, itself or in those it was taken from: {step, point}."""
    path = folder / SCHEDULE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _take_over(folder: Path, place: Path) -> None:
    """Another's state and history in place of one's own; where it has moved on, its next."""
    if not place.exists():
        place = min(place.parent.glob("step-*"), default=place)
    if place.parent.parent == folder and _newest(folder) == _newest(place):
        return
    partial = folder / ".taken"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(place, partial)  # before anything goes: a kill leaves one state or the other
    for name in ("model", "curves", "checkpoints"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("curves", SCHEDULE, "checkpoints"):
        (partial / name).replace(folder / name)
    partial.rmdir()


@contextlib.contextmanager
def _handed(folder: Path, step: int) -> Iterator[str]:
    """Checkpoints and curves as they are now, for others to take; what Ray keeps is a pointer to them."""
    place = folder / "handed" / f"step-{step:09d}"
    if not place.exists():
        partial = place.with_name(f".{place.name}")
        shutil.rmtree(partial, ignore_errors=True)
        for name in ("checkpoints", "curves"):
            shutil.copytree(folder / name, partial / name)
        shutil.copy(folder / SCHEDULE, partial / SCHEDULE)
        partial.rename(place)
    for old in sorted(place.parent.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory() as pointer:
        (Path(pointer) / HANDED).write_text(json.dumps({"place": str(place)}))
        yield pointer


def _newest(folder: Path) -> int:
    """The step of the newest checkpoint of the last phase, 0 where there is none."""
    steps = [int(path.stem.removeprefix("step-")) for path in (folder / "checkpoints").glob("*/step-*.pt")]
    return max(steps, default=0)


def _worst(search: Search) -> float:
    return 1e300 if search.mode == "min" else -1e300
