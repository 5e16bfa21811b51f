from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from dlde.datasets import layout
from dlde.datasets import recipe as recipes
from dlde.datasets.dataset import Dataset, open_dataset, verify
from dlde.datasets.generate import Generated, generate
from dlde.datasets.recipe import Recipe
from dlde.errors import DamagedDataError, DataError
from tests.processes import children

Heat = Callable[..., Recipe]
REPOSITORY = Path(__file__).parents[2]


def process(recipe: Recipe, root: Path, *arguments: str) -> subprocess.Popen[str]:
    """`tests/datasets/process.py` on that recipe and root."""
    root.mkdir(exist_ok=True)
    file = root / "recipe.json"
    file.write_text(json.dumps(recipe.dump()))
    return subprocess.Popen(
        [sys.executable, "-m", "tests.datasets.process", str(file), str(root), *(arguments or ("1",))],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_for(what: Callable[[], bool], running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert running.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)


def num_committed(store: Path) -> int:
    return len(list((store / "parts").glob("*.json")))


POINTS = {  # where the run ends -> parts that are committed then, of 9
    "KILL-before-1": 0,  # no certificate yet, and no manifest
    "KILL-after-9": 0,  # metadata half written
    "KILL-before-19": 1,
    "KILL-after-4": 1,  # the chunks of a part, without its record
    "INT-before-7": 2,
    "TERM-after-5": 3,
    "KILL-before-6": 4,
    "KILL-before-12": 7,
    "KILL-before-9": 9,  # no statistics
}


def test_ended_at_exact_points_then_the_same_command(heat: Heat, tmp_path: Path) -> None:
    recipe = heat(samples={"train": 60, "test": 5})
    undisturbed = generate(recipe, tmp_path / "a")
    lines = read_lines(process(recipe, tmp_path / "b", "1", *POINTS, "run"))
    done = lines.pop(-2)
    assert {line["point"]: line["committed"] for line in lines} == {**POINTS, "run": 9}
    assert [-line["code"] for line in lines] == [9, 9, 9, 9, 2, 15, 9, 9, 9, 0]
    assert (done["digest"], done["repaired"]) == (undisturbed.digest, {})
    again, store = Dataset.open(recipe, tmp_path / "b"), recipe.store(tmp_path / "b")
    # the last run had nothing to compute, and so nothing to say of what that took
    left = {path.name for path in undisturbed.store.iterdir()} - {"facts.json"}
    assert {path.name for path in store.iterdir()} == left
    assert not list(store.rglob("*.partial"))
    np.testing.assert_array_equal(again.read("train", "u"), undisturbed.dataset.read("train", "u"))


def read_lines(running: subprocess.Popen[str]) -> list[dict[str, Any]]:
    stdout, _ = running.communicate(timeout=120)
    return [json.loads(line) for line in stdout.splitlines()]


def test_killed_with_two_workers_then_the_same_command(heat: Heat, tmp_path: Path) -> None:
    recipe = heat(samples={"train": 160}, storage={"part": 2})
    store = recipe.store(tmp_path / "b")
    running = process(recipe, tmp_path / "b", "2")
    wait_for(lambda: num_committed(store) >= 3, running)
    below = psutil.Process(running.pid).children(recursive=True)
    running.kill()
    running.communicate()
    _, alive = psutil.wait_procs(below, timeout=20)
    assert not alive, "workers outlived their parent"
    assert 3 <= num_committed(store) < 80
    again = generate(recipe, tmp_path / "b")
    assert 0 < again.computed < 80
    assert again.digest == generate(recipe, tmp_path / "a").digest


def test_a_killed_worker_is_named_and_nothing_is_lost(heat: Heat, tmp_path: Path) -> None:
    recipe = heat(samples={"train": 80}, storage={"part": 2})

    def kill_one(done: int, total: int, note: str) -> None:
        if done:
            for child in children(os.getpid(), "spawn_main")[:1]:
                child.kill()

    with pytest.raises(DataError, match="a worker process was killed"):
        generate(recipe, tmp_path, workers=2, progress=kill_one)
    committed = num_committed(recipe.store(tmp_path))
    assert 0 < committed < 40
    done = generate(recipe, tmp_path)
    assert done.computed == 40 - committed
    assert done.dataset.verify().whole


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def exchange(path: Path) -> None:
    """Sound bytes, but another chunk's."""
    other = path.with_name("c.0.0.0")
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


@pytest.fixture
def small_chunks(heat: Heat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generated:
    """24 training samples in 3 parts of 8, in chunks of 4."""
    monkeypatch.setattr(recipes, "CHUNK_BYTES", 4 * 3 * 32 * 4)
    return generate(heat(samples={"train": 24, "test": 5}), tmp_path)


def stamps(store: Path) -> dict[str, int]:
    return {str(path.relative_to(store)): path.stat().st_mtime_ns for path in store.rglob("c.*")}


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink], ids=["flipped", "cut", "lost"])
def test_a_damaged_chunk_is_found_refused_and_repaired(
    small_chunks: Generated, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    recipe, store = small_chunks.dataset.recipe, small_chunks.store
    u = small_chunks.dataset.read("train", "u")
    before = stamps(store)
    damage(store / "train" / "u" / "c.3.0.0")
    health = small_chunks.dataset.verify()
    assert not health.whole
    assert health.damage == {"train-00001": [12, 13, 14, 15]}
    opened = Dataset.open(recipe, tmp_path)
    with pytest.raises(
        DamagedDataError, match=r"part train-00001: samples 12-15.*`dlde data generate"
    ) as error:
        opened.read("train", "u", time=0)
    assert error.value.damage == {"train-00001": [12, 13, 14, 15]}
    assert opened.read("test", "u").shape == (5, 3, 32)

    repaired = generate(recipe, tmp_path)
    assert (repaired.computed, repaired.repaired) == (1, {"train-00001": [12, 13, 14, 15]})
    assert repaired.digest == small_chunks.digest
    np.testing.assert_array_equal(repaired.dataset.read("train", "u"), u)
    rewritten = {name for name, stamp in stamps(store).items() if stamp != before[name]}
    assert rewritten == {"train/u/c.2.0.0", "train/u/c.3.0.0", "train/flux/c.1.0"}


def test_plain_reads_meet_the_checksum_too(small_chunks: Generated) -> None:
    import xarray as xr

    flip(small_chunks.store / "train" / "u" / "c.3.0.0")
    opened = xr.open_zarr(small_chunks.store, group="train", chunks=None)
    assert np.isfinite(opened["u"][:12].values).all()
    with pytest.raises(ValueError, match="checksum"):
        opened["u"].values  # noqa: B018


def test_chunks_in_each_others_place(small_chunks: Generated, tmp_path: Path) -> None:
    exchange(small_chunks.store / "train" / "u" / "c.5.0.0")
    expected = {"train-00000": [0, 1, 2, 3], "train-00002": [20, 21, 22, 23]}
    assert small_chunks.dataset.verify().damage == expected
    with pytest.raises(
        DamagedDataError, match="part train-00000: samples 0-3; part train-00002: samples 20-23"
    ):
        small_chunks.dataset.read("train", "u")
    assert generate(small_chunks.dataset.recipe, tmp_path).repaired == expected
    assert small_chunks.dataset.verify().whole


METADATA = ("zarr.json", "train/zarr.json", "train/u/zarr.json", "train/x/c.0", "test/sample/c.0")


@pytest.mark.parametrize("name", METADATA)
@pytest.mark.parametrize("damage", [flip, cut, Path.unlink], ids=["flipped", "cut", "lost"])
def test_damaged_metadata(
    small_chunks: Generated, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    before = (small_chunks.store / name).read_bytes()
    damage(small_chunks.store / name)
    assert small_chunks.dataset.verify().files == [name]
    with pytest.raises(DamagedDataError, match=rf"is damaged \({name}\)"):
        Dataset.open(small_chunks.dataset.recipe, tmp_path)
    repaired = generate(small_chunks.dataset.recipe, tmp_path)
    assert (repaired.computed, list(repaired.repaired)) == (0, [name])
    assert (small_chunks.store / name).read_bytes() == before
    assert repaired.digest == small_chunks.digest


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink], ids=["flipped", "cut", "lost"])
def test_damaged_record(small_chunks: Generated, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    damage(small_chunks.store / "parts" / "train-00001.json")
    assert verify(small_chunks.dataset.recipe, small_chunks.store).missing == {
        "train-00001": list(range(8, 16))
    }
    with pytest.raises(DataError, match="8 of 29 samples missing"):
        Dataset.open(small_chunks.dataset.recipe, tmp_path)
    repaired = generate(small_chunks.dataset.recipe, tmp_path)
    assert (repaired.computed, repaired.digest) == (1, small_chunks.digest)


def test_damaged_manifest(small_chunks: Generated, tmp_path: Path) -> None:
    cut(small_chunks.store / layout.MANIFEST)
    with pytest.raises(DamagedDataError, match=r"manifest\.json is damaged; generate the dataset again"):
        open_dataset(small_chunks.store)
    repaired = generate(small_chunks.dataset.recipe, tmp_path)
    assert (repaired.computed, list(repaired.repaired)) == (0, ["manifest.json"])
    assert repaired.dataset.info == small_chunks.dataset.info


def test_disk_full_then_room_then_the_same_command(
    heat: Heat, tmp_path: Path, small_disk: Callable[[str], list[str]]
) -> None:
    """A real small file system, in a mount namespace of its own; it grows before the second run."""
    recipe: Any = heat(samples={"train": 64}, num_points=[256], storage={"part": 4, "compression": "none"})
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.dump()))
    room = tmp_path / "room"
    room.mkdir()
    script = (
        f"mount -t tmpfs -o size=250k tmpfs {room} && "
        f"exec {sys.executable} -m tests.datasets.process {tmp_path}/recipe.json {room} 1 run grow run"
    )
    done = subprocess.run(small_disk(script), cwd=REPOSITORY, capture_output=True, text=True, check=False)
    first, again, _ = (json.loads(line) for line in done.stdout.splitlines())
    assert first["code"] == 1
    assert f"StorageFullError: no space left while writing {room}" in done.stderr
    assert "run the same command again; it continues where it stopped" in done.stderr
    assert 0 < again["computed"] == 16 - first["committed"] < 16
    assert again["repaired"] == {}
    assert again["digest"] == generate(recipe, tmp_path / "undisturbed").digest
