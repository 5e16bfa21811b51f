"""One battery for every method of the catalog; a new one gets it by a line in `SMALL`."""

from __future__ import annotations

import json
import multiprocessing
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from dlde import catalog
from dlde.datasets.generate import generate
from dlde.pipeline import Pipeline
from dlde.registry import package, registry
from dlde.spec import parse_assignments
from dlde.training import job as jobs
from dlde.training import tracking
from dlde.training.comm import Distributed
from dlde.training.job import Job
from dlde.training.run import EngineRun, Execution
from tests.conftest import TINY

DESCENT = "descent: {steps: 60, batch: 8, rate: 2e-3}"
SMALL = {  # a pipeline and the fields that make the method small; the metric that it must improve
    "fno": (
        "neural-operator",
        f"{{name: fno, modes: 6, width: 8, map: {{num_points: 32}}, {DESCENT}}}",
        "relative_l2",
    ),
    "fcn": (
        "neural-operator",
        f"{{name: fcn, width: 8, kernel: 5, dilations: [1, 2], map: {{num_points: 32}}, {DESCENT}}}",
        "relative_l2",
    ),
}
METHODS = sorted(catalog.METHODS)


def job_of(method: str) -> Job:
    name, fields, _ = SMALL[method]
    data = [text for text in TINY if text.startswith("data.")]
    return Pipeline.load(name, overrides=parse_assignments([*data, f"method={fields}"])).job


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


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for path in sorted(folder.glob("curves/*.jsonl")) for line in path.open()]
    return [value for row in rows for key, value in row.items() if key not in ("step", "seconds")]


def test_every_method_is_here() -> None:
    assert sorted(SMALL) == METHODS
    folder = Path(catalog.__file__).parent / "methods"
    assert sorted(path.stem for path in folder.glob("[!_]*.py")) == sorted(
        place.split(":")[0].rsplit(".", 1)[1] for place in catalog.METHODS.values()
    )


def test_it_improves_its_own_metric(trained: Job, root: Path) -> None:
    metric = SMALL[trained.dump()["method"]["name"]][2]
    data, info = jobs.open_data(trained, root)
    run = EngineRun(root / "untrained" / trained.run, info, data, seed=0)
    before = trained.method.evaluate(trained.method.build(info), run).metrics[metric]
    after = jobs.metrics_of(trained.folder(root))
    assert after is not None
    assert after[metric] < 0.8 * before


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
    fetched = package.read(registry.resolve(root, f"{name}@champion"), expected_digest=version.digest)
    generator = torch.Generator().manual_seed(0)
    for operation, spec in loaded.operations.items():
        inputs = {
            key: 0.1
            * torch.randn([dim.size or max(dim.minimum, 16) for dim in array.dims], generator=generator)
            for key, array in spec.inputs.items()
        }
        with torch.no_grad():
            direct = getattr(trained.method, operation)(model, **inputs)
        for other in (loaded, fetched):
            answered, _ = other.answer(operation, inputs)
            assert sorted(answered) == sorted(spec.outputs)
            assert all(torch.equal(answered[key], direct[key]) for key in direct)


def test_two_workers_agree_with_one(trained: Job, root: Path, pair: Any, tmp_path: Path) -> None:
    """Averages over halves round otherwise than over the whole; over 60 steps that stays below 1e-3."""
    (tmp_path / "data").symlink_to(root / "data")
    jobs.prepare(trained, tmp_path, workers=2)
    pair(trained, tmp_path)
    one, two = losses(trained.folder(root)), losses(trained.folder(tmp_path))
    assert len(one) == len(two) > 0
    np.testing.assert_allclose(two[:20], one[:20], rtol=1e-4)
    np.testing.assert_allclose(two, one, rtol=1e-3)


def test_workers_that_cannot_share_a_batch_are_refused(trained: Job) -> None:
    with pytest.raises(Exception, match="cannot be shared equally by 7 workers"):
        trained.check(workers=7)
