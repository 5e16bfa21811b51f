"""Images and other labelled arrays: MNIST's IDX files, folders and archives of pictures.

IDX: two zero bytes, a code of the dtype, the number of dimensions, their sizes, then the values, all big
endian (yann.lecun.com/exdb/mnist). A folder or an archive holds a folder per class, or pictures alone.
An image is (y, x, channel), its axes counted in pixels; `label` is one number per sample.
"""

from __future__ import annotations

import gzip
import io
import math
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from dlde.datasets.bridges.content import Content, Field, Values
from dlde.errors import InputError

DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".gif": "GIF"}
MODES = {"1", "L", "RGB", "RGBA"}  # as they are; a palette becomes RGB


def is_idx(path: Path) -> bool:
    """Whether a file begins as IDX does."""
    try:
        with _plain(path) as file:
            head = file.read(4)
    except (OSError, EOFError):
        return False
    return len(head) == 4 and head[:2] == b"\0\0" and head[2] in DTYPES and 0 < head[3] < 8


def _plain(path: Path) -> Any:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else path.open("rb")


def read_idx(path: Path, files: ExitStack) -> Content:
    """One array: `label` where it has one dimension, `image` else."""
    try:
        with _plain(path) as file:
            content: bytes = file.read()
    except (OSError, EOFError) as error:
        raise InputError(f"{path.name} cannot be read: {error}") from None
    if content[:2] != b"\0\0" or len(content) < 4 or content[2] not in DTYPES:
        raise InputError(f"{path.name} is no IDX file: it begins with {content[:4].hex(' ')}")
    ndim = content[3]
    shape = tuple(int(size) for size in np.frombuffer(content, ">i4", ndim, 4))
    dtype = np.dtype(DTYPES[content[2]])
    body = content[4 + 4 * ndim :]
    expected = math.prod(shape) * dtype.itemsize
    if len(body) != expected:
        raise InputError(
            f"{path.name} says it holds {' x '.join(map(str, shape))} values of {dtype.itemsize} bytes, but "
            f"has {len(body)} of {expected} bytes; it is cut off, or not what it seems"
        )
    values = np.frombuffer(body, dtype).reshape(shape).astype(dtype.newbyteorder("="))
    if ndim > 4:
        raise InputError(
            f"{path.name} has {ndim} dimensions; images have at most four (sample, y, x, channel)"
        )
    name = "label" if ndim == 1 else "image"
    dims = ("sample", "feature") if ndim == 2 else ("sample", "y", "x", "channel")[:ndim]
    return Content(
        format="idx",
        path=path,
        fields={name: Field(values, dims, long_name="class" if name == "label" else "image")},
        coordinates=_pixels(dims, shape),
        units={"y": "pixel", "x": "pixel"},
    )


def _pixels(dims: tuple[str, ...], shape: tuple[int, ...]) -> dict[str, Values]:
    sizes = dict(zip(dims, shape, strict=True))
    return {name: np.arange(sizes[name], dtype=np.float64) for name in ("y", "x") if name in sizes}


def read_pictures(path: Path, files: ExitStack) -> Content:
    """All pictures of a folder or a tar archive, in order of name; nothing is unpacked to disk.

    Raises InputError for links, for names that leave the folder, and for pictures of different sizes.
    """
    members = sorted(_in_folder(path) if path.is_dir() else _in_archive(path), key=lambda member: member[0])
    if not members:
        raise InputError(f"{path.name} holds no pictures ({', '.join(PICTURES)})")
    folders = [PurePosixPath(name).parent.as_posix() for name, _ in members]
    classes = {name: number for number, name in enumerate(sorted(set(folders)))}
    pictures: list[Values] = []
    for name, content in members:
        picture = _decode(path, name, content)
        if pictures and picture.shape != pictures[0].shape:
            raise InputError(
                f"{path.name}: {name} is {_size(picture)}, but {members[0][0]} is {_size(pictures[0])}; all "
                "samples of a dataset have one shape: resize or sort them first"
            )
        pictures.append(picture)
    images = np.stack(pictures)
    dims = ("sample", "y", "x", "channel")
    fields = {"image": Field(images, dims, long_name="image")}
    if len(classes) > 1 or "." not in classes:
        meaning = ", ".join(f"{number} {name}" for name, number in classes.items())
        labels = np.array([classes[folder] for folder in folders], np.int64)
        fields["label"] = Field(labels, ("sample",), long_name=f"class: {meaning}")
    return Content(
        format="images",
        path=path,
        fields=fields,
        coordinates=_pixels(dims, images.shape),
        units={"y": "pixel", "x": "pixel"},
    )


def _size(picture: Values) -> str:
    height, width, channels = picture.shape
    return f"{height} x {width} pixels in {channels} channel{'s' if channels > 1 else ''}"


def _in_folder(path: Path) -> Iterator[tuple[str, bytes]]:
    for member in sorted(path.rglob("*")):
        if member.is_symlink():
            raise InputError(
                f"{path.name}: {member.relative_to(path)} is a link; files are imported only where they "
                "lie in the folder itself"
            )
        if member.is_file() and member.suffix.lower() in PICTURES:
            yield member.relative_to(path).as_posix(), member.read_bytes()


def _in_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts:
                    raise InputError(f"{path.name}: member {member.name!r} leads out of the archive")
                if member.isdir():
                    continue
                if not member.isfile():
                    what = "a link" if member.issym() or member.islnk() else "no plain file"
                    raise InputError(
                        f"{path.name}: member {member.name!r} is {what}; archives hold plain files"
                    )
                if name.suffix.lower() in PICTURES:
                    file = archive.extractfile(member)
                    assert file is not None
                    yield name.as_posix(), file.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{path.name} is no tar archive that can be read: {error}") from None


def _decode(path: Path, name: str, content: bytes) -> Values:
    """(y, x, channel), as stored."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=[*dict.fromkeys(PICTURES.values())]) as picture:
            plain = picture if picture.mode in MODES else picture.convert("RGB")
            values = np.asarray(plain)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path.name}: {name} is no picture that can be read: {error}") from None
    return values if values.ndim == 3 else values[..., None]
