"""Parameters that every instance may draw anew: fields of a problem that are an `Interval` or a `OneOf`.

A drawn one is an entry of the instance, a scalar, and is stored as a variable without dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    TypeAdapter,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from torch import Tensor

from dlde.errors import GridError, InputError
from dlde.problem import Array, Axis, Interval, Problem, Variable
from dlde.spec import Spec


def _above_zero(interval: Interval) -> Interval:
    if interval.low <= 0:
        raise ValueError(f"low={interval.low:g}: expected more than 0, as it must be positive")
    return interval


def _not_below_zero(interval: Interval) -> Interval:
    if interval.low < 0:
        raise ValueError(f"low={interval.low:g}: expected 0 or more")
    return interval


def _one_of(number: Any, interval: Any) -> WrapValidator:
    """One of the two by what is given, so that a mistake is told once and for the right one."""
    strict = ConfigDict(strict=True, allow_inf_nan=False)
    numbers: TypeAdapter[Any] = TypeAdapter(number, config=strict)
    intervals: TypeAdapter[Any] = TypeAdapter(interval)

    def choose(value: Any, handler: ValidatorFunctionWrapHandler) -> float | Interval:
        chosen = intervals if isinstance(value, Mapping | Interval) else numbers
        found: float | Interval = chosen.validate_python(value)
        return found

    return WrapValidator(choose)


# A parameter: a number for all instances, or an interval from which each draws its own.
Real = Annotated[float | Interval, _one_of(float, Interval)]
Positive = Annotated[
    PositiveFloat | Interval, _one_of(PositiveFloat, Annotated[Interval, AfterValidator(_above_zero)])
]
NonNegative = Annotated[
    NonNegativeFloat | Interval,
    _one_of(NonNegativeFloat, Annotated[Interval, AfterValidator(_not_below_zero)]),
]


def drawn_value(value: float | Interval, generator: np.random.Generator) -> float:
    """The number, or one of the interval."""
    return value.draw(generator) if isinstance(value, Interval) else value


class OneOf(Spec):
    """A parameter that every instance draws from a list, at a place that all lists of a problem share.

    So lists of the same length in two fields are a list of pairs.
    """

    one_of: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]


_ONE_OF: TypeAdapter[OneOf] = TypeAdapter(OneOf)
_POSITIVE: TypeAdapter[float | Interval] = TypeAdapter(Positive)


def _by_key(value: Any, handler: ValidatorFunctionWrapHandler) -> float | Interval | OneOf:
    """One of the two by what is given, so that a mistake is told once and for the right one."""
    if isinstance(value, OneOf) or (isinstance(value, Mapping) and "one_of" in value):
        return _ONE_OF.validate_python(value)
    return _POSITIVE.validate_python(value)


# A positive number for all instances, or what each draws its own from.
PositiveOrListed = Annotated[float | Interval | OneOf, WrapValidator(_by_key)]


def drawn_names(problem: Problem) -> list[str]:
    """The fields that instances draw, in order."""
    return [
        name for name in type(problem).model_fields if isinstance(getattr(problem, name), Interval | OneOf)
    ]


def check_lists(problem: Problem) -> None:
    """Refuse lists of unequal length. Raises ValueError, for a validator."""
    lengths = {
        name: len(value.one_of)
        for name in drawn_names(problem)
        if isinstance(value := getattr(problem, name), OneOf)
    }
    if len(set(lengths.values())) > 1:
        told = " and ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"one_of: {told} values; lists are drawn at one place, so give equally many")


def draw_parameters(problem: Problem, generator: np.random.Generator) -> dict[str, Array]:
    """One value of each; consumes one uniform number for each interval, and one for all lists."""
    found, place = {}, None
    for name in drawn_names(problem):
        value = getattr(problem, name)
        if isinstance(value, Interval):
            found[name] = np.asarray(value.draw(generator))
            continue
        place = generator.random() if place is None else place
        found[name] = np.asarray(value.one_of[int(place * len(value.one_of))])
    return found


def parameter_variables(problem: Problem) -> dict[str, Variable]:
    """As what they are stored."""
    return {name: Variable(dims=(), long_name=name.replace("_", " ")) for name in drawn_names(problem)}


def bounds(value: float | Interval | OneOf) -> tuple[float, float]:
    """The least and the largest value of a parameter."""
    if isinstance(value, OneOf):
        return (min(value.one_of), max(value.one_of))
    return (value.low, value.high) if isinstance(value, Interval) else (value, value)


def parameter(problem: Problem, name: str, instances: Mapping[str, Tensor]) -> Tensor:
    """Its values (batch,) in float64, or (1,) where all samples share one; on the instances' device."""
    value = getattr(problem, name)
    if isinstance(value, Interval | OneOf):
        return instances[name].double()
    device = next(iter(instances.values())).device
    return torch.tensor([value], dtype=torch.float64, device=device)


def check_field(name: str, field: Tensor, axes: Mapping[str, Axis], count: int | None = None) -> None:
    """Refuse a field that is not (batch, *grid), nor of `count` samples where that is given.

    Raises GridError.
    """
    shape = tuple(axis.num_points for axis in axes.values())
    if field.ndim != 1 + len(shape) or tuple(field.shape[1:]) != shape or len(field) != (count or len(field)):
        expected, grid = ", ".join(map(str, (count or "batch", *shape))), " and ".join(axes)
        raise GridError(f"{name} has shape {tuple(field.shape)}, expected ({expected}) as the grid of {grid}")


def check_instances(problem: Problem, instances: Mapping[str, Tensor], fields: Sequence[str]) -> None:
    """Refuse entries that are missing, unknown, of unequal count, or parameters that are not positive.

    Raises InputError.
    """
    scalars = drawn_names(problem)
    expected = [*fields, *scalars]
    if sorted(instances) != sorted(expected):
        fixed = [name for name in instances if name in type(problem).model_fields and name not in scalars]
        cure = (
            f"; {fixed[0]} is fixed by the problem, give it an interval {{low, high}} to have one a sample"
            if fixed
            else ""
        )
        raise InputError(f"instances hold {sorted(instances)}, expected {sorted(expected)}{cure}")
    count = len(instances[fields[0]])
    for name in scalars:
        value = instances[name]
        if value.shape != (count,):
            raise InputError(f"{name} has shape {tuple(value.shape)}, expected ({count},), one a sample")
        if not bool((value > 0).all()):
            raise InputError(f"{name} must be positive, got {value.min().item():g}")
