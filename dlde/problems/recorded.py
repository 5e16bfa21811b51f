"""Data that came from elsewhere, as a problem without a solver: what `dlde data import` writes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from dlde.errors import GridError
from dlde.problem import Axis, Problem, Solver, Variable
from dlde.spec import Spec

Format = Literal["npz", "netcdf", "the-well", "pdebench", "idx", "images", "graph"]
Checksum = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
NAME = r"[A-Za-z][A-Za-z0-9_-]*"  # it becomes a folder
RESERVED = ("sample", "time", "parts")  # coordinates and folders of a store


class Condition(Spec):
    """A boundary condition as The Well states it: what holds at which points of one axis."""

    name: str
    kind: str  # "periodic", "wall" or "open"
    axis: str
    points: tuple[int, ...]  # where on the axis its mask is true
    fields: tuple[str, ...] = ()  # to which `values` belong
    values: tuple[float, ...] = ()


class Recorded(Problem):
    """Recorded: fields that were imported from files; there is no equation to solve, so none can be added.

    Units are those of the variables and axes. The store's values are the files', to the bit; `dtypes`
    says what they were there, and export gives them back as such.
    """

    version: ClassVar[str] = "1"

    format: Format
    files: Annotated[dict[str, Checksum], Field(min_length=1)]  # file name -> SHA-256
    options: tuple[str, ...] = ()  # of the import, beside files and name: enough to do it again
    variables: Annotated[dict[str, Variable], Field(min_length=1)]
    grid: dict[str, Axis] = {}
    time_units: str = "dimensionless"
    dtypes: dict[str, str] = {}  # numpy names, by variable
    shared: tuple[str, ...] = ()  # variables that the files hold once for all samples
    parameters: dict[str, float] = {}  # of the simulation
    conditions: tuple[Condition, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        dims = {dim for variable in self.variables.values() for dim in variable.dims}
        for name in (*self.variables, *self.grid, *dims):
            if not re.fullmatch(NAME, name):
                raise ValueError(
                    f"{name!r} cannot name a field or a dimension: letters, digits, _ and -, a letter first; "
                    "name it otherwise"
                )
        for name, variable in self.variables.items():
            if name in {*self.grid, *dims, *RESERVED}:
                raise ValueError(f"variable {name!r} has the name of a coordinate; name it otherwise")
            unknown = [dim for dim in variable.dims if dim not in {"time", *self.grid, *variable.sizes}]
            if unknown:
                raise ValueError(f"variable {name!r} has dimensions without an axis: {', '.join(unknown)}")
        return self

    def axes(self, num_points: Sequence[int]) -> dict[str, Axis]:
        """The grid of the files. Raises GridError where another one is asked for."""
        recorded = tuple(axis.num_points for axis in self.grid.values())
        if tuple(num_points) != recorded:
            raise GridError(
                f"num_points={list(num_points)}, but the imported data lie on {list(recorded)} points; leave "
                "num_points as it is (a method may train on fewer: method.map.num_points)"
            )
        return self.grid

    def check_solver(self, axes: Mapping[str, Axis], times: Sequence[float], solver: Solver) -> None:
        """Refuse settings of a solver, as there is none. Raises GridError."""
        if solver != Solver():
            raise GridError("imported data have no solver; leave out `solver`")

    def command(self, name: str, *more: str) -> str:
        """The command line that imports these files under that name."""
        given = " ".join(self.options)
        files = [file for file in self.files if f"={file}" not in given]
        return shlex.join(["dlde", "data", "import", *files, "--name", name, *self.options, *more])
