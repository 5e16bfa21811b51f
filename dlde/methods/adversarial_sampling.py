"""Adversarial sampling: a second network learns where the solution is worst, and places the points there.

A physics-informed network u(x; theta) = A(x) + D(x) N(x; theta) minimises its residual R[u]^2 over
points, a sampler x = T(z; psi) of z uniform on the unit cube maximises it:

    solver   min over theta   mean of R^2 over a batch, the share rho of it from the sampler
    sampler  max over psi     E_z log(R(T(z))^2 + floor) + lam H,   H = E_z log |det dT/dz|

H is the entropy of the sampled density p up to a constant; the best p is the Gibbs density

    p(x) ~ (R(x)^2 + floor)^(1 / lam),

for lam = 1 the squared residual itself, for large lam uniform; without H all points fall on one.
T = low + (high - low) sigmoid(e^s logit(z) + b + M(z)) with weights s, b for each axis and a network M
whose last layer begins as zero: it is the identity at the start and never leaves the box; s and b
alone draw all points together in any place.

Source: the workshop poster Adversarial Sampling for Solving Differential Equations with Neural
Networks, of which the abstract was at hand. From it: the game, and the baselines (uniform, equally
spaced with noise). Ours: the shape of T, the entropy, the share rho, the weights and the cap. z and the
points that are not placed come from a shifted lattice: with independent ones, or with points drawn
again from a buffer of the last batches, the scatter of the loss decided the error.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from dlde.claims import Check, Table, at_most, needs
from dlde.errors import InputError, SpecError
from dlde.method import ArraySpec, DataInfo, Descent, Dim, Evaluation, Method, Operation, Option, Run
from dlde.nn.mlp import MLP
from dlde.numerics import jets, sampling
from dlde.problem import Residual
from dlde.tasks.collocation import Collocation, Trial, affordable, corners, draw_density, problem_of

AXES = "abc"  # of the unit cube
CELLS = {1: 50, 2: 20}  # per axis, by dimension, that densities are compared over
TINY = 1e-12  # added to the squared residual besides: its logarithm where the equation holds exactly
EDGE = 1e-6  # z keeps this distance from the cube's faces, where logit(z) is infinite


class Sampler(nn.Module):
    """z (points, coordinates) in the unit cube -> points of the box."""

    low: Tensor
    high: Tensor

    def __init__(self, low: Tensor, high: Tensor, width: int) -> None:
        super().__init__()
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        # double precision: log-determinants near the faces, at no cost for so small a network
        self.network = MLP([len(low), width, width, len(low)], dtype=torch.float64)
        last = self.network.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.scale = nn.Parameter(torch.zeros_like(low))
        self.shift = nn.Parameter(torch.zeros_like(low))

    def forward(self, z: Tensor) -> Tensor:
        return self._push(z, ())[0]

    def with_density(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The points, and log |det dT/dz| (points,): minus the log density with respect to uniform."""
        points, slopes = self._push(z, AXES[: z.shape[1]])
        return points, log_abs_det(slopes)

    def folded(self, z: Tensor) -> float:
        """Fraction of z where the map turns its orientation round: zero where it is one to one."""
        with torch.no_grad():
            _, slopes = self._push(z, AXES[: z.shape[1]])
            return float((torch.linalg.det(slopes) < 0).double().mean())

    def _push(self, z: Tensor, along: str | tuple[()]) -> tuple[Tensor, Tensor]:
        """Points, and dT_i/dz_j of the unit cube's map (points, i, j)."""
        names = AXES[: z.shape[1]] if along else tuple(map(str, range(z.shape[1])))
        x = jets.coordinates(z.clamp(EDGE, 1 - EDGE), tuple(names), along)
        logit = (x.log() - (1 - x).log()) * self.scale.exp() + self.shift
        unit = (logit + self.network(2 * x - 1)).sigmoid()
        slopes = torch.stack([unit[name] for name in along], dim=-1) if along else z.new_empty(0)
        return self.low + (self.high - self.low) * unit.value, slopes


class Game(nn.Module):
    """Solver and sampler; the model called is the solver."""

    def __init__(self, trial: Trial, sampler: Sampler) -> None:
        super().__init__()
        self.trial = trial
        self.sampler = sampler

    def forward(self, points: Tensor) -> Tensor:
        u: Tensor = self.trial(points)
        return u


class AdversarialSampling(Method):
    """Adversarial sampling: points of a physics-informed network, placed by a second that attacks it.

    `descent.steps` times `descent.batch` is the budget: evaluations of the residual at a point, with
    or without derivatives by weights or point. The sampler's own are paid from it, by fewer steps.
    """

    requires: ClassVar = Residual

    width: PositiveInt = 32  # of the solver
    layers: PositiveInt = 2  # hidden ones, with tanh
    steepness: PositiveFloat = 5.0  # of the first layer at the start
    descent: Descent = Descent(steps=3000, batch=64, rate=2e-2, schedule="cosine")
    pretrain: NonNegativeInt = 200  # steps on uniform points before the game

    sampler_width: PositiveInt = 32  # of its two hidden layers
    sampler_rate: PositiveFloat = 3e-3  # of Adam with betas (0.5, 0.999)
    sampler_batch: PositiveInt = 64  # points of one step of the sampler
    sampler_every: PositiveInt = 5  # solver's steps between two of the sampler
    lam: PositiveFloat = 1.0  # weight of the entropy
    entropy: Literal["exact", "nearest", "none"] = "exact"  # nearest: from distances to neighbours
    rho: Annotated[float, Field(ge=0, le=1)] = 0.5  # share of the solver's points from the sampler
    # A placed point weighs |det dT/dz|, one over its density, but at most this: the batch then estimates the
    # mean over the box, only with less scatter. Without weights (null) the batch is as placed.
    heaviest: PositiveFloat | None = 4.0
    # Added to the squared residual in the attack, as a fraction of its mean over the attacked points:
    # the logarithm's wells along the residual's zero lines would otherwise lead the sampler astray.
    floor: NonNegativeFloat = 0.01
    cap: Annotated[float, Field(gt=0, le=1)] = 0.999  # quantile of the attack that larger ones count as
    # Steps of the sampler alone against the finished solver, and not part of the budget.
    settle: NonNegativeInt = 0
    task: Collocation = Collocation()

    def check(self, info: DataInfo) -> None:
        """Raises SpecError for settings and problems that do not fit together."""
        game = self.build(info)
        assert isinstance(game, Game)
        dims, batch = len(game.trial.problem.box), min(self.descent.batch, self.sampler_batch)
        if batch < 2:
            raise SpecError(
                f"descent.batch={self.descent.batch}, sampler_batch={self.sampler_batch}: "
                "expected at least 2 points in each",
                mistakes=["method.descent.batch", "method.sampler_batch"],
            )
        if self.entropy == "exact" and dims > len(AXES):
            raise SpecError(
                f"method.entropy=exact takes determinants in at most {len(AXES)} dimensions, but the problem "
                f"has {dims}; use method.entropy: nearest",
                mistakes=["method.entropy"],
            )
        if self.heaviest is not None and dims > len(AXES):
            raise SpecError(
                f"method.heaviest={self.heaviest:g} weighs points by a density that is known in at most "
                f"{len(AXES)} dimensions, but the problem has {dims}; use method.heaviest: null",
                mistakes=["method.heaviest"],
            )
        if self.num_steps < 1:
            raise SpecError(
                f"sampler_batch={self.sampler_batch} exceeds the whole budget of {self.descent.steps} steps "
                f"of {self.descent.batch} points; use fewer points or more steps",
                mistakes=["method.sampler_batch"],
            )
        self.task.check(info, game.trial)
        self.task.check_slopes(game.trial)

    def check_workers(self, workers: int) -> None:
        """Raises SpecError where points cannot be shared equally."""
        super().check_workers(workers)
        if self.sampler_batch % workers:
            raise SpecError(
                f"method.sampler_batch={self.sampler_batch} cannot be shared equally by {workers} workers; "
                f"choose a multiple of {workers}",
                mistakes=["method.sampler_batch"],
            )

    @property
    def num_steps(self) -> int:
        """Steps of the solver that the budget pays for."""
        return affordable(self.descent.steps * self.descent.batch, self._cost)

    def build(self, info: DataInfo) -> nn.Module:
        problem = problem_of(info)
        sizes = [len(problem.box), *[self.width] * self.layers, len(problem.unknowns)]
        return Game(
            Trial(problem, MLP(sizes, steepness=self.steepness)),
            Sampler(*corners(problem), self.sampler_width),
        )

    def train(self, run: Run) -> nn.Module:
        game = self.build(run.info)
        assert isinstance(game, Game)
        game.to(run.device)
        trial, sampler = game.trial, game.sampler
        descent = self.descent.model_copy(update={"steps": self.num_steps})
        solving = descent.optimizer_of(trial.parameters())
        attacking = torch.optim.Adam(sampler.parameters(), self.sampler_rate, betas=(0.5, 0.999), fused=True)
        watch = self.task.watch(run)
        state = run.state(game=game, solving=solving, attacking=attacking)
        for step in run.steps(descent.steps, state=state, seconds=descent.seconds, name="game"):
            descent.set_rate(solving, step)
            points, weights = (run.share(part) for part in self._points(step, run, sampler))
            run.descend(solving, self.task.loss(trial, points, run, weights), clip=descent.clip)
            if self._attacks(step):
                self._attack(game, attacking, run, "attack", step)
            watch.after(step, trial)
        if self.settle:
            state = run.state(game=game, attacking=attacking)
            for step in run.steps(self.settle, state=state, name="settle"):
                for group in attacking.param_groups:
                    group["lr"] = self.sampler_rate * 0.5 * (1 + math.cos(math.pi * step / self.settle))
                self._attack(game, attacking, run, "settle", step)
        return game

    def evaluate(self, model: nn.Module, run: Run) -> Evaluation:
        assert isinstance(model, Game)
        measured = self.task.evaluate(model.trial, run)
        if len(model.sampler.low) not in CELLS:
            return measured
        target, found = self.densities(model)
        distance = 0.5 * float(
            (target - found).abs().mean() * (model.sampler.high - model.sampler.low).prod()
        )
        level = f"lam = {self.lam:g}, total variation {distance:.3f}"
        run.figure("density", draw_density(model.trial.problem, target, found, level))
        extra = {"density_distance": distance, "folded": self._folded(model.sampler)}
        return replace(measured, metrics={**measured.metrics, **extra})

    def densities(self, model: Game) -> tuple[Tensor, Tensor]:
        """Over equal cells of the box: the Gibbs density of the solver's residual, and the sampler's."""
        sampler, dims = model.sampler, len(model.sampler.low)
        cells, volume = CELLS[dims], (sampler.high - sampler.low).prod()
        fine = cells * (64 if dims == 1 else 8)
        corner = torch.zeros(dims, dtype=torch.float64)
        z = sampling.midpoints(fine, corner, corner + 1).to(sampler.low.device)
        with torch.no_grad():
            x = sampler.low + (sampler.high - sampler.low) * z
            squares = self._squares(model.trial, x)
            weights = squares.add(self.floor * squares.mean() + TINY).pow(1 / self.lam)
            counts = []
            for points, mass in (
                (z, weights),
                ((sampler(z) - sampler.low) / (sampler.high - sampler.low), None),
            ):
                place = (points * cells).long().clamp(0, cells - 1)
                flat = place[:, 0] if dims == 1 else place[:, 0] * cells + place[:, 1]
                counts.append(torch.bincount(flat, mass, minlength=cells**dims).double())
        target, found = (count / count.sum() * len(count) / volume for count in counts)
        return target.view([cells] * dims), found.view([cells] * dims)

    def operations(self, info: DataInfo) -> dict[str, Operation]:
        problem = problem_of(info)
        dims = (Dim(name="points"),)
        coordinate = Dim(name="coordinate", size=len(problem.box))
        names = ", ".join(problem.box)
        sample = Operation(
            summary=f"Points ({names}) where the solution is hard, with their density",
            options={
                "n": Option(default=256, minimum=1, maximum=1_000_000, summary="points to draw"),
                "seed": Option(default=0, minimum=0, summary="of the random numbers"),
            },
            outputs={
                "points": ArraySpec(
                    dims=(*dims, coordinate), dtype="float64", long_name=f"coordinates {names}"
                ),
                "density": ArraySpec(dims=dims, dtype="float64", long_name="probability density"),
            },
        )
        operations = {"solve": self.task.operation(problem)}
        return operations | ({"sample": sample} if len(problem.box) <= len(AXES) else {})

    def solve(self, model: nn.Module, points: Tensor) -> dict[str, Tensor]:
        """The unknowns at the points, their derivatives, and the residual of every equation."""
        assert isinstance(model, Game)
        return self.task.solve(model.trial, points)

    def sample(self, model: nn.Module, n: int = 256, seed: int = 0) -> dict[str, Tensor]:
        """Points of the sampler (n, coordinates) and their density (n,).

        Raises InputError for a sampler that is not one to one: several z lead to one point there, and
        the determinant at one of them is not the density.
        """
        assert isinstance(model, Game)
        if part := self._folded(model.sampler):
            raise InputError(
                f"the sampler's map folds over itself at {part:.1%} of the random numbers, so that the "
                "density of its points is not known; train it with a smaller method.sampler_rate, or a "
                "larger method.lam"
            )
        low, high = model.sampler.low, model.sampler.high
        z = torch.rand((n, len(low)), generator=torch.Generator().manual_seed(seed), dtype=low.dtype)
        points, log_det = model.sampler.with_density(z.to(low.device))
        return {"points": points, "density": torch.exp(-log_det) / (high - low).prod()}

    def _cost(self, step: int) -> int:
        return self.descent.batch + (self.sampler_batch if self._attacks(step) else 0)

    def _attacks(self, step: int) -> bool:
        return step >= self.pretrain and (step - self.pretrain) % self.sampler_every == 0

    def _points(self, step: int, run: Run, sampler: Sampler) -> tuple[Tensor, Tensor]:
        """The solver's batch (batch, coordinates), evenly spread points before placed ones; weights."""
        placed = round(self.rho * self.descent.batch) if step >= self.pretrain else 0
        z = self._cube(run.generator("points", step), self.descent.batch - placed, sampler)
        points = sampler.low + (sampler.high - sampler.low) * z
        weights = torch.ones_like(points[:, 0])
        if not placed:
            return points, weights
        z = self._cube(run.generator("placed", step), placed, sampler)
        with torch.no_grad():
            if self.heaviest is None:
                chosen, heavy = sampler(z), torch.ones_like(z[:, 0])
            else:
                chosen, log_det = sampler.with_density(z)
                heavy = log_det.exp().clamp(max=self.heaviest)
        return torch.cat([points, chosen]), torch.cat([weights, heavy])

    def _cube(self, generator: torch.Generator, count: int, sampler: Sampler) -> Tensor:
        corner = torch.zeros(sampler.low.shape, dtype=torch.float64)
        return sampling.lattice(count, corner, corner + 1, generator).to(sampler.low.device)

    def _attack(self, game: Game, optimizer: torch.optim.Optimizer, run: Run, phase: str, step: int) -> None:
        """One step of the sampler against the solver as it is.

        Every worker places all points, as the entropy needs them, and attacks at its share of them.
        """
        z = self._cube(run.generator(phase, step), self.sampler_batch, game.sampler)
        points, log_det = self._place(game.sampler, z)
        share = run.share(points)
        game.trial.count(share, run)
        squares = self._squares(game.trial, share)
        everywhere = run.comm.gather(squares.detach())
        floor = self.floor * everywhere.mean() + TINY
        attack = torch.log(squares + floor)
        limit = torch.quantile(torch.log(everywhere + floor), self.cap)
        terms = {"attack": -torch.minimum(attack, limit).mean(), "spread": -log_det.mean()}
        run.descend(optimizer, terms, weights={"spread": 0.0 if self.entropy == "none" else self.lam})

    def _folded(self, sampler: Sampler) -> float:
        corner = torch.zeros(sampler.low.shape, dtype=torch.float64)
        z = sampling.sobol(4096, corner, corner + 1, seed=0)
        return sampler.folded(z.to(sampler.low.device))

    def _squares(self, trial: Trial, points: Tensor) -> Tensor:
        return torch.stack([r.double().square() for r in trial.residual(points).values()]).sum(0)

    def _place(self, sampler: Sampler, z: Tensor) -> tuple[Tensor, Tensor]:
        if self.entropy == "exact":
            return sampler.with_density(z)
        points = sampler(z)
        if self.entropy == "none":
            return points, points.new_zeros(len(points)) + 0 * points.sum()
        return points, log_distance((points - sampler.low) / (sampler.high - sampler.low))


def log_abs_det(matrices: Tensor) -> Tensor:
    """log |det| of (points, d, d); written out for d <= 2."""
    if matrices.shape[-1] == 1:
        return torch.log(matrices[:, 0, 0].abs())
    if matrices.shape[-1] == 2:
        a, b, c, d = matrices.flatten(1).unbind(1)
        return torch.log((a * d - b * c).abs())
    logarithm: Tensor = torch.linalg.slogdet(matrices).logabsdet
    return logarithm


def log_distance(points: Tensor) -> Tensor:
    """d log(distance to the nearest other point), (points,): the entropy's estimate up to a constant.

    Kozachenko & Leonenko, Problems of Information Transmission 23 (1987).
    """
    apart = torch.cdist(points, points.detach(), compute_mode="donot_use_mm_for_euclid_dist")
    apart = apart + torch.diag(torch.full_like(points[:, 0], torch.inf))
    nearest = apart.detach().argmin(1)
    squares = (points - points[nearest]).square().sum(1)
    return 0.5 * points.shape[1] * torch.log(squares + 1e-24)


@needs(variants=("adversarial", "uniform", "noisy-grid", "density"), axes=("problem",))
def claim(results: Table) -> list[Check]:
    """Where the difficulty sits in a small part of the domain, an adversary finds it.

    At equal evaluations of the residual, the sampler's own included, the median relative error is at
    most half that of points drawn uniformly, and of an equally spaced grid with noise, on a boundary
    layer (diffusivity 0.02, five seeds) and on a peak (sharpness 100, three seeds), and at most 1.3
    times theirs on a smooth problem. The poster's abstract claims a gain without figures: these are
    estimates. Against a frozen solver, the trained sampler's density lies within a total variation
    of 0.15 of the squared residual's, as the Gibbs form at lam = 1 says.
    """
    checks = []
    for problem, factor in (("layer", 0.5), ("peak", 0.5), ("smooth", 1.3)):
        ours = results.median("relative_l2", variant="adversarial", problem=problem)
        seeds = results.seeds("relative_l2", variant="adversarial", problem=problem)
        spent = results.by_seed("evaluations", variant="adversarial", problem=problem)
        for baseline in ("uniform", "noisy-grid"):
            theirs = results.median("relative_l2", variant=baseline, problem=problem)
            text = f"{problem}: the error is at most {factor:g} times that of {baseline} points (estimate)"
            checks.append(at_most(text, ours, factor * theirs, seeds))
            allowed = results.by_seed("evaluations", variant=baseline, problem=problem)
            text = f"{problem}: no more evaluations than with {baseline} points"
            checks.append(at_most(text, max(spent.values()), min(allowed.values()), seeds))
    distance = results.worst("density_distance", variant="density")
    seeds = results.seeds("density_distance", variant="density")
    text = "the sampler's density is within a total variation of 0.15 of the residual's (exact property)"
    checks.append(at_most(text, distance, 0.15, seeds))
    return checks
