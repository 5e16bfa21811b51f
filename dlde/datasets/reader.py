"""Chunks of a stored array, read straight into the rows of a buffer.

zarr-python spends about as long on the way to a chunk as on its bytes: tasks, copies, a shard's index
anew for every chunk. Where an array is local and its layout is one of those that `direct` lists, its
chunks are read by `preadv` and decoded in place; every other array is read by zarr-python. Both give
equal values, and neither gives values that fail their checksum.
"""

from __future__ import annotations

import os
import resource
import struct
import sys
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import google_crc32c
import numpy as np
import zarr
from numcodecs import blosc, zstd
from numpy.typing import NDArray
from zarr.buffer.cpu import NDBuffer
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec

from dlde.errors import DamagedDataError

# Files that a reader keeps open: opening them anew costs two threads a tenth of lz4's rate. A process has
# several readers (variables, splits), and other needs. Where there is no limit, it is given as -1.
DESCRIPTORS = min(1024, max(32, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 16))
CHECKSUM_BYTES = 4
_BLOSC_HEADER = struct.Struct("<4I")
LARGE_PAGES = 2**22  # from so many bytes on numpy asks for large pages, into which the kernel copies faster
ABSENT = np.uint64(2**64 - 1)  # offset and length, in a shard's index, of a chunk that was never written

Bytes = NDArray[np.uint8]


class ChunkReader(ABC):
    """The chunks of one array, each of consecutive samples (axis 0). Threads may share a reader."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]  # of what is read, in the byte order of this machine
    rows: int  # samples in a chunk; the last may have fewer

    @property
    def num_chunks(self) -> int:
        """How many chunks the samples fill."""
        return -(-self.shape[0] // self.rows)

    def span(self, chunk: int) -> range:
        """Numbers of the samples in a chunk."""
        return range(chunk * self.rows, min((chunk + 1) * self.rows, self.shape[0]))

    def chunk(self, number: int) -> NDArray[Any]:
        """The samples of a chunk, in an array of their own. Raises what `read` raises."""
        values = np.empty((len(self.span(number)), *self.shape[1:]), self.dtype)
        self.read(number, values)
        return values

    @abstractmethod
    def read(self, number: int, into: NDArray[Any]) -> None:
        """Fill `into` (samples of the chunk, *sample), C-contiguous and of the array's dtype.

        Raises DamagedDataError naming the chunk and its samples, OSError where the disk fails.
        """


def open_reader(
    array: Path | str, *, recheck: bool = False, lost_is_damage: bool = False, descriptors: int = DESCRIPTORS
) -> ChunkReader:
    """A reader of the Zarr v3 array in that folder (or at that address, which zarr-python reads).

    A checksum is compared the first time that a chunk is read from a file, and again where the file was
    replaced; with `recheck` every time. A chunk that was never written has the array's fill value, as
    zarr defines it; with `lost_is_damage` it is an error, where the reader is direct. At most
    `descriptors` files are kept open.
    """
    opened = zarr.open_array(str(array), mode="r", zarr_format=3)
    if "://" not in str(array) and (coding := direct(opened)) is not None:
        return _Direct(Path(array), opened, coding, recheck, lost_is_damage, descriptors)
    return _ByZarr(str(array), opened)


@dataclass(frozen=True)
class Coding:
    """How a chunk's samples became bytes, and which shard holds the bytes."""

    codecs: tuple[Any, ...]  # of bytes, in the order of writing
    per_shard: int | None = None  # chunks in a shard; None: every chunk is a file of its own
    index_first: bool = False
    index_checked: bool = False


def direct(array: Any) -> Coding | None:
    """The coding of an array that can be read directly; None where zarr-python has to.

    Direct are plain numbers in little-endian order, no transposition, any of blosc, zstd and crc32c (or
    none of them), in shards or not, on a regular grid that divides the samples alone.
    """
    metadata = array.metadata
    whole = array.shards or array.chunks
    if (
        sys.byteorder != "little"
        or not hasattr(os, "preadv")
        or not array.shape
        or array.dtype.kind not in "biufc"
        or 0 in array.shape[1:]
        or array.chunks[1:] != array.shape[1:]
        or whole[1:] != array.shape[1:]
        or metadata.storage_transformers
    ):
        return None
    codecs = tuple(metadata.codecs)
    if len(codecs) == 1 and isinstance(codecs[0], ShardingCodec):
        shard = codecs[0]
        index = tuple(shard.index_codecs)
        inner = _of_bytes(tuple(shard.codecs))
        checked = len(index) == 2 and isinstance(index[1], Crc32cCodec)
        if inner is None or _of_bytes(index[:1]) is None or not (checked or len(index) == 1):
            return None
        return Coding(
            inner, array.shards[0] // array.chunks[0], shard.index_location.value == "start", checked
        )
    inner = _of_bytes(codecs)
    return None if inner is None else Coding(inner)


def _of_bytes(codecs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """What follows the little-endian bytes; None where another codec is in the chain."""
    first, rest = codecs[0], codecs[1:]
    if not isinstance(first, BytesCodec) or (first.endian is not None and first.endian.value != "little"):
        return None
    known = all(isinstance(codec, BloscCodec | ZstdCodec | Crc32cCodec) for codec in rest)
    return rest if known else None


class _ByZarr(ChunkReader):
    """Any array that zarr-python can read."""

    def __init__(self, path: str, array: Any) -> None:
        self._path, self._array = path, array
        self.shape, self.dtype = array.shape, array.dtype.newbyteorder("=")
        self.rows = array.chunks[0]

    def read(self, number: int, into: NDArray[Any]) -> None:
        span = self.span(number)
        try:
            self._array.get_basic_selection(
                slice(span.start, span.stop), out=NDBuffer.from_numpy_array(into)
            )  # straight into its place
        except MemoryError:
            raise
        except Exception as error:  # checksum, codec and shape errors come as whatever the library raises
            if isinstance(error, OSError) and error.errno is not None:  # from the system, not from a codec
                raise
            raise _damage(self._path, span, str(error)) from error


class _DamageError(Exception):
    """Why the bytes of a chunk are not what was written."""


class _Direct(ChunkReader):
    """An array whose coding is known: its bytes are read and decoded here."""

    def __init__(
        self,
        folder: Path,
        array: Any,
        coding: Coding,
        recheck: bool,
        lost_is_damage: bool,
        descriptors: int,
    ) -> None:
        self.shape, self.dtype = array.shape, array.dtype.newbyteorder("=")
        self.rows = array.chunks[0]
        self._folder, self._coding, self._zeros = folder, coding, (0,) * (len(self.shape) - 1)
        self._recheck, self._lost_is_damage = recheck, lost_is_damage
        self._key, self._fill = array.metadata.chunk_key_encoding.encode_chunk_key, array.fill_value
        self._bytes = self.rows * self.dtype.itemsize * int(np.prod(self.shape[1:]))
        self._compressed = any(not isinstance(codec, Crc32cCodec) for codec in coding.codecs)
        self._files = _Files(descriptors)
        self._indexes: dict[int, tuple[_Identity, NDArray[np.uint64]]] = {}  # by shard
        self._checked: dict[int, _Identity] = {}  # by chunk: the file in which it was found whole
        self._scratch = threading.local()

    def read(self, number: int, into: NDArray[Any]) -> None:
        span = self.span(number)
        assert into.shape == (len(span), *self.shape[1:])
        assert into.dtype == self.dtype
        assert into.flags.c_contiguous
        if len(span) < self.rows:  # the last chunk is stored whole
            whole = np.empty((self.rows, *self.shape[1:]), self.dtype)
            self._fill_in(number, span, whole)
            into[...] = whole[: len(span)]
        else:
            self._fill_in(number, span, into)

    def _fill_in(self, number: int, span: range, into: NDArray[Any]) -> None:
        file_number = number // (self._coding.per_shard or 1)
        path = f"{self._folder}/{self._key((file_number, *self._zeros))}"
        try:
            file = self._files.get(path)
            place = None if file is None else self._place(file, number)
            if file is not None and place is not None:
                check = self._recheck or self._checked.get(number) != file.identity
                self._decode(file, *place, into.reshape(-1).view(np.uint8), check=check)
                if check:
                    self._checked[number] = file.identity
            elif self._lost_is_damage:
                raise _DamageError("lost")
            else:
                into[...] = self._fill
        except _DamageError as damage:
            self._files.forget(path)  # it may be repaired, which replaces the file
            self._indexes.pop(file_number, None)
            raise _damage(path, span, str(damage)) from None

    def _place(self, file: _File, number: int) -> tuple[int, int] | None:
        """Offset and number of the chunk's bytes in its file; None where it was never written."""
        per_shard = self._coding.per_shard
        if per_shard is None:
            return 0, file.size
        shard, inside = divmod(number, per_shard)
        known = self._indexes.get(shard)
        if known is None or known[0] != file.identity:
            known = self._indexes[shard] = (file.identity, self._read_index(file, per_shard))
        offset, length = known[1][inside]
        if offset == ABSENT and length == ABSENT:
            return None
        if int(offset) + int(length) > file.size:
            raise _DamageError("its shard is cut short")
        return int(offset), int(length)

    def _read_index(self, file: _File, per_shard: int) -> NDArray[np.uint64]:
        checked = self._coding.index_checked
        content = np.empty(16 * per_shard + (CHECKSUM_BYTES if checked else 0), np.uint8)
        if file.size < len(content):
            raise _DamageError("its shard is cut short")
        file.read([content], 0 if self._coding.index_first else file.size - len(content))
        if checked:
            content = _without_checksum(content, check=True)
        return content.view("<u8").reshape(per_shard, 2)

    def _decode(self, file: _File, offset: int, length: int, into: Bytes, *, check: bool) -> None:
        codecs = self._coding.codecs
        if not self._compressed and len(codecs) <= 1:  # straight into its place, the checksum beside it
            tail = np.empty(CHECKSUM_BYTES * len(codecs), np.uint8)
            if length != len(into) + len(tail):
                raise _DamageError(f"{length} bytes instead of {len(into) + len(tail)}")
            file.read([into, tail], offset)
            if codecs and check:
                _compare(into, tail)
            return
        content = self._buffer(length)
        file.read([content], offset)
        decoded = False
        for number, codec in reversed(list(enumerate(codecs))):
            if isinstance(codec, Crc32cCodec):
                content = _without_checksum(content, check=check)
                continue
            last = all(isinstance(other, Crc32cCodec) for other in codecs[:number])
            decoded = last and number == 0 and isinstance(codec, BloscCodec)
            content = _decompress(codec, content, into if decoded else None)
        if not decoded:
            if len(content) != len(into):
                raise _DamageError(f"{len(content)} bytes instead of {len(into)}")
            into[...] = content

    def _buffer(self, length: int) -> Bytes:
        """Room for the bytes of a chunk, of this thread alone."""
        held = getattr(self._scratch, "bytes", None)
        if held is None or len(held) < length:
            # a small chunk's scratch stays small: `memory` bounds what is held
            room = max(length, LARGE_PAGES) if length >= LARGE_PAGES // 16 else length
            held = self._scratch.bytes = np.empty(room, np.uint8)
        return cast(Bytes, held[:length])


def _without_checksum(content: Bytes, *, check: bool) -> Bytes:
    if len(content) < CHECKSUM_BYTES:
        raise _DamageError("cut short")
    content, tail = content[:-CHECKSUM_BYTES], content[-CHECKSUM_BYTES:]
    if check:
        _compare(content, tail)
    return content


def _compare(content: Bytes, checksum: Bytes) -> None:
    if google_crc32c.value(cast(bytes, content)) != int.from_bytes(checksum.tobytes(), "little"):
        raise _DamageError("checksum differs")


def _decompress(codec: Any, content: Bytes, into: Bytes | None) -> Bytes:
    """Decompressed bytes, which are those of `into` where that is given and must be filled exactly."""
    try:
        if isinstance(codec, ZstdCodec):
            return np.frombuffer(zstd.decompress(content), np.uint8)
        # blosc believes its header: lengths before (byte 4 on) and after compression (byte 12 on)
        _, decoded, _, encoded = _BLOSC_HEADER.unpack_from(cast(Any, content))
        if encoded != len(content):
            raise _DamageError(f"{len(content)} bytes instead of {encoded}")
        if into is None:
            return np.frombuffer(blosc.decompress(content), np.uint8)
        if decoded != len(into):
            raise _DamageError(f"{decoded} bytes instead of {len(into)}")
        blosc.decompress(content, into)
    except (RuntimeError, ValueError, struct.error) as error:
        raise _DamageError(str(error)) from None
    return into


def _damage(place: str, span: Sequence[int], why: str) -> DamagedDataError:
    return DamagedDataError(
        f"{place} is damaged ({why}): samples {span[0]} to {span[-1]} cannot be read",
        damage={place: list(span)},
    )


_Identity = tuple[
    int, int, int
]  # inode, time of the last change, size: another file at the same path differs


class _File:
    """An open file, closed when the last of its users lets go."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(self._descriptor)
        self.size = status.st_size
        self.identity: _Identity = (status.st_ino, status.st_mtime_ns, status.st_size)

    def read(self, buffers: Sequence[Bytes], offset: int) -> None:
        """Fill the buffers, one after the other, from that place on."""
        wanted = sum(map(len, buffers))
        found = os.preadv(self._descriptor, cast(Any, buffers), offset)
        while found < wanted:  # a signal, or a read beyond what the kernel gives at once
            rest, skipped = [], found
            for buffer in buffers:
                rest.append(buffer[min(skipped, len(buffer)) :])
                skipped = max(0, skipped - len(buffer))
            more = os.preadv(self._descriptor, cast(Any, rest), offset + found)
            if not more:
                raise _DamageError("cut short")
            found += more

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


class _Files:
    """Open files by path; of more than `limit` the one that was not used for longest is let go."""

    def __init__(self, limit: int) -> None:
        self._limit, self._lock = limit, threading.Lock()
        self._open: OrderedDict[str, _File] = OrderedDict()

    def get(self, path: str) -> _File | None:
        """None where there is no such file."""
        with self._lock:
            file = self._open.get(path)
            if file is not None:
                self._open.move_to_end(path)
                return file
        try:
            file = _File(path)
        except FileNotFoundError:
            return None
        with self._lock:
            self._open[path] = file
            while len(self._open) > self._limit:
                self._open.popitem(last=False)
        return file

    def forget(self, path: str) -> None:
        """Open it anew the next time."""
        with self._lock:
            self._open.pop(path, None)
