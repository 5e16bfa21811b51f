"""Threads, processes and Ray's workers, shards or not: the same dataset; a worker that dies is replaced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from dlde import ray_session
from dlde.cluster import Cluster, RayTasks
from dlde.datasets.engines import Engine, Processes, Threads
from dlde.datasets.generate import generate
from dlde.datasets.recipe import Recipe
from dlde.errors import InputError, NonFiniteError, SpecError, UnknownNameError
from tests.processes import children

Heat = Callable[..., Recipe]
LOCAL = {"facts.json", "certificate.json", ".lock", "manifest.json"}  # of this root alone
BURGERS = {
    "problem": {"name": "burgers", "initial_condition": {"kind": "gaussian", "num_modes": 16}},
    "num_points": [64],
    "times": {"stop": 0.2, "count": 3},
    "samples": {"train": 21, "test": 3},
    "solver": {"dt": 0.01},
    "storage": {"part": 4},
}


@pytest.fixture(scope="module")
def ray() -> Engine:
    with ray_session.session(num_cpus=2):
        yield RayTasks(2)


def test_all_engines_give_the_same_bytes(ray: Engine, tmp_path: Path) -> None:
    recipe = Recipe.parse({"name": "b", **BURGERS}, source="test")
    stores = []
    for name, engine in {
        "one": Threads(1),
        "threads": Threads(3),
        "processes": Processes(2),
        "ray": ray,
    }.items():
        done = generate(recipe, tmp_path / name, engine=engine)
        assert (done.computed, done.parts) == (7, 7)
        stores.append(done)
    assert len({done.digest for done in stores}) == 1
    files = [
        {
            path.relative_to(done.store): path.read_bytes()
            for path in done.store.rglob("*")
            if path.is_file()
            and path.name not in {"facts.json", "certificate.json", ".lock", "manifest.json"}
        }
        for done in stores
    ]
    assert files[0]
    assert all(other == files[0] for other in files[1:])


def test_an_error_of_ours_comes_back_from_ray_as_itself(ray: Engine, heat: Heat, tmp_path: Path) -> None:
    recipe = heat(problem={"name": "slab", "fails_above": -9.0}, diverged="refuse")
    with pytest.raises(NonFiniteError, match="not finite; their first instance"):
        generate(recipe, tmp_path, engine=ray)


def test_a_killed_ray_worker_is_replaced(ray: Engine, heat: Heat, tmp_path: Path) -> None:
    recipe = heat(samples={"train": 60}, storage={"part": 2})
    killed: list[int] = []

    def kill(done: int, total: int, note: str) -> None:
        if done >= 6 and not killed:
            for child in children(os.getpid(), "ray::dask")[:1]:
                child.kill()
                killed.append(child.pid)

    done = generate(recipe, tmp_path / "a", engine=ray, progress=kill)
    assert killed
    assert done.digest == generate(recipe, tmp_path / "b").digest


def test_a_killed_process_is_replaced(heat: Heat, tmp_path: Path) -> None:
    recipe = heat(samples={"train": 80}, storage={"part": 2})
    killed: list[int] = []

    def kill(done: int, total: int, note: str) -> None:
        if done >= 4 and not killed:
            child = children(os.getpid(), "spawn_main")[0]
            child.kill()
            killed.append(child.pid)

    done = generate(recipe, tmp_path / "a", engine=Processes(2), progress=kill)
    assert killed
    assert (done.computed, done.digest) == (40, generate(recipe, tmp_path / "b").digest)


def test_shards_hold_the_same_values_in_fewer_files(heat: Heat, tmp_path: Path) -> None:
    plain = generate(heat(storage={"part": 8}), tmp_path)
    sharded = generate(heat(storage={"part": 8, "sharded": True}), tmp_path)
    assert sharded.store != plain.store
    assert sharded.digest == plain.digest  # of the decoded values
    assert len(list((sharded.store / "train" / "u").glob("c.*"))) == 3
    assert sharded.dataset.verify().whole
    np.testing.assert_array_equal(sharded.dataset.read("train", "u"), plain.dataset.read("train", "u"))


@pytest.mark.parametrize("sharded", [False, True])
def test_the_fast_codecs_read_and_write_the_same(heat: Heat, tmp_path: Path, sharded: bool) -> None:
    pytest.importorskip("zarrs", reason="the codec pipeline zarrs is not installed")
    recipe = heat(storage={"part": 8, "sharded": sharded})
    plain = generate(recipe, tmp_path / "a")
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        fast = generate(recipe, tmp_path / "b")
        read = plain.dataset.read("train", "u")
    assert fast.digest == plain.digest
    np.testing.assert_array_equal(read, fast.dataset.read("train", "u"))


def test_the_cluster_file_chooses(tmp_path: Path) -> None:
    for name, kind in {"local": Processes, "threads": Threads, "ray": RayTasks}.items():
        engine = Cluster.load(name).tasks(3)
        assert type(engine) is kind
        assert engine.workers == 3
    file = tmp_path / "mine.yaml"
    file.write_text("engine: threads\nworkers: 5\n")
    assert Cluster.load(str(file)).tasks().workers == 5
    file.write_text("engine: dask\nworker: 5\n")
    with pytest.raises(SpecError, match=r"(?s)engine: .*'threads' or 'ray'.*did you mean 'workers'"):
        Cluster.load(str(file))
    with pytest.raises(UnknownNameError, match="unknown cluster 'locla'; did you mean 'local'"):
        Cluster.load("locla")


def test_a_pipeline_generates_where_the_cluster_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from dlde import pipeline

    class Told(Exception):  # noqa: N818
        pass

    asked: list[Engine] = []

    def generate(*_: object, engine: Engine, **__: object) -> None:
        asked.append(engine)
        raise Told

    monkeypatch.setattr(pipeline, "generate", generate)
    loaded = pipeline.Pipeline.load("neural-operator")
    for cluster, workers in ((None, None), (None, 3), (Cluster(engine="threads", workers=5), None)):
        with pytest.raises(Told):
            pipeline.Walk(loaded, tmp_path, cluster=cluster).generate(workers=workers)
    assert [(type(engine), engine.workers) for engine in asked] == [
        (Processes, 1),
        (Processes, 3),
        (Threads, 5),
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: nothing to refuse")
def test_a_device_that_is_not_there_is_named(heat: Heat, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"solved on a GPU .* this machine has none"):
        generate(heat(device="cuda"), tmp_path)
    assert not heat(device="cuda").store(tmp_path).exists()


def test_memory_does_not_grow_with_the_dataset(heat: Heat, tmp_path: Path) -> None:
    """Parts are let go when they are committed: thirty-two times the data, about the same peak."""
    script = Path(__file__).parent / "peak.py"
    peaks = []
    for count in (16, 512):
        recipe = heat(num_points=[4096], samples={"train": count}, storage={"part": 8})
        file = tmp_path / f"{count}.json"
        file.write_text(json.dumps(recipe.dump()))
        out = subprocess.run(
            [sys.executable, str(script), str(file), str(tmp_path / str(count))],
            check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        peaks.append(int(out.stdout))
    assert peaks[1] < peaks[0] + 30e6
