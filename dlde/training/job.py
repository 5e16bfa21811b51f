"""A training as data: what it computes (`Job`), where its results lie, and its execution.

A run's folder is named by the digest of its mathematics, so that an override never meets the state
of another training, and the same job started again continues.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dlde import __version__, figures
from dlde.datasets.dataset import Dataset
from dlde.datasets.recipe import Recipe
from dlde.errors import SpecError, UnknownNameError, nearest
from dlde.files import write_json
from dlde.method import AnyMethod, Comm, DataInfo, Evaluation
from dlde.problem import AnyProblem, Seed
from dlde.registry import package
from dlde.spec import Spec, digest_of
from dlde.training.run import EngineRun, Execution, Progress

FORMAT = 1  # of a run's folder; part of its name


class Job(Spec):
    """The mathematics of one training: data, method, seed."""

    method: AnyMethod
    problem: AnyProblem | None = None
    data: dict[str, Recipe] = {}
    seed: Seed = 0

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all that changes the result."""
        plain = {key: value for key, value in self.dump().items() if key != "data"}
        data = {role: [recipe.digest, recipe.samples] for role, recipe in self.data.items()}
        return digest_of([FORMAT, plain, data])

    @property
    def run(self) -> str:
        """The run's name, which is its folder's."""
        return f"{self.dump()['method']['name']}-{self.digest[:12]}"

    def folder(self, root: Path) -> Path:
        """Where this training lives under the storage root."""
        return root / "runs" / self.run

    def check(self, workers: int) -> None:
        """Refuse what cannot work, before anything starts. Raises InputError."""
        roles, known = set(self.data), set(self.method.roles)
        if roles != known:
            raise SpecError(
                f"method {self.dump()['method']['name']!r} reads data in the roles {sorted(known)}, "
                f"but the pipeline gives {sorted(roles)}",
                mistakes=["data"],
            )
        requires = self.method.requires
        if requires is not None and not isinstance(self.problem, requires):
            raise SpecError(
                f"the method needs a problem that offers {requires.__name__}, got {self.problem!r}",
                mistakes=["problem"],
            )
        self.method.check_workers(workers)


def load(root: Path, run: str) -> Job:
    """The job of a run by its name. Raises UnknownNameError with the nearest names."""
    path = root / "runs" / run / "job.json"
    if "/" in run or not path.is_file():
        raise UnknownNameError(f"unknown run {run!r}; {nearest(run, runs(root))}", name=run)
    return Job.parse(json.loads(path.read_text())["job"], source=f"{run}/job.json")


def runs(root: Path) -> list[str]:
    """Names of all runs under the storage root."""
    return sorted(path.parent.name for path in (root / "runs").glob("*/job.json"))


def prepare(job: Job, root: Path, *, workers: int, fresh: bool = False) -> Path:
    """The run's folder with its `job.json`; `fresh` empties it first."""
    folder = job.folder(root)
    if fresh and folder.exists():
        removed = folder.with_name(f".{folder.name}.removed")  # at once: half a folder would be continued
        shutil.rmtree(removed, ignore_errors=True)
        folder.rename(removed)
        shutil.rmtree(removed)
    if not (folder / "job.json").exists():
        content = {"run": job.run, "job": job.dump(), "code": code_version(), "started": time.time()}
        write_json(folder / "job.json", content)
    write_json(folder / "execution.json", {"workers": workers, "environment": environment()})
    return folder


def is_trained(folder: Path) -> bool:
    """Whether the training has ended and its model is there."""
    return (folder / "model" / "model.json").is_file()


def train(
    job: Job,
    root: Path,
    *,
    execution: Execution,
    comm: Comm | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Run the method's `train` to its end, in this process as one of the workers; write the model.

    Continues where an earlier start of the same job was stopped.
    """
    folder = job.folder(root)
    if execution.deterministic:
        torch.use_deterministic_algorithms(True)
    data, info = open_data(job, root)
    job.method.check(info)
    run = EngineRun(
        folder, info, data, seed=job.seed, device=device, comm=comm, execution=execution, progress=progress
    )
    model = job.method.train(run)
    run.close()
    if run.rank == 0:
        package.write(folder / "model", job.method, info, model, metrics={}, lineage=lineage(job, info))


def evaluate(job: Job, root: Path, *, device: torch.device | str = "cpu") -> Evaluation:
    """Measure the model as its package holds it, on the run's own data; the package keeps the metrics."""
    folder = job.folder(root)
    model = package.read(folder / "model", device=str(device))
    data, info = open_data(job, root)
    run = EngineRun(folder, info, data, seed=job.seed, device=device)
    measured = job.method.evaluate(model.module, run)
    if phases := _curves(folder):
        run.figure("loss", figures.losses(phases))
    weights = sum(parameter.numel() for parameter in model.module.parameters())
    evaluation = replace(measured, metrics={**measured.metrics, "num_parameters": float(weights)})
    package.write(
        folder / "model",
        job.method,
        info,
        model.module,
        metrics=evaluation.metrics,
        lineage=lineage(job, info),
    )
    write_json(folder / "evaluation.json", {"metrics": evaluation.metrics, "curves": evaluation.curves})
    return evaluation


def metrics_of(folder: Path) -> dict[str, float] | None:
    """The metrics of an evaluated run, or None."""
    path = folder / "evaluation.json"
    if not path.is_file():
        return None
    metrics: dict[str, float] = json.loads(path.read_text())["metrics"]
    return metrics


def _curves(folder: Path) -> dict[str, list[dict[str, float]]]:
    curves = {
        path.stem: path.read_text().splitlines() for path in sorted((folder / "curves").glob("*.jsonl"))
    }
    return {phase: [json.loads(row) for row in rows] for phase, rows in curves.items() if rows}


def open_data(job: Job, root: Path) -> tuple[dict[str, Dataset], DataInfo]:
    """The job's datasets by role, and what the method learns of them. Raises DataError."""
    data = {role: Dataset.open(recipe, root) for role, recipe in job.data.items()}
    return data, DataInfo(problem=job.problem, data={role: dataset.info for role, dataset in data.items()})


def lineage(job: Job, info: DataInfo) -> dict[str, Any]:
    """Run, data and code that a model comes from, by their digests."""
    return {
        "run": job.run,
        "run_digest": job.digest,
        "seed": job.seed,
        "data": {
            role: {
                "recipe": recipe.name,
                "recipe_digest": recipe.digest,
                "content_digest": info.data[role].digest,
                "problem": recipe.dump()["problem"]["name"],
                "solver_version": getattr(recipe.problem, "version", None),
            }
            for role, recipe in job.data.items()
        },
        "code": code_version(),
    }


@cache
def code_version() -> dict[str, Any]:
    """dlde's version, and the commit of the checkout that it runs from, where it is one."""
    source = Path(__file__).parents[2]
    if not (source / ".git").exists():
        return {"dlde": __version__}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(source), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603

    return {
        "dlde": __version__,
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain")),
    }


def environment() -> dict[str, str]:
    """Versions and kind of machine: an allow-list, without names of hosts, users or paths."""
    names = ("torch", "numpy", "ray", "mlflow", "zarr", "xarray")
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        **{name: version(name) for name in names},
    }
