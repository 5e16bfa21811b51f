"""Convection and diffusion on a periodic interval or square; everything is dimensionless."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from dlde.problem import Axis
from dlde.problems.drawn import Positive
from dlde.problems.initial_conditions import GaussianField, Sine, Waves
from dlde.problems.periodic import Coefficients, Slope, Transport, laplacian


class ConvectionDiffusion(Transport):
    """Convection-diffusion: u_t + velocity . grad u = diffusivity Lap u, periodic, in one or two dimensions.

    Every Fourier mode is multiplied by exp((-i k . velocity - diffusivity |k|^2) t), exactly, whatever
    the time step.
    """

    version: ClassVar[str] = "1"
    coefficients: ClassVar[dict[str, str]] = {
        "speed": "speed",
        "direction": "direction of the velocity",
        "diffusivity": "diffusivity",
    }
    state: ClassVar[dict[str, str]] = {"u": "concentration"}

    diffusivity: Positive = 0.01
    initial_condition: Annotated[GaussianField | Sine | Waves, Field(discriminator="kind")] = Waves()

    def symbol(self, k: Sequence[Any], c: Coefficients) -> Any:
        return self.carried(k, c) + c["diffusivity"] * laplacian(k)

    def terms(self, u: Tensor, d: Slope, c: Coefficients) -> list[Tensor]:
        carried = [-v * d(u, axis, 1) for axis, v in enumerate(self.velocity(c))]
        return carried + [c["diffusivity"] * d(u, axis, 2) for axis in range(self.dims)]

    def conserved(self, solution: Mapping[str, Tensor], axes: Mapping[str, Axis]) -> dict[str, Tensor]:
        """The mean."""
        return {"mean concentration": solution["u"].double().flatten(2).mean(-1)}
