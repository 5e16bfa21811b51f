"""A study's trials: every variant at every point of its axes for every seed, each a walk of its own.

A trial is a run like any other, in a folder named by the digest of its mathematics: finished ones are
found, killed ones go on. Cheap ones are grouped into one task, tasks are spread over Ray's workers;
those that measure time run alone, in the calling process, at the end.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlde.errors import DldeError, SpecError, StoppedError, TrainingError
from dlde.pipeline import Pipeline, Study, Walk, Watch
from dlde.spec import digest_of
from dlde.training import job as jobs
from dlde.training import tracking

RESTARTS = 3  # of a task whose worker died; its trials go on from their checkpoints


@dataclass(frozen=True)
class Trial:
    """One training of a study."""

    variant: str
    point: Mapping[str, Any]  # axis -> label, of the axes that belong to the variant
    seed: int
    pipeline: Pipeline
    pictures: bool = True  # keep the figures of its evaluation

    @property
    def name(self) -> str:
        """For a person, such as "uniform, problem peak, seed 0"."""
        return ", ".join([self.variant, *(f"{a} {v}" for a, v in self.point.items()), f"seed {self.seed}"])

    @property
    def alone(self) -> bool:
        """Whether it measures time."""
        return self.study.exclusive

    @property
    def study(self) -> Study:
        """The study as this trial's overrides leave it."""
        assert self.pipeline.study is not None
        return self.pipeline.study

    @property
    def columns(self) -> dict[str, Any]:
        """What every row of this trial starts with."""
        return {"variant": self.variant, "seed": self.seed, **self.point}


@dataclass(frozen=True)
class Outcome:
    """A finished trial: its rows of the table, and where they come from."""

    trial: Trial
    run: str
    state: str  # "done" | "found"
    rows: tuple[dict[str, Any], ...]
    seconds: float  # of its training, whenever that was
    execution: dict[str, Any]  # workers, whether alone, environment
    data: dict[str, str]  # role -> content digest


def trials_of(
    name: str,
    *,
    preset: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    seeds: tuple[int, ...] | None = None,
) -> list[Trial]:
    """All trials of a pipeline's study, seed by seed. Raises SpecError with every mistake."""
    base = Pipeline.load(name, preset=preset, overrides=overrides)
    if base.study is None:
        raise SpecError(f"pipeline {base.name!r} has no study", mistakes=["study"])
    found = []
    for variant in base.study.variants:
        axes = {
            axis: sweep.points
            for axis, sweep in base.study.axes.items()
            if sweep.variants is None or variant in sweep.variants
        }
        for labels in itertools.product(*axes.values()):
            point = dict(zip(axes, labels, strict=True))
            settings = [axes[axis][label] for axis, label in point.items()]

            def load(
                more: Mapping[str, Any],
                variant: str = variant,
                settings: Sequence[Mapping[str, Any]] = settings,
            ) -> Pipeline:
                changes = {**(overrides or {}), **more}
                return Pipeline.load(
                    name, preset=preset, variant=variant, settings=settings, overrides=changes
                )

            pipeline = load({})
            assert pipeline.study is not None
            for number, seed in enumerate(seeds or pipeline.study.seeds):
                found.append(Trial(variant, point, seed, load(_seeded(pipeline, seed)), pictures=number == 0))
    return sorted(found, key=lambda trial: trial.seed)


def _seeded(pipeline: Pipeline, seed: int) -> dict[str, Any]:
    """The trial's seed goes to the training, to its data, or to both."""
    assert pipeline.study is not None
    changes: dict[str, Any] = {"seed": seed} if "training" in pipeline.study.vary else {}
    if "data" in pipeline.study.vary:
        changes |= {f"data.{role}.seed": recipe.seed + seed for role, recipe in pipeline.data.items()}
    return changes


def run_all(
    trials: Sequence[Trial],
    root: Path,
    *,
    workers: int = 1,
    watch: Watch | None = None,
    verbose: bool = False,
) -> list[Outcome]:
    """Run what is not finished; outcomes in the order of the trials.

    A trial that fails does not keep the others from running: the error, raised at the end, names all
    that failed.
    """
    watch = watch or Watch()
    walks = [Walk(trial.pipeline, root, watch=watch, verbose=verbose) for trial in trials]  # checks all
    for walk in {digest_of(walk.job.dump()["data"]): walk for walk in walks}.values():
        walk.generate(workers=workers)
    together = [number for number, trial in enumerate(trials) if not trial.alone]
    alone = [number for number, trial in enumerate(trials) if trial.alone]
    outcomes: dict[int, Outcome] = {}
    failures: dict[int, DldeError] = {}
    name = trials[0].pipeline.name
    parent = tracking.parent_if_possible(
        root, name, key=digest_of([walk.job.run for walk in walks]), tags={"dlde.kind": "study"}
    )

    def take(number: int, result: Outcome | DldeError) -> None:
        if isinstance(result, DldeError):
            failures[number] = result
            watch.say(f"trial {trials[number].name} failed: {result.message}")
        else:
            outcomes[number] = result
            tracking.sync_if_possible(root, root / "runs" / result.run, name=name, parent=parent)
        watch.trials(len(outcomes) + len(failures), len(trials), trials[number].name)

    watch.trials(0, len(trials), "")
    if workers > 1:
        # equal trials share a run: the first of them does it
        by_run = {walks[number].job.run: number for number in reversed(together)}
        todo = sorted(number for number in by_run.values() if not _is_done(walks[number]))
        _run_on_ray(trials, todo, root, workers, take, verbose)
    for number in [*together, *alone]:
        if number not in outcomes and number not in failures:
            take(number, _run(trials[number], root, watch, verbose))
    if parent is not None:
        tracking.end_if_possible(root, parent, "FAILED" if failures else "FINISHED")
    if failures:
        number, first = min(failures.items())
        raise TrainingError(
            f"{len(failures)} of {len(trials)} trials failed, the first: {trials[number].name}: "
            f"{first.message}. The others are kept; the same command again runs only what is missing",
            trials=[trials[number].name for number in sorted(failures)],
        ) from first
    return [outcomes[number] for number in range(len(trials))]


def _is_done(walk: Walk) -> bool:
    return jobs.is_trained(walk.folder) and jobs.metrics_of(walk.folder) is not None


def _run(trial: Trial, root: Path, watch: Watch, verbose: bool) -> Outcome | DldeError:
    try:
        walk = Walk(trial.pipeline, root, watch=watch, tracked=False, verbose=verbose)
        trained = walk.train(alone=trial.alone)
        walk.evaluate(alone=trial.alone, pictures=trial.pictures)
    except StoppedError:
        raise  # the wish is meant for the whole study
    except DldeError as error:
        return error
    return _outcome(trial, walk.folder, trained.state)


def _outcome(trial: Trial, folder: Path, state: str) -> Outcome:
    metrics = jobs.metrics_of(folder)
    assert metrics is not None
    execution = jobs.execution_of(folder)
    seconds = float(execution.pop("seconds", math.nan))
    rows = [{**trial.columns, "metric": name, "value": value} for name, value in metrics.items()]
    if math.isfinite(seconds):
        rows.append({**trial.columns, "metric": "train_seconds", "value": seconds})
    for name, points in jobs.curves(folder, trial.study.curves).items():
        rows += [{**trial.columns, "metric": name, **point} for point in points]
    for name, points in jobs.evaluated_curves(folder, trial.study.curves).items():
        rows += [{**trial.columns, "metric": name, **point} for point in points]
    return Outcome(
        trial=trial,
        run=folder.name,
        state=state,
        rows=tuple(rows),
        seconds=seconds,
        execution=execution,
        data=jobs.content_digests(folder),
    )


def _run_on_ray(
    trials: Sequence[Trial],
    numbers: Sequence[int],
    root: Path,
    workers: int,
    take: Callable[[int, Outcome | DldeError], None],
    verbose: bool,
) -> None:
    """Groups of trials as tasks; a task whose worker dies is started again."""
    if not numbers:
        return
    import ray
    from ray.exceptions import RayError

    from dlde import ray_session

    cores = os.cpu_count() or 1
    with ray_session.session(num_cpus=max(workers, cores), verbose=verbose):
        cpus = max(workers, cores) / workers  # at most `workers` tasks at a time
        task = ray.remote(num_cpus=cpus, max_retries=RESTARTS)(_task)
        waiting = {
            task.remote(
                [(json.dumps(trials[number].pipeline.dump()), trials[number].pictures) for number in group],
                str(root),
                max(1, cores // workers),
            ): group
            for group in _groups(trials, numbers)
        }
        while waiting:
            (ended,), _ = ray.wait(list(waiting), num_returns=1)
            group = waiting.pop(ended)
            try:
                results = ray.get(ended)
            except RayError as error:
                reason = str(error).strip().splitlines()[-1]
                results = [
                    TrainingError(f"its worker died {RESTARTS + 1} times; the last reason: {reason}")
                ] * len(group)
            for number, result in zip(group, results, strict=True):
                folder = trials[number].pipeline.job.folder(root)
                take(
                    number,
                    result if isinstance(result, DldeError) else _outcome(trials[number], folder, result),
                )


def _groups(trials: Sequence[Trial], numbers: Sequence[int]) -> Iterator[list[int]]:
    """Consecutive trials, as many as the first of them says."""
    rest = list(numbers)
    while rest:
        size = trials[rest[0]].study.group
        yield rest[:size]
        rest = rest[size:]


def _task(pipelines: list[tuple[str, bool]], root: str, threads: int) -> list[str | DldeError]:
    """Train and evaluate several trials in a worker of Ray: the state of each, or its error."""
    import torch

    torch.set_num_threads(threads)
    logging.getLogger("dlde").setLevel(logging.WARNING)
    results: list[str | DldeError] = []
    for text, pictures in pipelines:
        try:
            pipeline = Pipeline.parse(json.loads(text), source="trial")
            walk = Walk(pipeline, Path(root), tracked=False)
            state = walk.train().state
            walk.evaluate(pictures=pictures)
            results.append(state)
        except DldeError as error:
            results.append(error)
    return results
