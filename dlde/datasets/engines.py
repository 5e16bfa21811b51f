"""How independent tasks are carried out on this machine: one after another, by threads, by processes.

What they compute is the same. The engine that runs on a Ray cluster is `dlde.cluster.RayTasks`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import dask
from dask.callbacks import Callback

from dlde.errors import WorkerLostError

T = TypeVar("T")
R = TypeVar("R")


class Engine(ABC):
    """Carries out tasks with that many workers."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    @abstractmethod
    def map(self, function: Callable[[T], R], items: Sequence[T], take: Callable[[R], None]) -> None:
        """Call `function` with every item, at most `workers` at once and in order of beginning.

        `take` sees each result as it comes. An error ends it. Raises WorkerLostError where a worker died;
        what it was at is not done, and may be asked for again.
        """


class Threads(Engine):
    """Threads of this process; with one worker, this thread."""

    def map(self, function: Callable[[T], R], items: Sequence[T], take: Callable[[R], None]) -> None:
        scheduler = "threads" if self.workers > 1 else "synchronous"
        compute(function, items, take, scheduler=scheduler, num_workers=self.workers)


class Processes(Engine):
    """Processes that end with this one, however it ends; with one worker or item, this process."""

    def map(self, function: Callable[[T], R], items: Sequence[T], take: Callable[[R], None]) -> None:
        workers = min(self.workers, len(items))
        if workers <= 1:
            compute(function, items, take, scheduler="synchronous")
            return
        with _processes(workers) as pool:
            compute(function, items, take, scheduler="processes", pool=pool, chunksize=1)


def compute(
    function: Callable[[T], R], items: Sequence[T], take: Callable[[R], None] | None, **how: Any
) -> Sequence[Any]:
    """The tasks as a dask graph, and what its scheduler gives; `how` is for dask's `compute`."""
    if not items:
        return ()
    # dask takes the last key first
    tasks = [
        dask.delayed(function)(item, dask_key_name=f"task-{10**9 - 1 - i}") for i, item in enumerate(items)
    ]
    watch: AbstractContextManager[Any] = contextlib.nullcontext()
    if take is not None:
        watch = Callback(posttask=lambda key, result, graph, state, worker: take(result))
    with watch:
        results: Sequence[Any] = dask.compute(*tasks, optimize_graph=False, traverse=False, **how)
    return results


@contextlib.contextmanager
def _processes(workers: int) -> Iterator[Executor]:
    """Fork would hang in zarr's event loop: spawned."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker, initargs=(receiver,))
    try:
        yield pool
        pool.shutdown()
    except BrokenProcessPool:
        raise WorkerLostError(
            "a worker process was killed, perhaps for lack of memory; run the same command again, it "
            "continues where it stopped (fewer --workers or a smaller storage.part need less memory)"
        ) from None
    finally:
        sender.close()  # after an error nobody waits for tasks in flight: they are done again
        pool.shutdown(cancel_futures=True)
        receiver.close()


def _begin_worker(parent: multiprocessing.connection.Connection) -> None:
    """End this process when the other end of the pipe closes; leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        multiprocessing.connection.wait([parent])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
