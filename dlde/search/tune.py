"""`dlde tune`: a search over fields of a pipeline, by Ray Tune; the same command again goes on.

What is known of a search stands in its folder: `trials.jsonl` has a line for every trial that began, and
one for how it ended. A search that is started again tells its sampler what is known, lets trials that
were under way go on from their own checkpoints, and begins as many as are missing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dlde.errors import RunningError, SpecError, StoppedError, TrainingError
from dlde.files import append_line, locked, write_atomically
from dlde.pipeline import Pipeline, Search, Walk, Watch
from dlde.search import report, space, trial
from dlde.spec import digest_of
from dlde.training import job as jobs
from dlde.training import tracking

RESTARTS = 3  # of a trial whose process died
SWITCHES = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "60",  # of Ray's own state, which nothing here depends on
    "RAY_AIR_NEW_OUTPUT": "0",
}


@dataclass(frozen=True)
class Outcome:
    """A trial that has ended."""

    number: int
    point: space.Point
    state: str  # "finished" | "stopped" (early, by the scheduler) | "failed"
    objective: float | None
    step: int
    seconds: float
    run: str  # a run's name, or the folder of a member of a population
    failure: str | None = None
    own: bool = True  # False where the run was there before: its model is not the search's to remove

    def dump(self) -> dict[str, Any]:
        """Plain data: the fields of the point beside the rest."""
        return {
            "trial": self.number,
            "state": self.state,
            "objective": self.objective,
            "step": self.step,
            "seconds": self.seconds,
            "run": self.run,
            "failure": self.failure,
            **{path: space.label(value) for path, value in self.point.items()},
        }


@dataclass(frozen=True)
class Found:
    """What a search has found: its trials, the best first, and where everything lies."""

    pipeline: Pipeline
    search: Search
    outcomes: tuple[Outcome, ...]
    importance: dict[str, float]  # of every field for the objective; empty where it cannot be told
    folder: Path
    model: str | None = None  # the best trial's, where it was registered

    @property
    def schedules(self) -> dict[int, list[dict[str, Any]]]:
        """Of every member of a population, the fields that its state went through: {step, point}."""
        members = {one.number: Path(one.run) for one in self.outcomes if Path(one.run).is_absolute()}
        return {number: trial.schedule(place) for number, place in members.items()}

    @property
    def best(self) -> Outcome:
        """The finished trial with the best objective."""
        return self.outcomes[0]


def tune(
    name: str,
    root: Path,
    *,
    preset: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    trials: int | None = None,
    fresh: bool = False,
    register: bool = False,
    alias: str = "challenger",
    watch: Watch | None = None,
    verbose: bool = False,
) -> Found:
    """Search until `trials` have ended (None: as the pipeline says); the best may be registered.

    Raises SpecError where the pipeline has no search or its space does not fit, with every mistake,
    TrainingError where every trial failed.
    """
    watch = watch or Watch()
    pipeline = Pipeline.load(name, preset=preset, overrides=overrides)
    if pipeline.search is None:
        raise SpecError(
            f"pipeline {pipeline.name!r} has no `search`; give it one with a `space`", mistakes=["search"]
        )
    search = pipeline.search if trials is None else pipeline.search.model_copy(update={"trials": trials})
    space.check(pipeline, search)
    count = len(space.grid(search)) if search.algorithm == "grid" else search.trials
    same = search.model_dump(mode="json", exclude={"trials", "concurrent", "keep", "cpus", "gpus"})
    if search.algorithm == "pbt":  # another number is another population
        same["trials"] = search.trials
    digest = digest_of([pipeline.job.dump(), same])
    folder = root / "searches" / f"{pipeline.name}-{digest[:12]}"
    Walk(pipeline, root, watch=watch).generate()
    _, info = jobs.open_data(pipeline.job, root)
    pipeline.method.check(info)
    if search.algorithm == "pbt":
        space.check_states(pipeline, search, info)
    with locked(root / "searches" / ".locks" / folder.name, f"search {folder.name}"):
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)  # its runs stay: equal trials are found
        folder.mkdir(parents=True, exist_ok=True)
        journal = _Journal(folder / "trials.jsonl")
        parent = tracking.parent_if_possible(
            root, pipeline.name, key=digest, params={"search": search.dump()}, tags={"dlde.kind": "search"}
        )
        if len(journal.ended) < count:
            _run(pipeline, search, root, folder, journal, count, watch, verbose)
        if len(journal.ended) < count:
            raise StoppedError(
                f"search {folder.name} was stopped: {len(journal.ended)} of {count} trials have ended; "
                "the same command again goes on"
            )
        for outcome in journal.ended.values():
            if not outcome.failure:
                place = root / "runs" / outcome.run
                tracking.sync_if_possible(root, place, name=pipeline.name, parent=parent)
        finished = _finished(search, journal)
        if not finished:
            first = next(iter(journal.ended.values()))
            raise TrainingError(f"all {len(journal.ended)} trials failed, the first: {first.failure}")
        _bound(root, search, journal)
        others = [one for one in journal.ended.values() if one.state != "finished"]
        outcomes = (*finished, *sorted(others, key=partial(_rank, search)))
        found = Found(pipeline, search, outcomes, report.importance(search, outcomes), folder)
        best = _best_pipeline(found)
        write_atomically(folder / "best.yaml", report.yaml_of(best))
        model = _register(best, found.best, root, folder, alias, watch) if register else None
        found = Found(pipeline, search, outcomes, found.importance, folder, model)
        report.write(found)
        if parent is not None:
            tracking.end_if_possible(root, parent, "FINISHED")
    return found


def _finished(search: Search, journal: _Journal) -> list[Outcome]:
    """The best first."""
    return sorted(
        (one for one in journal.ended.values() if one.state == "finished"), key=partial(_rank, search)
    )


def _rank(search: Search, outcome: Outcome) -> float:
    if outcome.objective is None:
        return math.inf
    return outcome.objective if search.mode == "min" else -outcome.objective


class _Journal:
    """What is known of the trials, line by line on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.begun: dict[int, space.Point] = {}
        self.ended: dict[int, Outcome] = {}
        self.died: set[int] = set()  # of those, whose processes died: the next start tries them again
        self.freed: set[int] = set()  # of those, that have given back what they had on the disk
        for line in path.read_text().splitlines() if path.is_file() else []:
            with contextlib.suppress(ValueError):  # the last line of a killed process may be cut
                row = json.loads(line)
                if row["kind"] == "begun":
                    self.begun[row["number"]] = row["point"]
                else:
                    self.ended[row["outcome"]["number"]] = Outcome(**row["outcome"])

    def begin(self, number: int, point: space.Point) -> None:
        """A trial is under way."""
        if number not in self.begun:
            self.begun[number] = point
            append_line(self.path, {"kind": "begun", "number": number, "point": point})

    def end(self, outcome: Outcome, *, died: bool = False) -> None:
        """It has ended, or its process died too often."""
        self.ended[outcome.number] = outcome
        if died:
            self.died.add(outcome.number)
        else:
            append_line(self.path, {"kind": "ended", "outcome": outcome.__dict__})


def _run(
    pipeline: Pipeline,
    search: Search,
    root: Path,
    folder: Path,
    journal: _Journal,
    count: int,
    watch: Watch,
    verbose: bool,
) -> None:
    """The trials that are missing, by Ray Tune."""
    for key, value in SWITCHES.items():
        os.environ.setdefault(key, value)
    from dlde import ray_session

    cores = os.cpu_count() or 1
    each = search.workers or search.cpus
    concurrent = search.concurrent or max(1, int(cores / each))
    needed = math.ceil(concurrent * each) + (1 if search.workers else 0)
    with ray_session.session(num_cpus=max(cores, needed), verbose=verbose):
        from ray import tune

        if not verbose:
            for name in ("ray", "ray.tune"):
                logging.getLogger(name).setLevel(logging.ERROR)
        resources = {
            "cpu": 0.01 if search.workers else search.cpus,
            "gpu": 0 if search.workers else search.gpus,
        }
        missing = [number for number in range(count) if number not in journal.ended]
        function = partial(
            trial.run,
            plain=pipeline.dump() | {"search": search.dump()},
            root=str(root),
            folder=str(folder),
            numbers=missing,
        )
        settings, config = _searcher(search, journal, missing)
        follower = _follower(search, root, journal, watch, count, missing)
        tuner = tune.Tuner(
            tune.with_resources(function, resources),
            param_space=config,
            tune_config=tune.TuneConfig(
                reuse_actors=True,  # a process takes seconds to start, and a population pauses often
                max_concurrent_trials=concurrent,
                metric="objective",
                mode=search.mode,
                scheduler=_scheduler(search, pipeline),
                trial_dirname_creator=lambda one: str(one.trial_id),
                **settings,
            ),
            run_config=tune.RunConfig(
                name="ray",
                storage_path=str(folder),
                verbose=0,
                callbacks=[follower],
                failure_config=tune.FailureConfig(max_failures=RESTARTS),
            ),
        )
        shutil.rmtree(folder / "ray", ignore_errors=True)
        with contextlib.redirect_stdout(sys.stderr if verbose else open(os.devnull, "w")):
            tuner.fit()
    shutil.rmtree(folder / "ray", ignore_errors=True)


def _searcher(search: Search, journal: _Journal, missing: list[int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What chooses the points of the missing trials, as Ray Tune's settings and its space."""
    from ray import tune

    if search.algorithm == "tpe":
        return {"search_alg": _tpe(search, journal, missing), "num_samples": len(missing)}, {}
    if search.algorithm in ("grid", "random"):
        points = space.grid(search) if search.algorithm == "grid" else None
        listed = [
            {
                "number": number,
                "point": space.to_optuna(search, points[number] if points else space.drawn(search, number)),
            }
            for number in missing
        ]
        return {}, {"listed": tune.grid_search(listed)}
    return {"num_samples": len(missing)}, {}  # Ray draws the fields that a population begins with


def _tpe(search: Search, journal: _Journal, missing: list[int]) -> Any:
    """Ray's searcher on our numbers: Optuna's sampler, told what is known."""
    import optuna
    from ray.tune.search import Searcher

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    distributions = space.distributions(search)

    class Tpe(Searcher):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(metric="objective", mode=search.mode)
            # Another seed at each start: the points known already are not drawn once more.
            seed = np.random.SeedSequence([search.seed, len(journal.begun)]).generate_state(1)[0]
            sampler = optuna.samplers.TPESampler(
                seed=int(seed),
                multivariate=True,
                constant_liar=True,
            )
            direction = "minimize" if search.mode == "min" else "maximize"
            self.study = optuna.create_study(sampler=sampler, direction=direction)
            for outcome in journal.ended.values():
                if outcome.objective is not None:
                    self.study.add_trial(report.frozen(search, outcome))
            self.waiting = list(missing)
            self.asked: dict[str, Any] = {}

        def suggest(self, trial_id: str) -> dict[str, Any] | None:
            if not self.waiting:
                return None
            number = self.waiting.pop(0)
            if number in journal.begun:
                self.study.enqueue_trial(space.to_optuna(search, journal.begun[number]))
            asked = self.study.ask(distributions)
            self.asked[trial_id] = asked
            return {"number": number, "point": dict(asked.params)}

        def on_trial_complete(
            self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
        ) -> None:
            asked = self.asked.pop(trial_id, None)
            if asked is None:
                return
            if error or not result or result.get("failure"):
                self.study.tell(asked, state=optuna.trial.TrialState.FAIL)
            else:
                self.study.tell(asked, result["objective"])

        def save(self, checkpoint_path: str) -> None:
            """Nothing: the journal is what a search goes on from."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing."""

        def __reduce__(self) -> Any:
            """Ray keeps a copy with its own state, which is never read."""
            return Searcher, ()

    return Tpe()


def _scheduler(search: Search, pipeline: Pipeline) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining

    if search.algorithm == "pbt":
        return PopulationBasedTraining(
            time_attr="step",
            perturbation_interval=search.perturb,
            hyperparam_mutations=space.mutations(search),
            quantile_fraction=0.25,
            synch=False,
        )
    if search.scheduler == "asha":
        return ASHAScheduler(
            time_attr="step", grace_period=search.grace, reduction_factor=search.reduction, max_t=10**9
        )
    return FIFOScheduler()


def _follower(
    search: Search, root: Path, journal: _Journal, watch: Watch, count: int, missing: list[int]
) -> Any:
    """Writes the journal from Ray Tune's events, and keeps the disk bounded."""
    from ray.tune import Callback

    class Follower(Callback):  # type: ignore[misc]
        def __reduce__(self) -> Any:
            """Ray keeps a copy with its own state, which is never read."""
            return Callback, ()

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            number, point = _of(search, trial, missing)
            journal.begin(number, point)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.ended(trial, None)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.ended(trial, f"its process died {RESTARTS + 1} times")

        def ended(self, one: Any, failure: str | None) -> None:
            number, point = _of(search, one, missing)
            last = one.last_result or {}
            point = last.get("point", point)
            died = failure is not None
            failure = last.get("failure") or failure
            if not failure and "run" not in last:
                failure = "it ended without a result"
            state = "failed" if failure else "finished" if last.get("ended") else "stopped"
            journal.end(
                Outcome(
                    number=number,
                    point=point,
                    state=state,
                    objective=None if failure else float(last["objective"]),
                    step=int(last.get("step", 0)),
                    seconds=round(float(last.get("time_total_s", 0.0)), 3),
                    run=str(last.get("run", "")),
                    failure=failure,
                    own=bool(last.get("own", True)),
                ),
                died=died,
            )
            _bound(root, search, journal)
            told = failure or f"{search.metric} {last['objective']:.5g}, {state} at step {last['step']}"
            watch.say(f"trial {number}: {', '.join(f'{k} {v}' for k, v in space.shown(point))}: {told}")
            watch.trials(len(journal.ended), count, "")

    return Follower()


def _of(search: Search, one: Any, missing: list[int]) -> tuple[int, space.Point]:
    """A trial's number, and its point as it is known when it begins."""
    if search.algorithm == "pbt":
        return missing[trial.place_of(one.trial_id)], {path: one.config.get(path) for path in search.space}
    config = one.config.get("listed", one.config)
    return config["number"], space.from_optuna(search, config["point"])


def _bound(root: Path, search: Search, journal: _Journal) -> None:
    """Checkpoints of ended trials go, and the models of all but the best that the search itself trained."""
    kept = {outcome.run for outcome in _finished(search, journal)[: search.keep]}
    for number, outcome in journal.ended.items():
        if not outcome.run or number in journal.died | journal.freed:
            continue
        place = root / "runs" / outcome.run  # an absolute path stays what it is
        member = Path(outcome.run).is_absolute()
        if member and len(journal.ended) < search.trials:
            continue  # others of the population may still take its state
        with contextlib.suppress(RunningError):  # one that was stopped may not have left its folder yet
            lock = root / "runs" / ".locks" / place.name
            with contextlib.nullcontext() if member else locked(lock, f"run {outcome.run}"):
                trial.free(place, model=outcome.own and outcome.run not in kept)
            if outcome.run not in kept:
                journal.freed.add(number)


def _best_pipeline(found: Found) -> Pipeline:
    fields = {**found.best.point, "training.workers": found.search.workers}
    best = found.pipeline.with_fields(fields, source="search")
    return best.model_copy(update={"search": None, "study": None})


def _register(best: Pipeline, outcome: Outcome, root: Path, folder: Path, alias: str, watch: Watch) -> str:
    registration = best.registration.model_copy(update={"alias": alias})
    walk = Walk(best.model_copy(update={"registration": registration}), root, watch=watch)
    walk.folder = root / "runs" / outcome.run
    if jobs.metrics_of(walk.folder) is None:
        walk.evaluate()
    model: str = walk.register().detail["model"]
    return model
