"""The heat equation on a periodic interval or square; everything is dimensionless."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from dlde.problem import Axis
from dlde.problems.drawn import Positive
from dlde.problems.initial_conditions import GaussianField, Sine, Waves
from dlde.problems.periodic import Coefficients, LinearEquation, Slope, laplacian


class Heat(LinearEquation):
    """Heat equation: u_t = diffusivity Lap u, periodic in one or two dimensions.

    Every Fourier mode decays as exp(-diffusivity |k|^2 t), exactly, whatever the time step.
    """

    version: ClassVar[str] = "1"
    coefficients: ClassVar[dict[str, str]] = {"diffusivity": "diffusivity"}
    state: ClassVar[dict[str, str]] = {"u": "temperature"}

    diffusivity: Positive = 0.01
    initial_condition: Annotated[GaussianField | Sine | Waves, Field(discriminator="kind")] = Waves()

    def symbol(self, k: Sequence[Any], c: Coefficients) -> Any:
        return c["diffusivity"] * laplacian(k)

    def terms(self, u: Tensor, d: Slope, c: Coefficients) -> list[Tensor]:
        return [c["diffusivity"] * d(u, axis, 2) for axis in range(self.dims)]

    def conserved(self, solution: Mapping[str, Tensor], axes: Mapping[str, Axis]) -> dict[str, Tensor]:
        """The heat."""
        return {"mean temperature": solution["u"].double().flatten(2).mean(-1)}
