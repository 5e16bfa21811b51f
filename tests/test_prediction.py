"""Answers to a file: equal to the server's, whole or absent, and no foreign code or file opened."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlde import catalog, prediction
from dlde.errors import InputError, UnknownNameError
from dlde.prediction import predict
from dlde.registry import package
from dlde.serving import app as application
from tests.conftest import command, environment
from tests.processes import wait_for

PLUGIN = Path(__file__).parent / "linear_plugin"
ROWS, POINTS = 7, 8
GRID = np.arange(POINTS) / POINTS


@pytest.fixture(scope="module", autouse=True)
def plugin() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PLUGIN)
        patch.setenv("PYTHONPATH", str(PLUGIN), prepend=os.pathsep)
        catalog.places.cache_clear()
        yield
    catalog.places.cache_clear()


@pytest.fixture(scope="module")
def model(plugin: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    from linear_fixtures import make_package

    folder = tmp_path_factory.mktemp("package") / "linear"
    make_package(folder)
    return str(folder)


@pytest.fixture(scope="module")
def u() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal((ROWS, POINTS, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def expected(model: str, u: Any) -> Any:
    """What the server answers, all rows at once."""
    body = io.BytesIO()
    np.savez(body, u=u)
    headers = {"content-type": "application/x-npz", "accept": "application/x-npz"}
    read = package.read(Path(model))
    with TestClient(application.build(read, registered=None)) as client:
        answer = client.post("/predict", content=body.getvalue(), headers=headers)
    assert answer.status_code == 200, answer.text
    with np.load(io.BytesIO(answer.content)) as archive:
        return archive["u"]


def dataset(u: Any, units: str = "1", x: Any = GRID) -> xr.Dataset:
    array = xr.DataArray(
        u[..., 0],
        dims=("sample", "x"),
        coords={"x": x, "sample": np.arange(len(u)) + 5},
        attrs={"units": units},
    )
    return xr.Dataset({"u": array})


def written(folder: Path, kind: str, u: Any) -> Path:
    match kind:
        case "npz":
            np.savez(folder / "in.npz", u=u)
            return folder / "in.npz"
        case "nc4":
            dataset(u).to_netcdf(folder / "in.nc", engine="h5netcdf")
            return folder / "in.nc"
        case "nc3":
            dataset(u).to_netcdf(folder / "in.nc", engine="scipy", format="NETCDF3_64BIT")
            return folder / "in.nc"
        case _:
            dataset(u).to_zarr(folder / "in.zarr", consolidated=False)
            return folder / "in.zarr"


def opened(path: Path) -> xr.Dataset:
    if path.suffix == ".npz":
        with np.load(path) as archive:
            return xr.Dataset({"u": (("batch", "x", "channel"), archive["u"])})
    if path.suffix == ".zarr":
        return xr.open_zarr(path, consolidated=False).load()
    return xr.load_dataset(path, engine="h5netcdf")


@pytest.mark.parametrize("suffix", [".npz", ".nc", ".zarr"])
@pytest.mark.parametrize("kind", ["npz", "nc4", "nc3", "zarr"])
def test_every_format_gives_the_servers_answer(
    kind: str, suffix: str, model: str, u: Any, expected: Any, tmp_path: Path
) -> None:
    source, target = written(tmp_path, kind, u), tmp_path / f"out{suffix}"
    done = predict(model, source, target, tmp_path)
    assert (done.rows, done.batches, done.outputs) == (ROWS, 1, {"u": [ROWS, POINTS, 1]})
    answer = opened(target)
    assert np.array_equal(answer["u"].values, expected)  # bitwise: one batch is what the server computes
    if suffix != ".npz":
        assert answer["u"].dims == ("batch" if kind == "npz" else "sample", "x", "channel")
        assert answer["u"].attrs["long_name"] == "state"
        assert "units" in answer["u"].attrs
        assert answer.attrs["model_digest"] == done.digest
        assert answer.attrs["operation"] == "predict"
        if kind != "npz":
            assert np.array_equal(answer["x"], GRID)
            assert np.array_equal(answer["sample"], np.arange(ROWS) + 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source.name, target.name])


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.integers(1, ROWS + 2), suffix=st.sampled_from([".npz", ".nc", ".zarr"]))
def test_the_size_of_the_batches_does_not_matter(
    batch: int, suffix: str, model: str, u: Any, expected: Any, tmp_path: Path
) -> None:
    source, target = tmp_path / "in.npz", tmp_path / f"out{suffix}"
    np.savez(source, u=u)
    done = predict(model, source, target, tmp_path, batch=batch, force=True)
    assert done.batches == -(-ROWS // batch)
    # another size may take another order of summation in the matrix product: single precision's rounding
    np.testing.assert_allclose(opened(target)["u"], expected, rtol=1e-5, atol=1e-6)


def test_an_entry_of_a_dimension_is_selected(model: str, u: Any, expected: Any, tmp_path: Path) -> None:
    series = np.stack([u + 1, u, u - 1], axis=1)[..., 0]
    xr.Dataset({"u": (("sample", "time", "x"), series)}).to_zarr(tmp_path / "in.zarr", consolidated=False)
    for index in (1, -2):
        predict(
            model, tmp_path / "in.zarr", tmp_path / "out.npz", tmp_path, select={"time": index}, force=True
        )
        assert np.array_equal(opened(tmp_path / "out.npz")["u"], expected)
    with pytest.raises(InputError, match=r"--select time=3: it has 3 entries"):
        predict(model, tmp_path / "in.zarr", tmp_path / "o.nc", tmp_path, select={"time": 3})
    with pytest.raises(InputError, match=r"--select tine=0: no dimension 'tine'; did you mean 'time'"):
        predict(model, tmp_path / "in.zarr", tmp_path / "o.nc", tmp_path, select={"tine": 0})


def test_another_operation(model: str, u: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", u=u, v=2 * u)
    predict(model, tmp_path / "in.npz", tmp_path / "out.npz", tmp_path, operation="add", batch=2)
    assert np.array_equal(opened(tmp_path / "out.npz")["u"], 3 * u)


def test_a_file_is_read_in_parts(model: str, u: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more rows at once than a batch holds, whatever the file holds."""
    read: list[int] = []
    original = prediction._opened

    @contextmanager
    def watched(path: Path, select: Mapping[str, int]) -> Iterator[prediction.Given]:
        with original(path, select) as found:

            def part(name: str, rows: slice) -> Any:
                array = found.read(name, rows)
                read.append(len(array))
                return array

            yield prediction.Given(**{**vars(found), "read": part})

    monkeypatch.setattr(prediction, "_opened", watched)
    whole: list[int] = []
    load = zarr.Array.__getitem__

    def chunk(self: zarr.Array[Any], selection: Any) -> Any:
        got = load(self, selection)
        whole.append(np.size(got))
        return got

    monkeypatch.setattr(zarr.Array, "__getitem__", chunk)
    many = np.tile(u, (4, 1, 1))
    dataset(many).chunk({"sample": 3}).to_zarr(tmp_path / "in.zarr", consolidated=False)
    predict(model, tmp_path / "in.zarr", tmp_path / "out.zarr", tmp_path, batch=3)
    assert read == [3] * 9 + [1]
    assert max(whole, default=0) < many.size


def test_workers_of_ray_give_the_same(model: str, u: Any, expected: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", u=u)
    alone = predict(model, tmp_path / "in.npz", tmp_path / "a.nc", tmp_path, batch=2)
    done = subprocess.run(
        [
            *command("predict", model, str(tmp_path / "in.npz"), str(tmp_path / "b.nc")),
            "--batch",
            "2",
            "--workers",
            "2",
            "--json",
        ],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["batches"] == alone.batches == 4
    assert opened(tmp_path / "b.nc").identical(opened(tmp_path / "a.nc"))


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])  # an .npz is only written at the end
def test_a_kill_leaves_nothing_under_the_name(suffix: str, model: str, u: Any, tmp_path: Path) -> None:
    dataset(np.tile(u, (600, 1, 1))).to_netcdf(tmp_path / "in.nc", engine="h5netcdf")
    target = tmp_path / f"out{suffix}"
    arguments = (model, str(tmp_path / "in.nc"), str(target))
    marker = tmp_path / "half"
    # The process itself says when half of the rows are answered, and then stands still.
    script = (
        "import sys, time; from pathlib import Path; from dlde.prediction import predict\n"
        "def stand(done, total, text):\n"
        "    if 2 * done > total: Path(sys.argv[4]).touch(); time.sleep(600)\n"
        "predict(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), Path('.'), batch=100, progress=stand)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments, str(marker)],
        env=environment(tmp_path),
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(marker.exists, process)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert not target.exists()
    done = predict(model, tmp_path / "in.nc", target, tmp_path)
    assert opened(target)["u"].shape == (done.rows, POINTS, 1)


@pytest.mark.parametrize("suffix", [".npz", ".nc", ".zarr"])
def test_an_output_is_replaced_by_force_alone(
    suffix: str, model: str, u: Any, expected: Any, tmp_path: Path
) -> None:
    target = tmp_path / f"out{suffix}"
    np.savez(tmp_path / "in.npz", u=u[:2])
    predict(model, tmp_path / "in.npz", target, tmp_path)
    np.savez(tmp_path / "in.npz", u=u)
    with pytest.raises(InputError, match=r"exists already; name another file, or say --force"):
        predict(model, tmp_path / "in.npz", target, tmp_path)
    assert opened(target)["u"].shape[0] == 2
    predict(model, tmp_path / "in.npz", target, tmp_path, force=True)
    assert np.array_equal(opened(target)["u"], expected)
    assert len(list(tmp_path.iterdir())) == 2


def npz(**arrays: Any) -> Callable[[Path, Any], Path]:
    def make(folder: Path, u: Any) -> Path:
        np.savez(folder / "in.npz", **{k: v(u) if callable(v) else v for k, v in arrays.items()})
        return folder / "in.npz"

    return make


def raw(name: str, content: bytes) -> Callable[[Path, Any], Path]:
    def make(folder: Path, u: Any) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def netcdf(**more: Any) -> Callable[[Path, Any], Path]:
    def make(folder: Path, u: Any) -> Path:
        dataset(u, **more).to_netcdf(folder / "in.nc", engine="h5netcdf")
        return folder / "in.nc"

    return make


def truncated(folder: Path, u: Any) -> Path:
    path = netcdf()(folder, u)
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def pickled_zarr(folder: Path, u: Any) -> Path:
    """Zarr 2 with a filter that would unpickle its chunks: the chunk makes a file if it is opened."""

    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (folder.parent / "trapped",))

    path = folder / "in.zarr"
    zarr.create_group(path, zarr_format=2)
    (path / "u").mkdir()
    meta = {
        "zarr_format": 2, "shape": [1, 8], "chunks": [1, 8], "dtype": "<f4", "compressor": None,
        "fill_value": 0, "order": "C", "filters": [{"id": "pickle", "protocol": 5}],
    }  # fmt: skip
    (path / "u" / ".zarray").write_text(json.dumps(meta))
    (path / "u" / ".zattrs").write_text(json.dumps({"_ARRAY_DIMENSIONS": ["sample", "x"]}))
    (path / "u" / "0.0").write_bytes(pickle.dumps(Trap()))
    return path


def object_zarr(folder: Path, u: Any) -> Path:
    path = pickled_zarr(folder, u)
    meta = json.loads((path / "u" / ".zarray").read_text())
    (path / "u" / ".zarray").write_text(json.dumps({**meta, "dtype": "|O", "filters": None}))
    return path


def linked_zarr(folder: Path, u: Any) -> Path:
    path = written(folder, "zarr", u)
    secret = folder / "secret"
    (path / "u" / "c" / "0" / "0").rename(secret)
    (path / "u" / "c" / "0" / "0").symlink_to(secret)
    return path


def linked_hdf5(folder: Path, u: Any) -> Path:
    import h5py

    path = netcdf()(folder, u)
    with h5py.File(folder / "other.h5", "w") as other:
        other["v"] = u
    with h5py.File(path, "a") as file:
        file["v"] = h5py.ExternalLink("other.h5", "/v")
    return path


def external_hdf5(folder: Path, u: Any) -> Path:
    import h5py

    path = folder / "in.nc"
    (folder / "secret").write_bytes(u.tobytes())
    with h5py.File(path, "w") as file:
        file.create_dataset("u", u.shape, "<f4", external=[(str(folder / "secret"), 0, u.nbytes)])
    return path


def missing(folder: Path, u: Any) -> Path:
    return folder / "none.npz"


def link(folder: Path, u: Any) -> Path:
    path = npz(u=u)(folder, u)
    path.rename(folder / "real.npz")
    path.symlink_to(folder / "real.npz")
    return path


def with_nan(u: Any) -> Any:
    return np.where(u == u[3, 2, 0], np.nan, u)


REFUSED = {
    "objects": (npz(u=np.array([{}], dtype=object)), r"array 'u' has type object; numbers are expected"),
    "no archive": (raw("in.npz", b"no zip"), r"not a readable \.npz archive"),
    "other names": (npz(w=lambda u: u, z=lambda u: u), r"the file holds w, z: input 'u' is missing"),
    "rank": (npz(u=lambda u: u[0, 0]), r"input 'u' has shape \(1,\), expected"),
    "points": (npz(u=lambda u: u[:, :5]), r"input 'u' has shape \(7, 5, 1\).*x is 5"),
    "NaN": (npz(u=with_nan), r"input 'u' holds 1 values that are NaN or infinite"),
    "rows": (npz(u=lambda u: u[:0]), r"the file holds no rows to answer"),
    "no arrays": (npz(), r"the file holds no arrays"),
    "units": (netcdf(units="km/h"), r"input 'u' is in 'km/h', the model expects"),
    "grid": (netcdf(x=GRID**2), r"coordinate 'x': the grid must be uniform from 0 to 1"),
    "truncated": (truncated, r"in\.nc cannot be read"),
    "no NetCDF": (raw("in.nc", b"something else"), r"in\.nc is not NetCDF: it begins with b'somethin'"),
    "suffix": (raw("in.csv", b"1,2"), r"in\.csv: expected a Zarr folder, or a file \.npz, \.nc or \.nc4"),
    "pickle": (pickled_zarr, r"in\.zarr: u has codec pickle; refused"),
    "object dtype": (object_zarr, r"in\.zarr: u has object values; refused"),
    "Zarr link": (linked_zarr, r"in\.zarr: u/c/0/0 is a link; refused"),
    "HDF5 link": (linked_hdf5, r"in\.nc: v is a link; refused"),
    "HDF5 external": (external_hdf5, r"in\.nc: u lies outside the file; refused"),
    "missing": (missing, r"no such file: .*none\.npz"),
    "link": (link, r"in\.npz is a link; name the file itself"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_and_nothing_written(
    case: str, model: str, u: Any, tmp_path: Path
) -> None:
    make, message = REFUSED[case]
    given_folder, target_folder = tmp_path / "given", tmp_path / "out"
    given_folder.mkdir()
    target_folder.mkdir()
    source = make(given_folder, u)
    for suffix in (".npz", ".nc", ".zarr"):
        with pytest.raises(InputError, match=message):
            predict(model, source, target_folder / f"out{suffix}", tmp_path, batch=2)
    assert list(target_folder.iterdir()) == []
    assert not (tmp_path / "trapped").exists()


def test_what_is_asked_wrongly_is_refused(model: str, u: Any, tmp_path: Path) -> None:
    source = npz(u=u)(tmp_path, u)

    def ask(target: str = "out.npz", **more: Any) -> None:
        predict(model, source, tmp_path / target, tmp_path, **more)

    with pytest.raises(InputError, match=r"out\.csv: an output ends in \.npz, \.nc or \.zarr"):
        ask("out.csv")
    with pytest.raises(InputError, match=r"there is no folder .*nowhere"):
        ask("nowhere/out.npz")
    with pytest.raises(UnknownNameError, match=r"unknown operation 'predit'; did you mean 'predict'"):
        ask(operation="predit")
    with pytest.raises(InputError, match=r"unknown option 'steps'"):
        ask(options={"steps": 3})
    with pytest.raises(InputError, match=r"an \.npz names no dimensions"):
        ask(select={"time": 0})
    assert list(tmp_path.iterdir()) == [source]


def test_a_row_unlike_the_training_data_is_told(model: str, u: Any, tmp_path: Path) -> None:
    loud = u.copy()
    loud[4] *= 1000
    done = predict(model, npz(u=loud)(tmp_path, u), tmp_path / "out.npz", tmp_path, batch=3)
    (text,) = done.warnings
    assert text.startswith("rows 3 to 5: input 'u': 1 of 3")
