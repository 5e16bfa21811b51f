"""The stochastic Burgers equation with a force of many actuators; everything is dimensionless."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Self

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from dlde.errors import GridError, InputError, NonFiniteError
from dlde.numerics.counters import normals, uniforms
from dlde.numerics.spectral import Transform
from dlde.problem import ActuatedField, Axis, Problem

COURANT = 0.5  # largest max |u| dt / spacing of a sub-step
HALVINGS = 6  # of a sub-step, before a state counts as blown up
_AMPLITUDES, _PHASES, _NOISE = 0, 1, 2  # purposes of random numbers


class ControlledBurgers(Problem, ActuatedField):
    """Stochastic Burgers, periodic on [0, 1), with a force of `actuators` bumps that a controller sets.

    du = (nu u_xx - u u_x + sum_j a_j psi_j) dt + sigma dW. nu is `viscosity`; psi_j are periodic
    Gaussians at j / actuators of width 1 / (2 actuators). dW is white in time on the modes
    m = 1..noise_modes, sum_m sqrt(1 / noise_modes) (dB_m sin 2 pi m x + dB'_m cos 2 pi m x): at every
    point a Brownian motion of variance t. The control a is held for `interval`; the reward of that
    decision is -interval [mean_x (u - target)^2 + energy_price mean_j a_j^2 + shock_price mean_x u_x^2],
    taken with the field at its end. An episode starts from sum_m (z_m / m) sin(2 pi (m x + phase_m)),
    m = 1..initial_modes, with z_m standard normal and phase_m uniform.

    Pseudo-spectral (2/3 rule), exponential Euler-Maruyama in steps of `dt`; the law of the linear
    equation is met exactly. Strong and weak order 1 in dt, as the noise is additive. Noise is given
    once for every step of `dt`; where max |u| dt / spacing exceeds 0.5, the steps of that episode are
    halved until it does not, with the noise spread evenly over the halves.
    Sources: Jentzen & Kloeden, Proc. R. Soc. A 465 (2009), for the scheme; Choi, Temam, Moin & Kim,
    J. Fluid Mech. 253 (1993), for the control of stochastic Burgers.
    """

    viscosity: PositiveFloat = 0.01
    sigma: NonNegativeFloat = 0.6  # standard deviation of the noise per square root of time
    noise_modes: PositiveInt = 8
    initial_modes: PositiveInt = 3
    num_points: Annotated[int, Field(ge=8)] = 64
    actuators: PositiveInt = 8
    control_limit: PositiveFloat = 5.0
    energy_price: NonNegativeFloat = 0.05
    shock_price: NonNegativeFloat = 0.0
    target_modes: tuple[float, ...] = ()  # coefficients of sin 2 pi m x in the target, m = 1, 2, ...
    horizon: PositiveFloat = 2.0
    interval: PositiveFloat = 0.02
    dt: PositiveFloat = 1e-3

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for whole, part, names in (
            (self.interval, self.dt, ("interval", "dt")),
            (self.horizon, self.interval, ("horizon", "interval")),
        ):
            if abs(whole / part - round(whole / part)) > 1e-6 or round(whole / part) < 1:
                raise ValueError(
                    f"{names[0]}={whole:g} is no multiple of {names[1]}={part:g}; "
                    f"choose {names[1]}={whole / max(round(whole / part), 1):.6g}, for example"
                )
        if self.actuators > self.num_points:
            raise ValueError(
                f"actuators={self.actuators} are more than the {self.num_points} points of the grid; "
                f"use at most {self.num_points}"
            )
        kept = (self.num_points - 1) // 3
        highest = max(self.noise_modes, self.initial_modes, len(self.target_modes))
        if highest > kept:
            raise ValueError(
                f"noise, start and target have modes up to {highest}, but a grid of {self.num_points} points "
                f"keeps {kept}; use num_points >= {3 * highest + 1}"
            )
        return self

    @property
    def decisions(self) -> int:
        return round(self.horizon / self.interval)

    @property
    def substeps(self) -> int:
        """Steps of `dt` in one decision."""
        return round(self.interval / self.dt)

    @property
    def state_shape(self) -> tuple[int, ...]:
        return (self.num_points,)

    @property
    def control_shape(self) -> tuple[int, ...]:
        return (self.actuators,)

    @property
    def axis(self) -> Axis:
        return Axis(start=0.0, stop=1.0, num_points=self.num_points, boundary="periodic")

    @property
    def target(self) -> Tensor:
        m = np.arange(1, len(self.target_modes) + 1)
        sines = np.sin(2 * np.pi * m[:, None] * self.axis.points)
        return torch.from_numpy(np.array(self.target_modes) @ sines)

    @property
    def shapes(self) -> Tensor:
        return _bumps(self.actuators, self.num_points)

    def initial(self, seed: int, episodes: Sequence[int]) -> Tensor:
        """The starting fields (episodes, num_points)."""
        amplitudes = normals(seed, episodes, 0, (self.initial_modes, 1), purpose=_AMPLITUDES)
        phases = uniforms(seed, episodes, 0, (self.initial_modes, 1), purpose=_PHASES)
        m = np.arange(1, self.initial_modes + 1)[:, None]
        modes = amplitudes / m * np.sin(2 * np.pi * (m * self.axis.points + phases))
        return torch.from_numpy(modes.sum(1))

    def noise(self, seed: int, episodes: Sequence[int], decision: int) -> Tensor:
        """Standard normal draws (episodes, substeps, 2, noise_modes): for sine and cosine."""
        shape = (self.substeps, 2, self.noise_modes)
        return torch.from_numpy(normals(seed, episodes, decision, shape, purpose=_NOISE))

    def step(self, state: Tensor, control: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Field (episodes, num_points), control (episodes, actuators) -> field, rewards (episodes,).

        Computed in the precision of `state`. The number of steps is that of `noise`, axis 1: a finer
        path of the same noise is a longer one. Raises GridError for other shapes, InputError for a
        control beyond its limit, NonFiniteError where the steps would have to be halved too often.
        """
        self._check(state, control, noise)
        end = self._advance(state, control, noise, 1)
        halvings = 1
        while True:
            fast = torch.nonzero(
                ~(end[1] * self.num_points * self.interval / noise.shape[1] <= COURANT * halvings)
            )
            fast = fast.flatten()
            if not len(fast):
                break
            halvings *= 2
            if halvings > 2**HALVINGS:
                raise NonFiniteError(
                    f"max |u| = {float(end[1].max()):.4g} needs steps below dt / {2**HALVINGS} with "
                    f"dt={self.dt:g}: the field has blown up. Use a smaller problem.dt, problem.sigma or "
                    "problem.control_limit",
                    rows=fast.tolist(),
                )
            again = self._advance(state[fast], control[fast], noise[fast], halvings)
            for whole, part in zip(end, again, strict=True):
                whole[fast] = part
        field = end[0]
        return field, -self.interval * self.cost(field, control)

    def cost(self, field: Tensor, control: Tensor) -> Tensor:
        """Cost (episodes,) per unit of time of a field under a control."""
        cost = (field - self.target.to(field)).square().mean(-1)
        cost = cost + self.energy_price * control.to(field).square().mean(-1)
        if self.shock_price:
            transform = self._transform
            (k,) = transform.wavenumbers()
            slope = transform.backward(transform.forward(field) * torch.from_numpy(1j * k).to(field.device))
            cost = cost + self.shock_price * slope.square().mean(-1)
        return cost

    @property
    def _transform(self) -> Transform:
        return Transform((self.num_points,), (1.0,))

    def _advance(self, state: Tensor, control: Tensor, noise: Tensor, halvings: int) -> list[Tensor]:
        """The field at the end of the decision, and max |u| (episodes,) on the way."""
        transform, num_steps = self._transform, noise.shape[1]
        v = transform.forward(state)
        decay, drift, spread = (factor.to(v) for factor in self._factors(self.interval / num_steps, halvings))
        (k,) = transform.wavenumbers()
        flux = torch.from_numpy(-0.5j * k).to(v) * drift
        force = transform.forward(control.to(state) @ self.shapes.to(state)) * drift
        modes = slice(1, self.noise_modes + 1)
        scale = self.sigma * math.sqrt(self.interval / num_steps / self.noise_modes) / 2
        kicks = torch.complex(noise[:, :, 1], -noise[:, :, 0]).to(v) * (scale / halvings * spread[modes])
        drives = force[:, None].repeat(1, num_steps, 1)
        drives[..., modes] += kicks
        fields = []
        for number in range(num_steps):
            drive = drives[:, number]
            for _ in range(halvings):
                u = transform.backward(v)
                fields.append(u)
                v = torch.addcmul(torch.addcmul(drive, decay, v), flux, transform.forward(u.square()))
        fields.append(transform.backward(v))
        peak = torch.stack(fields).abs().amax((0, 2))
        return [fields[-1], peak]

    def _factors(self, dt: float, halvings: int) -> tuple[Tensor, Tensor, Tensor]:
        """exp(dt L); its mean over the step, times the step; and what a kick counts at the step's end.

        The last is sqrt((exp(2 dt L) - 1) / (2 dt L)): the variance that a constant noise would leave.
        """
        (k,) = self._transform.wavenumbers()
        z = -self.viscosity * k**2 * dt / halvings
        mean = np.where(z == 0, 1.0, np.expm1(z) / np.where(z == 0, 1.0, z))
        half = np.where(z == 0, 1.0, np.expm1(2 * z) / np.where(z == 0, 1.0, 2 * z))
        factors = np.exp(z), mean * dt / halvings, np.sqrt(half)
        decay, drift, spread = (torch.from_numpy(factor) for factor in factors)
        return decay, drift, spread

    def _check(self, state: Tensor, control: Tensor, noise: Tensor) -> None:
        count = len(state)
        if state.shape != (count, self.num_points) or control.shape != (count, self.actuators):
            raise GridError(
                f"state {tuple(state.shape)} and control {tuple(control.shape)}: expected "
                f"(episodes, {self.num_points}) and (episodes, {self.actuators})"
            )
        if noise.ndim != 4 or len(noise) != count or noise.shape[2:] != (2, self.noise_modes):
            raise GridError(
                f"noise {tuple(noise.shape)}: expected ({count}, steps, 2, {self.noise_modes}), as drawn"
            )
        largest = control.abs().amax()
        if not largest <= self.control_limit * (1 + 1e-5):
            raise InputError(
                f"a control of size {float(largest):.6g} is given; the actuators reach {self.control_limit:g}"
            )


@lru_cache(maxsize=16)
def _bumps(actuators: int, num_points: int) -> Tensor:
    """psi (actuators, num_points): a sum over the periodic images, as few actuators are wide ones."""
    places = np.arange(actuators)[:, None] / actuators
    distance = np.arange(num_points) / num_points - places + np.arange(-4, 5)[:, None, None]
    return torch.from_numpy(np.exp(-0.5 * (distance * 2 * actuators) ** 2).sum(0))
