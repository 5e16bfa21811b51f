"""What equations in time alone share: a state of components, and no spatial axis."""

from __future__ import annotations

from collections.abc import Sequence

from dlde.errors import GridError
from dlde.problem import Axis, Problem, Solvable, Solver


class Trajectory(Problem, Solvable):
    """Trajectory: a state (time, component), without spatial axes; recipes say num_points: []."""

    def axes(self, num_points: Sequence[int]) -> dict[str, Axis]:
        """None. Raises GridError where the recipe asks for some."""
        if len(num_points):
            raise GridError(f"num_points={list(num_points)}: there is no spatial axis; use num_points: []")
        return {}


def refuse_points(solver: Solver) -> None:
    """Raises GridError for a solver that asks for points of an axis."""
    if solver.num_points is not None:
        raise GridError(
            f"solver.num_points={solver.num_points}: there is no spatial axis; leave it out, and choose "
            "solver.dt"
        )
