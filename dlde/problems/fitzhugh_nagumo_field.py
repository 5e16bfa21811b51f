"""The FitzHugh-Nagumo model of an excitable medium; everything is dimensionless."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, NonNegativeFloat, model_validator
from torch import Tensor

from dlde.problems.drawn import Positive, bounds, parameter
from dlde.problems.reaction_diffusion import Blobs, Domain, Flux, Noise, ReactionDiffusion, Uniform


class FitzHughNagumoField(ReactionDiffusion):
    """FitzHugh-Nagumo field: v_t = D Lap v + (v (v - a)(1 - v) - w + c) / eps, w_t = b v - gamma w + c.

    eps is `timescale`, a `threshold`, b `growth`, gamma `decay`, c `current`, D `diffusivity`; w diffuses
    with `recovery_diffusivity`. Periodic or closed by walls, in one dimension or two; `stimulus` is s in
    v_x = -s t^3 exp(-15 t) at the left wall of one dimension. The defaults are those of Chaturantabut &
    Sorensen, SIAM J. Sci. Comput. 32 (2010), where D = eps and c excites a limit cycle; they have walls,
    zero at the start, and s = 50000. See `ReactionDiffusion` for the solver.
    """

    version: ClassVar[str] = "1"
    state: ClassVar[dict[str, str]] = {"v": "voltage", "w": "recovery of voltage"}
    rates: ClassVar[tuple[str, ...]] = ("timescale", "threshold", "growth", "decay", "current")

    timescale: Positive = 0.015
    threshold: Positive = 0.1
    growth: Positive = 0.5
    decay: Positive = 2.0
    current: NonNegativeFloat = 0.05
    diffusivity: Positive | None = None  # None: the timescale
    recovery_diffusivity: NonNegativeFloat = 0.0
    domain: Domain = ((0.0, 2.0),)
    boundary: Literal["periodic", "closed"] = "periodic"
    stimulus: NonNegativeFloat = 0.0
    initial_condition: Annotated[Blobs | Noise | Uniform, Field(discriminator="kind")] = Blobs(
        count=2, radius=0.15, outside=(0.0, 0.0), inside=(1.0, 0.1), apart=True
    )

    @model_validator(mode="after")
    def _stimulated_at_a_wall(self) -> Self:
        if self.stimulus and (self.boundary != "closed" or len(self.domain) != 1):
            raise ValueError(
                f"stimulus={self.stimulus:g} acts at the left wall of one dimension; "
                "use boundary: closed and a domain of one interval, or stimulus: 0"
            )
        return self

    @property
    def walls(self) -> bool:
        return self.boundary == "closed"

    @property
    def flux(self) -> Flux | None:
        return self._flux if self.stimulus else None

    def _flux(self, time: float) -> tuple[float, float]:
        decayed = -self.stimulus * math.exp(-15 * time)
        return decayed * time**3, decayed * (3 * time**2 - 15 * time**3)

    def diffusivities(self, instances: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        d = parameter(self, "timescale" if self.diffusivity is None else "diffusivity", instances)
        return d, torch.full_like(d, self.recovery_diffusivity)

    def reaction(self, a: Tensor, b: Tensor, p: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        cubic = a * (a - p["threshold"]) * (1 - a)
        voltage = (cubic - b + p["current"]) / p["timescale"]
        return voltage, p["growth"] * a - p["decay"] * b + p["current"]

    def fastest_rate(self) -> float:
        """That of v at 1: (1 - a) / eps, and what w adds."""
        slowest = bounds(self.timescale)[0]
        return (1 - bounds(self.threshold)[0]) / slowest + bounds(self.decay)[1]
