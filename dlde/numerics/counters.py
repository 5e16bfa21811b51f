"""Random numbers as a function of their numbers: nothing to keep, nothing to pass on.

Whoever asks for the draws of a path at a time gets them, in any order, on any number of workers and
after any restart. The generator is Philox 4x64: its key is (seed, path), its counter starts at
(0, time, purpose, 0), so that every triple has 2^64 blocks of its own.
Source: Salmon, Moraes, Dror & Shaw, Parallel random numbers: as easy as 1, 2, 3, SC (2011).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dlde.errors import InputError

Array = NDArray[np.float64]


def normals(seed: int, paths: Sequence[int], time: int, shape: Sequence[int], *, purpose: int = 0) -> Array:
    """Standard normal draws (paths, *shape) of each path at a whole number of `time`.

    Two different `purpose`s at the same time are independent. Raises InputError for negative numbers.
    """
    return _drawn(seed, paths, time, purpose, lambda generator: generator.standard_normal(tuple(shape)))


def uniforms(seed: int, paths: Sequence[int], time: int, shape: Sequence[int], *, purpose: int = 0) -> Array:
    """The same, uniform in [0, 1)."""
    return _drawn(seed, paths, time, purpose, lambda generator: generator.random(tuple(shape)))


def _drawn(
    seed: int, paths: Sequence[int], time: int, purpose: int, draw: Callable[[np.random.Generator], Array]
) -> Array:
    if min(seed, time, purpose, *paths) < 0:
        raise InputError(
            f"random numbers are counted from 0: got seed {seed}, time {time}, purpose {purpose}, "
            f"paths from {min(paths)}"
        )
    counter = np.array([0, time, purpose, 0], dtype=np.uint64)
    return np.stack(
        [draw(np.random.Generator(np.random.Philox(key=_key(seed, path), counter=counter))) for path in paths]
    )


def _key(seed: int, path: int) -> NDArray[np.uint64]:
    return np.array([seed, path], dtype=np.uint64)
