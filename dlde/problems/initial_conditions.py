"""Initial conditions of periodic equations: how an instance's field at time 0 is drawn."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from dlde.numerics.random_fields import gaussian_field, pointwise_std
from dlde.problem import Array, Axis
from dlde.spec import Spec


class InitialCondition(Spec):
    """A law of fields on a periodic interval or square, drawn alike for every grid."""

    @abstractmethod
    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> Array:
        """One field on the grid; a finer grid shows the same one."""

    @abstractmethod
    def highest_mode(self, extent: float) -> int:
        """The highest mode of a period `extent` along any axis, k in 2 pi k / extent."""

    @abstractmethod
    def size(self, extent: float, dims: int) -> float:
        """Of |u|, such that nearly every field exceeds it somewhere: its root mean square, or its peak."""


class GaussianField(InitialCondition):
    """N(0, sigma^2 (-Lap + tau^2 I)^-exponent), periodic, mean zero, cut after `num_modes` modes.

    The defaults are those of Li et al., Fourier Neural Operator (2021), arXiv 2010.08895; its
    repository's generator holds a harder one: exponent 2.5, tau 7, sigma 49, viscosity 1e-3.
    """

    kind: Literal["gaussian"] = "gaussian"
    exponent: PositiveFloat = 2.0
    tau: PositiveFloat = 5.0
    sigma: PositiveFloat = 25.0
    num_modes: PositiveInt = 64

    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> Array:
        return gaussian_field(generator, *_grid(axes), **self._law)

    def highest_mode(self, extent: float) -> int:
        return self.num_modes

    def size(self, extent: float, dims: int) -> float:
        return pointwise_std((extent,) * dims, **self._law)

    @property
    def _law(self) -> dict[str, Any]:
        return self.model_dump(exclude={"kind"})


class Sine(InitialCondition):
    """amplitude * sin(2 pi waves (x - start) / extent): -sin(pi x) on (-1, 1); every instance alike.

    On a square, the product of two.
    """

    kind: Literal["sine"] = "sine"
    amplitude: float = 1.0
    waves: PositiveInt = 1

    @property
    def num_modes(self) -> int:
        """Highest mode of the domain."""
        return self.waves

    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> Array:
        factors = [
            np.sin(2 * np.pi * self.waves * (axis.points - axis.start) / (axis.stop - axis.start))
            for axis in axes.values()
        ]
        if len(factors) == 1:
            return self.amplitude * factors[0]
        return self.amplitude * factors[0][:, None] * factors[1]

    def highest_mode(self, extent: float) -> int:
        return self.waves

    def size(self, extent: float, dims: int) -> float:
        return abs(self.amplitude) / math.sqrt(2) ** dims


class Waves(InitialCondition):
    """mean + a Gaussian field of few modes, whose coefficients fall like 1 / |k|^decay.

    `amplitude` is its standard deviation at every point, whatever the domain.
    """

    kind: Literal["waves"] = "waves"
    amplitude: PositiveFloat = 1.0
    mean: float = 0.0
    num_modes: PositiveInt = 8
    decay: Annotated[float, Field(ge=0)] = 1.0

    def draw(self, generator: np.random.Generator, axes: Mapping[str, Axis]) -> Array:
        num_points, extent = _grid(axes)
        law = self._law(extent[0])
        scale = self.amplitude / pointwise_std(extent, sigma=1.0, **law)
        return self.mean + gaussian_field(generator, num_points, extent, sigma=scale, **law)

    def highest_mode(self, extent: float) -> int:
        return self.num_modes

    def size(self, extent: float, dims: int) -> float:
        return math.hypot(self.amplitude, self.mean)

    def _law(self, extent: float) -> dict[str, Any]:
        """A tau far below the lowest mode leaves a power law."""
        return {"exponent": self.decay, "tau": 1e-3 / extent, "num_modes": self.num_modes}


def _grid(axes: Mapping[str, Axis]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    return (
        tuple(axis.num_points for axis in axes.values()),
        tuple(axis.stop - axis.start for axis in axes.values()),
    )
