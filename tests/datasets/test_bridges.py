"""Import and export: what goes through other formats comes back to the bit."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from dlde.datasets import parts
from dlde.datasets.bridges.exporting import WRITERS, export
from dlde.datasets.bridges.importing import Imported, import_files
from dlde.datasets.bridges.options import Options
from dlde.datasets.dataset import Dataset, open_dataset, verify
from dlde.datasets.generate import generate
from dlde.datasets.recipe import Recipe
from dlde.errors import DataError, InputError
from dlde.problems.recorded import Condition, Recorded

Import = Callable[..., Imported]
PHASES = (Phase.explicit, Phase.generate)  # to shrink takes minutes of stores
EXAMPLES = int(os.environ.get("BRIDGE_EXAMPLES", "4"))  # a store each way: about a third of a second
RANDOM = np.random.default_rng(0)


@pytest.fixture
def bring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Import:
    """`import_files` in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    return importer(tmp_path)


def importer(place: Path) -> Import:
    def bring(*files: Path | str, name: str = "set", **options: Any) -> Imported:
        parsed = Options.parse(**options)
        return import_files(files, name, parsed, place / "root", folder=place / "data")

    return bring


def burgers_like(path: Path, samples: int = 10) -> Path:
    u = RANDOM.standard_normal((samples, 3, 8))
    np.savez(path, u=u, t=np.linspace(0, 1, 3), x=np.arange(8) / 8, nu=RANDOM.random(samples))
    return path


def recorded(dataset: Dataset) -> Recorded:
    assert isinstance(dataset.recipe.problem, Recorded)
    return dataset.recipe.problem


def test_npz_becomes_a_dataset_like_any_other(bring: Import, tmp_path: Path) -> None:
    done = bring(burgers_like(tmp_path / "a.npz"), coordinates=["x=x:periodic"], units=["u=m/s", "x=m"])
    dataset, stored = done.generated.dataset, np.load(tmp_path / "a.npz")
    assert dataset.info.samples == {"train": 8, "test": 2}
    assert dataset.info.variables["u"].dims == ("time", "x")
    assert (dataset.info.variables["u"].units, dataset.info.axes["x"].units) == ("m/s", "m")
    assert dataset.info.times == (0.0, 0.5, 1.0)
    axis = dataset.info.axes["x"]
    assert (axis.start, axis.stop, axis.boundary) == (0.0, 1.0, "periodic")
    np.testing.assert_array_equal(dataset.read("test", "u"), stored["u"][8:])
    np.testing.assert_array_equal(dataset.read("train", "nu"), stored["nu"][:8])
    assert dataset.info.statistics["u"].mean == pytest.approx(stored["u"][:8].mean())
    assert dataset.verify().whole
    assert open_dataset(dataset.store).digest == dataset.digest
    assert Recipe.load(str(done.recipe_file)) == done.recipe
    again = bring(tmp_path / "a.npz", coordinates=["x=x:periodic"], units=["u=m/s", "x=m"])
    assert (again.generated.computed, again.generated.digest) == (0, dataset.digest)


def test_the_recipe_finds_it_and_takes_fewer_samples(bring: Import, tmp_path: Path) -> None:
    done = bring(burgers_like(tmp_path / "a.npz"))
    loaded = Recipe.load("set", overrides={"samples.train": 4})
    few = generate(loaded, tmp_path / "root")
    assert few.computed == 0
    np.testing.assert_array_equal(
        few.dataset.read("train", "u"), done.generated.dataset.read("train", "u")[:4]
    )
    with pytest.raises(DataError, match=r"imported, not computed.*`dlde data import a.npz --name set --root"):
        generate(Recipe.load("set", overrides={"samples.train": 9}), tmp_path / "root")
    assert done.generated.dataset.verify().whole
    with pytest.raises(DataError, match="not all of it is in"):
        generate(Recipe.load("set"), tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(InputError, match="imported data have no solver"):
        Recipe.load("set", overrides={"solver.dt": 0.1})
    with pytest.raises(InputError, match=r"num_points=\[4\], but the imported data lie on \[8\] points"):
        Recipe.load("set", overrides={"num_points": [4]})


def test_killed_anywhere_the_same_command_completes_it(
    bring: Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlde.datasets.bridges.source.PART_SAMPLES", 2)
    file = burgers_like(tmp_path / "a.npz")
    commit, committed = parts.commit, 0

    def dying(*arguments: Any) -> None:
        nonlocal committed
        if committed == 3:
            raise KeyboardInterrupt
        committed += 1
        commit(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(parts, "commit", dying)
        with pytest.raises(KeyboardInterrupt):
            bring(file)
    assert not (tmp_path / "data").exists()
    (store,) = (tmp_path / "root" / "data").glob("*.zarr")
    with pytest.raises(DataError, match=r"is not complete.*`dlde data import a.npz --name set"):
        open_dataset(store)
    done = bring(file)
    assert (done.generated.parts, done.generated.computed) == (5, 2)
    whole = importer(tmp_path / "other")(file)
    assert whole.generated.digest == done.generated.digest


def test_damage_is_named_with_the_command_that_repairs_it(bring: Import, tmp_path: Path) -> None:
    done = bring(burgers_like(tmp_path / "a.npz"))
    chunk = next((done.generated.store / "train" / "u").glob("c.*"))
    chunk.write_bytes(chunk.read_bytes()[:-1])
    assert verify(done.recipe, done.generated.store).damage == {"train-00000": list(range(8))}
    with pytest.raises(DataError, match=r"`dlde data import a\.npz --name set`"):
        generate(done.recipe, tmp_path / "root")
    repaired = bring(tmp_path / "a.npz")
    assert (repaired.generated.computed, repaired.generated.digest) == (1, done.generated.digest)
    assert repaired.generated.dataset.verify().whole


def test_splits_by_file_by_count_and_mixed(bring: Import, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        burgers_like(tmp_path / split / "data.npz", samples=4)
    given = [f"{split}={tmp_path / split / 'data.npz'}" for split in ("train", "test")]
    done = bring(splits=given)
    assert set(recorded(done.generated.dataset).files) == {"train/data.npz", "test/data.npz"}
    assert "--split train=train/data.npz --split test=test/data.npz" in done.recipe_file.read_text()
    test = np.load(tmp_path / "test" / "data.npz")
    np.testing.assert_array_equal(done.generated.dataset.read("test", "u"), test["u"])
    both = bring(*(text.partition("=")[2] for text in given), name="both", splits=["train=5,val=1"])
    assert both.recipe.samples == {"train": 5, "val": 1}
    np.testing.assert_array_equal(both.generated.dataset.read("val", "nu"), test["nu"][1:2])


def test_shuffled_samples_are_all_there_once(bring: Import, tmp_path: Path) -> None:
    file = burgers_like(tmp_path / "a.npz", samples=64)
    dataset = bring(file, shuffle=3).generated.dataset
    nu = np.concatenate([dataset.read(split, "nu") for split in ("train", "test")])
    assert sorted(nu) == sorted(np.load(file)["nu"])
    assert list(nu) != list(np.load(file)["nu"])
    assert bring(file, name="again", shuffle=3).generated.digest == dataset.digest


def test_a_closed_axis_leaves_out_its_end(bring: Import, tmp_path: Path) -> None:
    u = RANDOM.standard_normal((4, 9))
    u[:, -1] = u[:, 0]
    x = np.broadcast_to(np.linspace(0, 2, 9, dtype=np.float32), (5, 9))
    np.savez(tmp_path / "a.npz", u=u, x=x)
    dataset = bring(tmp_path / "a.npz", coordinates=["x=x:closed"]).generated.dataset
    axis = dataset.info.axes["x"]
    assert (axis.start, axis.stop, axis.num_points, axis.boundary) == (0.0, 2.0, 8, "periodic")
    np.testing.assert_array_equal(dataset.read("train", "u"), u[:3, :-1])


def test_dimensions_in_any_order(bring: Import, tmp_path: Path) -> None:
    u = RANDOM.standard_normal((2, 5, 3, 4, 6))
    np.savez(tmp_path / "a.npz", w=u, x=np.arange(4.0), y=np.arange(5.0))
    dims = ["u=component,y,time,x,sample"]
    done = bring(tmp_path / "a.npz", rename=["u=w"], dims=dims, coordinates=["time=0:1"])
    dataset = done.generated.dataset
    assert dataset.info.variables["u"].dims == ("time", "y", "x", "component")
    assert dataset.info.variables["u"].sizes == {"component": 2}
    np.testing.assert_array_equal(dataset.read("test", "u"), u.transpose(4, 2, 1, 3, 0)[5:])


LIMITS = {2: (-6e4, 6e4), 4: (-(2.0**127), 2.0**127), 8: (-1e140, 1e140)}
dtypes = st.sampled_from(
    ["float64", "float32", "float16", "bool", "uint8", "int8", "int16", "int32", "int64"]
)


@st.composite
def sets(draw: Any, format: str) -> tuple[dict[str, Any], list[str], list[str]]:
    """Arrays of a .npz, and the options that explain them, of what `format` has a place for."""
    space = draw(st.integers(1, 2))
    sizes = {axis: draw(st.integers(2, 4)) for axis in ("time", "x", "y")[: space + 1]}
    axes = list(sizes)[1:]
    samples = draw(st.integers(1, 4))
    found: dict[str, Any] = {}
    dims = []
    forms = [(*axes,), ("time", *axes), ()]
    if format in ("npz", "netcdf"):
        forms += [("time",), ("time", *axes, "component"), ("part",)]
    if format == "the-well":
        forms += [("time",), ("time", axes[-1]), ("time", *axes, "component"), (*axes, "row", "column")]
    if format == "pdebench":
        forms = draw(st.sampled_from([forms, [("time", *axes, "channel")]]))
    known = {**sizes, "component": space, "row": space, "column": space, "channel": 2, "part": 3}
    count = 1 if forms[0][-1:] == ("channel",) else draw(st.integers(1, 3))
    for number in range(count):
        form = draw(st.sampled_from(forms[:2] if number == 0 else forms))  # the first lies on the grid
        dtype = np.dtype(draw(dtypes))
        shape = (samples, *(known[dim] for dim in form))
        elements = (
            st.floats(*LIMITS[dtype.itemsize], width=dtype.itemsize * 8)
            if dtype.kind == "f"
            else st.integers(max(-(2**53), np.iinfo(dtype).min), min(2**53, np.iinfo(dtype).max))
            if dtype.kind in "iu"
            else st.booleans()
        )
        name = "abc"[number]
        found[name] = draw(arrays.arrays(dtype, shape, elements=elements))
        dims.append(f"{name}={','.join(('sample', *form))}")
    used = {dim for text in dims for dim in text.partition("=")[2].split(",")}
    coordinates = []
    for axis in used & set(sizes):
        start = draw(st.floats(0, 10, width=32))
        stop = start + draw(st.floats(0.125, 10))
        end = draw(st.sampled_from(["periodic", "wall", "open"])) if axis != "time" else None
        repeats = any(
            np.array_equal(array.take(0, place), array.take(-1, place))
            for text, array in zip(dims, found.values(), strict=True)
            for place, dim in enumerate(text.partition("=")[2].split(","))
            if dim == axis
        )
        end = "open" if end == "periodic" and repeats else end
        coordinates.append(f"{axis}={start!r}:{stop!r}" + (f":{end}" if end else ""))
    return found, dims, coordinates


@pytest.mark.parametrize("format", WRITERS)
@given(data=st.data())
@settings(max_examples=EXAMPLES, deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck))
def test_round_trip_to_the_bit(format: str, data: Any) -> None:
    found, dims, coordinates = data.draw(sets(format))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        np.savez(place / "a.npz", **found)
        bring = importer(place)
        first = bring(
            place / "a.npz", dims=dims, coordinates=coordinates, splits=["all=1.0"], units=["a=m"]
        ).generated
        files = export(first.dataset, format, place / "out")
        rename = ["a=data"] if "channel" in dims[0] else []  # such groups hold no name
        given = [f"{split}={path}" for split, path in files.items()]
        second = bring(splits=given, name="back", rename=rename).generated
        assert second.digest == first.digest  # values, dimensions, units, axes, times
        assert list(second.dataset.info.axes) == list(first.dataset.info.axes)
        if format != "netcdf":  # which has no half precision
            assert recorded(second.dataset).dtypes == recorded(first.dataset).dtypes
        if format == "npz":
            back = np.load(files["all"])
            for name, values in found.items():
                assert back[name].dtype == values.dtype
                assert back[name].tobytes() == values.tobytes()


def well(path: Path, **changes: Any) -> Path:
    """A file as The Well describes it: 2 trajectories, 3 times, 4 x 5 points; always the same values."""
    random = np.random.default_rng(1)
    with h5py.File(path, "w") as file:
        file.attrs.update(
            dataset_name="example", grid_type="cartesian", n_spatial_dims=2, n_trajectories=2,
            simulation_parameters=["Pr"], Pr=0.7,
        )  # fmt: skip
        file.attrs.update({key: value for key, value in changes.items() if key in file.attrs})
        dimensions = file.create_group("dimensions")
        dimensions.attrs["spatial_dims"] = ["x", "y"]
        for name, points in {
            "time": np.arange(3), "x": np.arange(4) / 4, "y": changes.get("y", np.linspace(-1, 1, 5))
        }.items():  # fmt: skip
            dimensions[name] = points.astype("f4")
            dimensions[name].attrs.update(sample_varying=False, time_varying=False)
        layout = {
            "t0_fields": {"zeta": ((2, 3, 4, 5), True, True, [True, True]),
                          "density": ((2, 3, 4, 5), True, True, [True, True]),
                          "depth": ((4, 5), False, False, [True, True]),
                          "profile": ((2, 3, 5), True, True, [False, True])},
            "t1_fields": {"velocity": ((2, 3, 4, 5, 2), True, True, [True, True])},
            "t2_fields": {"stress": ((2, 3, 4, 5, 2, 2), True, True, [True, True])},
            "scalars": {"Pr": ((), False, False, None), "energy": ((2, 3), True, True, None)},
        }  # fmt: skip
        for group, fields in layout.items():
            file.create_group(group).attrs["field_names"] = list(fields)
            for name, (shape, samples, time, dims) in fields.items():
                file[group][name] = random.standard_normal(shape).astype("f4")
                file[group][name].attrs.update(sample_varying=samples, time_varying=time)
                if dims is not None:
                    file[group][name].attrs["dim_varying"] = dims
        for name, axis, kind, mask in (
            ("x_periodic", "x", "PERIODIC", [1, 0, 0, 1]),
            ("y_low", "y", "WALL", [1, 0, 0, 0, 0]),
            ("y_high", "y", "OPEN", [0, 0, 0, 0, 1]),
        ):
            group = file.create_group(f"boundary_conditions/{name}")
            group.attrs.update(
                bc_type=kind, associated_dims=[axis], associated_fields=["density"] if axis == "y" else [],
                sample_varying=False, time_varying=False,
            )  # fmt: skip
            group["mask"] = np.array(mask, bool)
            if axis == "y":
                group["values"] = np.array([1.5], "f4")
    return path


def test_the_well_keeps_its_order_boundaries_and_parameters(bring: Import, tmp_path: Path) -> None:
    first = bring(well(tmp_path / "a.hdf5"), splits=["train=1,test=1"]).generated
    info, problem = first.dataset.info, recorded(first.dataset)
    names = ["zeta", "density", "depth", "profile", "velocity", "stress", "Pr", "energy"]
    assert list(info.variables) == names
    assert info.variables["stress"].dims == ("time", "x", "y", "row", "column")
    assert info.variables["profile"].dims == ("time", "y")
    assert (info.axes["x"].boundary, info.axes["x"].stop, info.axes["y"].boundary) == ("periodic", 1, "open")
    assert (problem.shared, problem.parameters) == (("depth", "Pr"), {"Pr": 0.7})
    low = Condition(name="y_low", kind="wall", axis="y", points=(0,), fields=("density",), values=(1.5,))
    assert low in problem.conditions
    files = export(first.dataset, "the-well", tmp_path / "out")
    assert files["test"] == tmp_path / "out" / "test" / "set.hdf5"
    with h5py.File(tmp_path / "a.hdf5") as one, h5py.File(files["test"]) as other:
        for group in ("t0_fields", "t1_fields", "t2_fields", "scalars"):
            assert list(other[group].attrs["field_names"]) == list(one[group].attrs["field_names"])
            for name in one[group]:
                its, back = one[group][name], other[group][name]
                expected = its[1:] if its.attrs["sample_varying"] else its[()]
                assert back.dtype == its.dtype
                np.testing.assert_array_equal(back[()], expected)
                for key, value in its.attrs.items():
                    np.testing.assert_array_equal(back.attrs[key], value)
        for name, condition in one["boundary_conditions"].items():
            back = other["boundary_conditions"][name]
            np.testing.assert_array_equal(back["mask"][()], condition["mask"][()])
            for key, value in condition.attrs.items():
                np.testing.assert_array_equal(back.attrs[key], value)
        assert (other.attrs["n_trajectories"], other.attrs["Pr"]) == (1, 0.7)
    again = bring(splits=[f"{split}={path}" for split, path in files.items()], name="back").generated
    assert again.digest == first.digest
    assert recorded(again.dataset).conditions == problem.conditions


def test_a_generated_set_goes_out_and_comes_back(bring: Import, tmp_path: Path) -> None:
    raw = {"problem": {"name": "slab"}, "num_points": [16], "times": [0.0, 0.5], "samples": {"train": 5}}
    made = generate(Recipe.parse({"name": "slab", **raw}, source="test"), tmp_path / "root")
    for format in WRITERS:
        (file,) = export(made.dataset, format, tmp_path / format).values()
        assert bring(splits=[f"train={file}"], name=format).generated.digest == made.digest


def test_pdebench_tensor_with_a_time_too_many(bring: Import, tmp_path: Path) -> None:
    u = RANDOM.standard_normal((5, 3, 8)).astype("f4")
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["tensor"], file["t-coordinate"] = u, np.arange(4) * np.float32(0.1)
        file["x-coordinate"] = ((np.arange(8) + 0.5) / 8).astype("f4")
    dataset = bring(
        tmp_path / "a.hdf5", rename=["u=tensor"], coordinates=["x=x:periodic"], splits=["train=5"]
    ).generated.dataset
    assert dataset.info.times == tuple(float(np.float32(0.1) * n) for n in range(3))
    axis = dataset.info.axes["x"]
    assert (axis.start, axis.stop, axis.boundary) == (0.0625, 1.0625, "periodic")
    np.testing.assert_array_equal(dataset.read("train", "u"), u)


def test_pdebench_darcy_and_groups_of_samples(bring: Import, tmp_path: Path) -> None:
    grid = (np.arange(4) + 0.5) / 4
    with h5py.File(tmp_path / "darcy.hdf5", "w") as file:
        file["nu"], file["tensor"] = RANDOM.random((5, 4, 4)), RANDOM.random((5, 1, 4, 4))
        file["x-coordinate"], file["y-coordinate"] = grid, grid
    info = bring(tmp_path / "darcy.hdf5").generated.dataset.info
    assert (info.variables["nu"].dims, info.variables["tensor"].dims) == (("x", "y"), ("time", "x", "y"))
    u = RANDOM.standard_normal((3, 2, 4, 4, 2)).astype("f4")
    with h5py.File(tmp_path / "swe.h5", "w") as file:
        for number, one in enumerate(u):
            file[f"{number:04d}/data"] = one
            for axis, points in {"t": np.arange(2.0), "x": grid, "y": grid}.items():
                file[f"{number:04d}/grid/{axis}"] = points
    dataset = bring(tmp_path / "swe.h5", name="swe", splits=["train=2,test=1"], shuffle=1).generated.dataset
    assert dataset.info.variables["data"].sizes == {"channel": 2}
    np.testing.assert_array_equal(
        np.concatenate([dataset.read(s, "data") for s in ("train", "test")]),
        u[np.random.default_rng(1).permutation(3)],
    )


@pytest.mark.parametrize(("engine", "format"), [("h5netcdf", "NETCDF4"), ("scipy", "NETCDF3_64BIT")])
def test_netcdf_of_others(bring: Import, tmp_path: Path, engine: Any, format: Any) -> None:
    u = RANDOM.standard_normal((4, 3, 8)).astype("f4")
    xr.Dataset(
        {"u": (("sample", "time", "lon"), u, {"units": "K", "long_name": "temperature"})},
        {"time": ("time", [0.0, 1.0, 3.0], {"units": "s"}), "lon": ("lon", np.arange(8) * 45.0)},
    ).to_netcdf(tmp_path / "a.nc", engine=engine, format=format)
    dataset = bring(tmp_path / "a.nc", coordinates=["lon=lon:periodic"]).generated.dataset
    variable, axis = dataset.info.variables["u"], dataset.info.axes["lon"]
    assert (variable.units, variable.long_name, dataset.info.times) == ("K", "temperature", (0.0, 1.0, 3.0))
    assert (axis.stop, axis.boundary, recorded(dataset).time_units) == (360.0, "periodic", "s")
    np.testing.assert_array_equal(dataset.read("train", "u"), u[:3])


def idx(path: Path, values: Any, code: int = 8) -> Path:
    content = struct.pack(f">HBB{values.ndim}I", 0, code, values.ndim, *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def test_idx_images_and_labels(bring: Import, tmp_path: Path) -> None:
    images = RANDOM.integers(0, 256, (6, 5, 4), dtype=np.uint8)
    labels = RANDOM.integers(0, 10, 6, dtype=np.uint8)
    files = [idx(tmp_path / "images-idx3-ubyte.gz", images), idx(tmp_path / "labels-idx1-ubyte", labels)]
    dataset = bring(*files, splits=["train=4,test=2"]).generated.dataset
    assert dataset.info.variables["image"].dims == ("y", "x")
    assert recorded(dataset).dtypes == {"image": "uint8", "label": "uint8"}
    np.testing.assert_array_equal(dataset.read("test", "image"), images[4:])
    np.testing.assert_array_equal(dataset.read("train", "label"), labels[:4])
    other = bring(idx(tmp_path / "v", np.arange(6, dtype=">i4").reshape(2, 3), 0x0C), name="v")
    np.testing.assert_array_equal(other.generated.dataset.read("train", "image"), [[0, 1, 2], [3, 4, 5]])


def pictures(folder: Path) -> Iterator[tuple[str, Any]]:
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        values = RANDOM.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(folder / name)
        yield name, values


def test_pictures_in_a_folder_and_in_an_archive(bring: Import, tmp_path: Path) -> None:
    found = dict(pictures(tmp_path / "pets"))
    with tarfile.open(tmp_path / "pets.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "pets", "pets")
    one = bring(tmp_path / "pets", splits=["train=3"]).generated.dataset
    two = bring(tmp_path / "pets.tar.gz", name="packed", splits=["train=3"]).generated.dataset
    assert one.info.variables["image"].dims == ("y", "x", "channel")
    assert one.info.variables["label"].long_name == "class: 0 cat, 1 dog"
    np.testing.assert_array_equal(one.read("train", "image"), [*found.values()])
    np.testing.assert_array_equal(one.read("train", "label"), [0, 0, 1])
    np.testing.assert_array_equal(two.read("train", "image"), [*found.values()])


def test_a_graph_is_one_sample(bring: Import, tmp_path: Path) -> None:
    dense = np.array([[0, 2.0], [0, 0], [1, 0]], "f4")
    np.savez(
        tmp_path / "g.npz", feat_data=np.array([2, 1], "f4"), feat_indices=[1, 0], feat_indptr=[0, 1, 1, 2],
        feat_shape=[3, 2], labels=[0, 1, -1], edge_index=[[0, 1], [1, 2]], train_ids=[2],
    )  # fmt: skip
    dataset = bring(tmp_path / "g.npz").generated.dataset
    assert dataset.info.samples == {"train": 1}
    np.testing.assert_array_equal(dataset.read("train", "feat")[0], dense)
    np.testing.assert_array_equal(dataset.read("train", "edges")[0], [[0, 1], [1, 2]])
    np.testing.assert_array_equal(dataset.read("train", "train_mask")[0], [0, 0, 1])
    (file,) = export(dataset, "npz", tmp_path / "out").values()
    back = bring(splits=[f"train={file}"], name="back")
    assert back.generated.digest == dataset.digest


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path
