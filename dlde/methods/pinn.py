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
from dlde.method import DataInfo, Descent, Evaluation, Method, Operation, Run
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
    or without derivatives by the weights. Candidates of a pool are paid from it, by fewer steps.
    """

    requires: ClassVar = Residual

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
        optimizer = descent.optimizer_of(trial.parameters())
        low, high = corners(trial.problem)
        watch = self.task.watch(run)
        state = run.state(
            trial=trial,
            optimizer=optimizer,
            candidates=torch.zeros(self.pool.size, len(low), dtype=torch.float64),
            weights=torch.ones(self.pool.size, dtype=torch.float64),
        )
        for step in run.steps(descent.steps, state=state, seconds=descent.seconds):
            descent.set_rate(optimizer, step)
            if self.sampler == "pool" and step % self.pool.every == 0:
                generator = run.generator("candidates", step)
                state.candidates = sampling.uniform(self.pool.size, low, high, generator)
                state.weights = self._weights(trial, state.candidates, run)
            generator = run.generator("points", step)
            points = run.share(self._points(low, high, state, generator)).to(run.device)
            run.descend(optimizer, self.task.loss(trial, points, run), clip=descent.clip)
            watch.after(step, trial)
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

    def _points(self, low: Tensor, high: Tensor, state: object, generator: torch.Generator) -> Tensor:
        count = self.descent.batch
        match self.sampler:
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
                weights, candidates = state.weights, state.candidates  # type: ignore[attr-defined]
                return candidates[sampling.proportional(weights, count, generator)]  # type: ignore[no-any-return]

    def _weights(self, trial: Trial, candidates: Tensor, run: Run) -> Tensor:
        """|R|^power / mean |R|^power + floor, on the CPU, where points are drawn."""
        share = run.share(candidates).to(run.device)
        trial.count(share, run)
        with torch.no_grad():
            squares = [r.double().square() for r in trial.residual(share).values()]
        size = torch.stack(squares).sum(0) ** (self.pool.power / 2)
        size = run.comm.gather(size).cpu()
        return size / size.mean().clamp(min=1e-300) + self.pool.floor
