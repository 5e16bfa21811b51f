"""Which reader a file is for, by what it holds rather than by how it is called."""

from __future__ import annotations

import tarfile
import zipfile
from contextlib import ExitStack
from pathlib import Path

import h5py
import numpy as np

from dlde.datasets.bridges import graphs, hdf5, images, pdebench, plain, the_well
from dlde.datasets.bridges.content import Content, Read
from dlde.errors import InputError
from dlde.problems.recorded import Format

READERS: dict[str, Read] = {
    "npz": plain.read_npz,
    "netcdf": plain.read_netcdf,
    "the-well": the_well.read,
    "pdebench": pdebench.read,
    "idx": images.read_idx,
    "images": images.read_pictures,
    "graph": graphs.read,
}


def read(path: Path, format: str | None, opened: ExitStack) -> Content:
    chosen = format or format_of(path)
    content = READERS[chosen](path, opened)
    if not content.fields:
        raise InputError(f"{path.name} ({chosen}) holds no field")
    return content


def format_of(path: Path) -> Format:
    """What a file is, by its content. Raises InputError that says what was found."""
    if path.is_dir():
        if (path / "zarr.json").is_file() or (path / "manifest.json").is_file():
            raise InputError(f"{path} is a store already; `dlde data inspect {path}` looks at it")
        return "images"
    with path.open("rb") as file:
        head = file.read(8)
    if head == b"\x89HDF\r\n\x1a\n":
        with ExitStack() as stack:
            found = hdf5.opened(path, stack)
            if the_well.holds(found):
                return "the-well"
            if pdebench.holds(found):
                return "pdebench"
            if "_NCProperties" in found.attrs or path.suffix in (".nc", ".nc4") or _has_scales(found):
                return "netcdf"
            raise InputError(
                f"{path.name} is HDF5, but of no known layout (The Well, PDEBench, NetCDF); it holds "
                f"{hdf5.contents(found)}. Write its arrays to a .npz: numpy.savez(FILE, u=file['…'][()])"
            )
    if head[:3] == b"CDF":
        return "netcdf"
    if head[:2] == b"PK" and path.suffix == ".npz":
        if not zipfile.is_zipfile(path):
            return "npz"  # whose reader says what is wrong with it
        with np.load(path, allow_pickle=False) as archive:
            return "graph" if graphs.holds(archive.files) else "npz"
    if images.is_idx(path):
        return "idx"
    if tarfile.is_tarfile(path):
        return "images"
    raise InputError(
        f"{path.name} is of no known format ({', '.join(READERS)}); of other kinds (.mat, .pt, .csv) write "
        "the arrays to a .npz: numpy.savez(FILE, u=u, x=x)"
    )


def _has_scales(file: h5py.File) -> bool:
    return any(h5py.h5ds.is_scale(one.id) for one in hdf5.datasets(file).values())
