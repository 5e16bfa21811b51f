"""One battery for every method of the catalog; a new one gets it by an entry in `SMALL`."""

from __future__ import annotations

import importlib
import inspect
import io
import json
import multiprocessing
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from fastapi.testclient import TestClient
from torch import Tensor

from dlde import catalog
from dlde.datasets.generate import generate
from dlde.method import Operation
from dlde.pipeline import Pipeline
from dlde.problem import Problem
from dlde.registry import package, registry
from dlde.serving import app as application
from dlde.spec import parse_assignments
from dlde.training import job as jobs
from dlde.training import run as engine
from dlde.training import tracking
from dlde.training.comm import Distributed
from dlde.training.job import Job
from dlde.training.run import EngineRun, Execution
from tests.conftest import TINY

BURGERS = tuple(text for text in TINY if text.startswith("data."))
PATHS = ("data.paths.samples={train: 40, test: 20}",)
DESCENT = "descent: {steps: 60, batch: 8, rate: 2e-3}"


@dataclass(frozen=True)
class Small:
    """How a method is made small, and what its training must improve."""

    pipeline: str
    fields: str  # of the method, YAML
    metric: str | None  # None: there is nothing to train
    sets: tuple[str, ...] = ()  # other fields of the pipeline
    factor: float = 0.8  # the metric falls below this part of the untrained model's
    steps: bool = True  # it trains in steps, so that it can be killed between two of them
    drift: float = 1e-3  # relative, of losses of two workers from those of one
    rows: int | None = None  # losses that are compared: a chaotic learner drifts. None: all
    losses: bool = True  # steps log losses; else one and two workers are compared by their weights


SMALL = {
    "fno": Small(
        "neural-operator",
        f"modes: 6, width: 8, map: {{num_points: 32}}, {DESCENT}",
        "relative_l2",
        BURGERS,
    ),
    "fcn": Small(
        "neural-operator",
        f"width: 8, kernel: 5, dilations: [1, 2], map: {{num_points: 32}}, {DESCENT}",
        "relative_l2",
        BURGERS,
    ),
    "deep-bsde": Small(
        "deep-bsde",
        "width: 8, paths: {intervals: 4, window: 10, test_paths: 200}, "
        "descent: {steps: 60, batch: 8, rate: 1e-1}",
        "relative_error",
    ),
    "bsde-actor-critic": Small(
        "deep-bsde",
        "width: 8, region: 1.0, critic_width: 8, paths: {intervals: 4, window: 10, test_paths: 200}, "
        "descent: {steps: 60, batch: 8, rate: 1e-2}",
        "relative_error",
    ),
    "adversarial-sampling": Small(
        "adversarial-sampling",
        "width: 8, steepness: 1.0, sampler_width: 8, sampler_batch: 16, pretrain: 20, sampler_every: 2, "
        "descent: {steps: 300, batch: 16, rate: 2e-2}",
        "relative_l2",
        ("problem.diffusivity=1.0",),
        drift=1e-2,
        rows=100,  # two players amplify what rounding did to either
    ),
    "ddpg": Small(
        "spde-control",
        "width: 16, layers: 2, batch: 32, decisions: 2400, warmup: 480, actor_rate: 2e-3, "
        "feedback: {paths: 8}",
        "cost",
        drift=1e-2,  # so do an actor and its critic
    ),
    "instantaneous-control": Small("spde-control", "feedback: {paths: 8}", None, steps=False),
    "proportional-control": Small(
        "spde-control",
        "gains: [0.0, 2.0, 4.0], paths: 4, feedback: {paths: 8}",
        "cost",
        steps=False,
    ),
    "randomized-signature": Small("randomized-signature", "features: 32", "nmse", PATHS, losses=False),
    "truncated-signature": Small("randomized-signature", "order: 3", "nmse", PATHS, losses=False),
    "linear-path": Small("randomized-signature", "", "nmse", PATHS, losses=False),
    "gru": Small(
        "randomized-signature",
        "hidden: 16, descent: {steps: 60, batch: 20, rate: 2e-2}",
        "nmse",
        PATHS,
        drift=1e-2,  # a recurrent network at a high rate
    ),
    "pinn": Small(
        "adversarial-sampling",
        "width: 8, steepness: 1.0, descent: {steps: 250, batch: 16, rate: 2e-2}",
        "relative_l2",
        ("problem.diffusivity=1.0",),
    ),
}
METHODS = sorted(catalog.METHODS)


def job_of(method: str) -> Job:
    small = SMALL[method]
    sets = [*small.sets, f"method={{name: {method}, {small.fields}}}"]
    return Pipeline.load(small.pipeline, overrides=parse_assignments(sets)).job


def small_of(job: Job) -> Small:
    return SMALL[job.dump()["method"]["name"]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("battery")
    for method in METHODS:
        for recipe in job_of(method).data.values():
            generate(recipe, root)
    return root


@pytest.fixture(scope="module", params=METHODS)
def trained(request: pytest.FixtureRequest, root: Path) -> Job:
    """Every method, trained in this process on one thread, and evaluated."""
    torch.set_num_threads(1)
    job = job_of(request.param)
    job.check(1)
    jobs.prepare(job, root, workers=1)
    jobs.train(job, root, execution=Execution())
    jobs.evaluate(job, root)
    return job


def _worker(rank: int, port: int, tasks: Any, done: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    while (task := tasks.get()) is not None:
        plain, root = task
        try:
            jobs.train(Job.parse(plain, source="job"), Path(root), execution=Execution(), comm=Distributed())
            done.put(None)
        except Exception as error:  # the test shows it
            done.put(repr(error))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def pair() -> Iterator[Any]:
    """Two gloo processes that train whatever they are given, one job after another."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tasks, done = [context.Queue(), context.Queue()], context.Queue()
    workers = [context.Process(target=_worker, args=(rank, port, tasks[rank], done)) for rank in (0, 1)]
    for worker in workers:
        worker.start()

    def train(job: Job, root: Path) -> None:
        for queue in tasks:
            queue.put((job.dump(), str(root)))
        assert [done.get(timeout=200) for _ in workers] == [None, None]

    yield train
    for queue in tasks:
        queue.put(None)
    for worker in workers:
        worker.join(timeout=60)


def _killed(plain: Any, root: str, share: float) -> None:
    """Train, and die by SIGKILL after this share of the first phase's steps."""
    torch.set_num_threads(1)
    end_of_step = engine._Phase.end_of_step

    def dying(phase: Any, step: int) -> None:
        end_of_step(phase, step)
        if step >= share * phase.steps:
            os.kill(os.getpid(), signal.SIGKILL)

    engine._Phase.end_of_step = dying  # type: ignore[method-assign]
    jobs.train(Job.parse(plain, source="job"), Path(root), execution=Execution(checkpoint_steps=3))


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for path in sorted(folder.glob("curves/*.jsonl")) for line in path.open()]
    return [value for row in rows for key, value in row.items() if key not in ("step", "seconds")]


def weights_of(job: Job, root: Path) -> dict[str, Tensor]:
    return package.read(job.folder(root) / "model").module.state_dict()


def question(operation: Operation) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Inputs (two samples, inside the bounds) and options that an operation answers."""
    example = application.example(operation, "any")
    inputs = {}
    generator = torch.Generator().manual_seed(0)
    for name, spec in operation.inputs.items():
        value = torch.tensor(example["inputs"][name], dtype=getattr(torch, spec.dtype))
        value = value.expand(2, *value.shape[1:]).clone()
        if not spec.bounds and value.is_floating_point() and not spec.increasing:
            value += 0.1 * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        inputs[name] = value
    return inputs, example.get("options", {})


def test_every_method_is_here() -> None:
    assert sorted(SMALL) == METHODS
    folder = Path(catalog.__file__).parent / "methods"
    assert sorted(path.stem for path in folder.glob("[!_]*.py")) == sorted(
        place.split(":")[0].rsplit(".", 1)[1] for place in catalog.METHODS.values()
    )


def test_every_problem_is_here() -> None:
    folder = Path(catalog.__file__).parent / "problems"
    named = {place.split(":")[0].rsplit(".", 1)[1] for place in catalog.PROBLEMS.values()}
    shared = {path.stem for path in folder.glob("[!_]*.py")} - named
    for name in named:
        catalog.find("problem", next(k for k, v in catalog.PROBLEMS.items() if f".{name}:" in v))
    for name in shared:  # what several problems share holds no problem but abstract ones
        module = importlib.import_module(f"dlde.problems.{name}")
        own = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
        assert [c for c in own if issubclass(c, Problem) and not inspect.isabstract(c)] == []


def test_it_improves_its_own_metric(trained: Job, root: Path) -> None:
    small = small_of(trained)
    after = jobs.metrics_of(trained.folder(root))
    assert after is not None
    if small.metric is None:
        return
    data, info = jobs.open_data(trained, root)
    run = EngineRun(root / "untrained" / trained.run, info, data, seed=0, pictures=False)
    before = trained.method.evaluate(trained.method.build(info), run).metrics[small.metric]
    assert after[small.metric] < small.factor * before


def test_what_it_answers_survives_the_package_and_the_registry(trained: Job, root: Path) -> None:
    data, info = jobs.open_data(trained, root)
    folder = trained.folder(root)
    run = EngineRun(folder, info, data, seed=trained.seed)
    model = trained.method.train(run).eval()  # found, not trained again
    loaded = package.read(folder / "model")
    name = trained.run.rpartition("-")[0]
    mlflow_run = tracking.sync(root, folder, name="battery")
    version = registry.register(root, folder / "model", name, run_id=mlflow_run, alias="champion")
    assert not registry.register(root, folder / "model", name, run_id=mlflow_run, alias="champion").created
    lineage = registry.lineage(root, f"{name}@champion")
    assert lineage["complete"], lineage["missing"]
    fetched = package.read(registry.resolve(root, f"{name}@champion"), expected_digest=version.digest)
    for operation, spec in loaded.operations.items():
        inputs, options = question(spec)
        with torch.no_grad():
            direct = getattr(trained.method, operation)(model, **inputs, **options)
        for other in (loaded, fetched):
            answered, _ = other.answer(operation, inputs, options=options)
            assert sorted(answered) == sorted(spec.outputs)
            for key, value in answered.items():
                told = spec.outputs[key]
                assert str(value.dtype) == f"torch.{told.dtype}"
                assert len(value.shape) == len(told.dims)
                assert all(dim.size in (None, size) for dim, size in zip(told.dims, value.shape, strict=True))
            assert all(torch.equal(answered[key], direct[key]) for key in direct)


def test_answers_over_http_equal_those_in_process(trained: Job, root: Path) -> None:
    """JSON and .npz, every operation; and what is no number is refused."""
    model = package.read(trained.folder(root) / "model")
    with TestClient(application.build(model)) as client:
        for name, operation in model.operations.items():
            inputs, options = question(operation)
            expected, _ = model.answer(name, inputs, options=options)
            body = {
                "inputs": {key: value.tolist() for key, value in inputs.items()},
                "options": options,
                "operation": name,
            }
            response = client.post("/predict", json=body)
            assert response.status_code == 200, response.text
            for key, value in expected.items():
                answered = torch.tensor(response.json()["outputs"][key], dtype=value.dtype)
                assert torch.equal(answered, value)
            buffer = io.BytesIO()
            arrays = {key: value.numpy() for key, value in inputs.items()}
            np.savez(buffer, **arrays, **{f"options/{key}": value for key, value in options.items()})
            response = client.post(
                f"/predict?operation={name}",
                content=buffer.getvalue(),
                headers={"content-type": application.NPZ[0]},
            )
            assert response.status_code == 200, response.text
            with np.load(io.BytesIO(response.content), allow_pickle=False) as archive:
                assert all(np.array_equal(archive[key], value.numpy()) for key, value in expected.items())
            for key, value in inputs.items():
                if value.is_floating_point():
                    poisoned = {**inputs, key: torch.full_like(value, float("nan"))}
                    np.savez(buffer := io.BytesIO(), **{k: v.numpy() for k, v in poisoned.items()})
                    response = client.post(
                        f"/predict?operation={name}",
                        content=buffer.getvalue(),
                        headers={"content-type": application.NPZ[0]},
                    )
                    assert response.status_code == 422
                    assert "NaN" in response.json()["error"]


def test_killed_in_mid_training_it_ends_bitwise_as_undisturbed(
    trained: Job, root: Path, tmp_path: Path
) -> None:
    """SIGKILL in a process of its own; the same device and one thread."""
    (tmp_path / "data").symlink_to(root / "data")
    jobs.prepare(trained, tmp_path, workers=1)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dlde.training.job", "dlde.pipeline"])
    process = context.Process(target=_killed, args=(trained.dump(), str(tmp_path), 0.6))
    process.start()
    process.join(timeout=120)
    if not small_of(trained).steps:
        assert process.exitcode == 0, "a method without steps has no middle"
        return
    assert process.exitcode == -signal.SIGKILL
    jobs.train(trained, tmp_path, execution=Execution())
    assert losses(trained.folder(tmp_path)) == losses(trained.folder(root))
    weights = [
        package.read(trained.folder(place) / "model").module.state_dict() for place in (root, tmp_path)
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_two_workers_agree_with_one(trained: Job, root: Path, pair: Any, tmp_path: Path) -> None:
    """Averages over halves round otherwise than over the whole; over few steps that stays small."""
    (tmp_path / "data").symlink_to(root / "data")
    jobs.prepare(trained, tmp_path, workers=2)
    pair(trained, tmp_path)
    small = small_of(trained)
    one, two = losses(trained.folder(root)), losses(trained.folder(tmp_path))
    assert len(one) == len(two)
    if not (small.steps and small.losses):
        first, second = (weights_of(trained, place) for place in (root, tmp_path))
        for key, value in first.items():
            torch.testing.assert_close(second[key], value, rtol=1e-6, atol=1e-9)
        return
    assert len(one) > 0
    np.testing.assert_allclose(two[:20], one[:20], rtol=1e-4)
    np.testing.assert_allclose(two[: small.rows], one[: small.rows], rtol=small.drift)


def test_workers_that_cannot_share_a_batch_are_refused(trained: Job) -> None:
    if "batch" in json.dumps(trained.dump()["method"]):
        with pytest.raises(Exception, match="cannot be shared equally by 7 workers"):
            trained.check(workers=7)
