"""The points of a search's space: checked before anything starts, listed or drawn, told to Optuna."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from dlde.errors import InputError, SpecError
from dlde.method import DataInfo
from dlde.pipeline import Pipeline, Range, Search

Point = dict[str, Any]  # field -> value


def check(pipeline: Pipeline, search: Search) -> None:
    """Refuse fields that are not there and values that give no pipeline, one field at a time.

    Raises SpecError with every mistake.
    """
    mistakes = []
    for path, where in search.space.items():
        for value in where.ends:
            try:
                found = pipeline.with_fields({path: value}, source=f"search.space.{path}={value!r}")
                found.job.check(search.workers or 1, found.training)
            except InputError as error:
                mistakes.append(error.message)
    if mistakes:
        raise SpecError("\n".join(mistakes), mistakes=mistakes)


def check_states(pipeline: Pipeline, search: Search, info: DataInfo) -> None:
    """Refuse fields that a population cannot change while it trains: of the data, or of the weights' shapes.

    Raises SpecError.
    """
    shapes = _shapes(pipeline, info)
    mistakes = []
    for path, where in search.space.items():
        fixed = path.split(".")[0] != "method" or path.split(".")[-1] in (
            "name",
            "optimizer",
            "steps",
            "batch",
        )
        for value in where.ends:
            if fixed or _shapes(pipeline.with_fields({path: value}, source="search"), info) != shapes:
                mistakes.append(
                    f"search.space.{path}: a population hands its states on, which {value!r} would not fit; "
                    "search it by another algorithm than pbt"
                )
                break
    if mistakes:
        raise SpecError("\n".join(mistakes), mistakes=mistakes)


def _shapes(pipeline: Pipeline, info: DataInfo) -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]):
        return {name: tensor.shape for name, tensor in pipeline.method.build(info).state_dict().items()}


def grid(search: Search) -> list[Point]:
    """All points, the last field changing first."""
    values = [where.choice for where in search.space.values()]
    return [dict(zip(search.space, chosen, strict=True)) for chosen in itertools.product(*values)]


def drawn(search: Search, number: int) -> Point:
    """The point of that number of a random search: a function of seed and number."""
    random = np.random.Generator(np.random.Philox(key=[search.seed, number]))
    return {path: _draw(where, random) for path, where in search.space.items()}


def _draw(where: Range, random: np.random.Generator) -> Any:
    if where.choice:
        return where.choice[int(random.integers(len(where.choice)))]
    if where.uniform:
        return float(random.uniform(*where.uniform))
    if where.log_uniform:
        low, high = where.log_uniform
        return float(math.exp(random.uniform(math.log(low), math.log(high))))
    if where.integer:
        return int(random.integers(where.integer[0], where.integer[1], endpoint=True))
    assert where.log_integer is not None
    least, most = where.log_integer
    return min(most, int(math.exp(random.uniform(math.log(least), math.log(most + 1)))))


def label(value: Any) -> Any:
    """A choice as Optuna takes it: plain, or the JSON of a list or mapping."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else json.dumps(value)


def distributions(search: Search) -> dict[str, Any]:
    """Optuna's form of the space."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    def one(where: Range) -> Any:
        if where.choice:
            return CategoricalDistribution([label(value) for value in where.choice])
        if where.uniform:
            return FloatDistribution(*where.uniform)
        if where.log_uniform:
            return FloatDistribution(*where.log_uniform, log=True)
        low, high = where.integer or where.log_integer or (0, 0)
        return IntDistribution(low, high, log=where.log_integer is not None)

    return {path: one(where) for path, where in search.space.items()}


def from_optuna(search: Search, suggested: Mapping[str, Any]) -> Point:
    """A point from Optuna's labels."""
    point = {}
    for path, where in search.space.items():
        known = {json.dumps(label(value)): value for value in where.choice}
        point[path] = known[json.dumps(suggested[path])] if where.choice else suggested[path]
    return point


def to_optuna(search: Search, point: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `from_optuna`."""
    return {path: label(point[path]) if where.choice else point[path] for path, where in search.space.items()}


def mutations(search: Search) -> dict[str, Any]:
    """Ray Tune's form, for what a population mutates."""
    from ray import tune

    def one(where: Range) -> Any:
        if where.choice:
            return list(where.choice)
        if where.uniform:
            return tune.uniform(*where.uniform)
        if where.log_uniform:
            return tune.loguniform(*where.log_uniform)
        low, high = where.integer or where.log_integer or (0, 0)
        return (tune.lograndint if where.log_integer else tune.randint)(low, high + 1)

    return {path: one(where) for path, where in search.space.items()}


def within(search: Search, point: Mapping[str, Any]) -> Point:
    """A mutated point, brought back into the space: a factor of 1.2 may have left it."""
    return {path: _within(where, point[path]) for path, where in search.space.items()}


def _within(where: Range, value: Any) -> Any:
    if where.choice:
        return value
    low, high = where.ends
    inside = min(max(value, low), high)
    return round(inside) if where.integer or where.log_integer else float(inside)


def shown(point: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Field and value for a person."""
    for path, value in point.items():
        yield path, f"{value:.4g}" if isinstance(value, float) else str(label(value))
