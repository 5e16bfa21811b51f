"""What a dataset says about itself: plain values, stored with every model trained on it."""

from __future__ import annotations

from dlde.problem import AnyProblem, Axis, Variable
from dlde.spec import Spec


class Statistics(Spec):
    """Of one variable over the training split, in its units; `_delta`: of differences in time."""

    mean: float
    std: float
    rms: float
    mean_delta: float
    std_delta: float
    rms_delta: float
    rms_low: tuple[float, ...]  # per stored time: smallest root mean square of any sample
    rms_high: tuple[float, ...]  # and the largest


class DatasetInfo(Spec):
    """Variables, grid, times and statistics of one dataset; `digest` covers its decoded values."""

    recipe: str
    problem: AnyProblem
    variables: dict[str, Variable]
    axes: dict[str, Axis]
    times: tuple[float, ...]
    samples: dict[str, int]
    statistics: dict[str, Statistics]
    digest: str
