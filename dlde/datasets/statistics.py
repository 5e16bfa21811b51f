"""Statistics of one variable, streamed in float64; the same blocks in the same order give the same bits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlde.datasets.info import Statistics

Values = NDArray[Any]


@dataclass
class Moments:
    """Count, mean and sum of squared deviations, merged by the formulas of Chan et al. (1983)."""

    count: int = 0
    mean: float = 0.0
    deviations: float = 0.0

    def add(self, values: Values) -> None:
        """Take in a block of values."""
        if not values.size:
            return
        mean = float(values.mean(dtype=np.float64))
        deviations = float(np.square(values - mean, dtype=np.float64).sum())
        total = self.count + values.size
        delta = mean - self.mean
        self.deviations += deviations + delta * delta * self.count * values.size / total
        self.mean += delta * values.size / total
        self.count = total

    @property
    def std(self) -> float:
        """Standard deviation (of the population)."""
        return float(np.sqrt(self.deviations / self.count)) if self.count else 0.0

    @property
    def rms(self) -> float:
        """Root mean square."""
        return float(np.hypot(self.mean, self.std))


def statistics(blocks: Iterable[Values], *, over_time: bool) -> Statistics:
    """Of blocks (sample, time, *space), or (sample, *space) where the variable does not change in time."""
    values, deltas = Moments(), Moments()
    low, high = np.inf, -np.inf
    for stored in blocks:
        block = stored.astype(np.float64)
        if not over_time:
            block = block[:, None]
        values.add(block)
        deltas.add(np.diff(block, axis=1))
        rms = np.sqrt(np.square(block).reshape(*block.shape[:2], -1).mean(-1))
        low, high = np.minimum(low, rms.min(0)), np.maximum(high, rms.max(0))
    return Statistics(
        mean=values.mean,
        std=values.std,
        rms=values.rms,
        mean_delta=deltas.mean,
        std_delta=deltas.std,
        rms_delta=deltas.rms,
        rms_low=tuple(np.atleast_1d(low).tolist()),
        rms_high=tuple(np.atleast_1d(high).tolist()),
    )
