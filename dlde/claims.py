"""What a study yields and what is claimed over it: the long table, and checks with their figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from scipy.special import stdtrit

from dlde.errors import SpecError, nearest
from dlde.spec import Spec


@dataclass(frozen=True)
class Slope:
    """Of a straight line through points, with the 95 % interval of ordinary least squares."""

    value: float
    low: float
    high: float
    r2: float  # share of the variance that the line explains


def line(points: Iterable[tuple[float, float]], *, log: bool = True) -> Slope:
    """The least-squares line through points (x, y), or through their logarithms.

    Raises ValueError for fewer than three points or two places, or for values without a logarithm.
    """
    x, y = np.array(list(points), dtype=float).reshape(-1, 2).T
    if len(np.unique(x)) < 2 or len(x) < 3:
        raise ValueError("needs three points")
    if log:
        if min(x.min(), y.min()) <= 0:
            raise ValueError("has values that are not positive")
        x, y = np.log(x), np.log(y)
    x, y = x - x.mean(), y - y.mean()
    slope = float(x @ y / (x @ x))
    residual = y - slope * x
    unexplained = float(residual @ residual)
    error = math.sqrt(unexplained / (len(x) - 2) / float(x @ x))
    half = float(stdtrit(len(x) - 2, 0.975)) * error
    r2 = 1 - unexplained / float(y @ y) if y.any() else 1.0
    return Slope(slope, slope - half, slope + half, r2)


@dataclass(frozen=True)
class Table:
    """One row per trial and metric: `variant`, `seed`, a column for every axis, `metric`, `value`.

    Rows of a training's curve have `step` and `seconds` besides; rows of a curve that the evaluation
    measured have `at`, which is named like the point of an axis. All reducers take the rows that match
    `where` (columns and their values) and raise SpecError where none does, or where one seed matches
    twice.
    """

    rows: tuple[Mapping[str, Any], ...]

    def by_seed(self, metric: str, **where: Any) -> dict[int, float]:
        """The metric's value for each seed."""
        found: dict[int, float] = {}
        for row in self._measured(metric, where):
            seed = int(row["seed"])
            if seed in found:
                raise SpecError(
                    f"several values of {metric!r} for seed {seed} where {where}; name the axes' values",
                    mistakes=[metric],
                )
            found[seed] = float(row["value"])
        return dict(sorted(found.items()))

    def seeds(self, metric: str, **where: Any) -> tuple[int, ...]:
        """The seeds that were measured."""
        return tuple(self.by_seed(metric, **where))

    def mean(self, metric: str, **where: Any) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.by_seed(metric, **where).values())

    def median(self, metric: str, **where: Any) -> float:
        """Median over the seeds."""
        return statistics.median(self.by_seed(metric, **where).values())

    def worst(self, metric: str, *, highest: bool = True, **where: Any) -> float:
        """The highest value over the seeds, or the lowest where high is good."""
        return (max if highest else min)(self.by_seed(metric, **where).values())

    def along(self, metric: str, axis: str, **where: Any) -> dict[Any, float]:
        """Mean over the seeds at each value of an axis, in the study's order."""
        values = dict.fromkeys(row[axis] for row in self._measured(metric, where) if axis in row)
        if not values:
            raise SpecError(f"no {metric!r} along {axis!r} where {where}", mistakes=[axis])
        return {value: self.mean(metric, **{**where, axis: value}) for value in values}

    def slope(self, metric: str, axis: str, *, log: bool = True, **where: Any) -> Slope:
        """How the metric changes along a numeric axis; by default the exponent p of value ~ axis^p.

        One line through all seeds at all values of the axis. Raises SpecError for fewer than three
        points, or for values that have no logarithm.
        """
        rows = [row for row in self._measured(metric, where) if axis in row]
        try:
            return line([(row[axis], row["value"]) for row in rows], log=log)
        except ValueError as error:
            raise SpecError(f"a slope of {metric!r} over {axis!r} {error}", mistakes=[axis]) from None

    def curves(self, metric: str, **where: Any) -> dict[int, list[Mapping[str, Any]]]:
        """Rows of a curve by seed, in order of step."""
        found: dict[int, list[Mapping[str, Any]]] = {}
        for row in self._matching(metric, where):
            if row.get("step") is not None:
                found.setdefault(int(row["seed"]), []).append(row)
        if not found:
            self._refuse(metric, where)
        for seed, rows in found.items():
            steps = [row["step"] for row in rows]
            if len(set(steps)) < len(steps):
                raise SpecError(
                    f"several curves of {metric!r} for seed {seed} where {where}; name the axes' values",
                    mistakes=[metric],
                )
        return {seed: sorted(rows, key=lambda row: row["step"]) for seed, rows in sorted(found.items())}

    def time_to(
        self,
        metric: str,
        level: float,
        *,
        unit: Literal["seconds", "step"] = "seconds",
        window: int = 1,
        **where: Any,
    ) -> dict[int, float]:
        """For each seed, when the mean of the last `window` values first is at most `level`.

        Infinite where it never is. A window keeps a curve that crosses the level by chance from
        counting as having arrived.
        """
        times = {}
        for seed, rows in self.curves(metric, **where).items():
            values = np.array([row["value"] for row in rows], dtype=float)
            sums = np.concatenate([[0.0], np.cumsum(values)])
            means = (sums[window:] - sums[:-window]) / window
            reached = np.flatnonzero(means <= level)
            times[seed] = float(rows[reached[0] + window - 1][unit]) if len(reached) else math.inf
        return times

    def _matching(self, metric: str, where: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
        return self._index.get((metric, where["variant"]), []) if set(where) == {"variant"} else (
            row for row in self.rows
            if row["metric"] == metric and all(row.get(key) == value for key, value in where.items())
        )  # fmt: skip

    @cached_property
    def _index(self) -> dict[tuple[str, Any], list[Mapping[str, Any]]]:
        index: dict[tuple[str, Any], list[Mapping[str, Any]]] = {}
        for row in self.rows:
            index.setdefault((row["metric"], row.get("variant")), []).append(row)
        return index

    def _measured(self, metric: str, where: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        rows = [row for row in self._matching(metric, where) if row.get("step") is None]
        if not rows:
            self._refuse(metric, where)
        return rows

    def _refuse(self, metric: str, where: Mapping[str, Any]) -> None:
        known = {row["metric"] for row in self.rows}
        raise SpecError(f"no {metric!r} where {where}; {nearest(metric, known)}", mistakes=[metric])


class Check(Spec):
    """One condition of a claim: `left` against `right`, over `seeds`."""

    text: str
    left: float | None  # None: there is no such number, such as a time that was never reached
    right: float | None
    holds: bool
    seeds: tuple[int, ...]


def at_most(text: str, left: float, right: float, seeds: Iterable[int] = ()) -> Check:
    """The condition left <= right; an infinite or undefined left does not hold."""
    holds = left <= right and math.isfinite(left)
    return Check(text=text, left=_finite(left), right=_finite(right), holds=holds, seeds=tuple(seeds))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


@dataclass(frozen=True)
class Claim:
    """A paper's claim: `words` say it, calling it checks it on a study's table."""

    check: Callable[[Table], list[Check]]
    variants: tuple[str, ...]  # that the study must have
    axes: tuple[str, ...]

    @property
    def words(self) -> str:
        """The claim as its function's docstring states it."""
        import inspect

        return inspect.getdoc(self.check) or ""

    def __call__(self, table: Table) -> list[Check]:
        return self.check(table)


def needs(
    *, variants: tuple[str, ...] = (), axes: tuple[str, ...] = ()
) -> Callable[[Callable[[Table], list[Check]]], Claim]:
    """Makes a function of a method's file its claim, and says what a study must have for it."""
    return lambda check: Claim(check, variants, axes)
