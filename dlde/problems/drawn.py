"""Parameters that every instance may draw anew: a field `Positive` of a problem that is an `Interval`.

A drawn one is an entry of the instance, a scalar, and is stored as a variable without dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from dlde.errors import InputError
from dlde.problem import Array, Interval, Problem, Variable


def drawn_names(problem: Problem) -> list[str]:
    """The fields that are intervals, in order."""
    return [name for name in type(problem).model_fields if isinstance(getattr(problem, name), Interval)]


def draw_parameters(problem: Problem, generator: np.random.Generator) -> dict[str, Array]:
    """One value of each; consumes one uniform number for each."""
    return {name: np.asarray(getattr(problem, name).draw(generator)) for name in drawn_names(problem)}


def parameter_variables(problem: Problem) -> dict[str, Variable]:
    """As what they are stored."""
    return {name: Variable(dims=(), long_name=name.replace("_", " ")) for name in drawn_names(problem)}


def bounds(value: float | Interval) -> tuple[float, float]:
    """The least and the largest value of a parameter."""
    return (value.low, value.high) if isinstance(value, Interval) else (value, value)


def parameter(problem: Problem, name: str, instances: Mapping[str, Tensor]) -> Tensor:
    """Its values (batch,) in float64, or (1,) where all samples share one; on the instances' device."""
    value = getattr(problem, name)
    if isinstance(value, Interval):
        return instances[name].double()
    device = next(iter(instances.values())).device
    return torch.tensor([value], dtype=torch.float64, device=device)


def check_instances(problem: Problem, instances: Mapping[str, Tensor], fields: Sequence[str]) -> None:
    """Refuse entries that are missing, unknown, of unequal count, or parameters that are not positive.

    Raises InputError.
    """
    scalars = drawn_names(problem)
    expected = [*fields, *scalars]
    if sorted(instances) != sorted(expected):
        fixed = [name for name in instances if name in type(problem).model_fields and name not in scalars]
        cure = f"; {fixed[0]} is fixed by the problem, give it an interval {{low, high}}" if fixed else ""
        raise InputError(f"instances hold {sorted(instances)}, expected {sorted(expected)}{cure}")
    count = len(instances[fields[0]])
    for name in scalars:
        value = instances[name]
        if value.shape != (count,):
            raise InputError(f"{name} has shape {tuple(value.shape)}, expected ({count},), one a sample")
        if not bool((value > 0).all()):
            raise InputError(f"{name} must be positive, got {value.min().item():g}")
