"""Predators and prey; everything is dimensionless."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from dlde.errors import InputError
from dlde.problem import Array, Interval
from dlde.problems.drawn import Positive, drawn_value
from dlde.problems.ode_system import ODESystem, Parameters, Start


class LotkaVolterra(ODESystem):
    """Lotka-Volterra: u' = u (growth - predation v), v' = v (gain u - death), prey u and predators v.

    Closed orbits around (death / gain, growth / predation). The default parameters and starts are those of
    Norcliffe et al., Neural ODE processes (2021), arXiv 2103.12413: (2 e, e) with e uniform in (1/4, 1).
    """

    components: ClassVar = ("prey", "predators")

    growth: Positive = 2 / 3
    predation: Positive = 4 / 3
    gain: Positive = 1.0
    death: Positive = 1.0
    start: Start = (Interval(low=0.5, high=2.0), Interval(low=0.25, high=1.0))
    together: bool = True  # one random number places both starts in their intervals

    @model_validator(mode="after")
    def _alive(self) -> Self:
        lows = [entry.low if isinstance(entry, Interval) else entry for entry in self.start]
        if min(lows) <= 0:
            raise ValueError(f"start reaches down to {min(lows):g}: expected more than 0 of both")
        return self

    def draw_start(self, generator: np.random.Generator) -> Array:
        if not self.together:
            return super().draw_start(generator)
        seed = int(generator.integers(2**63))
        return np.array([drawn_value(entry, np.random.default_rng(seed)) for entry in self.start])

    def check_start(self, start: Tensor) -> None:
        if not bool((start > 0).all()):
            raise InputError("start: prey and predators must be more than 0")

    def vector_field(self, t: float, y: Tensor, p: Parameters) -> Tensor:
        prey, predators = y.unbind(-1)
        return torch.stack(
            [
                prey * (p["growth"] - p["predation"] * predators),
                predators * (p["gain"] * prey - p["death"]),
            ],
            -1,
        )

    def invariants(self, y: Tensor, p: Parameters) -> dict[str, Tensor]:
        prey, predators = y.unbind(-1)
        left = p["gain"] * prey - p["death"] * prey.log()
        return {"orbit": left + p["predation"] * predators - p["growth"] * predators.log()}
