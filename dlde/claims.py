"""What a study yields and what is claimed over it: the long table, and checks with their figures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dlde.errors import SpecError, nearest
from dlde.spec import Spec


@dataclass(frozen=True)
class Table:
    """One row per trial and metric: `variant`, `seed`, swept fields, `metric`, `value`."""

    rows: tuple[Mapping[str, Any], ...]

    def by_seed(self, metric: str, **where: Any) -> dict[int, float]:
        """The metric's value for each seed of the rows that match. Raises SpecError where none does."""
        found = {
            int(row["seed"]): float(row["value"])
            for row in self.rows
            if row["metric"] == metric and all(row.get(key) == value for key, value in where.items())
        }
        if not found:
            known = {row["metric"] for row in self.rows}
            raise SpecError(f"no {metric!r} where {where}; {nearest(metric, known)}", mistakes=[metric])
        return found

    def mean(self, metric: str, **where: Any) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.by_seed(metric, **where).values())


class Check(Spec):
    """One condition of a claim: `left` against `right`, means over `seeds`."""

    text: str
    left: float
    right: float
    holds: bool
    seeds: tuple[int, ...]
