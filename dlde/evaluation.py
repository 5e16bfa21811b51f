"""Measuring a trained model again: a run or a registered model, on its own data or on another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dlde.datasets.dataset import Dataset, open_dataset
from dlde.datasets.recipe import Recipe
from dlde.errors import InputError, UnknownNameError
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


def evaluate(what: str, root: Path, *, data: str | None = None) -> Result:
    """Measure a run or a registered model; `data` is a store's path or a recipe's name.

    Raises UnknownNameError, IntegrityError for a model whose files were altered, DataError.
    """
    folder = root / "runs" / what / "model" if what in jobs.runs(root) else resolve(root, what)
    if not (folder / "model.json").is_file():
        raise UnknownNameError(f"run {what!r} has no trained model yet; train it first", name=what)
    model = package.read(folder)
    run = model.document["lineage"]["run"]
    datasets: dict[str, Dataset] = {}
    if not model.method.roles:
        if data is not None:
            raise InputError(f"model {what!r} learned from an equation, not from data; leave out --data")
    elif data is not None:
        datasets = dict.fromkeys(model.method.roles, _dataset(data, root))
    elif run in jobs.runs(root):
        datasets, _ = jobs.open_data(jobs.load(root, run), root)
    else:
        raise InputError(
            f"the run {run!r} of model {what!r} is not under {root}; name the data to measure on by --data"
        )
    place = root / "evaluations" / model.digest[:12]
    engine = EngineRun(place, model.info, datasets, seed=model.document["lineage"]["seed"])
    measured = model.method.evaluate(model.module, engine)
    name = ", ".join(str(dataset.store) for dataset in datasets.values()) or "its equation"
    return Result(run, what, name, measured.metrics)


def _dataset(name: str, root: Path) -> Dataset:
    return open_dataset(Path(name)) if Path(name).exists() else Dataset.open(Recipe.load(name), root)
