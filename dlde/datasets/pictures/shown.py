"""What a picture shows: the values of some samples, with their meaning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlde.datasets.dataset import Dataset
from dlde.problem import Axis, Variable

Values = NDArray[Any]

MOST_FIELDS = 6  # of one variable with many components


@dataclass(frozen=True)
class Shown:
    """Chosen samples of a split, and the variables that are drawn of them."""

    dataset: Dataset
    split: str
    numbers: tuple[int, ...]  # of the samples
    values: dict[str, Values]  # (sample, *dims), of variables to draw
    parameters: dict[str, Values]  # (sample,), of variables without dimensions

    def variable(self, name: str) -> Variable:
        """The meaning of a variable."""
        return self.dataset.info.variables[name]

    def axis(self, name: str) -> Axis:
        """An axis of the grid."""
        return self.dataset.info.axes[name]

    @property
    def times(self) -> Values:
        """The stored times."""
        return np.asarray(self.dataset.info.times)

    @property
    def time_label(self) -> str:
        """Of an axis along which time runs."""
        return label("time", self.dataset.recipe.time_units)

    def name(self, place: int) -> str:
        """The sample at that place, with its own parameters: "sample 7, viscosity 0.012"."""
        own = [f"{name.replace('_', ' ')} {values[place]:.3g}" for name, values in self.parameters.items()]
        return ", ".join([f"sample {self.numbers[place]}", *own])


def take(dataset: Dataset, split: str, numbers: Sequence[int], names: Sequence[str]) -> Shown:
    """Read those samples; of a split only the parts that hold them."""
    scalars = [name for name, variable in dataset.info.variables.items() if not variable.dims]
    wanted = [*names, *scalars]
    size = dataset.recipe.storage.part
    found: dict[str, list[Values]] = {name: [] for name in wanted}
    blocks: dict[int, tuple[int, dict[str, Values]]] = {}
    for number in numbers:
        if number // size not in blocks:
            blocks = {number // size: dataset.block(split, number // size, *wanted)}
        start, values = blocks[number // size]
        for name in wanted:
            found[name].append(values[name][number - start])
    stacked = {name: np.stack(each) for name, each in found.items()}
    return Shown(
        dataset=dataset,
        split=split,
        numbers=tuple(int(number) for number in numbers),
        values={name: stacked[name] for name in names},
        parameters={name: stacked[name] for name in scalars},
    )


@dataclass(frozen=True)
class Field:
    """One scalar field to draw: of a variable, or of one of its components."""

    label: str  # of its colour bar
    brief: str  # the same without the long name, where there is little room
    short: str  # its name alone
    values: Values  # (sample, [time,] *space), closed where an axis is periodic
    axes: tuple[str, ...]
    points: tuple[Values, ...]  # of each axis


def fields(shown: Shown) -> list[Field]:
    """All that is to be drawn; of three axes the middle of the last, of many components the first."""
    return [field for name in shown.values for field in _fields_of(shown, name)]


def _fields_of(shown: Shown, name: str) -> Iterator[Field]:
    variable, values = shown.variable(name), shown.values[name]
    space = [dim for dim in variable.dims if dim in shown.dataset.info.axes]
    order = [dim for dim in variable.dims if dim not in variable.sizes]
    kept = [1 + variable.dims.index(dim) for dim in order]
    sizes = [1 + variable.dims.index(dim) for dim in variable.sizes]
    values = values.transpose(0, *kept, *sizes)
    values = values.reshape(*values.shape[: 1 + len(kept)], -1)
    points = []
    for dim in space:
        axis, place = shown.axis(dim), 1 + order.index(dim)
        line = axis.points
        if axis.boundary == "periodic":  # close the interval
            values = np.concatenate([values, values.take([0], place)], place)
            line = np.append(line, axis.stop)
        points.append(line)
    where = ""
    if len(space) == 3:
        middle = len(points[2]) // 2
        values = values.take(middle, 1 + order.index(space[2]))
        where = f" at {space[2]} = {points[2][middle]:.3g}"
    for entry in range(min(values.shape[-1], MOST_FIELDS)):
        short = component(name, variable, entry) if variable.sizes else name
        meaning = short if variable.sizes or variable.long_name == name else f"{variable.long_name} {name}"
        yield Field(
            label=label(meaning + where, variable.units),
            brief=label(short + where, variable.units),
            short=short,
            values=values[..., entry],
            axes=tuple(space[:2]),
            points=tuple(points[:2]),
        )


def component(name: str, variable: Variable, entry: int) -> str:
    """What one component is called: by the variable's `long_name` where it lists all of them."""
    count = int(np.prod(list(variable.sizes.values())))
    listed = variable.long_name.split(", ")
    if len(listed) == count:
        return listed[entry]
    return f"{name} {entry}" if count > 1 else name


def label(name: str, units: str) -> str:
    """With units where there are any."""
    return name if units in ("", "dimensionless", "1") else f"{name} ({units})"
