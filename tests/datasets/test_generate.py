from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlde.datasets import generate as generation
from dlde.datasets import instances, layout, parts
from dlde.datasets import recipe as recipes
from dlde.datasets.dataset import Dataset, open_dataset
from dlde.datasets.generate import generate
from dlde.datasets.recipe import Recipe
from dlde.errors import DataError, GridError, InputError, NonFiniteError, StoreMismatchError, UnknownNameError
from dlde.files import locked

Heat = Callable[..., Recipe]


def chunk_files(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("c.*")}


def test_workers_and_order_do_not_matter(heat: Heat, tmp_path: Path) -> None:
    recipe = heat()
    first, second, third = (tmp_path / name for name in "abc")
    one = generate(recipe, first, workers=1)
    two = generate(recipe, second, workers=2)
    counts, _ = generation._lay_out(recipe, recipe.store(third))
    shuffled = parts.parts_of(recipe)
    random.Random(1).shuffle(shuffled)
    for part in shuffled:
        parts.make(recipe, recipe.store(third), part, counts[part.split])
    three = generate(recipe, third)
    assert (one.computed, two.computed, three.computed) == (4, 4, 0)
    assert one.digest == two.digest == three.digest
    assert chunk_files(one.store) == chunk_files(two.store) == chunk_files(three.store)
    assert one.dataset.info == two.dataset.info == three.dataset.info


def test_values_are_the_closed_form(heat: Heat, tmp_path: Path) -> None:
    """Rounding of float32; the closed form evaluates the same four modes in float64."""
    dataset = generate(heat(), tmp_path).dataset
    u = dataset.read("train", "u")
    x = dataset.info.axes["x"].points
    for sample in (0, 7, 8, 19):
        a, b = instances.generator(dataset.recipe, "train", sample, 0).standard_normal((4, 2)).T
        k = 2 * np.pi * np.arange(1, 5)[:, None]
        for i, time in enumerate(dataset.info.times):
            modes = (a[:, None] * np.cos(k * x) + b[:, None] * np.sin(k * x)) * np.exp(-0.01 * k**2 * time)
            np.testing.assert_allclose(u[sample, i], modes.sum(0), atol=1e-6)


def test_second_time_nothing_is_computed(heat: Heat, tmp_path: Path) -> None:
    first = generate(heat(), tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in first.store.rglob("c.*")}
    calls: list[tuple[int, int, str]] = []
    second = generate(heat(), tmp_path, progress=lambda *told: calls.append(told))
    assert (second.computed, second.repaired, second.digest) == (0, {}, first.digest)
    assert stamps == {path: path.stat().st_mtime_ns for path in second.store.rglob("c.*")}
    assert [done for done, _, _ in calls] == [5, 13, 21, 25, 25]
    assert {total for _, total, _ in calls} == {25}


def test_growth_keeps_old_bytes_and_is_the_larger_dataset(heat: Heat, tmp_path: Path) -> None:
    """40 = 2.5 parts of 16: two chunks stay as they are, the half one is filled up."""
    storage = {"part": 16}
    small = generate(heat(samples={"train": 40}, storage=storage), tmp_path / "a")
    old = small.dataset.read("train", "u")
    chunks, records = chunk_files(small.store), small.dataset._records
    large = generate(heat(samples={"train": 64, "test": 3}, storage=storage), tmp_path / "a")
    assert large.store == small.store
    assert large.computed == 3
    np.testing.assert_array_equal(large.dataset.read("train", "u")[:40], old)
    now = chunk_files(large.store)
    assert all(
        now[name] == content for name, content in chunks.items() if name.endswith(("/c.0.0.0", "/c.1.0.0"))
    )
    for part, record in records.items():
        assert large.dataset._records[part].samples(record.count) == record.samples(record.count)
    direct = generate(heat(samples={"train": 64, "test": 3}, storage=storage), tmp_path / "b")
    assert direct.digest == large.digest
    assert chunk_files(direct.store) == now
    assert direct.dataset.info == large.dataset.info

    again = generate(heat(samples={"train": 40}, storage=storage), tmp_path / "a")
    assert (again.computed, again.digest) == (0, small.digest)
    assert again.dataset.info == small.dataset.info
    assert again.dataset.read("train", "u").shape == (40, 3, 32)


def test_content_digest_covers_values_not_layout(heat: Heat, tmp_path: Path) -> None:
    digest = generate(heat(), tmp_path).digest
    assert generate(heat(storage={"part": 8, "compression": "none"}), tmp_path).digest == digest
    assert generate(heat(name="other"), tmp_path).digest == digest
    for other in (heat(seed=1), heat(samples={"train": 19, "test": 5}), heat(times=[0.0, 0.5, 0.9])):
        assert generate(other, tmp_path).digest != digest


def test_threads_of_the_caller_are_left_alone(heat: Heat, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        generate(heat(), tmp_path)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_samples_that_are_not_finite_are_replaced_and_named(heat: Heat, tmp_path: Path) -> None:
    """About a sixth of all draws exceed one standard deviation; the others stay as they were."""
    plain = generate(heat(), tmp_path).dataset
    done = generate(heat(problem={"name": "slab", "fails_above": 1.0}), tmp_path)
    replaced = done.dataset.quarantined
    assert 1 <= len(replaced) <= 12
    assert {"split", "sample", "attempt", "instance"} <= set(replaced[0])
    assert set(replaced[0]["instance"]["u"]) == {"min", "max", "rms"}
    bad = {entry["sample"] for entry in replaced if entry["split"] == "train"}
    good = [sample for sample in range(20) if sample not in bad]
    new, old = done.dataset.read("train", "u"), plain.read("train", "u")
    assert np.isfinite(new).all()
    np.testing.assert_array_equal(new[good], old[good])
    assert all((new[sample] != old[sample]).any() for sample in bad)
    assert done.dataset.verify().whole


def test_a_recipe_that_never_works_names_the_samples(heat: Heat, tmp_path: Path) -> None:
    recipe = heat(problem={"name": "slab", "fails_above": -9.0}, samples={"train": 10})
    with pytest.raises(
        NonFiniteError, match=r"train samples \[0, 1, 2, 3, 4, 5, 6, 7\] is not finite"
    ) as error:
        generate(recipe, tmp_path)
    assert error.value.split == "train"
    assert error.value.samples == list(range(8))
    with pytest.raises(DataError, match="10 of 10 samples missing"):
        Dataset.open(recipe, tmp_path)


def test_xarray_opens_it_quietly_with_names_and_units(heat: Heat, tmp_path: Path) -> None:
    dataset = generate(heat(), tmp_path).dataset
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for consolidated in (None, True, False):
            opened = xr.open_zarr(dataset.store, group="train", consolidated=consolidated)
            assert opened["u"].dims == ("sample", "time", "x")
            assert opened["flux"].dims == ("sample", "x")
            assert opened["u"].attrs == {"units": "K", "long_name": "temperature"}
            assert opened["x"].attrs["units"] == "m"
            assert opened["time"].values.tolist() == [0.0, 0.5, 1.0]
            assert opened.attrs["boundary_conditions"] == {"x": "periodic"}
            assert opened.attrs["field_order"] == ["u", "flux"]
            assert opened.attrs["recipe_digest"] == dataset.recipe.digest
            np.testing.assert_array_equal(opened["u"].values, dataset.read("train", "u"))
        assert xr.open_datatree(dataset.store, engine="zarr").groups == ("/", "/test", "/train")


def test_reading(heat: Heat, tmp_path: Path) -> None:
    dataset = generate(heat(), tmp_path).dataset
    u = dataset.read("train", "u")
    assert (u.dtype, u.shape) == (np.float32, (20, 3, 32))
    np.testing.assert_array_equal(dataset.read("train", "u", time=0), u[:, 0])
    np.testing.assert_array_equal(dataset.read("train", "u", time=-1, every=4), u[:, -1, ::4])
    np.testing.assert_array_equal(dataset.read("train", "u", every=2), u[..., ::2])
    assert dataset.read("test", "flux", time=1, every=8).shape == (5, 4)
    for wrong, error, message in (
        (("trian", "u"), UnknownNameError, "did you mean 'train'"),
        (("train", "v"), UnknownNameError, "no variable 'v'"),
    ):
        with pytest.raises(error, match=message):
            dataset.read(*wrong)
    with pytest.raises(GridError, match="time=3, but dataset 'heat' has 3 stored times"):
        dataset.read("train", "u", time=3)
    with pytest.raises(GridError, match="every=3 does not divide the 32 intervals of x"):
        dataset.read("train", "u", every=3)


def test_statistics_are_those_of_the_training_split(heat: Heat, tmp_path: Path) -> None:
    """Against numpy in float64 on all values at once; merged moments round otherwise."""
    dataset = generate(heat(), tmp_path).dataset
    u = dataset.read("train", "u").astype(np.float64)
    found = dataset.info.statistics["u"]
    expected = {
        "mean": u.mean(), "std": u.std(), "rms": np.sqrt((u**2).mean()),
        "mean_delta": np.diff(u, axis=1).mean(), "std_delta": np.diff(u, axis=1).std(),
    }  # fmt: skip
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-12, abs=1e-14)
    rms = np.sqrt((u**2).mean(-1))
    np.testing.assert_allclose(found.rms_low, rms.min(0), rtol=1e-12)
    np.testing.assert_allclose(found.rms_high, rms.max(0), rtol=1e-12)
    assert dataset.info.statistics["flux"].std_delta == 0
    assert len(dataset.info.statistics["flux"].rms_low) == 1


def test_what_is_not_there_names_the_command(heat: Heat, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not there yet .*`dlde data generate heat --root .*` generates it"):
        Dataset.open(heat(), tmp_path)
    generate(heat(), tmp_path)
    with pytest.raises(DataError, match=r"12 of 37 samples missing .*`dlde data generate heat"):
        Dataset.open(heat(samples={"train": 32, "test": 5}), tmp_path)
    with pytest.raises(DataError, match="holds no dataset"):
        open_dataset(tmp_path)


def test_open_by_path_gives_what_was_generated_last(heat: Heat, tmp_path: Path) -> None:
    large = generate(heat(), tmp_path)
    assert open_dataset(large.store).digest == large.digest
    assert open_dataset(large.store).info == large.dataset.info
    small = generate(heat(samples={"train": 3}), tmp_path)
    assert open_dataset(large.store).digest == small.digest


def test_store_of_another_recipe(heat: Heat, tmp_path: Path) -> None:
    done, other = generate(heat(), tmp_path), heat(seed=1)
    done.store.rename(other.store(tmp_path))
    before = (other.store(tmp_path) / layout.MANIFEST).read_bytes()
    for attempt in (lambda: generate(other, tmp_path), lambda: Dataset.open(other, tmp_path)):
        with pytest.raises(StoreMismatchError) as error:
            attempt()
        assert heat().digest in error.value.message
        assert (error.value.expected, error.value.found) == (other.digest, heat().digest)
    assert (other.store(tmp_path) / layout.MANIFEST).read_bytes() == before


def test_newer_format_is_refused(heat: Heat, tmp_path: Path) -> None:
    done = generate(heat(), tmp_path)
    path = done.store / layout.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(DataError, match="has format 99, this version of dlde reads 1"):
        open_dataset(done.store)


def test_two_generators_on_one_store(heat: Heat, tmp_path: Path) -> None:
    recipe = heat()
    with (
        locked(recipe.store(tmp_path), "dataset 'heat'"),
        pytest.raises(InputError, match="dataset 'heat' is being worked on by process"),
    ):
        generate(recipe, tmp_path)
    assert generate(recipe, tmp_path).computed == 4


def test_a_root_that_cannot_be_written(heat: Heat, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        DataError, match=r"cannot write .*choose another storage root by --root or \$DLDE_ROOT"
    ):
        generate(heat(), tmp_path / "file")


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    counts=st.dictionaries(st.sampled_from(["train", "test", "valid"]), st.integers(1, 13), min_size=1),
    part=st.integers(1, 7),
    chunk_bytes=st.sampled_from([1, 700, 2000, 10**6]),
    num_points=st.sampled_from([10, 11, 32]),
    times=st.sampled_from([(0.0,), (0.25, 0.5), (0.0, 0.1, 7.0)]),
    dtype=st.sampled_from(["float32", "float64"]),
    compression=st.sampled_from(["lz4", "none"]),
)
def test_any_layout_keeps_values_exactly(
    heat: Heat, tmp_path_factory: pytest.TempPathFactory, counts: dict[str, int], part: int, chunk_bytes: int,
    num_points: int, times: tuple[float, ...], dtype: str, compression: str,
) -> None:  # fmt: skip
    storage: dict[str, Any] = {"part": part, "dtype": dtype, "compression": compression}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "CHUNK_BYTES", chunk_bytes)
        recipe = heat(num_points=[num_points], times=list(times), samples=counts, storage=storage)
        dataset = generate(recipe, tmp_path_factory.mktemp("layout")).dataset
        for split, count in counts.items():
            batches = [
                parts.compute(recipe, p, p.size)[0] for p in parts.parts_of(recipe) if p.split == split
            ]
            opened = xr.open_zarr(dataset.store, group=split, chunks=None)
            for name in recipe.variables:
                expected = np.concatenate([batch[name] for batch in batches])[:count]
                read = dataset.read(split, name)
                assert read.dtype == expected.dtype == np.dtype(dtype)
                np.testing.assert_array_equal(read, expected)
                np.testing.assert_array_equal(opened[name].values, expected)
        assert dataset.verify().whole


def test_burgers(tmp_path: Path) -> None:
    overrides = {
        "num_points": [64], "samples": {"train": 12, "test": 4}, "solver": {"dt": 0.01}, "storage.part": 4,
        "problem.initial_condition": {"kind": "gaussian", "num_modes": 8}, "times.count": 3,
    }  # fmt: skip
    recipe = Recipe.load("burgers-1d-grf", overrides=overrides)
    dataset = generate(recipe, tmp_path).dataset
    u = dataset.read("train", "u")
    drawn = recipe.solvable.draw(instances.generator(recipe, "train", 5, 0), recipe.axes)["u"]
    np.testing.assert_array_equal(u[5, 0], drawn.astype(np.float32))
    assert len(np.unique(u[:, 0], axis=0)) == 12
    finer = generate(Recipe.load("burgers-1d-grf", overrides={**overrides, "num_points": [128]}), tmp_path)
    np.testing.assert_allclose(finer.dataset.read("train", "u", time=0, every=2), u[:, 0], atol=1e-6)
