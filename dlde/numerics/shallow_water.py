"""Shallow water on a staggered grid with closed walls, semi-implicit in the gravity waves; SI units.

    u_t = -g zeta_x - drag u |u| / h + viscosity (u_xx + u_yy),  v_t likewise,
    zeta_t + (h u)_x + (h v)_y = 0,  h = depth + zeta.

Heights zeta and depths (m) stand in the middle of nx x ny cells, velocities u (batch, nx - 1, ny) and
v (batch, nx, ny - 1) (m/s) on the faces between them; the walls' faces carry none.
Source of the scheme: the simulator of Learning Implicit PDE Integration with Linear Implicit Layers
(2021), github.com/m-dml/lil2021swe, after a Fortran code by K. Logemann; the staggering is the C grid
of Arakawa & Lamb, Methods Comput. Phys. 17 (1977).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from dlde.numerics.multigrid import conjugate_gradients

State = tuple[Tensor, Tensor, Tensor]  # zeta, u, v


@dataclass(frozen=True)
class Basin:
    """The discrete equations over one sea bed: depth (batch, nx, ny)."""

    depth: Tensor
    spacing: tuple[float, float]  # m
    gravity: float  # m/s2
    drag: float  # quadratic, of the bottom
    viscosity: float  # m2/s
    implicitness: float  # weight of the new time in the gravity waves; 1/2 is Crank-Nicolson

    def tendency(self, state: State) -> State:
        """The time derivative of the semi-discrete equations."""
        zeta, u, v = state
        hx, hy = self._at_faces(self.depth + zeta)
        slope_x, slope_y = self._slope(zeta)
        friction_x, friction_y = self._friction(u, v, hx, hy)
        return (
            self._outflow(hx * u, hy * v).neg_(),
            friction_x - self.gravity * slope_x,
            friction_y - self.gravity * slope_y,
        )

    def step(self, state: State, dt: float) -> State:
        """One step: friction forward, gravity waves by the theta scheme with h of the old time.

        The new height comes from the fluxes of the new velocities, so that the volume of water is kept to
        rounding, whatever the linear solver's tolerance. A sample whose solver fails becomes NaN.
        """
        zeta, u, v = state
        w, g, (dx, dy) = self.implicitness, self.gravity, self.spacing
        hx, hy = self._at_faces(self.depth + zeta)
        slope_x, slope_y = self._slope(zeta)
        friction_x, friction_y = self._friction(u, v, hx, hy)
        us = u + dt * (friction_x - (1 - w) * g * slope_x)
        vs = v + dt * (friction_y - (1 - w) * g * slope_y)
        rhs = zeta - dt * self._outflow(hx * ((1 - w) * u + w * us), hy * ((1 - w) * v + w * vs))
        links_x, links_y = (dt * w) ** 2 * g / dx**2 * hx, (dt * w) ** 2 * g / dy**2 * hy
        center = 1 + _sides(links_x, 1) + _sides(links_y, 2)

        def operator(zeta: Tensor) -> Tensor:
            out = center * zeta
            for links, axis in ((links_x, 1), (links_y, 2)):
                count = links.shape[axis]
                for here, there in ((0, 1), (1, 0)):
                    out.narrow(axis, here, count).addcmul_(links, zeta.narrow(axis, there, count), value=-1)
            return out

        new = conjugate_gradients(
            operator,
            rhs,
            preconditioner=lambda r: r / center,
            tolerance=1e-12 if rhs.dtype == torch.float64 else 2e-6,
            max_iterations=1000,
            guess=zeta,
        )
        slope_x, slope_y = self._slope(new)
        un, vn = us - (w * dt * g) * slope_x, vs - (w * dt * g) * slope_y
        outflow = self._outflow(hx * ((1 - w) * u + w * un), hy * ((1 - w) * v + w * vn))
        return zeta - dt * outflow, un, vn

    def energy(self, state: State) -> Tensor:
        """Potential and kinetic, per density (m5/s2), (batch,): g zeta^2 / 2 and h u^2 / 2 over the area."""
        zeta, u, v = state
        hx, hy = self._at_faces(self.depth + zeta)
        kinetic = (hx * u * u).sum((1, 2)) + (hy * v * v).sum((1, 2))
        total: Tensor = (
            self.spacing[0] * self.spacing[1] / 2 * (self.gravity * (zeta**2).sum((1, 2)) + kinetic)
        )
        return total

    def _at_faces(self, h: Tensor) -> tuple[Tensor, Tensor]:
        return (h[:, 1:] + h[:, :-1]) / 2, (h[:, :, 1:] + h[:, :, :-1]) / 2

    def _slope(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        return torch.diff(zeta, dim=1) / self.spacing[0], torch.diff(zeta, dim=2) / self.spacing[1]

    def _outflow(self, flux_x: Tensor, flux_y: Tensor) -> Tensor:
        """Divergence in every cell; nothing passes the walls."""
        dx, dy = self.spacing
        along_x = torch.diff(pad(flux_x, (0, 0, 1, 1)), dim=1) / dx
        return along_x + torch.diff(pad(flux_y, (1, 1)), dim=2) / dy

    def _friction(self, u: Tensor, v: Tensor, hx: Tensor, hy: Tensor) -> tuple[Tensor, Tensor]:
        """Bottom drag and viscosity; velocities vanish one spacing outside the last face."""
        return tuple(  # type: ignore[return-value]
            self.viscosity * self._laplacian(w) - self.drag / h * (w * w.abs()) for w, h in ((u, hx), (v, hy))
        )

    def _laplacian(self, w: Tensor) -> Tensor:
        out = w * (-2 * sum(length**-2 for length in self.spacing))
        for axis, length in enumerate(self.spacing, 1):
            count = w.shape[axis] - 1
            for here, there in ((0, 1), (1, 0)):
                out.narrow(axis, here, count).add_(w.narrow(axis, there, count), alpha=length**-2)
        return out


def march(
    step: Callable[[State, float], State], state: State, times: Sequence[float], dt: float
) -> list[State]:
    """The states at increasing `times` >= 0, from `state` at time 0, by equal steps of at most `dt`."""
    states = []
    for before, after in itertools.pairwise([0.0, *times]):
        count = math.ceil((after - before) / dt * (1 - 1e-12))
        for _ in range(count):
            state = step(state, (after - before) / count)
        states.append(state)
    return states


def gaussian_basis(points: NDArray[np.float64], *, length: float, extent: float) -> NDArray[np.float64]:
    """(points, functions): B such that B z, z white, has covariance exp(-r^2 / length^2) on [0, extent].

    In two dimensions B_x z B_y'. The Fourier series of a period that is longer by 5 lengths, up to where
    nothing is left to 1e-10; the number of functions does not depend on the points.
    """
    period = extent + 5 * length
    k = np.arange(1, math.ceil(4.8 * period / (math.pi * length)) + 1)
    power = math.sqrt(math.pi) * length / period * np.exp(-((np.pi * k * length / period) ** 2))
    phase = 2 * np.pi / period * np.outer(points, k)
    constant = np.full((len(points), 1), math.sqrt(math.sqrt(math.pi) * length / period))
    return np.concatenate(
        [constant, np.sqrt(2 * power) * np.cos(phase), np.sqrt(2 * power) * np.sin(phase)], axis=1
    )


def _sides(links: Tensor, axis: int) -> Tensor:
    """The sum of both faces of a cell along an axis; a wall's face counts nothing."""
    around = pad(links, (0, 0, 1, 1) if axis == 1 else (1, 1))
    return around.narrow(axis, 1, around.shape[axis] - 1) + around.narrow(axis, 0, around.shape[axis] - 1)
