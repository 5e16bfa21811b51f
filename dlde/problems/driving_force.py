"""Forces that drive an ordinary differential equation: random functions of time, known at sensors.

An instance holds the force's values at equidistant sensors; between them it is the quintic spline through
them, so that a force of a user's own is followed like a drawn one. Drawn forces are smooth functions,
and more sensors show the same one.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from dlde.numerics.quintic_spline import LEAST
from dlde.problem import Array
from dlde.spec import Spec


class Force(Spec):
    """A random function on [0, horizon], of which the values at `num_sensors` equidistant times are known."""

    horizon: PositiveFloat = 1.0
    num_sensors: Annotated[int, Field(ge=LEAST)] = 101  # both ends included

    @property
    def sensors(self) -> Array:
        """Their times (num_sensors,)."""
        return np.linspace(0, self.horizon, self.num_sensors)

    @abstractmethod
    def draw(self, generator: np.random.Generator) -> Array:
        """Values at the sensors (num_sensors,); the generator is consumed alike for any number of them."""


class GaussianProcess(Force):
    """Mean zero, covariance std^2 exp(-(t - t')^2 / (2 length_scale^2)), as Lu et al. drive pendulums.

    Drawn as a Fourier series whose period exceeds the horizon by eight length scales, which alters the
    covariance by less than 1e-13. Source: Lu, Jin & Karniadakis, DeepONet (2019), arXiv 1910.03193.
    """

    kind: Literal["gaussian-process"] = "gaussian-process"
    length_scale: PositiveFloat = 0.2
    std: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _resolved(self) -> Self:
        least = math.ceil(self.horizon / self.length_scale * 2) + 1
        if self.num_sensors < least:
            raise ValueError(
                f"num_sensors={self.num_sensors} cannot show a length_scale of {self.length_scale:g} over a "
                f"horizon of {self.horizon:g}; use num_sensors >= {least}"
            )
        return self

    def draw(self, generator: np.random.Generator) -> Array:
        period = self.horizon + 8 * self.length_scale
        num_modes = math.ceil(math.sqrt(72) * period / (2 * np.pi * self.length_scale))  # down to e^-36
        frequency = 2 * np.pi * np.arange(num_modes + 1) / period
        variance = np.exp(-((frequency * self.length_scale) ** 2) / 2)
        variance *= self.std**2 * self.length_scale * math.sqrt(2 * np.pi) / period
        variance[1:] *= 2
        cos, sin = np.sqrt(variance) * generator.standard_normal((2, num_modes + 1))
        phase = self.sensors[:, None] * frequency
        return np.asarray(np.cos(phase) @ cos + np.sin(phase) @ sin)


class Multisine(Force):
    """A sum of `lines` sines of equal size with random phases, of mean square std^2 over long times.

    Their frequencies (cycles in a unit of time) lie at equal distances from `lowest` to `highest`.
    """

    kind: Literal["multisine"] = "multisine"
    lines: PositiveInt = 10
    lowest: PositiveFloat = 0.05
    highest: PositiveFloat = 0.5
    std: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _resolved(self) -> Self:
        if self.lowest > self.highest:
            raise ValueError(f"lowest={self.lowest:g}, highest={self.highest:g}: expected lowest <= highest")
        least = math.ceil(4 * self.highest * self.horizon) + 1
        if self.num_sensors < least:
            raise ValueError(
                f"num_sensors={self.num_sensors} cannot show a frequency of {self.highest:g} over a horizon "
                f"of {self.horizon:g}; use num_sensors >= {least}"
            )
        return self

    def draw(self, generator: np.random.Generator) -> Array:
        phases = 2 * np.pi * generator.random(self.lines)
        frequencies = np.linspace(self.lowest, self.highest, self.lines)
        waves = np.sin(2 * np.pi * self.sensors[:, None] * frequencies + phases)
        return np.asarray(self.std * math.sqrt(2 / self.lines) * waves.sum(1))


AnyForce = Annotated[GaussianProcess | Multisine, Field(discriminator="kind")]
