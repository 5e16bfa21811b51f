"""Measuring a trained model again: a run or a registered model, on its own data or on another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dlde import memory
from dlde.datasets.dataset import Dataset, open_dataset
from dlde.datasets.recipe import Recipe
from dlde.errors import InputError, UnknownNameError
from dlde.method import DataInfo
from dlde.registry import package
from dlde.registry.registry import resolve
from dlde.training import job as jobs
from dlde.training.run import EngineRun


@dataclass(frozen=True)
class Result:
    """Metrics of one model on one dataset, with the names of both."""

    run: str
    model: str
    data: str
    metrics: dict[str, float]


def evaluate(what: str, root: Path, *, data: Sequence[str] = ()) -> Result:
    """Measure a run or a registered model on its own data, or on `data`: stores' paths or recipes' names.

    A method of several roles takes `ROLE=NAME` for each.

    Raises UnknownNameError, IntegrityError for a model whose files were altered, DataError, and
    GridError or SpecError for data that the method cannot work on.
    """
    folder = root / "runs" / what / "model" if what in jobs.runs(root) else resolve(root, what)
    if not (folder / "model.json").is_file():
        raise UnknownNameError(f"run {what!r} has no trained model yet; train it first", name=what)
    model = package.read(folder)
    run = model.document["lineage"]["run"]
    datasets: dict[str, Dataset] = {}
    if not model.method.roles:
        if data:
            raise InputError(f"model {what!r} learned from an equation, not from data; leave out --data")
    elif data:
        datasets = _datasets(model.method.roles, data, root)
    elif run in jobs.runs(root):
        datasets, _ = jobs.open_data(jobs.load(root, run), root)
    else:
        raise InputError(
            f"the run {run!r} of model {what!r} is not under {root}; name the data to measure on by --data"
        )
    place = root / "evaluations" / model.digest[:12]
    info = DataInfo(
        problem=model.info.problem, data={role: dataset.info for role, dataset in datasets.items()}
    )
    model.method.check(info)
    engine = EngineRun(place, info, datasets, seed=model.document["lineage"]["seed"])
    with memory.kept():
        measured = model.method.evaluate(model.module, engine)
    name = ", ".join(str(dataset.store) for dataset in datasets.values()) or "its equation"
    return Result(run, what, name, measured.metrics)


def _datasets(roles: Sequence[str], data: Sequence[str], root: Path) -> dict[str, Dataset]:
    named: dict[str, str] = {}
    for pair in data:
        role, separator, name = pair.partition("=")
        named[role if separator else roles[0]] = name if separator else pair
    if set(named) != set(roles) or len(named) < len(data):
        raise InputError(
            f"--data {' --data '.join(data)}: this method reads data in the roles {', '.join(roles)}; "
            "name one dataset for each, as ROLE=NAME"
        )
    return {role: _dataset(name, root) for role, name in named.items()}


def _dataset(name: str, root: Path) -> Dataset:
    return open_dataset(Path(name)) if Path(name).exists() else Dataset.open(Recipe.load(name), root)
