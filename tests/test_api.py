"""`import dlde`: light, the same objects and results as the commands, and its documents are true."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import dlde
from dlde import api
from dlde.errors import DataError, InputError, SpecError, UnknownNameError
from dlde.spec import parse_assignments
from tests.conftest import TINY, command, environment, tiny

DOCUMENT = Path(__file__).parents[1] / "docs" / "python.md"
OVERRIDES = parse_assignments(TINY)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def trained(root: Path) -> api.Trained:
    return dlde.train("neural-operator", root=root, overrides=OVERRIDES)


@pytest.fixture(scope="module")
def fields(trained: api.Trained, root: Path) -> Any:
    """Initial velocities of the test split, on the grid that was trained on."""
    dataset = dlde.generate(trained.pipeline, root=root)
    assert isinstance(dataset, dict)
    u = dataset["solutions"].to_xarray("test")["u"].isel(time=0, x=slice(None, None, 2))
    return u.expand_dims(channel=1, axis=-1)


def test_the_import_is_light_and_shows_its_names() -> None:
    script = (
        "import sys, json, dlde; heavy = {'torch', 'ray', 'mlflow', 'xarray'} & set(sys.modules)\n"
        "print(json.dumps([sorted(heavy), sorted(set(dlde.__all__) - set(dir(dlde)))]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[], []]
    assert all(getattr(dlde, name) is getattr(api, name) for name in dlde.__all__)
    with pytest.raises(AttributeError, match=r"module 'dlde' has no attribute 'trane'"):
        dlde.trane  # noqa: B018


def test_a_training_is_that_of_the_command(trained: api.Trained, root: Path) -> None:
    done = subprocess.run(
        [*command("train", "neural-operator", *tiny()), "--json"],
        env=environment(root),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["run"] == trained.run
    assert [path.name for path in (root / "runs").glob("fno-*")] == [trained.run]
    assert trained.curves("relative_l2")["relative_l2"][-1]["step"] >= 50
    assert set(trained.curves()) >= {"relative_l2"}


def test_the_road_from_the_pipeline_to_the_registered_model(
    trained: api.Trained, root: Path, fields: Any, tmp_path: Path
) -> None:
    version = dlde.register(trained, alias="tried")
    assert version.digest == trained.model().digest
    model = dlde.load_model(f"{version.name}@tried", root=root)
    assert model.digest == version.digest
    again = dlde.evaluate(f"{version.name}@tried", root=root)
    assert again.metrics["relative_l2"] == pytest.approx(trained.metrics["relative_l2"], rel=1e-6)
    np.savez(tmp_path / "in.npz", u=fields.values)
    done = dlde.predict(f"{version.name}@tried", tmp_path / "in.npz", tmp_path / "out.npz", root=root)
    with np.load(tmp_path / "out.npz") as answers:
        assert np.array_equal(answers["u"], model.predict(u=fields.values)["u"])
    assert done.digest == model.digest


def test_a_dataset_opens_by_recipe_and_by_path(trained: api.Trained, root: Path) -> None:
    recipe = trained.pipeline.data["solutions"]
    made = dlde.generate(recipe, root=root)
    assert isinstance(made, api.Dataset)
    opened = dlde.open_dataset(made.store)
    assert opened.to_xarray("train").identical(made.to_xarray("train"))
    assert opened.to_xarray("train").sizes["sample"] == 40
    with pytest.raises(DataError, match="dlde data generate burgers-1d-grf"):
        dlde.open_dataset("burgers-1d-grf", root=root)


def test_answers_are_of_the_kind_that_was_given(trained: api.Trained, fields: Any) -> None:
    model = trained.model()
    array = model.predict(u=fields.values)["u"]
    tensor = model.predict(u=torch.from_numpy(fields.values))["u"]
    named = model.predict(u=fields)["u"]
    listed = model.predict(u=fields.values.tolist())["u"]
    assert isinstance(array, np.ndarray)
    assert isinstance(listed, np.ndarray)
    assert isinstance(tensor, torch.Tensor)
    assert isinstance(named, xr.DataArray)
    for other in (tensor.numpy(), named.values, listed):
        assert np.array_equal(array, other)
    assert named.dims == ("batch", "x", "channel")
    assert np.array_equal(named["x"], fields["x"])
    assert named.attrs["long_name"]


def test_inputs_unlike_the_training_data_are_warned_of(trained: api.Trained, fields: Any) -> None:
    model = trained.model()
    with pytest.warns(UserWarning, match="root mean square outside the training range"):
        model.predict(u=1000 * fields.values)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.ask("predict", u=trained_like(model))


def trained_like(model: Any) -> np.ndarray[Any, Any]:
    """A sine with a root mean square in the middle of the training range."""
    low, high = model.operations["predict"].inputs["u"].rms_range
    x = np.arange(32) / 32
    return ((low + high) / 2 * np.sqrt(2) * np.sin(2 * np.pi * x))[None, :, None]


def test_mistakes_are_named(trained: api.Trained, root: Path, fields: Any) -> None:
    model = trained.model()
    with pytest.raises(InputError, match="unknown input 'v'; known: u"):
        model.predict(v=fields.values)
    with pytest.raises(InputError, match="an array of numbers is expected"):
        model.predict(u=np.array(["a"]))
    with pytest.raises(UnknownNameError, match="unknown operation 'predit'; did you mean 'predict'"):
        model.ask("predit", u=fields.values)
    with pytest.raises(AttributeError, match="predit"):
        model.predit  # noqa: B018
    with pytest.raises(UnknownNameError, match="did you mean 'neural-operator'"):
        dlde.load_pipeline("neural-operater")
    with pytest.raises(SpecError, match="overrides: only where the pipeline is named"):
        dlde.train(trained.pipeline, root=root, overrides={})


def test_the_docstrings_are_true() -> None:
    result = doctest.testmod(api, optionflags=doctest.ELLIPSIS)
    assert result.attempted
    assert not result.failed


def test_the_tutorial_is_true(
    trained: api.Trained, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the root that holds this training already: the tutorial's is the same, and is found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DLDE_ROOT", str(root))
    flags = doctest.ELLIPSIS | doctest.REPORT_NDIFF
    result = doctest.testfile(str(DOCUMENT), module_relative=False, optionflags=flags)
    assert result.attempted > 15
    assert not result.failed
    assert [path.name for path in (root / "runs").glob("fno-*")] == [trained.run]
