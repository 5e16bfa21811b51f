"""Where a training runs: in this process, or in N Ray Train workers that do the same mathematics.

Whoever starts a training watches it through its folder: `progress.json` is where it stands,
`failure.json` an error of ours, `faults.jsonl` who hung, `stop` the wish that it ends, and
`launch.json` which start of it is the one that counts.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from dlde import errors
from dlde.errors import DldeError, StoppedError, TrainingError
from dlde.files import write_json
from dlde.method import RolloutWorkers
from dlde.training import job as jobs
from dlde.training import watchdog
from dlde.training.comm import Distributed
from dlde.training.job import Job
from dlde.training.rollouts import Make, RayActors
from dlde.training.run import SUPERSEDED, Execution, Progress, Supervisor

POLL_SECONDS = 0.1
RESTARTS = 3  # of the worker group, after a worker or its node died
END_SECONDS = 60.0  # for workers that were asked to end, or have failed
START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
STOP = "stop"  # the file by which a run is asked to end; it holds the reason


def train(
    job: Job,
    root: Path,
    *,
    workers: int | None,
    execution: Execution,
    rollout_workers: int = 0,
    progress: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] | None = None,
    folder: Path | None = None,
    verbose: bool = False,
) -> None:
    """Train to the end, or raise the first error. `workers=None` stays in this process.

    A worker that dies or hangs is started again with the others (at most `RESTARTS` times), and all go
    on from the last checkpoint. At SIGTERM and SIGINT, and where a file `stop` appears in the run's
    folder, the state is saved and StoppedError raised. `rollout_workers` Ray actors simulate beside
    the training; 0 leaves that to the training itself.
    """
    folder = folder or job.folder(root)
    for stale in ("progress.json", "failure.json", "faults.jsonl", "heartbeats", STOP, "ray"):
        _remove(folder / stale)
    launch = secrets.token_hex(8)
    write_json(folder / "launch.json", {"id": launch})
    try:
        with _Signals() as signals:
            if workers is None:
                _in_process(job, root, folder, execution, rollout_workers, progress, launch, signals, verbose)
            else:
                counts = workers, rollout_workers
                _on_ray(job, root, folder, counts, execution, progress, say, launch, signals, verbose)
    except DldeError as error:
        if not error.facts.get("superseded"):
            _leave(folder, error)
        raise


def _in_process(
    job: Job,
    root: Path,
    folder: Path,
    execution: Execution,
    rollout_workers: int,
    progress: Callable[[Progress], None] | None,
    launch: str,
    signals: _Signals,
    verbose: bool,
) -> None:
    with contextlib.ExitStack() as stack:
        if rollout_workers:
            from dlde import ray_session

            cpus = max(rollout_workers, os.cpu_count() or 1)
            stack.enter_context(ray_session.session(num_cpus=cpus, verbose=verbose))
            signals.listen()
        jobs.train(
            job,
            root,
            execution=execution,
            device="cuda" if torch.cuda.is_available() else "cpu",
            progress=progress,
            rollouts=_rollouts(rollout_workers),
            supervisor=_Listening(folder, launch, signals),
            folder=folder,
        )


def _on_ray(
    job: Job,
    root: Path,
    folder: Path,
    counts: tuple[int, int],
    execution: Execution,
    progress: Callable[[Progress], None] | None,
    say: Callable[[str], None] | None,
    launch: str,
    signals: _Signals,
    verbose: bool,
) -> None:
    from dlde import ray_session

    cores = os.cpu_count() or 1
    workers, rollout_workers = counts
    session = ray_session.session(num_cpus=max(workers + rollout_workers + 1, cores), verbose=verbose)
    with session as ours:
        signals.listen()
        fitting = _Fitting(
            folder,
            {
                "job": json.dumps(job.dump()),
                "root": str(root),
                "folder": str(folder),
                "execution": json.dumps(execution.dump()),
                "threads": max(1, cores // workers),
                "rollout_workers": rollout_workers,
                "launch": launch,
            },
            workers,
            execution,
        )
        told = 0
        until: float | None = None  # to which what is asked to end may take
        while not fitting.ended.wait(POLL_SECONDS):
            _show(folder, progress)
            for text in watchdog.told(folder)[told:]:
                told += 1
                (say or (lambda text: None))(f"{text}; all workers start again from the last checkpoint")
            if signals.reason is not None and until is None:
                (folder / STOP).write_text(signals.reason)
                begun = (folder / "progress.json").exists()
                until = time.monotonic() + (END_SECONDS if begun else 0)
            if (folder / "failure.json").exists() and until is None:
                until = time.monotonic() + 1.0  # Ray would start the workers again to no avail
            if until is not None and time.monotonic() > until and ours:
                ray_session.kill_actors("TrainController")
                fitting.ended.wait(END_SECONDS)
                break
        _show(folder, progress)
    _remove(folder / "ray")
    if (folder / "failure.json").exists():
        raise _failure(folder)
    if signals.reason is not None and not jobs.is_trained(folder):
        raise StoppedError(
            f"stopped ({signals.reason}) before a state could be saved anew; the same command again goes on "
            "from the last checkpoint"
        )
    if fitting.error is not None:
        raise _explained(fitting.error, job, folder, workers, execution) from fitting.error
    if not jobs.is_trained(folder):
        raise TrainingError(f"the workers of run {job.run} ended without a model", run=job.run)


class _Fitting:
    """Ray Train's `fit` in a thread: the main thread listens to signals and watches the folder."""

    def __init__(self, folder: Path, config: dict[str, Any], workers: int, execution: Execution) -> None:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        self.ended = threading.Event()
        self.error: Exception | None = None
        # Ray counts every vain wait for a place as a failure of its own kind.
        wait = execution.wait_seconds / (RESTARTS + 1)
        failures = FailureConfig(max_failures=RESTARTS, controller_failure_limit=RESTARTS)
        trainer = TorchTrainer(
            _worker,
            train_loop_config=config,
            # torch's own time-out comes after ours, which can name who hangs
            torch_config=TorchConfig(timeout_s=int(2 * execution.hang_seconds) + 60),
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu=ray.cluster_resources().get("GPU", 0) >= workers
            ),
            run_config=RunConfig(name="ray", storage_path=str(folder), failure_config=failures),
        )

        def fit() -> None:
            try:
                with _environment(START_TIMEOUT, str(wait)):
                    trainer.fit()
            except Exception as error:
                self.error = error
            finally:
                self.ended.set()

        threading.Thread(target=fit, daemon=True).start()


def _worker(config: dict[str, Any]) -> None:
    """One Ray Train worker.

    An error of ours is left in the folder and raised, so that Ray ends the other workers, who may be
    waiting for this one; starting again would not cure it, so the workers that follow return at once.
    What all workers raise together needs no raising: the end of a run that was stopped.
    """
    import ray.train.torch

    torch.set_num_threads(config["threads"])
    root = Path(config["root"])
    job = Job.parse(json.loads(config["job"]), source="job")
    execution = Execution.parse(json.loads(config["execution"]), source="execution")
    folder = Path(config["folder"])
    if (folder / "failure.json").exists():
        return
    comm = Distributed()
    supervisor = _Listening(folder, config["launch"])
    try:
        with contextlib.ExitStack() as stack:
            if comm.size > 1:
                dog = watchdog.Watchdog(folder, comm.rank, comm.size, execution.hang_seconds)
                supervisor.dog = stack.enter_context(dog)
                comm.waits = dog.waiting
            jobs.train(
                job,
                root,
                execution=execution,
                comm=comm,
                device=ray.train.torch.get_device(),
                progress=lambda progress: _publish(folder / "progress.json", progress),
                rollouts=_rollouts(config["rollout_workers"]),
                supervisor=supervisor,
                folder=folder,
            )
    except StoppedError as error:
        if comm.rank == 0 and not error.facts.get("superseded"):
            _leave(folder, error)
    except DldeError as error:
        _leave(folder, error)
        raise


class _Listening(Supervisor):
    """Ends a run at a signal, at the file `stop`, and where a later start of it has taken over."""

    def __init__(self, folder: Path, launch: str, signals: _Signals | None = None) -> None:
        self.folder, self.launch, self.signals = folder, launch, signals
        self.dog: watchdog.Watchdog | None = None

    def wanted_end(self) -> str | None:
        if self.signals is not None and self.signals.reason is not None:
            return self.signals.reason
        with contextlib.suppress(OSError):
            return (self.folder / STOP).read_text().strip() or "asked to"
        with contextlib.suppress(OSError, ValueError):
            if json.loads((self.folder / "launch.json").read_text())["id"] != self.launch:
                return SUPERSEDED
        return None

    def urgent(self) -> bool:
        return self.signals is not None and self.signals.reason is not None

    def at(self, step: int) -> None:
        if self.dog is not None:
            self.dog.at(step)

    def busy(self, what: str) -> AbstractContextManager[None]:
        return contextlib.nullcontext() if self.dog is None else self.dog.busy(what)


class _Signals:
    """SIGTERM and SIGINT as a wish, `reason`, for as long as the block runs; a second one is obeyed at once.

    Outside the main thread, where nobody can listen, nothing changes.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        self.listen()
        return self

    def listen(self) -> None:
        """Once more, where somebody else, as Ray does when it starts, has put handlers in our place."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                before = signal.signal(number, self._heard)
                self._before.setdefault(number, before)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.reason is not None:
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name


def _explained(error: Exception, job: Job, folder: Path, workers: int, execution: Execution) -> DldeError:
    """What Ray Train raised, in words that say what to do."""
    from ray.train import ControllerError, WorkerGroupError

    again = "Run the same command again to go on from the last checkpoint"
    if isinstance(error, WorkerGroupError):
        ours = [cause for cause in error.worker_failures.values() if isinstance(cause, DldeError)]
        if ours:
            return ours[0]
    if isinstance(error, ControllerError) and "Timeout" in type(error.controller_failure).__name__:
        return TrainingError(
            f"no place for {workers} workers of run {job.run} was found within {execution.wait_seconds:g} s "
            f"(training.wait_seconds). {again}, with fewer --workers or where more nodes are",
            run=job.run,
        )
    reasons = watchdog.told(folder) or [str(error).strip().splitlines()[-1]]
    return TrainingError(
        f"the workers of run {job.run} died {RESTARTS + 1} times; the last reason: {reasons[-1]}. {again}; "
        "--verbose shows what Ray says",
        run=job.run,
    )


def _rollouts(size: int) -> Callable[[Make], RolloutWorkers] | None:
    return (lambda make: RayActors(make, size)) if size else None


def _publish(path: Path, progress: Progress) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(progress)))
    partial.replace(path)


def _show(folder: Path, progress: Callable[[Progress], None] | None) -> None:
    path = folder / "progress.json"
    if progress is not None and path.exists():
        progress(Progress(**json.loads(path.read_text())))


def _leave(folder: Path, error: DldeError) -> None:
    """Where even this finds no room, what is raised still says it."""
    with contextlib.suppress(OSError, DldeError):
        write_json(folder / "failure.json", {"type": type(error).__name__, "message": error.message})


def _failure(folder: Path) -> DldeError:
    failure = json.loads((folder / "failure.json").read_text())
    kind = getattr(errors, failure["type"], TrainingError)
    error: DldeError = kind(failure["message"])
    return error


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
