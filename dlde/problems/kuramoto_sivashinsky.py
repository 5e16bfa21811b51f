"""The Kuramoto-Sivashinsky equation on a periodic interval; everything is dimensionless."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from dlde.numerics.spectral import Transform
from dlde.problem import Axis, Thresholds
from dlde.problems.drawn import Positive
from dlde.problems.initial_conditions import GaussianField, Sine, Waves
from dlde.problems.periodic import Change, Coefficients, PeriodicEquation, Slope, quadratic


class KuramotoSivashinsky(PeriodicEquation):
    """Kuramoto-Sivashinsky: u_t + u u_x + u_xx + viscosity u_xxxx = 0 on a periodic interval.

    Long waves grow, short ones are damped: chaos on intervals longer than about 22 sqrt(viscosity). The
    distance of two solutions grows about e-fold in 10 units of time, so that errors hold for a few of
    these and statistics beyond. Solved pseudo-spectrally (2/3 rule, ETDRK4); of the order 4 in time
    about 3.3 is seen, as short waves are stiff (Hochbruck & Ostermann, SIAM J. Numer. Anal. 43 (2005)).
    Source: Kassam & Trefethen, SIAM J. Sci. Comput. 26 (2005).
    """

    version: ClassVar[str] = "1"
    coefficients: ClassVar[dict[str, str]] = {"viscosity": "coefficient of u_xxxx"}
    state: ClassVar[dict[str, str]] = {"u": "velocity"}
    thresholds: ClassVar[Thresholds] = Thresholds(order=2.8)  # stiff: see above

    viscosity: Positive = 1.0
    domain: tuple[float, float] = (0.0, 64.0)
    initial_condition: Annotated[GaussianField | Sine | Waves, Field(discriminator="kind")] = Waves(
        num_modes=8, decay=0.0
    )

    def symbol(self, k: Sequence[Any], c: Coefficients) -> Any:
        return k[0] ** 2 - c["viscosity"] * k[0] ** 4

    def nonlinearity(self, transform: Transform, like: Tensor) -> Change:
        (k,) = transform.wavenumbers()
        square = quadratic(transform, torch.from_numpy(-0.5j * k).to(like))
        return lambda v, c: square(v)

    def linearised(self, k: Sequence[Any], amplitude: float, c: Coefficients) -> Any:
        return -1j * amplitude * k[0]

    def terms(self, u: Tensor, d: Slope, c: Coefficients) -> list[Tensor]:
        return [-u * d(u, 0, 1), -d(u, 0, 2), -c["viscosity"] * d(u, 0, 4)]

    def conserved(self, solution: Mapping[str, Tensor], axes: Mapping[str, Axis]) -> dict[str, Tensor]:
        """The mean velocity."""
        return {"mean velocity": solution["u"].double().mean(-1)}
