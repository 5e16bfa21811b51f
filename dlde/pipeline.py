"""The noun `Pipeline`, and its walk: generate → train → evaluate → register.

The walk is idempotent: every stage asks the storage root what is there, so that the same command
again finds what is done, and after a kill goes on where it stopped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
import yaml
from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from dlde.claims import Claim
from dlde.cluster import Cluster
from dlde.datasets.dataset import Dataset
from dlde.datasets.generate import generate
from dlde.datasets.recipe import Recipe
from dlde.errors import DamagedDataError, DataError, InputError, SpecError, UnknownNameError, nearest
from dlde.files import beside, find_yaml, locked, write_atomically
from dlde.method import AnyMethod
from dlde.problem import AnyProblem, Seed
from dlde.registry import package
from dlde.registry.registry import register
from dlde.spec import Spec, override, read_yaml
from dlde.training import job as jobs
from dlde.training import launch, tracking
from dlde.training.job import Job
from dlde.training.run import Execution, Precision, Progress


def _read_recipe(value: Any) -> Any:
    """A recipe by name, by `{recipe, preset, set}`, or whole."""
    if isinstance(value, str):
        value = {"recipe": value}
    if not isinstance(value, Mapping) or "recipe" not in value:
        return value
    unknown = set(value) - {"recipe", "preset", "set"}
    if unknown:
        raise ValueError(f"unknown keys {sorted(unknown)}; known: recipe, preset, set")
    try:
        return Recipe.load(value["recipe"], preset=value.get("preset"), overrides=value.get("set") or {})
    except InputError as error:
        raise ValueError(error.message) from None


class Training(Execution):
    """How the training is executed: besides `Execution`, over how many workers."""

    precision: Precision = "float32"  # "bfloat16" where the method allows it
    workers: PositiveInt | None = None  # Ray Train workers; None: in the calling process
    rollout_workers: NonNegativeInt = 0  # actors that simulate beside it; 0: in the training's process


class Sweep(Spec):
    """One axis of a study: values of one `field`, or named `settings` of several."""

    field: str | None = None  # dotted place in the pipeline
    values: tuple[Any, ...] = ()
    settings: dict[str, dict[str, Any]] = {}  # label -> overrides; `study.seeds` may be among them
    variants: tuple[str, ...] | None = None  # that it belongs to; None: all

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if bool(self.settings) == bool(self.field) or bool(self.field) != bool(self.values):
            raise ValueError("give either field and values, or settings")
        if not all(isinstance(value, (str, int, float)) for value in self.values):
            raise ValueError("values must be numbers or words; give lists and mappings as named settings")
        return self

    @property
    def points(self) -> dict[Any, dict[str, Any]]:
        """Label -> overrides."""
        if self.field is None:
            return dict(self.settings)
        return {value: {self.field: value} for value in self.values}


class StudyFigure(Spec):
    """One picture of a study: a metric of every variant, over an axis or along its curves."""

    metric: str
    # An axis, or "step" or "seconds" of a logged curve, or "at" of an evaluated one; None: a column for
    # each variant.
    over: str | None = None
    where: dict[str, Any] = {}  # columns and their values
    level: float | None = None  # a line to compare with
    label: str | None = None  # of the metric's axis; None: its name


class Study(Spec):
    """Variants (named overrides of the pipeline) times axes times seeds; `claim` reads the table."""

    variants: dict[str, dict[str, Any]]
    axes: dict[str, Sweep] = {}
    seeds: tuple[Seed, ...] = (0, 1, 2)
    vary: tuple[Literal["training", "data"], ...] = ("training",)  # what a seed is the seed of
    exclusive: bool = False  # these trials measure time: nothing else of this root runs beside them
    curves: tuple[str, ...] = ()  # logged values, and curves of the evaluation, that enter the table
    group: PositiveInt = 1  # cheap trials in one task, where tasks are spread over workers
    figures: tuple[StudyFigure, ...] = ()

    @model_validator(mode="after")
    def _known_variants(self) -> Self:
        for name, axis in self.axes.items():
            if name in ("variant", "seed", "metric", "step", "seconds", "at", "value"):
                raise ValueError(f"axis {name!r} has the name of a column of the table; choose another")
            unknown = sorted(set(axis.variants or ()) - set(self.variants))
            if unknown:
                raise ValueError(f"axis {name!r} belongs to unknown variants {unknown}")
        return self


class Range(Spec):
    """Where a search looks for one field: exactly one of these."""

    choice: tuple[Any, ...] = ()
    uniform: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = None
    integer: tuple[int, int] | None = None  # both ends included
    log_integer: tuple[int, int] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(type(self).model_fields)}")
        if given[0] != "choice":
            low, high = getattr(self, given[0])
            if not low < high or (given[0].startswith("log") and low <= 0):
                raise ValueError(
                    f"{given[0]}: expected [low, high] with {'0 < ' * given[0].startswith('log')}low < high"
                )
        return self

    @property
    def ends(self) -> tuple[Any, ...]:
        """Every choice, or the two ends: what must be valid for the rest to be."""
        return self.choice or next(
            ends
            for name in ("uniform", "log_uniform", "integer", "log_integer")
            if (ends := getattr(self, name))
        )


class Search(Spec):
    """What `dlde tune` looks for: fields of the pipeline, by dotted path, that make a metric best.

    `metric` is a logged value, such as a loss term or what a method validates by, or "test/NAME" of the
    evaluation. What is chosen on the test data is measured too well on them: say so, or hold some back.
    """

    space: dict[str, Range]
    metric: str
    mode: Literal["min", "max"] = "min"
    trials: PositiveInt = 20  # of "grid" all points, whatever stands here; of "pbt" the population
    algorithm: Literal["tpe", "random", "grid", "pbt"] = "tpe"
    scheduler: Literal["asha", "none"] = "asha"  # whether bad trials end early; not with "pbt"
    grace: PositiveInt = 100  # steps that no trial ends before
    reduction: Annotated[int, Field(ge=2)] = 3  # of so many trials the best goes on
    perturb: PositiveInt = 100  # steps between two looks at the others, of "pbt"
    cpus: PositiveFloat = 1.0  # of a trial
    gpus: NonNegativeFloat = 0.0  # of a trial; fractions share one
    workers: PositiveInt | None = None  # Ray Train workers of a trial; None: it is one process
    concurrent: PositiveInt | None = None  # trials at a time; None: as many as there is room for
    keep: PositiveInt = 3  # best trials that keep their models
    seed: Seed = 0

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.space:
            raise ValueError("space: name at least one field")
        if self.metric.startswith("test/") and (self.algorithm == "pbt" or self.scheduler == "asha"):
            raise ValueError(
                f"metric {self.metric!r} is known only when a trial has ended; use scheduler: none with "
                "another algorithm than pbt, or a metric that is logged while training"
            )
        for name, where in self.space.items():
            if self.algorithm == "grid" and not where.choice:
                raise ValueError(f"space.{name}: algorithm grid needs a choice of values")
        return self


class Registration(Spec):
    """Under which name a trained model is registered, and the alias that it takes."""

    model: str | None = None  # None: the pipeline's name
    alias: str | None = "champion"


class Pipeline(Spec):
    """What a job runs; nothing about where it runs."""

    name: str
    description: str = ""
    problem: AnyProblem | None = None
    data: dict[str, Annotated[Recipe, BeforeValidator(_read_recipe)]] = {}  # by role
    method: AnyMethod
    seed: Seed = 0
    training: Training = Training()
    study: Study | None = None
    search: Search | None = None
    registration: Registration = Registration()

    @classmethod
    def load(
        cls,
        name: str,
        *,
        preset: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        variant: str | None = None,
        settings: Sequence[Mapping[str, Any]] = (),
    ) -> Self:
        """A pipeline by name or path: the file, then its preset, the variant, settings, overrides.

        `settings` are overrides from the file itself (the points of a study's axes). Raises SpecError
        with every mistake, or UnknownNameError.
        """
        path = find_yaml("pipelines", name)
        raw = _over({"name": path.stem, **read_yaml(path)}, {})
        presets = raw.pop("presets", {})
        if preset is not None:
            raw = _over(raw, _named("preset", preset, presets, path.stem))
        if variant is not None:
            variants = (raw.get("study") or {}).get("variants") or {}
            raw = _over(raw, _named("variant", variant, variants, path.stem))
            if variants[variant]:
                raw.setdefault("registration", {}).setdefault("model", f"{path.stem}-{variant}")
        for changes in (*settings, overrides or {}):
            raw = _over(raw, changes)
        pipeline = cls.parse(raw, source=path.name)
        pipeline.claim_checked()
        return pipeline

    def with_fields(self, fields: Mapping[str, Any], *, source: str) -> Self:
        """This pipeline with fields replaced, by dotted path. Raises SpecError for one that is not there."""
        plain = self.dump()
        for path in fields:
            place: Any = plain
            for step in path.split("."):
                if not isinstance(place, Mapping) or step not in place:
                    known = place if isinstance(place, Mapping) else ()
                    raise SpecError(
                        f"{source}: no field {path!r}; at {step!r}: {nearest(step, known)}", mistakes=[path]
                    )
                place = place[step]
        return self.parse(override(plain, fields), source=source)

    @property
    def job(self) -> Job:
        """The mathematics of its training."""
        return Job(
            method=self.method,
            problem=self.problem,
            data=self.data,
            seed=self.seed,
            precision=self.training.precision,
        )

    @property
    def model_name(self) -> str:
        """The registered model's name."""
        return self.registration.model or self.name

    @property
    def claim(self) -> Claim | None:
        """The `claim` of the method's file, or None."""
        return getattr(sys.modules[type(self.method).__module__], "claim", None)

    def claim_checked(self) -> None:
        """Refuse a study that lacks what the method's claim needs. Raises SpecError."""
        if self.study is None or self.claim is None:
            return
        missing = [
            *(f"study.variants.{name}" for name in self.claim.variants if name not in self.study.variants),
            *(f"study.axes.{name}" for name in self.claim.axes if name not in self.study.axes),
        ]
        if missing:
            raise SpecError(
                f"{self.name}: the claim of its method needs {', '.join(missing)}", mistakes=missing
            )


@dataclass(frozen=True)
class Stage:
    """One stage of a walk: `found` when nothing had to be done."""

    stage: str
    state: str  # "done" | "found"
    seconds: float
    detail: dict[str, Any]


@dataclass(frozen=True)
class Watch:
    """Whom the walk tells how it goes; by default nobody."""

    samples: Callable[[int, int, str], None] = lambda done, total, note: None
    trials: Callable[[int, int, str], None] = lambda done, total, note: None
    training: Callable[[Progress], None] = lambda progress: None
    stage: Callable[[Stage], None] = lambda stage: None
    say: Callable[[str], None] = lambda text: None


class Walk:
    """The stages of one pipeline under one storage root; each may be called alone."""

    def __init__(
        self,
        pipeline: Pipeline,
        root: Path,
        *,
        watch: Watch | None = None,
        tracked: bool = True,
        parent: str | None = None,
        verbose: bool = False,
        cluster: Cluster | None = None,
    ) -> None:
        self.pipeline, self.root, self.tracked, self.verbose = pipeline, root, tracked, verbose
        self.cluster = cluster or Cluster(workers=1)
        self.parent = parent  # MLflow run that this one belongs to
        self.watch = watch or Watch()
        self.job = pipeline.job
        self.folder = self.job.folder(root)
        self.job.check(pipeline.training.workers or 1, pipeline.training)

    def generate(self, *, workers: int | None = None) -> list[Stage]:
        """Every dataset of the pipeline, complete; what is there is compared with its digests when read.

        `workers` goes before the cluster's own.
        """
        stages = []
        for recipe in self.pipeline.data.values():
            began = time.monotonic()
            dataset = _complete(recipe, self.root)
            found = dataset is not None
            if dataset is None:
                engine = self.cluster.tasks(workers)
                dataset = generate(recipe, self.root, engine=engine, progress=self.watch.samples).dataset
            detail = {"store": str(dataset.store), "digest": dataset.digest, "samples": recipe.samples}
            stages.append(self._ended("generate", not found, began, detail))
        return stages

    def train(self, *, fresh: bool = False, alone: bool = False) -> Stage:
        """The trained model in the run's folder, tracked.

        `alone`: while no other training of this root runs, as one must that measures time; a model
        that was not trained so is trained again.
        """
        began = time.monotonic()
        training = self.pipeline.training
        execution = Execution(**{key: getattr(training, key) for key in Execution.model_fields})
        with locked(self.root / "runs" / ".locks" / self.job.run, f"run {self.job.run}"):
            if alone and jobs.is_trained(self.folder) and not jobs.execution_of(self.folder).get("alone"):
                self.watch.say(f"run {self.job.run} was not trained alone: once more, to measure its time")
                fresh = True
            found = jobs.is_trained(self.folder) and not fresh
            if not found:
                _, info = jobs.open_data(self.job, self.root)
                self.job.method.check(info)
                with self._beside(alone):
                    jobs.prepare(self.job, self.root, workers=training.workers or 1, fresh=fresh, alone=alone)
                    resolved = yaml.safe_dump(self.pipeline.dump(), sort_keys=False, default_flow_style=None)
                    write_atomically(self.folder / "pipeline.yaml", resolved)
                    with self._tracker():
                        launch.train(
                            self.job,
                            self.root,
                            workers=training.workers,
                            rollout_workers=training.rollout_workers,
                            execution=execution,
                            progress=self.watch.training,
                            say=self.watch.say,
                            verbose=self.verbose,
                        )
        return self._ended("train", not found, began, {"run": self.job.run})

    def evaluate(self, *, alone: bool = False, pictures: bool = True) -> Stage:
        """The trained model's metrics, in its package and in MLflow; `alone` as for `train`."""
        began = time.monotonic()
        metrics = jobs.metrics_of(self.folder, pictures=pictures)
        found = metrics is not None
        if metrics is None:
            with self._beside(alone):
                device = "cuda" if torch.cuda.is_available() else "cpu"
                metrics = jobs.evaluate(self.job, self.root, device=device, pictures=pictures).metrics
        if self.tracked:
            name = self.pipeline.name
            tracking.sync_if_possible(self.root, self.folder, name=name, parent=self.parent)
        return self._ended("evaluate", not found, began, {"run": self.job.run, "metrics": metrics})

    def register(self) -> Stage:
        """A version in the registry that holds this model, under the pipeline's alias."""
        began = time.monotonic()
        version = register(
            self.root,
            self.folder / "model",
            self.pipeline.model_name,
            run_id=tracking.sync(self.root, self.folder, name=self.pipeline.name, parent=self.parent),
            alias=self.pipeline.registration.alias,
        )
        detail = {
            "model": f"{self.pipeline.model_name}/{version.version}",
            "alias": self.pipeline.registration.alias,
            "digest": package.digest(self.folder / "model"),
        }
        return self._ended("register", version.created, began, detail)

    def __call__(self, *, fresh: bool = False) -> list[Stage]:
        """All four, in order."""
        return [
            *self.generate(workers=self.pipeline.training.workers),
            self.train(fresh=fresh),
            self.evaluate(),
            self.register(),
        ]

    def _beside(self, alone: bool) -> AbstractContextManager[None]:
        who = "the trainings that run" if alone else "a training that measures its time"
        return beside(
            self.root / "runs" / ".locks" / "machine",
            alone=alone,
            waiting=lambda: self.watch.say(f"run {self.job.run} waits for {who} under {self.root}"),
        )

    def _tracker(self) -> AbstractContextManager[Any]:
        if not self.tracked:
            return nullcontext()
        return tracking.Tracker(self.root, self.folder, name=self.pipeline.name, parent=self.parent)

    def _ended(self, name: str, worked: bool, began: float, detail: dict[str, Any]) -> Stage:
        stage = Stage(name, "done" if worked else "found", round(time.monotonic() - began, 3), detail)
        self.watch.stage(stage)
        return stage


def _complete(recipe: Recipe, root: Path) -> Dataset | None:
    try:
        return Dataset.open(recipe, root)
    except DamagedDataError:
        raise
    except DataError:
        return None


def _named(kind: str, name: str, known: Mapping[str, Any], pipeline: str) -> dict[str, Any]:
    if name not in known:
        raise UnknownNameError(
            f"pipeline {pipeline!r} has no {kind} {name!r}; {nearest(name, known)}", name=name
        )
    return known[name] or {}


def _over(raw: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The raw pipeline with overrides; those of a recipe's fields join the recipe's own."""
    result = override(_into_recipes(raw, overrides), _rest(overrides))
    for role, recipe in (result.get("data") or {}).items():
        result["data"][role] = {"recipe": recipe} if isinstance(recipe, str) else recipe
    return result


def _into_recipes(raw: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`data.<role>.<field>` belongs to that role's recipe: it joins the recipe's own overrides."""
    result = dict(raw)
    for path, value in overrides.items():
        role, field = _recipe_field(path)
        if not field:
            continue
        data = result["data"] = dict(result.get("data") or {})
        if role not in data:
            raise SpecError(
                f"--set {path}: no data in the role {role!r}; {nearest(role, data)}", mistakes=[path]
            )
        data[role] = {**data[role], "set": {**(data[role].get("set") or {}), field: value}}
    return result


def _rest(overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {path: value for path, value in overrides.items() if not _recipe_field(path)[1]}


def _recipe_field(path: str) -> tuple[str, str]:
    parts = path.split(".", 2)
    if parts[0] != "data" or len(parts) < 3 or parts[2] in ("recipe", "preset"):
        return "", ""
    return parts[1], parts[2].removeprefix("set.")
