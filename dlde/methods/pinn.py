"""Physics-informed network: a function that solves a differential equation at scattered points.

u(x) = A(x) + D(x) N(x; theta) meets the conditions whatever the weights: A takes the given values,
D vanishes where they are given (a trial function). theta minimises the mean square of the equation's
residual R[u] over points of the domain, drawn anew for every step of Adam.

Sources: Lagaris, Likas & Fotiadis, Artificial neural networks for solving ordinary and partial
differential equations (1998), IEEE Trans. Neural Networks 9; Raissi, Perdikaris & Karniadakis,
Physics-informed neural networks (2019), J. Comput. Phys. 378. Samplers: `noisy-grid` is the default
of neurodiffeq (Chen et al., JOSS 5 (2020) 1931); `pool` draws from a set of candidates with density
|R|^power / mean |R|^power + floor, as the method RAD of Wu, Zhu, Tan, Kartha & Lu, Comput. Methods
Appl. Mech. Engrg. 403 (2023), arXiv 2207.10289.
Otherwise than there: derivatives travel forward with the values (dlde.numerics.jets) instead of
nested backward passes; the conditions are built in, not penalised.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from dlde.errors import SpecError
from dlde.method import DataInfo, Descent, Evaluation, Method, Operation, Run, Terms
from dlde.nn.mlp import MLP
from dlde.numerics import sampling
from dlde.problem import Residual
from dlde.spec import Spec
from dlde.tasks.collocation import Collocation, Trial, affordable, corners, problem_of


class Pool(Spec):
    """Candidates whose residual decides how often they are drawn."""

    size: PositiveInt = 512
    every: PositiveInt = 100  # steps between two choices of candidates
    power: PositiveFloat = 1.0  # of the residual
    floor: NonNegativeFloat = 1.0  # added to the density, whose mean is one


class PINN(Method):
    """Physics-informed network: solves an equation at points of its domain, without solved examples.

    `descent.steps` times `descent.batch` is the budget: evaluations of the residual at a point, with
    or without derivatives by the weights. Candidates of a pool are paid from it, by fewer steps; what
    `descent.then` takes comes on top.
    """

    requires: ClassVar = Residual
    chains: ClassVar = True

    width: PositiveInt = 32
    layers: PositiveInt = 2  # hidden ones, with tanh
    steepness: PositiveFloat = 5.0  # of the first layer at the start
    sampler: Literal["uniform", "grid", "noisy-grid", "lattice", "lhs", "pool"] = "uniform"
    pool: Pool = Pool()  # with sampler "pool"
    descent: Descent = Descent(steps=3000, batch=64, rate=2e-2, schedule="cosine")
    task: Collocation = Collocation()

    def check(self, info: DataInfo) -> None:
        """Raises GridError for points that make no grid, SpecError for a problem that does not fit."""
        trial = self.build(info)
        assert isinstance(trial, Trial)
        if self.descent.batch < 2:
            raise SpecError(
                f"descent.batch={self.descent.batch}: expected at least 2 points", mistakes=["batch"]
            )
        if self.sampler in ("grid", "noisy-grid"):
            sampling.points_per_axis(self.descent.batch, len(trial.problem.box))
        if self.num_steps < 1:
            raise SpecError(
                f"pool.size={self.pool.size} exceeds the whole budget of {self.descent.steps} steps of "
                f"{self.descent.batch} points; use a smaller pool or more steps",
                mistakes=["method.pool.size"],
            )
        self.task.check(info, trial)

    def check_workers(self, workers: int) -> None:
        """Raises SpecError where points or candidates cannot be shared equally."""
        super().check_workers(workers)
        if self.sampler == "pool" and self.pool.size % workers:
            raise SpecError(
                f"method.pool.size={self.pool.size} cannot be shared equally by {workers} workers; "
                f"choose a multiple of {workers}",
                mistakes=["method.pool.size"],
            )

    @property
    def num_steps(self) -> int:
        """Steps that the budget pays for."""
        return affordable(self.descent.steps * self.descent.batch, self._cost)

    def build(self, info: DataInfo) -> nn.Module:
        problem = problem_of(info)
        sizes = [len(problem.box), *[self.width] * self.layers, len(problem.unknowns)]
        return Trial(problem, MLP(sizes, steepness=self.steepness))

    def train(self, run: Run) -> nn.Module:
        trial = self.build(run.info)
        assert isinstance(trial, Trial)
        trial.to(run.device)
        descent = self.descent.model_copy(update={"steps": self.num_steps})
        points, watch = _Points(self, trial), self.task.watch(run)

        def loss(model: nn.Module, points: Tensor) -> Terms:
            assert isinstance(model, Trial)
            return self.task.loss(model, points, run)

        run.fit(
            trial,
            points,
            loss,
            descent,
            keep={"points": points},
            after=lambda done: watch.after(done - 1, trial),
        )
        return trial

    def evaluate(self, model: nn.Module, run: Run) -> Evaluation:
        assert isinstance(model, Trial)
        return self.task.evaluate(model, run)

    def operations(self, info: DataInfo) -> dict[str, Operation]:
        return {"solve": self.task.operation(problem_of(info))}

    def solve(self, model: nn.Module, points: Tensor) -> dict[str, Tensor]:
        """The unknowns at the points, their derivatives, and the residual of every equation."""
        assert isinstance(model, Trial)
        return self.task.solve(model, points)

    def _cost(self, step: int) -> int:
        refreshed = self.sampler == "pool" and step % self.pool.every == 0
        return self.descent.batch + (self.pool.size if refreshed else 0)


class _Points:
    """Where the residual is taken at every step; the candidates of a pool live through many of them."""

    def __init__(self, method: PINN, trial: Trial) -> None:
        self.method, self.trial = method, trial
        self.low, self.high = corners(trial.problem)
        size = method.pool.size
        self.candidates = torch.zeros(size, len(self.low), dtype=torch.float64)
        self.weights = torch.ones(size, dtype=torch.float64)

    def at(self, step: int, run: Run) -> Tensor:
        """This worker's share of a step's points, (batch / workers, coordinates)."""
        pool = self.method.pool
        if self.method.sampler == "pool" and step % pool.every == 0:
            generator = run.generator("candidates", step)
            self.candidates = sampling.uniform(pool.size, self.low, self.high, generator)
            self.weights = self._weights(run)
        drawn = self._drawn(self.method.descent.batch, run.generator("points", step))
        return run.share(drawn).to(run.device)

    def whole(self, run: Run) -> Tensor:
        """The points of an optimizer that takes the same ones at every step: as many as its batch says."""
        count = next(one.batch for one in self.method.descent.chain if one.whole)
        return run.share(self._drawn(count, run.generator("points", "whole"))).to(run.device)

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint holds."""
        return {"candidates": self.candidates, "weights": self.weights}

    def load_state_dict(self, content: dict[str, Tensor]) -> None:
        """The inverse of `state_dict`; points are drawn on the CPU."""
        self.candidates, self.weights = content["candidates"].cpu(), content["weights"].cpu()

    def _drawn(self, count: int, generator: torch.Generator) -> Tensor:
        low, high = self.low, self.high
        match self.method.sampler:
            case "uniform":
                return sampling.uniform(count, low, high, generator)
            case "grid":
                return sampling.grid(count, low, high)
            case "noisy-grid":
                return sampling.noisy_grid(count, low, high, generator)
            case "lattice":
                return sampling.lattice(count, low, high, generator)
            case "lhs":
                return sampling.latin_hypercube(count, low, high, generator)
            case "pool":
                return self.candidates[sampling.proportional(self.weights, count, generator)]

    def _weights(self, run: Run) -> Tensor:
        """|R|^power / mean |R|^power + floor."""
        share = run.share(self.candidates).to(run.device)
        self.trial.count(share, run)
        with torch.no_grad():
            squares = [r.double().square() for r in self.trial.residual(share).values()]
        size = torch.stack(squares).sum(0) ** (self.method.pool.power / 2)
        size = run.comm.gather(size).cpu()
        return size / size.mean().clamp(min=1e-300) + self.method.pool.floor
