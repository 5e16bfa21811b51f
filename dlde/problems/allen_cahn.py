"""The Allen-Cahn equation on a periodic interval or square; everything is dimensionless."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from dlde.numerics.spectral import Transform
from dlde.problem import Thresholds
from dlde.problems.drawn import Positive
from dlde.problems.initial_conditions import GaussianField, Sine, Waves
from dlde.problems.periodic import AnyDimension, Change, Coefficients, Slope, laplacian


class AllenCahn(AnyDimension):
    """Allen-Cahn: u_t = diffusivity Lap u + rate (u - u^3), periodic in one or two dimensions.

    Phases u = 1 and u = -1 grow from the start and are parted by layers tanh(x / width) of width
    sqrt(2 diffusivity / rate), which a grid must resolve: about 4 points a width. Solved
    pseudo-spectrally (no aliasing of the cube, ETDRK4).
    Source: Allen & Cahn, Acta Metallurgica 27 (1979).
    """

    version: ClassVar[str] = "1"
    degree: ClassVar[int] = 3
    coefficients: ClassVar[dict[str, str]] = {"diffusivity": "diffusivity", "rate": "rate of separation"}
    state: ClassVar[dict[str, str]] = {"u": "order parameter"}
    thresholds: ClassVar[Thresholds] = Thresholds(order=2.8)  # long steps are stiff at the start

    diffusivity: Positive = 0.01
    rate: Positive = 5.0
    initial_condition: Annotated[GaussianField | Sine | Waves, Field(discriminator="kind")] = Waves(
        amplitude=0.5, num_modes=4
    )

    def symbol(self, k: Sequence[Any], c: Coefficients) -> Any:
        return c["diffusivity"] * laplacian(k) + c["rate"]

    def nonlinearity(self, transform: Transform, like: Tensor) -> Change:
        def change(v: Tensor, c: Coefficients) -> Tensor:
            return transform.forward(transform.backward(v).pow_(3)).mul_(-c["rate"])

        return change

    def linearised(self, k: Sequence[Any], amplitude: float, c: Coefficients) -> Any:
        """At the phases, where every instance ends."""
        return -3 * c["rate"] + 0 * laplacian(k)

    def terms(self, u: Tensor, d: Slope, c: Coefficients) -> list[Tensor]:
        return [*(c["diffusivity"] * d(u, axis, 2) for axis in range(self.dims)), c["rate"] * (u - u**3)]
