"""Where a training runs: in this process, or in N Ray Train workers that do the same mathematics."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dlde.errors import DldeError, TrainingError
from dlde.files import write_json
from dlde.method import RolloutWorkers
from dlde.training import job as jobs
from dlde.training.comm import Distributed
from dlde.training.job import Job
from dlde.training.rollouts import Make, RayActors
from dlde.training.run import Execution, Progress

POLL_SECONDS = 0.2
RESTARTS = 3  # of the worker group, after a worker or its node died


def train(
    job: Job,
    root: Path,
    *,
    workers: int | None,
    execution: Execution,
    rollout_workers: int = 0,
    progress: Callable[[Progress], None] | None = None,
    verbose: bool = False,
) -> None:
    """Train to the end, or raise the first error. `workers=None` stays in this process.

    A worker that dies is started again (at most `RESTARTS` times) and goes on from the last
    checkpoint. `rollout_workers` Ray actors simulate beside it; 0 leaves that to the training itself.
    """
    cores = os.cpu_count() or 1
    if workers is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        with contextlib.ExitStack() as stack:
            if rollout_workers:
                from dlde import ray_session

                stack.enter_context(
                    ray_session.session(num_cpus=max(rollout_workers, cores), verbose=verbose)
                )
            jobs.train(
                job,
                root,
                execution=execution,
                device=device,
                progress=progress,
                rollouts=_rollouts(rollout_workers),
            )
        return
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from dlde import ray_session

    folder = job.folder(root)
    for stale in ("progress.json", "failure.json", "ray"):
        _remove(folder / stale)
    gpu = torch.cuda.device_count() >= workers
    with ray_session.session(num_cpus=max(workers + rollout_workers + 1, cores), verbose=verbose):
        trainer = TorchTrainer(
            _worker,
            train_loop_config={
                "job": json.dumps(job.dump()),
                "root": str(root),
                "execution": json.dumps(execution.dump()),
                "threads": max(1, cores // workers),
                "rollout_workers": rollout_workers,
            },
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu),
            run_config=RunConfig(
                name="ray", storage_path=str(folder), failure_config=FailureConfig(max_failures=RESTARTS)
            ),
        )
        with _Watching(folder / "progress.json", progress):
            try:
                trainer.fit()
            except Exception as error:
                if (folder / "failure.json").exists():
                    raise _failure(folder) from None
                raise TrainingError(
                    f"the workers of run {job.run} died {RESTARTS + 1} times; the last reason: "
                    f"{str(error).strip().splitlines()[-1]}. Run the same command again to go on from the "
                    "last checkpoint; --verbose shows what Ray says",
                    run=job.run,
                ) from error
    _remove(folder / "ray")
    if (folder / "failure.json").exists():
        raise _failure(folder)
    if not jobs.is_trained(folder):
        raise TrainingError(f"the workers of run {job.run} ended without a model", run=job.run)


def _worker(config: dict[str, Any]) -> None:
    """One Ray Train worker.

    An error of ours is left in the folder and raised, so that Ray ends the other workers, who may be
    waiting for this one; starting again would not cure it, so the workers that follow return at once.
    """
    import ray.train.torch

    torch.set_num_threads(config["threads"])
    root = Path(config["root"])
    job = Job.parse(json.loads(config["job"]), source="job")
    folder = job.folder(root)
    if (folder / "failure.json").exists():
        return
    comm = Distributed()
    try:
        jobs.train(
            job,
            root,
            execution=Execution.parse(json.loads(config["execution"]), source="execution"),
            comm=comm,
            device=ray.train.torch.get_device(),
            progress=lambda progress: _publish(folder / "progress.json", progress),
            rollouts=_rollouts(config["rollout_workers"]),
        )
    except DldeError as error:
        write_json(folder / "failure.json", {"type": type(error).__name__, "message": error.message})
        raise


def _rollouts(size: int) -> Callable[[Make], RolloutWorkers] | None:
    return (lambda make: RayActors(make, size)) if size else None


def _publish(path: Path, progress: Progress) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(progress)))
    partial.replace(path)


class _Watching:
    """Shows the progress that rank 0 publishes, while the block runs."""

    def __init__(self, path: Path, show: Callable[[Progress], None] | None) -> None:
        self.path, self.show = path, show
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()
        self._read()

    def _watch(self) -> None:
        while not self.ended.wait(POLL_SECONDS):
            self._read()

    def _read(self) -> None:
        if self.show is not None and self.path.exists():
            self.show(Progress(**json.loads(self.path.read_text())))


def _failure(folder: Path) -> DldeError:
    from dlde import errors

    failure = json.loads((folder / "failure.json").read_text())
    kind = getattr(errors, failure["type"], TrainingError)
    error: DldeError = kind(failure["message"])
    return error


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
