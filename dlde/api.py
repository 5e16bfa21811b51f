"""What `import dlde` offers at a Python prompt: the objects that the commands work with.

Everything that takes `root` means the storage root (None: `$DLDE_ROOT`, else `.dlde/` in the working
directory), and everything continues or finds what an earlier call or command has left there.
`docs/python.md` walks through it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlde import evaluation
from dlde.datasets import dataset as datasets
from dlde.datasets.dataset import Dataset
from dlde.datasets.generate import generate as generate_recipe
from dlde.datasets.recipe import Recipe
from dlde.errors import SpecError
from dlde.files import storage_root
from dlde.pipeline import Pipeline, Walk
from dlde.prediction import Prediction
from dlde.prediction import predict as predict_file
from dlde.registry import package
from dlde.registry.package import Model
from dlde.registry.registry import Version, find, resolve
from dlde.search.tune import Found
from dlde.search.tune import tune as search
from dlde.study.reproduce import Reproduction
from dlde.study.reproduce import reproduce as run_study
from dlde.training import job as jobs


@dataclass(frozen=True)
class Trained:
    """A finished training: its run's name and folder, the pipeline, and the metrics of its evaluation."""

    run: str
    folder: Path
    pipeline: Pipeline
    metrics: dict[str, float]
    root: Path

    def model(self, *, device: str = "cpu") -> Model:
        """The model, read from its package."""
        return package.read(self.folder / "model", device=device)

    def curves(self, *names: str) -> dict[str, list[dict[str, float]]]:
        """Logged values by name, as rows {step, seconds, value}; without names all of them."""
        return jobs.curves(self.folder, names or jobs.logged(self.folder))


def load_pipeline(
    name: str,
    *,
    preset: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    variant: str | None = None,
) -> Pipeline:
    """A pipeline by its name or its YAML file, with fields overridden by dotted path.

    >>> import dlde
    >>> pipeline = dlde.load_pipeline("neural-operator", overrides={"method.width": 16})
    >>> pipeline.method.width, pipeline.method.modes
    (16, 16)
    >>> dlde.load_pipeline("neural-operater")
    Traceback (most recent call last):
    dlde.errors.UnknownNameError: unknown pipeline 'neural-operater'; did you mean 'neural-operator'?

    Raises UnknownNameError with the nearest names, SpecError with every mistake.
    """
    return Pipeline.load(name, preset=preset, overrides=overrides, variant=variant)


def generate(
    what: str | Recipe | Pipeline,
    *,
    root: str | Path | None = None,
    workers: int = 1,
    preset: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Dataset | dict[str, Dataset]:
    """The dataset of a recipe (by name or itself), or a pipeline's datasets by role, complete.

    `preset` and `overrides` go with a recipe's name.
    """
    place = storage_root(root)
    if isinstance(what, Pipeline):
        return {
            role: generate_recipe(recipe, place, workers=workers).dataset
            for role, recipe in what.data.items()
        }
    recipe = _recipe(what, preset, overrides)
    return generate_recipe(recipe, place, workers=workers).dataset


def train(
    pipeline: str | Pipeline,
    *,
    root: str | Path | None = None,
    workers: int | None = None,
    fresh: bool = False,
    tracked: bool = True,
    **settings: Any,
) -> Trained:
    """Train a pipeline's method on data that are generated where missing, and evaluate it.

    `workers` Ray Train workers; None: in this process. `settings` are those of `load_pipeline` where
    the pipeline is named. `tracked=False` leaves MLflow out. Raises as the command does.
    """
    loaded = _pipeline(pipeline, settings)
    if workers is not None:
        training = loaded.training.model_copy(update={"workers": workers})
        loaded = loaded.model_copy(update={"training": training})
    walk = Walk(loaded, storage_root(root), tracked=tracked)
    walk.generate(workers=workers)
    walk.train(fresh=fresh)
    metrics: dict[str, float] = walk.evaluate().detail["metrics"]
    return Trained(walk.job.run, walk.folder, loaded, metrics, walk.root)


def register(trained: Trained, *, alias: str | None = None) -> Version:
    """Make a trained model a version in the registry; `alias` instead of the pipeline's."""
    pipeline = trained.pipeline
    if alias is not None:
        registration = pipeline.registration.model_copy(update={"alias": alias})
        pipeline = pipeline.model_copy(update={"registration": registration})
    stage = Walk(pipeline, trained.root).register()
    version = find(trained.root, stage.detail["model"])
    assert version is not None
    return version


def evaluate(
    what: str | Trained, *, root: str | Path | None = None, data: Sequence[str] = ()
) -> evaluation.Result:
    """Measure a registered model (`NAME@alias`, `NAME/version`) or a run again, or on other data."""
    place = what.root if isinstance(what, Trained) else storage_root(root)
    return evaluation.evaluate(what.run if isinstance(what, Trained) else what, place, data=data)


def load_model(reference: str, *, root: str | Path | None = None, device: str = "cpu") -> Model:
    """A registered model, or a package by its path; its files are checked, and no code of it is run.

    Its operations are its methods: `model.predict(u=array)` takes and gives numpy, xarray or torch.
    """
    return package.read(resolve(storage_root(root), reference), device=device)


def open_dataset(
    name: str | Path,
    *,
    root: str | Path | None = None,
    preset: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Dataset:
    """A finished dataset, by its recipe's name or by the path of its store.

    `dataset.to_xarray("train")` opens a split lazily. Raises DataError with the command that completes it.
    """
    if isinstance(name, Path) or Path(name).is_dir():
        return datasets.open_dataset(Path(name))
    return Dataset.open(_recipe(name, preset, overrides), storage_root(root))


def predict(
    model: str, source: str | Path, target: str | Path, *, root: str | Path | None = None, **settings: Any
) -> Prediction:
    """A model's answers to a file, as `dlde predict` writes them; `settings` of `dlde.prediction.predict`."""
    return predict_file(model, Path(source), Path(target), storage_root(root), **settings)


def reproduce(pipeline: str, *, root: str | Path | None = None, **settings: Any) -> Reproduction:
    """Run a study and check its claim; `settings` as of `dlde.study.reproduce.reproduce`."""
    return run_study(pipeline, storage_root(root), **settings)


def tune(pipeline: str, *, root: str | Path | None = None, **settings: Any) -> Found:
    """Search a pipeline's space; `settings` as of `dlde.search.tune.tune`."""
    return search(pipeline, storage_root(root), **settings)


def _pipeline(pipeline: str | Pipeline, settings: Mapping[str, Any]) -> Pipeline:
    if isinstance(pipeline, str):
        return load_pipeline(pipeline, **settings)
    if settings:
        raise SpecError(f"{', '.join(settings)}: only where the pipeline is named", mistakes=list(settings))
    return pipeline


def _recipe(what: str | Path | Recipe, preset: str | None, overrides: Mapping[str, Any] | None) -> Recipe:
    if isinstance(what, Recipe):
        return what
    return Recipe.load(str(what), preset=preset, overrides=overrides or {})
