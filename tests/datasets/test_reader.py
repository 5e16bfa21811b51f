"""The direct reader against zarr-python, over layouts; damage, repair, open files."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec

from dlde.datasets.reader import ChunkReader, direct, open_reader
from dlde.errors import DamagedDataError

BLOSC = BloscCodec(cname="lz4", clevel=5, shuffle="shuffle")
CHAINS: dict[str, list[Any]] = {
    "none": [],
    "crc32c": [Crc32cCodec()],
    "lz4": [BLOSC],
    "lz4-crc32c": [BLOSC, Crc32cCodec()],
    "blosc-zstd": [BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle")],
    "zstd-crc32c": [ZstdCodec(level=1), Crc32cCodec()],
    "zstd-checksum": [ZstdCodec(level=1, checksum=True)],
    "crc32c-lz4": [Crc32cCodec(), BLOSC],
    "crc32c-twice": [Crc32cCodec(), Crc32cCodec()],
    "lz4-zstd": [BLOSC, ZstdCodec(level=1)],
}
SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def write(folder: Path, values: NDArray[Any], chunks: tuple[int, ...], **options: Any) -> Path:
    settled = {"compressors": CHAINS["lz4-crc32c"], "fill_value": 0, **options}
    array = zarr.create_array(
        str(folder), shape=values.shape, dtype=values.dtype, chunks=chunks, overwrite=True, **settled
    )
    array[...] = values
    return folder


def numbers(*shape: int, dtype: str = "<f4") -> NDArray[Any]:
    return (100 * np.random.default_rng(0).standard_normal(shape)).astype(dtype)


def open_files() -> int:
    return psutil.Process().num_fds()


def everything(reader: ChunkReader) -> NDArray[Any]:
    return np.concatenate([reader.chunk(number) for number in range(reader.num_chunks)])


@settings(deadline=None, max_examples=40, suppress_health_check=SLOW)
@given(
    samples=st.integers(1, 13),
    sample=st.lists(st.integers(1, 5), max_size=3).map(tuple),
    rows=st.integers(1, 5),
    per_shard=st.sampled_from([None, 1, 3]),
    chain=st.sampled_from(sorted(CHAINS)),
    dtype=st.sampled_from(["<f4", "<f8", ">f4", "<i2", "u1", "?", "<c8"]),
    separator=st.sampled_from([".", "/"]),
    lost=st.booleans(),
)
def test_equal_to_zarr(
    samples: int,
    sample: tuple[int, ...],
    rows: int,
    per_shard: int | None,
    chain: str,
    dtype: str,
    separator: str,
    lost: bool,
    tmp_path: Path,
) -> None:
    """Edge chunks, chunks that were never written and lost files among them."""
    values = numbers(samples, *sample, dtype=dtype)
    values[: samples // 2] = 0  # the fill value: zarr leaves such chunks out
    options = {} if per_shard is None else {"shards": (rows * per_shard, *sample)}
    folder = write(
        tmp_path / "a",
        values,
        (rows, *sample),
        compressors=CHAINS[chain],
        chunk_key_encoding={"name": "default", "separator": separator},
        fill_value=False if dtype == "?" else 7 if lost else 0,
        **options,
    )
    if lost:
        next(
            path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "zarr.json"
        ).unlink()
    array = zarr.open_array(str(folder))
    assert direct(array) is not None
    reader = open_reader(folder)
    found = everything(reader)
    assert found.dtype == values.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, array[...])


@pytest.mark.parametrize("chain", sorted(CHAINS))
@pytest.mark.parametrize("location", ["start", "end"])
def test_index_at_either_end_of_a_shard(chain: str, location: str, tmp_path: Path) -> None:
    values = numbers(10, 4)
    folder = tmp_path / "a"
    sharding = zarr.codecs.ShardingCodec(
        chunk_shape=(2, 4),
        codecs=[BytesCodec(), *CHAINS[chain]],
        index_location=location,
    )
    zarr.create(
        store=str(folder), shape=values.shape, dtype="f4", chunks=(6, 4), codecs=[sharding], zarr_format=3
    )[...] = values
    assert direct(zarr.open_array(str(folder))) is not None
    np.testing.assert_array_equal(everything(open_reader(folder)), values)


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (2, 3)},
        {"compressors": [GzipCodec()]},
        {"serializer": BytesCodec(endian="big")},
        {"filters": [TransposeCodec(order=(1, 0))]},
        {"shards": (4, 8), "chunks": (2, 3)},
        {"chunks": (2, 9)},
    ],
    ids=str,
)
def test_other_layouts_are_left_to_zarr(options: dict[str, Any], tmp_path: Path) -> None:
    values = numbers(7, 6)
    if options.get("shards"):
        options = {"shards": (4, 6), "chunks": (2, 3)}
    folder = write(tmp_path / "a", values, **{"chunks": (2, 6), **options})
    assert direct(zarr.open_array(str(folder))) is None
    np.testing.assert_array_equal(everything(open_reader(folder)), values)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("chain", ["crc32c", "lz4-crc32c", "zstd-crc32c"])
def test_a_changed_byte_is_named(chain: str, sharded: bool, tmp_path: Path) -> None:
    values = numbers(8, 50)
    options = {"shards": (8, 50)} if sharded else {}
    folder = write(
        tmp_path / "a",
        values,
        (2, 50),
        compressors=CHAINS[chain],
        chunk_key_encoding={"name": "default", "separator": "."},
        **options,
    )
    path = folder / ("c.0.0" if sharded else "c.1.0")
    content = bytearray(path.read_bytes())
    place = 20
    content[place] ^= 1
    path.write_bytes(content)
    reader = open_reader(folder)
    first = 0 if sharded else 1
    with pytest.raises(DamagedDataError, match=rf"{path.name} is damaged \(checksum differs\): samples") as e:
        reader.chunk(first)
    assert e.value.damage == {str(path): [2 * first, 2 * first + 1]}
    np.testing.assert_array_equal(reader.chunk(2), values[4:6])
    content[place] ^= 1
    path.write_bytes(content)
    np.testing.assert_array_equal(reader.chunk(first), values[2 * first : 2 * first + 2])


@pytest.mark.parametrize("chain", sorted(CHAINS))
@pytest.mark.parametrize("keep", [0, 3, 17, -1])
def test_a_file_cut_short_is_damage(chain: str, keep: int, tmp_path: Path) -> None:
    for sharded in ({}, {"shards": (4, 50)}):
        folder = write(tmp_path / "a", numbers(4, 50), (2, 50), compressors=CHAINS[chain], **sharded)
        path = folder / "c/0/0"
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(DamagedDataError, match="c/0/0 is damaged"):
            open_reader(folder).chunk(0)


def test_a_damaged_index_is_damage(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", numbers(4, 50), (2, 50), shards=(4, 50))
    path = folder / "c/0/0"
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedDataError, match="checksum differs"):
        open_reader(folder).chunk(1)


def test_damage_that_zarr_finds_is_named_too(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", numbers(4, 6), (2, 6), compressors=[GzipCodec()])
    (folder / "c/1/0").write_bytes(b"nothing of gzip")
    with pytest.raises(DamagedDataError, match="samples 2 to 3 cannot be read"):
        open_reader(folder).chunk(1)


def test_a_checksum_is_compared_once_for_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dlde.datasets import reader as module

    compared: list[int] = []
    value = module.google_crc32c.value
    monkeypatch.setattr(
        module.google_crc32c, "value", lambda data: (compared.append(len(data)), value(data))[1]
    )
    folder = write(tmp_path / "a", numbers(4, 6), (2, 6), compressors=[Crc32cCodec()])
    compared.clear()
    once, always = open_reader(folder, descriptors=1), open_reader(folder, recheck=True)
    for _ in range(3):
        everything(once)
    assert len(compared) == 2
    for _ in range(3):
        everything(always)
    assert len(compared) == 8
    other = folder / "other"
    other.write_bytes((folder / "c/1/0").read_bytes())
    other.replace(folder / "c/1/0")
    once.chunk(0)  # the one file that is kept open is now this
    once.chunk(1)
    assert len(compared) == 9


def test_a_lost_chunk_can_be_an_error(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", numbers(4, 6), (2, 6), fill_value=5)
    (folder / "c/1/0").unlink()
    assert (open_reader(folder).chunk(1) == 5).all()
    with pytest.raises(DamagedDataError, match=r"c/1/0 is damaged \(lost\): samples 2 to 3"):
        open_reader(folder, lost_is_damage=True).chunk(1)


def test_few_files_stay_open_and_threads_may_share_a_reader(tmp_path: Path) -> None:
    values = numbers(40, 100)
    folder = write(tmp_path / "a", values, (1, 100))
    before = open_files()
    readers = [open_reader(folder, descriptors=3)]
    wrong: list[int] = []

    def read(seed: int) -> None:
        row = np.empty((1, 100), np.float32)
        for number in np.random.default_rng(seed).integers(0, 40, 300):
            readers[0].read(int(number), row)
            if not np.array_equal(row[0], values[number]):
                wrong.append(int(number))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert open_files() == before + 3
    # none is left open by a reader that is gone
    readers.clear()
    assert open_files() == before
