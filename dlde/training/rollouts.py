"""Workers beside a training that simulate: one in this process, or actors of a Ray that already runs.

What they compute is a pure function of its argument, always on one thread: any number of them gives
the same results, and a call whose worker died is simply repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from dlde import memory
from dlde.errors import DldeError
from dlde.numerics.threads import one_thread

Make = Callable[[], Callable[[Any], Any]]


class InProcess:
    """One worker, which is this process: a call is done at once."""

    size = 1

    def __init__(self, make: Make) -> None:
        self._simulate = make()

    def map(self, items: Sequence[Any]) -> list[Any]:
        """All results in order."""
        with one_thread():
            return [self._simulate(item) for item in items]

    def submit(self, item: Any) -> Callable[[], Any]:
        """The result, computed now."""
        (result,) = self.map([item])
        return lambda: result


class RayActors:
    """`size` actors of one CPU each; Ray starts a dead one again and repeats its calls."""

    def __init__(self, make: Make, size: int) -> None:
        import ray

        self.size = size
        actor = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1, scheduling_strategy="DEFAULT")(
            _Actor
        )
        self._actors = [actor.remote(make) for _ in range(size)]
        self._next = 0

    def map(self, items: Sequence[Any]) -> list[Any]:
        """All results in the order of the items, which are spread over the actors."""
        return [result() for result in [self.submit(item) for item in items]]

    def submit(self, item: Any) -> Callable[[], Any]:
        """Begin one call on the next actor; what is returned waits for its result."""
        import ray

        reference = self._actors[self._next % self.size].simulate.remote(item)
        self._next += 1
        return lambda: _unpacked(ray.get(reference))


class _Actor:
    def __init__(self, make: Make) -> None:
        torch.set_num_threads(1)
        memory.keep()
        self._simulate = make()

    def simulate(self, item: Any) -> Any:
        """An error of ours is a result: Ray would wrap it, and take it for a reason to try again."""
        try:
            return self._simulate(item)
        except DldeError as error:
            return error


def _unpacked(result: Any) -> Any:
    if isinstance(result, DldeError):
        raise result
    return result
