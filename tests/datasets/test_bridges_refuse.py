"""What cannot be imported: one clear error each, and nothing written."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from dlde.datasets.bridges.exporting import export
from dlde.datasets.bridges.importing import import_files
from dlde.datasets.bridges.options import Options
from dlde.datasets.recipe import Recipe
from dlde.errors import DataError, GridError, InputError, NonFiniteError, SpecError, UnknownNameError
from tests.datasets.test_bridges import RANDOM, idx, well

Refuses = Callable[..., None]
U = np.arange(40.0).reshape(5, 8) ** 1.5
X = np.arange(8) / 8


@pytest.fixture
def refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refuses:
    """Importing raises, and leaves nothing."""
    monkeypatch.chdir(tmp_path)

    def check(
        error: type[Exception], match: str, *files: Path | str, name: str = "set", **options: Any
    ) -> None:
        with pytest.raises(error, match=match):
            import_files(files, name, Options.parse(**options), tmp_path / "root", folder=tmp_path / "data")
        assert not (tmp_path / "root").exists()
        assert not (tmp_path / "data" / f"{name}.yaml").exists()

    return check


@pytest.fixture
def npz(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str = "a.npz", **arrays: Any) -> Path:
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (X**2 + X, r"axis x is not equally spaced: steps from 0\.14.* to 0\.3.*interpolate"),
        (X[::-1], "axis x must increase, but has 0.875 before 0.75; reverse it"),
        (np.where(X == 0.5, np.nan, X), "axis x has coordinates that are not finite: 4"),
    ],
)
def test_grids(refuses: Refuses, npz: Any, x: Any, match: str) -> None:
    refuses(GridError, match, npz(u=U, x=x))


def test_ends_of_grids(refuses: Refuses, npz: Any) -> None:
    both = np.concatenate([U, U[:, :1]], axis=1)
    nine = np.arange(9.0)
    refuses(
        GridError, "called periodic, but its last point repeats its first in every sample.*x=…:closed",
        npz(u=both, x=nine), coordinates=["x=x:periodic"],
    )  # fmt: skip
    refuses(
        GridError, "called closed, but the values at its last point are not those at its first",
        npz(u=U, x=X), coordinates=["x=x:closed"],
    )  # fmt: skip
    refuses(GridError, "times must be finite, not negative, and increase, but go from -1 to 1",
            npz(u=U, x=X), dims=["u=time,sample"], coordinates=["time=-1:1"])  # fmt: skip


def test_dimensions_and_coordinates(refuses: Refuses, npz: Any) -> None:
    cube = np.zeros((5, 8, 8))
    refuses(InputError, r"does not say what the dimensions of 'u', of shape \(5, 8, 8\), are.*--dims u=",
            npz(u=cube, x=X, y=X))  # fmt: skip
    refuses(GridError, "no coordinate for 'y' of 'u'; name the array.*--coordinate y=0:1",
            npz(u=cube, x=X), dims=["u=sample,x,y"])  # fmt: skip
    refuses(InputError, r"'u' has shape \(5, 8\), but dimensions \(sample, x, y\)",
            npz(u=U), dims=["u=sample,x,y"])  # fmt: skip
    refuses(InputError, "no field has the dimension 'sample'",
            npz(u=U), dims=["u=y,x"], coordinates=["x=0:1", "y=0:1"])  # fmt: skip
    refuses(
        InputError, r"'sample' has 6 entries in 'v' of shape \(6,\), but 5 in 'u'", npz(u=U, x=X, v=X[:6])
    )
    refuses(GridError, r"'z', of shape \(3,\), does not give 8 points along 'x' of 'u'",
            npz(u=U, z=X[:3]), dims=["u=sample,x"], coordinates=["x=z"])  # fmt: skip
    refuses(UnknownNameError, "--coordinate x=w: a.npz has no array 'w'",
            npz(u=U), dims=["u=sample,x"], coordinates=["x=w"])  # fmt: skip
    refuses(UnknownNameError, "--coordinate y: no field has such a dimension",
            npz(u=U, x=X), coordinates=["y=0:1"])  # fmt: skip
    refuses(SpecError, "--coordinate x=1:0: expected ARRAY or START:STOP with START < STOP",
            npz(u=U), dims=["u=sample,x"], coordinates=["x=1:0"])  # fmt: skip
    refuses(SpecError, "variable 'x' has the name of a coordinate",
            npz(v=U), rename=["x=v"], dims=["x=sample,x"], coordinates=["x=0:1"])  # fmt: skip
    refuses(GridError, "axis x has 1 point", npz(u=U[:, :1], x=X[:1]))
    refuses(GridError, "axis x has 1 point",
            npz(u=U[:, :1]), dims=["u=sample,x"], coordinates=["x=0:1"])  # fmt: skip
    refuses(SpecError, "expected ARRAY or START:STOP",
            npz(u=U), dims=["u=sample,x"], coordinates=["x=0:inf"])  # fmt: skip
    refuses(InputError, r"'u' of shape \(0, 8\) has no entry along 'sample'", npz(u=U[:0], x=X))


def test_names(refuses: Refuses, npz: Any) -> None:
    refuses(UnknownNameError, "a.npz has no field 'w'; known: u, x", npz(u=U, x=X), rename=["v=w"])
    refuses(UnknownNameError, "--dims w: no such field", npz(u=U, x=X), dims=["w=sample,x"])
    refuses(UnknownNameError, "--units w: no such field", npz(u=U, x=X), units=["w=m"])
    refuses(SpecError, "--map u: expected NEW=OLD", npz(u=U, x=X), rename=["u"])
    refuses(SpecError, "--units u=s: u is given twice", npz(u=U, x=X), units=["u=m", "u=s"])
    refuses(SpecError, "'../u' cannot name a field or a dimension: letters, digits", npz(**{"../u": U}, x=X))
    refuses(SpecError, "'a b' cannot name a field or a dimension", npz(u=U), dims=["u=sample,a b"])
    refuses(SpecError, "variable 'part' has the name of a coordinate", npz(part=U), dims=["part=sample,part"])
    refuses(SpecError, "its description 'dlde': 1 mistake", npz(u=U, x=X, dlde=np.array("[]")))
    refuses(InputError, "lacks the arrays y that it says it holds",
            npz(u=U, x=X, dlde=np.array('{"coordinates": ["y"]}')))  # fmt: skip
    refuses(SpecError, "name: string should match pattern", npz(u=U, x=X), name="a b")
    refuses(InputError, "there is another recipe 'burgers-1d-grf'", npz(u=U, x=X), name="burgers-1d-grf")
    refuses(UnknownNameError, "no format 'hdf5'", npz(u=U, x=X), format="hdf5")


def test_another_recipe_of_that_name_stays(refuses: Refuses, npz: Any, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "set.yaml").write_text("description: mine\n")
    with pytest.raises(InputError, match="there is another recipe 'set'"):
        import_files([npz(u=U, x=X)], "set", Options.parse(), tmp_path / "root", folder=tmp_path / "data")
    assert (tmp_path / "data" / "set.yaml").read_text() == "description: mine\n"
    assert not (tmp_path / "root").exists()


def test_a_place_for_the_recipe_that_cannot_be_written(npz: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"is whole, but its recipe .*set\.yaml cannot be written"):
        import_files([npz(u=U, x=X)], "set", Options.parse(), tmp_path / "root", folder=tmp_path / "file")


def test_splits(refuses: Refuses, npz: Any) -> None:
    file = npz(u=U, x=X)
    for text, match in {
        "train": "expected fractions",
        "train=0.8,test=0.3": r"fractions sum to 1\.1, expected 1",
        "train=4,test=2": "asks for 6 samples, but there are 5",
        "train=0.99,test=0.01": "test would have none of the 5 samples",
        "train=0.5,test=2": "expected fractions",
        "train=0.5,train=0.5": "expected fractions",
        "Train=5": "samples.Train",
        "parts=5": "is a folder of the store",
    }.items():
        refuses(SpecError, match, file, splits=[text])
    refuses(SpecError, "some name files and others numbers", splits=[f"train={file}", "test=2"])
    refuses(SpecError, "--split names files, so .* has no split", file, splits=[f"train={file}"])
    refuses(SpecError, "name a file to import")
    refuses(InputError, "no such file: nowhere.npz", "nowhere.npz")


def test_objects_text_and_complex_numbers(refuses: Refuses, npz: Any) -> None:
    objects = np.empty(5, object)
    refuses(InputError, r"'u' holds Python objects \(pickles\).*numpy.savez", npz(u=objects))
    refuses(InputError, "'u' is complex; save real and imaginary part", npz(u=U + 1j, x=X))
    refuses(InputError, "'label' has dtype <U1.*leave it out", npz(u=U, x=X, label=np.array(list("abcde"))))
    refuses(InputError, f"whole numbers up to {2**60}", npz(u=np.full((5, 8), 2**60), x=X))
    refuses(InputError, r"values up to 1e\+200, whose squares are beyond", npz(u=np.full((5, 8), 1e200), x=X))


def test_samples_that_are_not_finite_are_named(refuses: Refuses, npz: Any) -> None:
    u = U.copy()
    u[1, 3], u[4, 0] = np.nan, np.inf
    refuses(NonFiniteError, r"'u' is not finite in train samples 1 of a.npz; leave", npz(u=u, x=X))
    refuses(NonFiniteError, r"train samples 1, 4 of a\.npz", npz(u=u, x=X), splits=["train=5"])
    refuses(NonFiniteError, r"\(numbers 1, 4 of a\.npz\)", npz(u=u, x=X), splits=["train=5"], shuffle=2)


def test_files_that_do_not_go_together(refuses: Refuses, npz: Any, tmp_path: Path) -> None:
    one = npz(u=U, x=X)
    refuses(InputError, r"'u' is float64 of shape \(5, 8\) in a.npz, but float32",
            one, npz("b.npz", u=U.astype("f4"), x=X))  # fmt: skip
    refuses(InputError, "do not hold the same fields: only one of them has 'v'",
            one, npz("b.npz", u=U, v=U, x=X))  # fmt: skip
    refuses(GridError, "axis x is not the same in all files", one, npz("b.npz", u=U, x=X + 1))
    refuses(InputError, "'sample' has 4 entries in 'w'", one, npz("b.npz", w=U[:4], x=X))
    refuses(GridError, "axis x is not the same",
            splits=[f"train={one}", f"test={npz('b.npz', u=U, x=2 * X)}"])  # fmt: skip
    refuses(InputError, "different boundary conditions or parameters",
            well(tmp_path / "a.h5"), well(tmp_path / "b.h5", Pr=0.8))  # fmt: skip


def test_files_of_no_known_format(refuses: Refuses, tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    refuses(InputError, r"a.mat is of no known format \(npz, netcdf, .*numpy.savez", tmp_path / "a.mat")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["runs/u"] = U
    refuses(InputError, r"of no known layout \(The Well, PDEBench, NetCDF\); it holds runs/u float64\[5, 8\]",
            tmp_path / "a.h5")  # fmt: skip
    for format in ("the-well", "pdebench"):
        refuses(InputError, r"it holds runs/u float64", tmp_path / "a.h5", format=format)
    for format, match in {
        "npz": "is no .npz file", "graph": "is no .npz file", "netcdf": "no HDF5 file",
        "the-well": "no HDF5 file", "idx": "is no IDX file: it begins with 4d 41", "images": "no tar archive",
    }.items():  # fmt: skip
        refuses(InputError, match, tmp_path / "a.mat", format=format)
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 and no more")
    refuses(InputError, "is no .npz file that can be read", tmp_path / "a.npz", format="npz")
    refuses(InputError, "is no .npz file that can be read", tmp_path / "a.npz")
    np.save(tmp_path / "u.npy", U)
    refuses(InputError, "is a single array; save it by name", tmp_path / "u.npy", format="npz")


def test_hdf5_that_leads_elsewhere(refuses: Refuses, tmp_path: Path) -> None:
    def pdebench(name: str) -> h5py.File:
        file = h5py.File(tmp_path / name, "w")
        file["x-coordinate"] = X
        return file

    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["u"] = U
    with pdebench("external.h5") as file:
        file["tensor"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "u")
    refuses(InputError, "'tensor' is a link to another file, '.*other.h5'", tmp_path / "external.h5")
    with pdebench("soft.h5") as file:
        file["tensor"] = h5py.SoftLink("/nowhere")
    refuses(InputError, "links lead nowhere within the file: 'tensor' -> '/nowhere'", tmp_path / "soft.h5")
    with pdebench("virtual.h5") as file:
        layout = h5py.VirtualLayout((5, 8), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "u", (5, 8))
        file.create_virtual_dataset("tensor", layout)
    refuses(InputError, "'tensor' keeps its values in other files", tmp_path / "virtual.h5")
    with pdebench("raw.h5") as file:
        file.create_dataset("tensor", (5, 8), "f8", external=[("/etc/hostname", 0, 320)])
    refuses(InputError, "'tensor' keeps its values in other files", tmp_path / "raw.h5")
    with pdebench("filter.h5") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((5, 8))
        plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((5, 8))
        h5py.h5d.create(file.id, b"tensor", h5py.h5t.NATIVE_DOUBLE, space, plist)
    refuses(InputError, "'tensor' is compressed by HDF5 filter 32015, a plug-in", tmp_path / "filter.h5")
    with pdebench("text.h5") as file:
        file.create_dataset("tensor", (5, 8), h5py.string_dtype())
    refuses(InputError, "'tensor' holds Python objects", tmp_path / "text.h5")


def test_pdebench_of_another_shape(refuses: Refuses, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["tensor"], file["x-coordinate"] = np.zeros((5, 2, 8, 8)), X
    refuses(InputError, r"'tensor' has shape \(5, 2, 8, 8\), but the file has the axes x", tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["tensor"], file["x-coordinate"] = np.zeros((5, 2, 8)), X
    refuses(GridError, "b.h5 has no coordinate for 'time' of 'tensor'", tmp_path / "b.h5")
    with h5py.File(tmp_path / "c.h5", "w") as file:
        for number, points in enumerate((8, 9)):
            file[f"{number:04d}/data"] = np.zeros((2, points, 1))
            file[f"{number:04d}/grid/x"], file[f"{number:04d}/grid/t"] = X, np.arange(2.0)
    refuses(InputError, r"sample 0001 has shape \(2, 9, 1\), but 0000 \(2, 8, 1\)", tmp_path / "c.h5")


def test_the_well_of_other_kinds(refuses: Refuses, tmp_path: Path) -> None:
    def changed(name: str, change: Callable[[Any], None]) -> Path:
        with h5py.File(well(tmp_path / name), "r+") as file:
            change(file)
        return tmp_path / name

    refuses(GridError, "has a spherical grid", well(tmp_path / "a.h5", grid_type="spherical"))
    refuses(GridError, "axis y is not equally spaced", well(tmp_path / "b.h5", y=np.arange(5) ** 2))
    refuses(InputError, "names 'zeta' in field_names, but does not hold it",
            changed("c.h5", lambda file: file.pop("t0_fields/zeta")))  # fmt: skip
    refuses(InputError, "/t0_fields/zeta lacks the attribute 'time_varying'",
            changed("d.h5", lambda file: file["t0_fields/zeta"].attrs.pop("time_varying")))  # fmt: skip
    refuses(InputError, r"'zeta' has shape \(2, 3, 4, 5\), but its attributes say \(time, x, y\)",
            changed("e.h5", lambda file: file["t0_fields/zeta"].attrs.update(
                sample_varying=False)))  # fmt: skip
    refuses(InputError, "boundary condition 'y_low' lies on x, y; dlde holds conditions at fixed points",
            changed("f.h5", lambda file: file["boundary_conditions/y_low"].attrs.update(
                associated_dims=["x", "y"])))  # fmt: skip
    refuses(InputError, "group dimensions lacks 'y'", changed("g.h5", lambda file: file.pop("dimensions/y")))


def test_netcdf_that_is_packed(refuses: Refuses, tmp_path: Path) -> None:
    import xarray as xr

    packed = {"u": {"dtype": "i2", "scale_factor": 0.5}}
    xr.Dataset({"u": (("sample", "x"), U)}, {"x": X}).to_netcdf(tmp_path / "a.nc", encoding=packed)
    refuses(InputError, r"'u' is packed \(scale_factor\); unpack it first", tmp_path / "a.nc")


def test_idx_that_is_cut_off(refuses: Refuses, tmp_path: Path) -> None:
    path = idx(tmp_path / "a", np.zeros((3, 4, 4), np.uint8))
    path.write_bytes(path.read_bytes()[:-1])
    refuses(InputError, "says it holds 3 x 4 x 4 values of 1 bytes, but has 47 of 48 bytes", path)
    packed = tmp_path / "b.gz"
    packed.write_bytes(gzip.compress(path.read_bytes())[:-6])
    refuses(InputError, "b.gz cannot be read", packed, format="idx")


def picture(width: int = 4) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RANDOM.integers(0, 256, (3, width), dtype=np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def archive(path: Path, *members: tarfile.TarInfo) -> Path:
    content = picture()
    with tarfile.open(path, "w") as file:
        good = tarfile.TarInfo("a/1.png")
        good.size = len(content)
        file.addfile(good, io.BytesIO(content))
        for member in members:
            member.size = len(content) if member.isfile() else 0
            file.addfile(member, io.BytesIO(content) if member.isfile() else None)
    return path


def link(name: str, kind: bytes, to: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, to
    return member


def test_archives_that_leave_their_root(refuses: Refuses, tmp_path: Path) -> None:
    for member, match in (
        (tarfile.TarInfo("../1.png"), r"member '\.\./1\.png' leads out of the archive"),
        (tarfile.TarInfo("/tmp/1.png"), "member '/tmp/1.png' leads out"),  # noqa: S108
        (link("a/2.png", tarfile.SYMTYPE, "/etc/passwd"), "member 'a/2.png' is a link"),
        (link("a/2.png", tarfile.LNKTYPE, "a/1.png"), "member 'a/2.png' is a link"),
        (link("a/fifo", tarfile.FIFOTYPE, ""), "member 'a/fifo' is no plain file"),
    ):
        refuses(InputError, match, archive(tmp_path / "a.tar", member))


def test_folders_of_pictures(refuses: Refuses, tmp_path: Path) -> None:
    folder = tmp_path / "pets"
    folder.mkdir()
    refuses(InputError, "pets holds no pictures", folder)
    (folder / "1.png").write_bytes(picture())
    (folder / "2.png").write_bytes(picture(5))
    refuses(InputError, "2.png is 3 x 5 pixels in 1 channel, but 1.png is 3 x 4", folder)
    (folder / "2.png").write_bytes(b"no picture")
    refuses(InputError, "2.png is no picture that can be read", folder)
    (folder / "2.png").unlink()
    os.symlink("/etc/hostname", folder / "2.png")
    refuses(InputError, "2.png is a link", folder)


def test_graphs(refuses: Refuses, npz: Any) -> None:
    edges = np.array([[0, 1], [1, 3]])
    refuses(InputError, "edge_index names node 3, but nodes count from 0 to 2",
            npz(edge_index=edges, labels=np.zeros(3)))  # fmt: skip
    refuses(InputError, "'v' has 2 rows, but the graph has 4 nodes",
            npz(edge_index=edges, labels=np.zeros(4), v=np.zeros(2)))  # fmt: skip
    refuses(InputError, "sparse array 'f' lacks f_data, f_shape",
            npz(edge_index=edges, labels=np.zeros(4), f_indptr=[0, 1], f_indices=[0]))  # fmt: skip
    refuses(InputError, "sparse array 'f' is not sound",
            npz(edge_index=edges, labels=np.zeros(4), f_indptr=[0, 1, 1, 1, 1], f_indices=[9],
                f_data=[1.0], f_shape=[4, 2]))  # fmt: skip
    refuses(InputError, r"edge_index has shape \(3, 2\)", npz(edge_index=edges.repeat(2, 0)[:3], labels=X))


def test_export(npz: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = import_files(
        [npz(u=np.zeros((5, 8, 3)), x=X)], "set", Options.parse(dims=["u=sample,x,part"]), tmp_path / "root"
    )
    dataset = done.generated.dataset
    for format in ("the-well", "pdebench"):
        with pytest.raises(GridError, match=r"has no place for 'u' over \(x, part\)"):
            export(dataset, format, tmp_path / "out")
    with pytest.raises(UnknownNameError, match="no format 'hdf'"):
        export(dataset, "hdf", tmp_path / "out")
    with pytest.raises(UnknownNameError, match="no split 'tset'; did you mean 'test'"):
        export(dataset, "npz", tmp_path / "out", ["tset"])
    assert not (tmp_path / "out").exists()
    export(dataset, "npz", tmp_path / "out")
    with pytest.raises(InputError, match=r"test\.npz exists already; remove it"):
        export(dataset, "npz", tmp_path / "out", ["test"])
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["test.npz", "train.npz"]
    assert Recipe.load("set") == done.recipe
