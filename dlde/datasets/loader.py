"""Batches of a split for training: exactly shuffled, resumed by the step's number alone.

A batch is a pure function of the seed and the step. Every item (a sample, or one window of one sample)
comes exactly once in each epoch, whatever the number of workers and wherever a run resumes; where the
batch does not divide the items, a batch reaches into the next epoch, so that all are full.

What is read, and how often:

- A set that fits in `memory` bytes is read once, compared with what was committed as by `Dataset.read`,
  and kept on the device.
- A larger one is read from its chunks by threads that stay ahead of the training. With one item to a
  chunk, each chunk is read once in an epoch. Where a chunk holds several (small samples, windows over
  time), a uniform order meets it again for every one of them, unless it is still among the `memory` bytes
  of decoded chunks that are kept; with `mix`, so many blocks of chunks are shuffled with one another at
  a time, and each chunk is read once in an epoch again. Every item still comes once. `mix="fit"` takes as
  many blocks as `memory` holds; the order then depends on `memory`, too.
- A chunk's own checksum is compared the first time that it is read, or every time (`recheck`).
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlde.datasets.reader import ChunkReader, open_reader
from dlde.errors import DamagedDataError, GridError, InputError

if TYPE_CHECKING:
    from dlde.datasets.dataset import Dataset

MEMORY = 2**31  # bytes of samples that are kept, unless told otherwise
Batch = dict[str, Tensor]
_Selection = tuple[int | slice | None, ...]  # of the dimensions of one sample; None: a new one


@dataclass(frozen=True)
class View:
    """What a batch holds of a variable: all stored times or one, all points of each axis or every nth."""

    variable: str
    time: int | None = None  # index of a stored time
    every: int = 1
    channel: bool = False  # whether a last axis of one channel is added


class Worker(Protocol):
    """Who asks for a batch: a run, or `Alone`."""

    def generator(self, *keys: str | int) -> torch.Generator:
        """A CPU generator that is a pure function of a seed and the keys; equal on every worker."""
        ...

    def share(self, batch: Tensor) -> Tensor:
        """This worker's part of a batch that every worker drew whole (axis 0)."""
        ...


@dataclass(frozen=True)
class Alone:
    """A worker without a run: one of `world_size`, all with the same seed."""

    seed: int = 0
    rank: int = 0
    world_size: int = 1

    def generator(self, *keys: str | int) -> torch.Generator:
        """A CPU generator that is a pure function of the seed and the keys."""
        text = json.dumps([self.seed, *keys])
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
        return torch.Generator().manual_seed(seed)

    def share(self, batch: Tensor) -> Tensor:
        """This worker's part. Raises InputError where the batch cannot be shared equally."""
        if len(batch) % self.world_size:
            raise InputError(
                f"a batch of {len(batch)} cannot be shared equally by {self.world_size} workers; choose a "
                f"multiple of {self.world_size}"
            )
        return batch.chunk(self.world_size)[self.rank]


class Loader:
    """Batches of one source. What `at` gives may be reused for the next batch: keep a copy, not a view.

    It has what `Run.fit` asks of its batches; at a prompt, `Alone` (or nothing) takes the run's place.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch: int,
        shuffle: bool = True,
        mix: int | Literal["fit"] | None = None,
        threads: int = 2,
        buffers: int = 3,
    ) -> None:
        """`batch` counts all workers' items; `buffers` batches are held at once, filled by `threads`.

        Raises InputError for a batch below 1, and for buffers that are too few for the threads.
        """
        if batch < 1:
            raise InputError(f"batch={batch}; a batch has at least one item")
        if mix == "fit":
            mix = source.fitting_mix
        elif mix is not None:
            source.check_mix(mix)
        if threads < 0 or buffers < threads + 1:
            raise InputError(
                f"threads={threads} with buffers={buffers}: each thread fills a buffer while another is in "
                f"use; use at least {max(threads, 0) + 1} buffers"
            )
        self.source, self.batch = source, batch
        self._order = _Order(source, shuffle, mix)
        self._ring = None if isinstance(source, Held) else _Ring(source, threads, buffers)

    def at(self, step: int, worker: Worker = Alone()) -> Batch:
        """This worker's share of the batch of `step`: (batch / workers, *shape) by name, on the device.

        Valid until the next call. Raises DamagedDataError naming parts and samples.
        """
        if self._ring is None:
            return self.source.take(self._share(step, worker))
        return self._ring.at(step, worker, self._share)

    def whole(self, worker: Worker = Alone()) -> Batch:
        """This worker's share of all items, in order. Raises InputError where they are not in memory."""
        if isinstance(self.source, Held) and self.source.items_per_sample == 1:
            return {name: worker.share(values) for name, values in self.source.views.items()}
        return self.source.take(worker.share(torch.arange(self.num_items, device=self.source.index_device)))

    def samples(self, step: int, worker: Worker = Alone()) -> Tensor:
        """Numbers of the samples in this worker's share of the batch."""
        return self._share(step, worker) // self.source.items_per_sample

    def items(self, step: int, worker: Worker = Alone()) -> Tensor:
        """The whole batch's items (batch,): window w of sample s is item s * items_per_sample + w."""
        start, stop = step * self.batch, (step + 1) * self.batch
        pieces = []
        while start < stop:
            epoch, offset = divmod(start, self.num_items)
            pieces.append(self._order.of(epoch, worker)[offset : offset + stop - start])
            start += len(pieces[-1])
        return torch.cat(pieces)

    @property
    def num_items(self) -> int:
        """Items in an epoch."""
        return self.source.num_items

    @property
    def in_memory(self) -> bool:
        """Whether all items were read when the loader was made."""
        return self._ring is None

    def close(self) -> None:
        """End the threads."""
        if self._ring is not None:
            self._ring.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _share(self, step: int, worker: Worker) -> Tensor:
        return worker.share(self.items(step, worker))


class Source(ABC):
    """Numbered items that batches are made of."""

    num_items: int
    items_per_sample: int = 1
    items_per_block: int = 1  # items that are read at once
    index_device: torch.device = torch.device("cpu")

    @property
    def fitting_mix(self) -> int | None:
        """As many blocks as can be shuffled with one another and yet be read once; None: all of them."""
        return None

    @abstractmethod
    def take(self, items: Tensor) -> Batch:
        """Those items, in tensors of their own."""

    def check_mix(self, mix: int) -> None:
        """Refuse to shuffle so many blocks with one another. Raises InputError."""
        if mix < 1:
            raise InputError(f"mix={mix}; at least one block is shuffled at a time, or all (None)")


class Held(Source):
    """Arrays in memory: a view (sample, ...) each, of which windows are cut out where there are any."""

    def __init__(self, views: Mapping[str, Tensor], windows: Windows | None = None) -> None:
        self.views, self._windows = dict(views), windows
        first = next(iter(self.views.values()))
        self.items_per_sample = 1 if windows is None else windows.count
        self.num_items = len(first) * self.items_per_sample
        self.index_device = first.device
        self._offsets = None if windows is None else windows.offsets.to(first.device)

    def take(self, items: Tensor) -> Batch:
        """Items of every view."""
        if self._windows is None or self._offsets is None:
            return {name: values[items] for name, values in self.views.items()}
        samples = items // self.items_per_sample
        times = (items % self.items_per_sample)[:, None] + self._offsets
        return {
            name: values[samples[:, None], times] if name in self._windows.names else values[samples]
            for name, values in self.views.items()
        }


@dataclass(frozen=True)
class Windows:
    """`length` frames each, `stride` stored times apart: all that fit in `num_times`, in views `names`."""

    length: int
    stride: int
    num_times: int
    names: frozenset[str]

    @property
    def count(self) -> int:
        """In a sample."""
        return self.num_times - (self.length - 1) * self.stride

    @property
    def offsets(self) -> Tensor:
        """Of the frames from the first."""
        return torch.arange(self.length) * self.stride


def load(
    dataset: Dataset,
    split: str,
    views: Mapping[str, View],
    *,
    history: int,
    horizon: int,
    stride: int,
    normalise: bool,
    dtype: torch.dtype | None,
    device: torch.device | str,
    memory: int,
    recheck: bool,
) -> Source:
    """What `Dataset.loader` makes its batches of: in memory where it fits, else read as it is needed."""
    windows = _windows(dataset, views, history, horizon, stride)
    layout = _Layout(dataset, split, dict(views), windows)
    finish = _Finish(dataset, views, normalise, dtype, torch.device(device))
    if layout.bytes(finish) <= memory:
        held = Held(finish.held(layout.read()), windows)
        rows = math.lcm(*(dataset.recipe.chunk(variable) for variable in layout.by_variable))
        held.items_per_block = (
            rows * held.items_per_sample
        )  # a given `mix` is the same order as when streamed
        return held
    return Streamed(layout, finish, memory, recheck)


def _windows(
    dataset: Dataset, views: Mapping[str, View], history: int, horizon: int, stride: int
) -> Windows | None:
    if min(history, horizon) < 0 or stride < 1:
        raise InputError(
            f"history={history}, horizon={horizon}, stride={stride}: frames are counted from 0, and lie at "
            "least one stored time apart"
        )
    if history + horizon == 0:
        return None
    length = history + horizon
    names = frozenset(
        name
        for name, view in views.items()
        if view.time is None and "time" in dataset.recipe.variables[view.variable].dims
    )
    if not names:
        raise GridError(f"windows over time, but none of {', '.join(views)} has more than one time")
    windows = Windows(length, stride, len(dataset.recipe.times), names)
    if windows.count < 1:
        raise GridError(
            f"history={history} and horizon={horizon} with stride={stride} span "
            f"{(length - 1) * stride + 1} stored times, but dataset {dataset.recipe.name!r} has "
            f"{windows.num_times}; use shorter windows, or generate more times"
        )
    return windows


class _Layout:
    """Which parts of the stored samples a batch is made of."""

    def __init__(self, dataset: Dataset, split: str, views: dict[str, View], windows: Windows | None) -> None:
        self.dataset, self.split, self.views, self.windows = dataset, split, views, windows
        self.num_samples = dataset.recipe.samples[split]
        self.by_variable: dict[str, list[str]] = {}
        for name, view in views.items():
            self.by_variable.setdefault(view.variable, []).append(name)
        self.stored = np.dtype(dataset.recipe.storage.dtype)
        self._selections = {
            name: (
                *dataset.selection(view.variable, view.time, view.every),
                *((None,) if view.channel else ()),
            )
            for name, view in views.items()
        }
        self._time_axes = {
            name: dataset.recipe.variables[view.variable].dims.index("time")
            for name, view in views.items()
            if windows is not None and name in windows.names
        }

        samples = {
            name: np.broadcast_to(np.int8(0), dataset.recipe.shape(view.variable))
            for name, view in views.items()
        }
        self.sample_shapes = {name: sample[self._selections[name]].shape for name, sample in samples.items()}
        self.shapes = {name: sample[self.of(name, 0)].shape for name, sample in samples.items()}
        # views of an item that are all of a sample, as it is stored
        self.complete = {name for name, sample in samples.items() if self.shapes[name] == sample.shape}

    def of(self, name: str, window: int) -> _Selection:
        """What a view takes of a sample, for one of its windows."""
        selection, axis = self._selections[name], self._time_axes.get(name)
        if axis is None or self.windows is None:
            return selection
        frames = slice(window, window + (self.windows.length - 1) * self.windows.stride + 1)
        return (
            *selection[:axis],
            slice(frames.start, frames.stop, self.windows.stride),
            *selection[axis + 1 :],
        )

    def bytes(self, finish: _Finish) -> int:
        """Of all samples, as they would be held."""
        size = (finish.dtype or torch.from_numpy(np.empty(0, self.stored)).dtype).itemsize
        return sum(self.num_samples * size * math.prod(shape) for shape in self.sample_shapes.values())

    def read(self) -> dict[str, NDArray[Any]]:
        """All samples of every view, compared with what was committed."""
        held = {
            name: np.empty((self.num_samples, *shape), self.stored)
            for name, shape in self.sample_shapes.items()
        }
        for number in range(self.dataset.num_blocks(self.split)):
            start, block = self.dataset.block(self.split, number, *self.by_variable)
            for name, view in self.views.items():
                values = block[view.variable]
                held[name][start : start + len(values)] = values[(slice(None), *self._selections[name])]
        return held


class _Finish:
    """What is done with values once they are on the device: precision, then normalisation."""

    def __init__(
        self,
        dataset: Dataset,
        views: Mapping[str, View],
        normalise: bool,
        dtype: torch.dtype | None,
        device: torch.device,
    ) -> None:
        self.dtype, self.device = dtype, device
        self._scales: dict[str, tuple[float, float]] = {}
        if normalise:
            for name, view in views.items():
                known = dataset.info.statistics[view.variable]
                # a field that is the same everywhere is centred alone
                self._scales[name] = known.mean, known.std if known.std > 0 else 1.0

    def held(self, arrays: Mapping[str, NDArray[Any]]) -> Batch:
        """Arrays that nothing else uses."""
        return self({name: torch.from_numpy(values) for name, values in arrays.items()})

    def __call__(self, values: Mapping[str, Tensor]) -> Batch:
        """In place where precision and device stay the same; does not wait for the device."""
        finished = {}
        for name, tensor in values.items():
            result = tensor.to(self.device, non_blocking=True).to(self.dtype or tensor.dtype)
            if name in self._scales:
                mean, std = self._scales[name]
                result.sub_(mean).div_(std)
            finished[name] = result
        return finished


class Streamed(Source):
    """Items read from their chunks when they are asked for."""

    def __init__(self, layout: _Layout, finish: _Finish, memory: int, recheck: bool) -> None:
        self._layout, self.finish = layout, finish
        dataset, split = layout.dataset, layout.split
        self._readers = {
            variable: open_reader(dataset.store / split / variable, recheck=recheck, lost_is_damage=True)
            for variable in layout.by_variable
        }
        rows = math.lcm(*(reader.rows for reader in self._readers.values()))
        self.items_per_sample = 1 if layout.windows is None else layout.windows.count
        self.items_per_block = rows * self.items_per_sample
        self.num_items = layout.num_samples * self.items_per_sample
        self._block_bytes = rows * sum(
            math.prod(reader.shape[1:]) * reader.dtype.itemsize for reader in self._readers.values()
        )
        self._memory, self._chunks = memory, _Chunks(memory)

    @property
    def fitting_mix(self) -> int | None:
        """All where each block is one item, else those that are kept."""
        return None if self.items_per_block == 1 else max(1, self._memory // self._block_bytes)

    def check_mix(self, mix: int) -> None:
        """Also refuses more blocks than are kept: each would be read again and again."""
        super().check_mix(mix)
        if mix * self._block_bytes > self._memory:
            raise InputError(
                f"mix={mix} blocks of {self._block_bytes} bytes do not fit in memory={self._memory}; use "
                f"memory={mix * self._block_bytes}, or fewer blocks"
            )

    def take(self, items: Tensor) -> Batch:
        """Refused: there may be more of them than memory."""
        raise InputError(
            f"split {self._layout.split!r} of dataset {self._layout.dataset.recipe.name!r} does not fit in "
            f"memory={self._memory}; allow more, or take batches"
        )

    def buffers(self, count: int, *, pinned: bool) -> Batch:
        """Room for so many items."""
        # numpy asks for large pages, into which the kernel copies up to twice as fast
        rooms = {
            name: torch.from_numpy(np.empty((count, *shape), self._layout.stored))
            for name, shape in self._layout.shapes.items()
        }
        return {name: room.pin_memory() for name, room in rooms.items()} if pinned else rooms

    def fill(self, items: NDArray[np.int64], rows: Mapping[str, NDArray[Any]]) -> None:
        """Items into the rows of buffers; each chunk is read once for all items of this batch."""
        samples, windows = np.divmod(items, self.items_per_sample)
        for variable, names in self._layout.by_variable.items():
            reader = self._readers[variable]
            numbers = samples // reader.rows
            places: dict[int, list[int]] = {}
            for row, number in enumerate(numbers.tolist()):
                places.setdefault(number, []).append(row)
            for number, chosen in places.items():
                try:
                    self._fill_from(variable, names, number, chosen, samples, windows, rows)
                except DamagedDataError as error:
                    raise self._layout.dataset.damage(self._layout.split, reader.span(number)) from error

    def _fill_from(
        self,
        variable: str,
        names: Sequence[str],
        number: int,
        chosen: list[int],
        samples: NDArray[np.int64],
        windows: NDArray[np.int64],
        rows: Mapping[str, NDArray[Any]],
    ) -> None:
        reader, layout, first = self._readers[variable], self._layout, chosen[0]
        if reader.rows == 1 and len(names) == 1 and names[0] in layout.complete:
            into = rows[names[0]]
            reader.read(number, into[first : first + 1])
            for row in chosen[1:]:  # the end of an epoch and the start of the next may share a sample
                into[row] = into[first]
            return
        several = reader.rows * self.items_per_sample > 1
        values = self._chunks.get(variable, reader, number, keep=several)
        start = number * reader.rows
        for name in names:
            for row in chosen:
                rows[name][row] = values[samples[row] - start][layout.of(name, int(windows[row]))]


class _Chunks:
    """Decoded chunks, kept up to so many bytes; one that two threads want at once is read once."""

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes, self._lock = limit, 0, threading.Lock()
        self._kept: OrderedDict[tuple[str, int], tuple[Future[NDArray[Any]], int]] = OrderedDict()
        self._scratch = threading.local()

    def get(self, variable: str, reader: ChunkReader, number: int, *, keep: bool) -> NDArray[Any]:
        """A chunk; where it is not kept, valid until this thread asks for the next of that variable."""
        shape = (len(reader.span(number)), *reader.shape[1:])
        size = math.prod(shape) * reader.dtype.itemsize
        if not keep or size > self._limit:
            held: NDArray[Any] | None = self._scratch.__dict__.get(variable)
            if held is None or held.shape != shape:
                held = self._scratch.__dict__[variable] = np.empty(shape, reader.dtype)
            reader.read(number, held)
            return held
        key = variable, number
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                mine: Future[NDArray[Any]] = Future()
                self._kept[key] = mine, size
                self._bytes += size
                while self._bytes > self._limit:
                    self._bytes -= self._kept.popitem(last=False)[1][1]
            else:
                self._kept.move_to_end(key)
        if found is not None:
            return found[0].result()
        try:
            mine.set_result(reader.chunk(number))
        except BaseException as error:
            with self._lock:
                if self._kept.get(key, (None, 0))[0] is mine:
                    self._bytes -= self._kept.pop(key)[1]
            mine.set_exception(error)
        return mine.result()


class _Order:
    """The items of an epoch, in an order that is a function of the worker's seed and the epoch."""

    def __init__(self, source: Source, shuffle: bool, mix: int | None) -> None:
        self._source, self._shuffle, self._mix = source, shuffle, mix
        self._worker: Worker | None = None
        self._known: dict[int, Tensor] = {}

    def of(self, epoch: int, worker: Worker) -> Tensor:
        """All items of that epoch, where indices are wanted."""
        if worker != self._worker:
            self._worker, self._known = worker, {}
        if epoch not in self._known:
            # a batch may reach from one epoch into the next; batches are prepared a few steps ahead
            self._known = {known: order for known, order in self._known.items() if abs(known - epoch) == 1}
            order = self._drawn(epoch, worker)
            if self._source.index_device.type == "cuda":
                order = order.pin_memory()
            self._known[epoch] = order.to(self._source.index_device, non_blocking=True)
        return self._known[epoch]

    def _drawn(self, epoch: int, worker: Worker) -> Tensor:
        count, size = self._source.num_items, self._source.items_per_block
        if not self._shuffle:
            return torch.arange(count)
        generator = worker.generator("shuffle", epoch)
        if self._mix is None or self._mix >= -(-count // size):
            return torch.randperm(count, generator=generator)
        position = torch.randperm(-(-count // size), generator=generator)  # of a block in the epoch
        group = position[torch.arange(count) // size] // self._mix
        shuffled = torch.randperm(count, generator=generator)
        return shuffled[torch.sort(group[shuffled], stable=True).indices]


@dataclass
class _Slot:
    """Buffers of one batch; `copied` is when a GPU has its copy."""

    values: Batch
    rows: dict[str, NDArray[Any]] = field(init=False)
    copied: Any = None

    def __post_init__(self) -> None:
        self.rows = {name: tensor.numpy() for name, tensor in self.values.items()}


class _Ring:
    """A few buffers that threads fill ahead of the consumer, who holds one of them at a time."""

    def __init__(self, source: Source, threads: int, buffers: int) -> None:
        assert isinstance(source, Streamed)
        self._source, self._count = source, buffers
        self._pool = ThreadPoolExecutor(threads, "dlde-loader") if threads else None
        self._cuda = source.finish.device.type == "cuda"
        self._worker: Worker | None = None
        self._size = 0  # items in a buffer
        self._free: list[_Slot] = []
        self._held: tuple[Future[None], _Slot] | None = None
        self._pending: dict[int, tuple[Future[None], _Slot]] = {}

    def at(self, step: int, worker: Worker, share: Any) -> Batch:
        if self._held is not None:
            filled, slot = self._held
            filled.exception()  # an interrupted call may have left it in a thread's hands
            self._free.append(slot)
            self._held = None
        if worker != self._worker or step not in self._pending:
            self._start_over(step, worker, len(share(step, worker)))
        ahead = step
        while self._free:
            if ahead not in self._pending:
                slot = self._free.pop()
                self._pending[ahead] = self._submit(share(ahead, worker).numpy(), slot), slot
            ahead += 1
            if self._pool is None:
                break
        filled, slot = self._held = self._pending.pop(step)  # taken back by the next call, error or not
        filled.result()
        values = self._source.finish(slot.values)
        if self._cuda:
            slot.copied = torch.cuda.current_stream(self._source.finish.device).record_event()
        return values

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _start_over(self, step: int, worker: Worker, size: int) -> None:
        """Give up what was prepared for other steps."""
        for filled, slot in self._pending.values():
            if not filled.cancel():
                filled.exception()  # waits; its error is that of a batch that nobody asks for
            self._free.append(slot)
        self._pending.clear()
        self._worker = worker
        if size != self._size:
            self._size = size
            self._free = [_Slot(self._source.buffers(size, pinned=self._cuda)) for _ in range(self._count)]

    def _submit(self, items: NDArray[np.int64], slot: _Slot) -> Future[None]:
        if self._pool is not None:
            return self._pool.submit(_fill, self._source, items, slot)
        done: Future[None] = Future()
        try:
            _fill(self._source, items, slot)
            done.set_result(None)
        except Exception as error:
            done.set_exception(error)
        return done


def _fill(source: Streamed, items: NDArray[np.int64], slot: _Slot) -> None:
    if slot.copied is not None:
        slot.copied.synchronize()  # this thread waits, not the consumer
    source.fill(items, slot.rows)
