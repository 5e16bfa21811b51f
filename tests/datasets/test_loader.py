"""The loader: every item once an epoch, equal to `Dataset.read`, resumed anywhere; bounds and damage."""

from __future__ import annotations

import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlde.datasets import loader as loaders
from dlde.datasets.dataset import Dataset
from dlde.datasets.generate import generate
from dlde.datasets.loader import Alone, Held, Loader, View
from dlde.datasets.reader import open_reader
from dlde.datasets.recipe import Recipe
from dlde.errors import DamagedDataError, GridError, InputError, UnknownNameError

Heat = Callable[..., Recipe]
HOW = {
    "held": {},
    "streamed": {"memory": 0},
    "cached": {"memory": 4000},
    "in turn": {"memory": 0, "threads": 0},
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Dataset]:
    """A dataset of 20 and 5 samples at 5 times, made once for each layout."""
    made: dict[str, Dataset] = {}

    def make(**fields: Any) -> Dataset:
        if (key := repr(fields)) not in made:
            raw = {
                "problem": {"name": "slab"},
                "num_points": [32],
                "times": {"stop": 1.0, "count": 5},
                "samples": {"train": 20, "test": 5},
                "storage": {"part": 8},
                **fields,
            }
            recipe = Recipe.parse({"name": "heat", **raw}, source="test")
            made[key] = generate(recipe, tmp_path_factory.mktemp("stored")).dataset
        return made[key]

    return make


@pytest.fixture
def one_each(stored: Callable[..., Dataset]) -> Dataset:
    """One sample to a chunk, as large samples are."""
    return stored(storage={"part": 1})


def stream(loader: Loader, steps: int, world_size: int = 1, seed: int = 0) -> list[int]:
    """Items in the order of steps and workers."""
    workers = [Alone(seed, rank, world_size) for rank in range(world_size)]
    return [
        item for step in range(steps) for worker in workers for item in loader._share(step, worker).tolist()
    ]


@settings(deadline=None, max_examples=100)
@given(
    samples=st.integers(1, 40),
    share=st.integers(1, 6),
    workers=st.integers(1, 4),
    later=st.integers(1, 4),
    block=st.integers(1, 7),
    mix=st.sampled_from([None, 1, 3]),
    data=st.data(),
)
def test_every_item_comes_once_in_each_epoch(
    samples: int, share: int, workers: int, later: int, block: int, mix: int | None, data: st.DataObject
) -> None:
    """For any batch, number of workers, and step at which another number of workers goes on."""
    batch = share * workers * later
    steps = -(-3 * samples // batch)
    resumed = data.draw(st.integers(0, steps))

    def loader() -> Loader:
        source = Held({"u": torch.arange(samples)})
        source.items_per_block = block
        return Loader(source, batch=batch, mix=mix)

    first, second = loader(), loader()
    seen = stream(first, resumed, workers * later) + [
        int(item)
        for step in range(resumed, steps)
        for rank in range(workers)
        for item in second.at(step, Alone(0, rank, workers))["u"]
    ]
    for epoch in range(3):
        assert sorted(seen[epoch * samples : (epoch + 1) * samples]) == list(range(samples))
    assert seen == stream(loader(), steps)


def test_the_order_changes_with_epoch_and_seed_and_is_uniform() -> None:
    loader = Loader(Held({"u": torch.arange(64)}), batch=64)
    orders = [stream(loader, 2)[:64], stream(loader, 2)[64:], stream(loader, 1, seed=1)]
    assert len({tuple(order) for order in orders}) == 3
    pairs = Loader(Held({"u": torch.arange(3)}), batch=3)
    counts = Counter(tuple(stream(pairs, 1, seed=seed)) for seed in range(1200))
    assert len(counts) == 6
    assert all(150 < count < 250 for count in counts.values())  # 200 expected, deviation 13


def test_mixed_blocks_stay_together_and_are_mixed() -> None:
    source = Held({"u": torch.arange(60)})
    source.items_per_block = 5
    seen = torch.tensor(stream(Loader(source, batch=60, mix=3), 1)) // 5
    groups = [set(group.tolist()) for group in seen.split(15)]
    assert [len(group) for group in groups] == [3] * 4
    assert set().union(*groups) == set(range(12))
    assert groups != [set(range(3 * i, 3 * i + 3)) for i in range(4)]
    assert all(len(set(group[:5].tolist())) > 1 for group in seen.split(15))


def test_memory_does_not_change_the_order(stored: Callable[..., Dataset]) -> None:
    for mix in (None, 1, 2):
        held = stored().loader("train", ["u"], batch=20, mix=mix)
        with stored().loader("train", ["u"], batch=20, mix=mix, memory=10_240) as streamed:
            assert held.in_memory
            assert not streamed.in_memory
            assert stream(held, 3) == stream(streamed, 3)


def test_without_shuffling_items_come_in_order() -> None:
    loader = Loader(Held({"u": torch.arange(5)}), batch=2, shuffle=False)
    assert stream(loader, 5) == [0, 1, 2, 3, 4] * 2


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("storage", [{"part": 1}, {"part": 8}, {"part": 6, "compression": "none"}], ids=str)
def test_equal_to_dataset_read(
    storage: dict[str, Any], how: str, stored: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole fields, one time, thinned axes and variables without times, beside one another."""
    monkeypatch.setattr("dlde.datasets.recipe.CHUNK_BYTES", 2000)  # chunks of 3 samples in parts of 6
    dataset = stored(storage=storage)
    views = {
        "u": View("u"),
        "first": View("u", time=0, every=4),
        "last": View("u", time=-1),
        "flux": View("flux", every=2),
    }
    expected = {
        name: dataset.read("train", view.variable, time=view.time, every=view.every)
        for name, view in views.items()
    }
    with dataset.loader("train", views, batch=6, **HOW[how]) as loader:
        assert loader.in_memory == (how == "held")
        for step in (0, 1, 2, 3, 4, 5, 6, 20, 3, 3):
            numbers = loader.samples(step)
            batch = loader.at(step)
            assert batch.keys() == views.keys()
            for name, values in batch.items():
                np.testing.assert_array_equal(values, expected[name][numbers], err_msg=name)


@pytest.mark.parametrize("how", HOW)
def test_windows_are_cut_from_their_samples(how: str, stored: Callable[..., Dataset]) -> None:
    dataset = stored()
    u, flux = dataset.read("train", "u"), dataset.read("train", "flux")
    with dataset.loader(
        "train", ["u", "flux"], batch=7, history=1, horizon=2, stride=2, shuffle=False, **HOW[how]
    ) as loader:
        assert loader.num_items == 20 * 1
    with dataset.loader("train", ["u", "flux"], batch=7, history=2, horizon=1, **HOW[how]) as loader:
        assert loader.num_items == 20 * 3
        for step in range(10):
            items, batch = loader.items(step), loader.at(step)
            for row, (sample, start) in enumerate((item // 3, item % 3) for item in items.tolist()):
                np.testing.assert_array_equal(batch["u"][row], u[sample, start : start + 3])
                np.testing.assert_array_equal(batch["flux"][row], flux[sample])
            np.testing.assert_array_equal(loader.samples(step), items // 3)


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    history=st.integers(0, 3),
    horizon=st.integers(0, 3),
    stride=st.integers(1, 3),
    part=st.sampled_from([1, 8]),
    mix=st.sampled_from([None, 2]),
)
def test_every_window_comes_once(
    history: int, horizon: int, stride: int, part: int, mix: int | None, stored: Callable[..., Dataset]
) -> None:
    dataset = stored(storage={"part": part})
    length = history + horizon
    if length == 0 or (length - 1) * stride >= 5:
        return
    u = dataset.read("train", "u")
    frames = [
        u[sample, start : start + (length - 1) * stride + 1 : stride]
        for sample in range(20)
        for start in range(5 - (length - 1) * stride)
    ]
    kept = 2 * part * 32 * 5 * 4 if mix else 0
    with dataset.loader(
        "train",
        ["u"],
        batch=len(frames),
        history=history,
        horizon=horizon,
        stride=stride,
        memory=kept,
        mix=mix,
    ) as loader:
        assert not loader.in_memory
        found = loader.at(0)["u"].numpy()
        np.testing.assert_array_equal(found, np.stack(frames)[loader.items(0)])
        assert sorted(loader.items(0).tolist()) == list(range(len(frames)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"memory": 0}, {0: 24, 1: 24, 2: 12}),
        ({"memory": 2 * 5120, "mix": 2}, {0: 1, 1: 1, 2: 1}),
        ({"memory": 2 * 5120, "shuffle": False}, {0: 1, 1: 1, 2: 1}),
    ],
    ids=["uniform", "mixed", "in order"],
)
def test_how_often_chunks_are_read(
    options: dict[str, Any],
    expected: dict[int, int],
    stored: Callable[..., Dataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In an epoch of batches of one: three windows of each of 20 samples in chunks of 8."""
    read: list[int] = []
    original = type(open_reader(stored().store / "train" / "u")).read
    monkeypatch.setattr(
        "dlde.datasets.reader._Direct.read",
        lambda self, number, into: (read.append(number), original(self, number, into))[1],
    )
    with stored().loader("train", ["u"], batch=1, history=3, threads=0, buffers=1, **options) as loader:
        for step in range(loader.num_items):
            loader.at(step)
    assert Counter(read) == expected


def test_statistics_and_precision(stored: Callable[..., Dataset]) -> None:
    dataset = stored()
    known = dataset.info.statistics["u"]
    expected = torch.from_numpy((dataset.read("train", "u").astype(np.float64) - known.mean) / known.std)
    for how in HOW.values():
        with dataset.loader("train", ["u"], batch=20, normalise=True, dtype=torch.float64, **how) as loader:
            batch = loader.at(0)["u"]
            assert batch.dtype == torch.float64
            torch.testing.assert_close(batch, expected[loader.samples(0)], rtol=1e-12, atol=1e-12)
            assert abs(float(batch.mean())) < 1e-6  # statistics of float32 values, rounded to float64
        with dataset.loader("train", ["u"], batch=20, normalise=True, **how) as loader:
            for step in range(4):  # a buffer that is used again is normalised once
                values, numbers = loader.at(step)["u"], loader.samples(step)
                torch.testing.assert_close(values, expected[numbers].float(), rtol=1e-5, atol=1e-6)


def test_a_buffer_is_not_refilled_while_it_is_in_use(one_each: Dataset) -> None:
    u = torch.from_numpy(one_each.read("train", "u"))
    with one_each.loader("train", ["u"], batch=4, memory=0, threads=2) as loader:
        for step in range(30):
            batch = loader.at(step)["u"]
            for filled, _ in loader._ring._pending.values():
                filled.result()  # all that is prepared ahead is done
            torch.testing.assert_close(batch, u[loader.samples(step)], rtol=0, atol=0)
        addresses = {loader.at(step)["u"].data_ptr() for step in range(30)}
        assert len(addresses) == 3


def test_a_buffer_is_not_refilled_before_a_gpu_has_its_copy(one_each: Dataset) -> None:
    """The thread waits for it, not the consumer; an event that a test sets stands for the GPU's."""

    class Copied:
        def __init__(self) -> None:
            self.done, self.waited = threading.Event(), threading.Event()

        def synchronize(self) -> None:
            self.waited.set()
            assert self.done.wait(10)

    with one_each.loader("train", ["u"], batch=4, memory=0, threads=1, buffers=2) as loader:
        first = loader.at(0)["u"]
        before, copied = first.clone(), Copied()
        loader._ring._held[1].copied = copied
        loader.at(1)  # returns, while the buffer of step 0 waits to be filled with that of step 2
        assert copied.waited.wait(10)
        assert torch.equal(first, before)
        copied.done.set()
        assert torch.equal(
            loader.at(2)["u"], torch.from_numpy(one_each.read("train", "u"))[loader.samples(2)]
        )


def test_workers_share_the_batch_and_resume_under_another_number(one_each: Dataset) -> None:
    def batches(world_size: int, steps: range) -> list[torch.Tensor]:
        found = []
        several = [one_each.loader("train", ["u"], batch=6, memory=0) for _ in range(world_size)]
        for step in steps:
            shares = [
                loader.at(step, Alone(7, rank, world_size))["u"].clone()
                for rank, loader in enumerate(several)
            ]
            found.append(torch.cat(shares))
        for loader in several:
            loader.close()
        return found

    undisturbed = batches(1, range(9))
    resumed = batches(3, range(4)) + batches(2, range(4, 9))
    assert all(torch.equal(a, b) for a, b in zip(undisturbed, resumed, strict=True))
    held = one_each.loader("train", ["u"], batch=6)
    assert all(torch.equal(held.at(step, Alone(7))["u"], batch) for step, batch in enumerate(undisturbed))


def test_memory_stays_bounded(stored: Callable[..., Dataset]) -> None:
    """60 samples of 20 kB: 1.2 MB are streamed through 200 kB of chunks of 80 kB, and three batches."""
    dataset = stored(samples={"train": 60}, num_points=[1024], storage={"part": 4})
    with dataset.loader("train", ["u"], batch=4, history=1, memory=200_000) as loader:
        loader.at(0)
        tracemalloc.start()
        try:
            for step in range(1, 100):
                loader.at(step)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert loader.source._chunks._bytes <= 200_000
    # beside the chunks that are kept, each thread may decode one, from scratch of that size
    assert peak < 200_000 + 2 * 2 * 82_000 + 100_000


def test_threads_end_with_the_loader(one_each: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    fill, both = loaders._fill, threading.Event()
    names: set[str] = set()

    def together(*given: Any) -> None:
        """A pool begins a second thread only while its first one is at work."""
        names.add(threading.current_thread().name)
        if len(names) == 2:
            both.set()
        assert both.wait(30)
        fill(*given)

    monkeypatch.setattr(loaders, "_fill", together)
    before = set(threading.enumerate())
    loader = one_each.loader("train", ["u"], batch=2, memory=0)
    loader.at(0)
    began = set(threading.enumerate()) - before
    assert {thread.name for thread in began} == {"dlde-loader_0", "dlde-loader_1"}
    loader.close()
    assert not any(thread.is_alive() for thread in began)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_damaged_chunk_is_named_and_repaired(threads: int, heat: Heat, tmp_path: Path) -> None:
    recipe = heat(samples={"train": 20})
    dataset = generate(recipe, tmp_path).dataset
    u = dataset.read("train", "u")
    path = dataset.store / "train" / "u" / "c.1.0.0"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    loader = dataset.loader("train", ["u"], batch=4, shuffle=False, memory=0, threads=threads)
    np.testing.assert_array_equal(loader.at(1)["u"], u[4:8])
    for _ in range(2):
        with pytest.raises(DamagedDataError, match=r"part train-00001: samples 8-15\); `dlde data gen") as e:
            loader.at(2)
    assert e.value.damage == {"train-00001": list(range(8, 16))}
    assert str(path) in str(e.value.__cause__)
    np.testing.assert_array_equal(loader.at(4)["u"], u[16:20])
    path.unlink()
    with pytest.raises(DamagedDataError, match="train-00001"):
        loader.at(2)
    generate(recipe, tmp_path)
    np.testing.assert_array_equal(loader.at(2)["u"], u[8:12])
    loader.close()


def test_more_samples_in_the_store_than_in_the_dataset(heat: Heat, tmp_path: Path) -> None:
    large = generate(heat(samples={"train": 20}), tmp_path).dataset
    small = generate(heat(samples={"train": 11}), tmp_path).dataset
    with small.loader("train", ["u"], batch=11, memory=0) as loader:
        assert loader.num_items == 11
        found = loader.at(0)["u"]
        np.testing.assert_array_equal(found, large.read("train", "u")[loader.samples(0)])


@pytest.mark.parametrize(
    ("split", "views", "options", "error", "message"),
    [
        ("trian", ["u"], {}, UnknownNameError, "no split 'trian'; did you mean 'train'"),
        ("train", ["w"], {}, UnknownNameError, "no variable 'w'; known: flux, u"),
        ("train", [], {}, InputError, "name at least one"),
        ("train", ["u"], {"history": 3, "horizon": 1, "stride": 2}, GridError,
         "history=3 and horizon=1 with stride=2 span 7 stored times, but dataset 'heat' has 5"),
        ("train", ["u"], {"history": -1}, InputError, "history=-1"),
        ("train", ["u"], {"history": 1, "stride": 0}, InputError, "stride=0"),
        ("train", ["flux"], {"history": 1}, GridError, "none of flux has more than one time"),
        ("train", {"a": View("u", time=7)}, {}, GridError, "time=7, but dataset 'heat' has 5 stored times"),
        ("train", {"a": View("u", every=5)}, {}, GridError, "every=5 does not divide the 32 intervals of x"),
        ("train", ["u"], {"batch": 0}, InputError, "batch=0"),
        ("train", ["u"], {"mix": 0}, InputError, "mix=0"),
        ("train", ["u"], {"mix": 2, "memory": 5120}, InputError, "mix=2 blocks of 5120 bytes .*=10240"),
        ("train", ["u"], {"threads": 3}, InputError, "use at least 4 buffers"),
    ],
)  # fmt: skip
def test_mistakes_are_named(
    split: str, views: Any, options: Any, error: Any, message: str, stored: Callable[..., Dataset]
) -> None:
    with pytest.raises(error, match=message):
        stored().loader(split, views, **{"batch": 4, **options})


def test_what_cannot_be_shared_or_held_is_refused(one_each: Dataset) -> None:
    loader = one_each.loader("train", ["u"], batch=4, memory=0)
    with pytest.raises(InputError, match="a batch of 4 cannot be shared equally by 3 workers"):
        loader.at(0, Alone(world_size=3))
    with pytest.raises(InputError, match="does not fit in memory=0"):
        loader.whole()
    loader.close()
    held = one_each.loader("train", ["u"], batch=4)
    torch.testing.assert_close(
        held.whole(Alone(rank=1, world_size=2))["u"], torch.from_numpy(one_each.read("train", "u")[10:])
    )
