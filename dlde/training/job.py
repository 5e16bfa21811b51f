"""A training as data: what it computes (`Job`), where its results lie, and its execution.

A run's folder is named by the digest of its mathematics, so that an override never meets the state
of another training, and the same job started again continues.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dlde import __version__, catalog, figures, memory
from dlde.datasets.dataset import Dataset
from dlde.datasets.recipe import Recipe
from dlde.errors import SpecError, UnknownNameError, nearest
from dlde.files import write_json
from dlde.method import AnyMethod, Comm, DataInfo, Evaluation, Method, RolloutWorkers
from dlde.problem import AnyProblem, Seed
from dlde.registry import package
from dlde.spec import Spec, digest_of
from dlde.training.rollouts import Make
from dlde.training.run import EngineRun, Execution, Precision, Progress, Supervisor

FORMAT = 1  # of a run's folder; part of its name


class Job(Spec):
    """The mathematics of one training: data, method, seed."""

    method: AnyMethod
    problem: AnyProblem | None = None
    data: dict[str, Recipe] = {}
    seed: Seed = 0
    precision: Precision = (
        "float32"  # of the loss and its gradients; weights are kept as the method made them
    )

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all that changes the result."""
        plain = {key: value for key, value in self.dump().items() if key != "data"}
        if self.precision == "float32":  # as before there was a choice
            del plain["precision"]
        data = {role: [recipe.digest, recipe.samples] for role, recipe in self.data.items()}
        return digest_of([FORMAT, plain, data])

    @property
    def run(self) -> str:
        """The run's name, which is its folder's."""
        return f"{self.dump()['method']['name']}-{self.digest[:12]}"

    def folder(self, root: Path) -> Path:
        """Where this training lives under the storage root."""
        return root / "runs" / self.run

    def check(self, workers: int, execution: Execution | None = None) -> None:
        """Refuse what cannot work, before anything starts. Raises InputError."""
        roles, known = set(self.data), set(self.method.roles)
        if roles != known:
            raise SpecError(
                f"method {self.dump()['method']['name']!r} reads data in the roles {sorted(known)}, "
                f"but the pipeline gives {sorted(roles)}",
                mistakes=["data"],
            )
        requires, name = self.method.requires, self.dump()["method"]["name"]
        if requires is None and self.problem is not None:
            raise SpecError(
                f"method {name!r} takes no problem: what it learns of one is in its data; "
                "leave out `problem`",
                mistakes=["problem"],
            )
        if requires is not None and not isinstance(self.problem, requires):
            offering = [
                known for known in catalog.places("problem")
                if issubclass(catalog.find("problem", known), requires)
            ]  # fmt: skip
            given = "none" if self.problem is None else repr(catalog.name_of("problem", type(self.problem)))
            raise SpecError(
                f"method {name!r} needs a problem that offers {requires.__name__} "
                f"({', '.join(sorted(offering))}), got {given}",
                mistakes=["problem"],
            )
        if self.precision not in self.method.precisions:
            raise SpecError(
                f"method {name!r} is trained in {' or '.join(self.method.precisions)}, not in "
                f"training.precision={self.precision}",
                mistakes=["training.precision"],
            )
        if execution is not None and execution.compile and not (shutil.which("c++") or shutil.which("g++")):
            raise SpecError(
                "training.compile=true needs a C++ compiler (c++ or g++) on the machine, and finds none; "
                "install one, or leave it out",
                mistakes=["training.compile"],
            )
        self.method.check_workers(workers * (execution.accumulate if execution else 1))
        if not self.data:
            self.method.check(DataInfo(problem=self.problem))


def load(root: Path, run: str) -> Job:
    """The job of a run by its name. Raises UnknownNameError with the nearest names."""
    path = root / "runs" / run / "job.json"
    if "/" in run or not path.is_file():
        raise UnknownNameError(f"unknown run {run!r}; {nearest(run, runs(root))}", name=run)
    return Job.parse(json.loads(path.read_text())["job"], source=f"{run}/job.json")


def runs(root: Path) -> list[str]:
    """Names of all runs under the storage root."""
    return sorted(path.parent.name for path in (root / "runs").glob("*/job.json"))


def prepare(
    job: Job,
    root: Path,
    *,
    workers: int,
    fresh: bool = False,
    alone: bool = False,
    folder: Path | None = None,
) -> Path:
    """The run's folder with its `job.json`; `fresh` empties it first. `folder` is another than the job's.

    `alone` says that no other training of this root runs beside it; it is recorded where that was so
    from the training's first step on.
    """
    folder = folder or job.folder(root)
    if fresh and folder.exists():
        removed = folder.with_name(f".{folder.name}.removed")  # at once: half a folder would be continued
        shutil.rmtree(removed, ignore_errors=True)
        folder.rename(removed)
        shutil.rmtree(removed)
    if not (folder / "job.json").exists():
        content = {"run": folder.name, "job": job.dump(), "code": code_version(), "started": time.time()}
        write_json(folder / "job.json", content)
    alone = alone and (execution_of(folder).get("alone", False) or not (folder / "checkpoints").exists())
    write_json(folder / "execution.json", {"workers": workers, "alone": alone, "environment": environment()})
    return folder


def execution_of(folder: Path) -> dict[str, Any]:
    """How a run was executed: workers, whether alone, environment, seconds once it has ended."""
    path = folder / "execution.json"
    plain: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return plain


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
    rollouts: Callable[[Make], RolloutWorkers] | None = None,
    supervisor: Supervisor | None = None,
    folder: Path | None = None,
) -> None:
    """Run the method's `train` to its end, in this process as one of the workers; write the model.

    Continues where an earlier start of the same job was stopped. Raises StoppedError where the
    supervisor wanted its end.
    """
    began = time.monotonic()
    folder = folder or job.folder(root)
    data, info = open_data(job, root)
    job.method.check(info)
    run = EngineRun(
        folder,
        info,
        data,
        seed=job.seed,
        device=device,
        comm=comm,
        execution=_decided(execution, job.method, torch.device(device)),
        precision=job.precision,
        progress=progress,
        rollouts=rollouts,
        supervisor=supervisor,
    )
    with _deterministic(execution.deterministic), memory.kept():
        model = job.method.train(run)
    run.close()
    if run.rank == 0:
        seconds = max(run.seconds, time.monotonic() - began)  # earlier starts, or work outside phases
        write_json(folder / "execution.json", {**execution_of(folder), "seconds": seconds})
        package.write(
            folder / "model", job.method, info, model, metrics={}, lineage=lineage(job, info, folder.name)
        )


def _decided(execution: Execution, method: Method, device: torch.device) -> Execution:
    """Whether to compile, where the pipeline leaves it open."""
    if execution.compile is not None:
        return execution
    return execution.model_copy(update={"compile": device.type in method.compiles_on})


@contextlib.contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """torch refuses operations that add in any order, while the block runs."""
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # asked for by torch, read at first use
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def evaluate(
    job: Job,
    root: Path,
    *,
    device: torch.device | str = "cpu",
    pictures: bool = True,
    folder: Path | None = None,
) -> Evaluation:
    """Measure the model as its package holds it, on the run's own data; the package keeps the metrics.

    Without `pictures` its figures are not kept: of many cheap trials they would take most of the time.
    """
    folder = folder or job.folder(root)
    model = package.read(folder / "model", device=str(device))
    data, info = open_data(job, root)
    run = EngineRun(folder, info, data, seed=job.seed, device=device, pictures=pictures)
    with memory.kept():
        measured = job.method.evaluate(model.module, run)
    phases = _curves(folder)
    if any(len(row) > 2 for rows in phases.values() for row in rows):  # more than step and seconds
        run.figure("loss", figures.losses(phases))
    weights = sum(parameter.numel() for parameter in model.module.parameters())
    evaluation = replace(measured, metrics={**measured.metrics, "num_parameters": float(weights)})
    package.write(
        folder / "model",
        job.method,
        info,
        model.module,
        metrics=evaluation.metrics,
        lineage=lineage(job, info, folder.name),
    )
    write_json(
        folder / "evaluation.json",
        {"metrics": evaluation.metrics, "curves": evaluation.curves, "pictures": pictures},
    )
    return evaluation


def metrics_of(folder: Path, *, pictures: bool = False) -> dict[str, float] | None:
    """The metrics of an evaluated run, or None; with `pictures`, of one whose figures were kept."""
    path = folder / "evaluation.json"
    if not path.is_file():
        return None
    plain = json.loads(path.read_text())
    metrics: dict[str, float] = plain["metrics"]
    return metrics if plain.get("pictures", True) or not pictures else None


def _curves(folder: Path) -> dict[str, list[dict[str, float]]]:
    curves = {
        path.stem: path.read_text().splitlines() for path in sorted((folder / "curves").glob("*.jsonl"))
    }
    return {phase: [json.loads(row) for row in rows] for phase, rows in curves.items() if rows}


def logged(folder: Path) -> tuple[str, ...]:
    """Names of everything that a run logged."""
    rows = [row for rows in _curves(folder).values() for row in rows]
    return tuple(dict.fromkeys(name for row in rows for name in row if name not in ("step", "seconds")))


def curves(folder: Path, names: Collection[str]) -> dict[str, list[dict[str, float]]]:
    """What a run logged under these names, as rows {step, seconds, value} through all its phases."""
    phases = sorted(_curves(folder).values(), key=lambda rows: rows[0]["seconds"]) if names else []
    found: dict[str, list[dict[str, float]]] = {}
    before = 0.0  # steps of earlier phases
    for rows in phases:
        for row in rows:
            for name in set(names) & set(row):
                point = {"step": before + row["step"], "seconds": row["seconds"], "value": row[name]}
                found.setdefault(name, []).append(point)
        before += rows[-1]["step"]
    return found


def evaluated_curves(folder: Path, names: Collection[str]) -> dict[str, list[dict[str, float]]]:
    """Curves of these names that the evaluation measured, as rows {at, value}."""
    path = folder / "evaluation.json"
    measured = json.loads(path.read_text())["curves"] if names and path.is_file() else {}
    return {name: [{"at": x, "value": y} for x, y in measured[name]] for name in names if name in measured}


def content_digests(folder: Path) -> dict[str, str]:
    """Role -> digest of the values that a trained run was made from."""
    lineage = json.loads((folder / "model" / "model.json").read_text())["lineage"]
    return {role: data["content_digest"] for role, data in lineage["data"].items()}


def open_data(job: Job, root: Path) -> tuple[dict[str, Dataset], DataInfo]:
    """The job's datasets by role, and what the method learns of them. Raises DataError."""
    data = {role: Dataset.open(recipe, root) for role, recipe in job.data.items()}
    return data, DataInfo(problem=job.problem, data={role: dataset.info for role, dataset in data.items()})


def lineage(job: Job, info: DataInfo, run: str) -> dict[str, Any]:
    """Run, data and code that a model comes from, by their digests."""
    return {
        "run": run,
        "run_digest": job.digest,
        "seed": job.seed,
        "problem": None
        if job.problem is None
        else {
            "name": catalog.name_of("problem", type(job.problem)),
            "digest": digest_of(catalog.write("problem", job.problem)),
        },
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
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        **{name: version(name) for name in names},
    }


def _processor() -> str:
    """The model's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )
