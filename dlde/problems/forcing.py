"""Forces f(x, t) of periodic equations: sums of shapes in space, each times a function of time."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from dlde.numerics.random_fields import gaussian_field, pointwise_std
from dlde.numerics.spectral import resample
from dlde.problem import Array, Axis, Variable
from dlde.spec import Spec


class Forcing(Spec):
    """f(x, t) = sum_j weights(t)[j] shapes[j](x) in one dimension, with mean zero over a period."""

    @property
    @abstractmethod
    def highest_mode(self) -> int:
        """Of the shapes, counted over the domain."""

    @abstractmethod
    def weights(self, time: float) -> tuple[float, ...]:
        """Of each shape."""

    @abstractmethod
    def shapes(
        self, instances: Mapping[str, Tensor], num_points: int, period: float, extent: float
    ) -> Tensor:
        """(batch or 1, shapes, points) over a period, a multiple of the domain's extent, float64.

        On at least that many points.
        """


class WaveForcing(Forcing):
    """amplitude sin(2 pi waves (x - start) / extent) cos(2 pi frequency t); the same for all instances."""

    kind: Literal["wave"] = "wave"
    amplitude: float = 1.0
    waves: PositiveInt = 1
    frequency: NonNegativeFloat = 0.0  # per unit of time; 0: steady

    @property
    def highest_mode(self) -> int:
        return self.waves

    def weights(self, time: float) -> tuple[float, ...]:
        return (math.cos(2 * math.pi * self.frequency * time),)

    def shapes(
        self, instances: Mapping[str, Tensor], num_points: int, period: float, extent: float
    ) -> Tensor:
        x = torch.arange(num_points, dtype=torch.float64) * (period / num_points)
        return self.amplitude * torch.sin(2 * math.pi * self.waves / extent * x)[None, None]


class RandomForcing(Forcing):
    """A Gaussian field in space and time, smooth in both, drawn once for every instance.

    sum_j (A_j(x) cos(2 pi j t / duration) + B_j(x) sin(2 pi j t / duration)), j = 0..time_modes, where
    A_j and B_j are independent Gaussian fields of `num_modes` modes whose coefficients fall like
    1 / |k|^decay: stationary, with period `duration` in time and standard deviation `amplitude`
    everywhere. The instance entry `forcing` holds A_0, A_1, B_1, A_2, B_2, ...
    """

    kind: Literal["random"] = "random"
    amplitude: PositiveFloat = 1.0
    num_modes: PositiveInt = 4
    decay: Annotated[float, Field(ge=0)] = 1.0
    time_modes: NonNegativeInt = 3  # 0: steady
    duration: PositiveFloat = 1.0

    @property
    def highest_mode(self) -> int:
        return self.num_modes

    @property
    def variable(self) -> Variable:
        """The shapes, as they are stored."""
        return Variable(
            dims=("shape", "x"), sizes={"shape": 2 * self.time_modes + 1}, long_name="shapes of the force"
        )

    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> Array:
        """The shapes (shapes, points)."""
        axis = axes["x"]
        extent = (axis.stop - axis.start,)
        tau = 1e-3 / extent[0]  # far below the lowest mode: a power law
        unit = pointwise_std(extent, exponent=self.decay, tau=tau, sigma=1.0, num_modes=self.num_modes)
        scale = self.amplitude / math.sqrt(self.time_modes + 1) / unit
        return np.stack(
            [
                gaussian_field(
                    generator,
                    (axis.num_points,),
                    extent,
                    exponent=self.decay,
                    tau=tau,
                    sigma=scale,
                    num_modes=self.num_modes,
                )
                for _ in range(2 * self.time_modes + 1)
            ]
        )

    def weights(self, time: float) -> tuple[float, ...]:
        phases = [2 * math.pi * j * time / self.duration for j in range(1, self.time_modes + 1)]
        return (1.0, *(f(phase) for phase in phases for f in (math.cos, math.sin)))

    def shapes(
        self, instances: Mapping[str, Tensor], num_points: int, period: float, extent: float
    ) -> Tensor:
        given = instances["forcing"].double()
        return resample(given, max(given.shape[-1], num_points))
