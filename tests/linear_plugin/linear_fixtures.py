"""Fixtures of all tests that need a small model, its package, or a registry that holds it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from dlde import catalog
from dlde.registry import package

if TYPE_CHECKING:
    from dlde.registry.registry import Version

FOLDER = Path(__file__).parent
LINEAGE = {
    "run": "linear-abab",
    "run_digest": "ab" * 32,
    "seed": 0,
    "data": {
        "train": {
            "recipe": "decay-small",
            "recipe_digest": "fe" * 32,
            "content_digest": "c0ffee" * 10,
            "problem": "decay",
            "solver_version": "1",
        }
    },
    "code": {"dlde": "0.1.0", "commit": "12" * 20, "dirty": False},
}


@pytest.fixture(scope="package", autouse=True)
def plugin() -> Iterator[None]:
    """The plug-in is installed, for this process and the ones it starts, while a folder's tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        patch.setenv("PYTHONPATH", str(FOLDER), prepend=os.pathsep)
        catalog.places.cache_clear()
        yield
    catalog.places.cache_clear()


def make_package(folder: Path, seed: int = 0, **fields: object) -> str:
    """A package of the linear method with random weights."""
    import linear_plugin

    info, method = linear_plugin.info(), linear_plugin.Linear(**fields)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = method.build(info)
    return package.write(folder, method, info, model, metrics={"relative_l2": 0.25}, lineage=LINEAGE)


@pytest.fixture(scope="package")
def original(plugin: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A package that no test changes, and its digest."""
    folder = tmp_path_factory.mktemp("package") / "linear"
    return folder, make_package(folder)


@pytest.fixture
def packed(original: tuple[Path, str], tmp_path: Path) -> tuple[Path, str]:
    """A package of this test's own."""
    folder = tmp_path / "linear"
    shutil.copytree(original[0], folder)
    return folder, original[1]


@pytest.fixture(scope="session")
def fresh_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initialised empty MLflow database, made once for all folders of tests."""
    from dlde.registry import store

    root = tmp_path_factory.getbasetemp() / "fresh-store"
    store.prepare(root)
    return store.database(root)


@pytest.fixture
def root(fresh_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A storage root with an empty registry."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "root"
    (folder / "mlflow").mkdir(parents=True)
    shutil.copy(fresh_store, folder / "mlflow" / "mlflow.db")
    return folder


@pytest.fixture
def new_run(root: Path) -> Callable[[], str]:
    """Makes MLflow runs as a training does."""
    from dlde.registry import registry

    def make() -> str:
        place = registry.experiment(root, "decay")
        run = registry.client(root).create_run(place, tags={"dlde.run": LINEAGE["run"]})
        return str(run.info.run_id)

    return make


@pytest.fixture
def champion(root: Path, packed: tuple[Path, str], new_run: Callable[[], str]) -> Version:
    """`linear/1`, registered, with the alias champion."""
    from dlde.registry import registry

    return registry.register(root, packed[0], "linear", run_id=new_run())
