"""Linear advection on a periodic interval or square; everything is dimensionless."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from dlde.problem import Axis
from dlde.problems.initial_conditions import GaussianField, Sine, Waves
from dlde.problems.periodic import Coefficients, Slope, Transport


class Advection(Transport):
    """Advection: u_t + velocity . grad u = 0, periodic in one or two dimensions.

    The field moves as a whole: u(x, t) = u(x - velocity t, 0), exactly, whatever the time step.
    """

    version: ClassVar[str] = "1"
    coefficients: ClassVar[dict[str, str]] = {"speed": "speed", "direction": "direction of the velocity"}
    state: ClassVar[dict[str, str]] = {"u": "concentration"}

    initial_condition: Annotated[GaussianField | Sine | Waves, Field(discriminator="kind")] = Waves()

    def symbol(self, k: Sequence[Any], c: Coefficients) -> Any:
        return self.carried(k, c)

    def terms(self, u: Tensor, d: Slope, c: Coefficients) -> list[Tensor]:
        return [-v * d(u, axis, 1) for axis, v in enumerate(self.velocity(c))]

    def conserved(self, solution: Mapping[str, Tensor], axes: Mapping[str, Axis]) -> dict[str, Tensor]:
        """Mean and mean square: the field is only moved."""
        u = solution["u"].double().flatten(2)
        return {"mean concentration": u.mean(-1), "mean square": u.square().mean(-1)}
