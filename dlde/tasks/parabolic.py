"""The noun `BackwardPaths`: a parabolic equation as a value that is carried along simulated paths.

For u_t + 1/2 sum s_i^2 u_ii + mu . grad u + f(t, x, u, s grad u) = 0, u(T, x) = g(x), the processes
Y_n ~ u(t_n, X_n) and Z_n ~ s grad u(t_n, X_n) along a path X of the diffusion satisfy

    Y_{n+1} = Y_n - f(t_n, X_n, Y_n, Z_n) dt + Z_n . dW_n   and   Y_N = g(X_N).

A method chooses Y_0 and Z so that the mismatch Y_N - g(X_N) is small. What all such methods share is
here: the time grid, the paths, the recursion, the loss, the measurement and the served operation.
Source: Han, Jentzen & E, PNAS 115 (2018), arXiv 1707.02568; constants as in frankhan91/DeepBSDE.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from dlde import figures
from dlde.errors import NonFiniteError, SpecError
from dlde.figures import empty
from dlde.method import ArraySpec, DataInfo, Dim, Evaluation, Operation, Run
from dlde.problem import Semilinear
from dlde.spec import Spec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROBES = 64  # paths on which an equation is tried before anything is trained
BLOCK = 512  # paths that a measurement carries at once
STATES = 64  # of a region, at which its value is measured

Average = Callable[[Tensor], Tensor]  # the mean over the workers, differentiable


@dataclass(frozen=True)
class Paths:
    """Of the forward diffusion: states (batch, intervals + 1, dims), increments (batch, intervals, dims)."""

    states: Tensor
    increments: Tensor
    dt: float


class BackwardPaths(Spec):
    """Time grid, precision and loss of a value that is carried along paths."""

    intervals: PositiveInt = 20  # N; the error of the time grid falls like 1 / N
    precision: Literal["float32", "float64"] = "float32"
    clip: PositiveFloat = 50.0  # mismatch beyond which the loss grows linearly, in units of u
    window: PositiveInt = 100  # last steps over which the value is averaged
    test_paths: PositiveInt = 4096  # fresh ones, for measuring

    @property
    def dtype(self) -> torch.dtype:
        """Of paths, weights and answers."""
        return torch.float64 if self.precision == "float64" else torch.float32

    def check(self, info: DataInfo, *, region: float | None = None) -> None:
        """Try the equation on a few paths. Raises SpecError naming the time step that gives no numbers."""
        problem = problem_of(info)
        if problem.positive and region is not None and problem.start <= region:
            raise SpecError(
                f"method.region={region:g} around the state {problem.start:g} reaches states that are not "
                f"positive, which this equation does not have; choose a region below {problem.start:g}",
                mistakes=["method.region"],
            )
        generator = torch.Generator().manual_seed(0)
        paths = self._simulate(problem, self._starts(problem, PROBES, region, generator), generator)
        low, high = problem.value_range
        y = torch.linspace(low, high, PROBES, dtype=self.dtype)
        z = torch.randn(PROBES, problem.dims, generator=generator, dtype=self.dtype)
        z *= problem.value_scale / problem.dims
        for n in range(self.intervals):
            when = f"at time step {n} (t = {n * paths.dt:g})"
            x = paths.states[:, n]
            _must_be_finite(x, PROBES, problem.dims, what=f"the states {when}")
            _must_be_finite(problem.driver(n * paths.dt, x, y, z), PROBES, what=f"the driver f {when}")
        _must_be_finite(paths.states[:, -1], PROBES, problem.dims, what="the states at the horizon")
        _must_be_finite(problem.terminal(paths.states[:, -1]), PROBES, what="the terminal value g")

    def sample(self, run: Run, batch: int, *keys: str | int, region: float | None = None) -> Paths:
        """This worker's share of a batch of paths, a function of the run's seed and the keys.

        They start at x0, or uniformly in the box x0 +- `region`.
        """
        problem, generator = problem_of(run.info), run.generator("paths", *keys)
        starts = self._starts(problem, batch, region, generator)
        increments = self._increments(problem, batch, generator)
        dt = problem.horizon / self.intervals
        starts, increments = (run.share(part).to(run.device) for part in (starts, increments))
        return Paths(problem.paths(starts, increments, dt), increments, dt)

    def pilots(self, run: Run, batch: int, *, region: float | None = None) -> Tensor:
        """States (batch, intervals + 1, dims) of paths that every worker draws alike, for statistics."""
        problem, generator = problem_of(run.info), run.generator("pilots")
        starts = self._starts(problem, batch, region, generator)
        return self._simulate(problem, starts, generator).states.to(run.device)

    def mismatch(self, problem: Semilinear, paths: Paths, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Y_N - g(X_N) (batch,) of values y (batch,) at the start and controls z (intervals, batch, dims).

        Besides: up to which time step all Y are finite, a number on the device.
        """
        noise = (z * paths.increments.transpose(0, 1)).sum(-1)
        values = [y]
        for n, control in enumerate(z.unbind(0)):
            driver = problem.driver(n * paths.dt, paths.states[:, n], y, control)
            y = torch.add(y + noise[n], driver, alpha=-paths.dt)
            values.append(y)
        finite = torch.stack(values).detach().isfinite().all(1)
        return y - problem.terminal(paths.states[:, -1]), finite.cumprod(0).sum() - 1

    def loss(self, mismatch: Tensor) -> Tensor:
        """Mean square; a mismatch beyond `clip` counts by the tangent there, 2 clip |m| - clip^2."""
        size = mismatch.abs()
        return torch.where(size <= self.clip, mismatch.square(), (2 * size - self.clip) * self.clip).mean()

    def reference(self, run: Run) -> Tensor | None:
        """u(0, x0) on the device, for the curve of the error; None where none is known."""
        reference = problem_of(run.info).reference(state_of(run.info))
        return None if reference is None else reference[0].to(run.device)

    def measure(
        self,
        run: Run,
        value: Callable[[Tensor], Tensor],
        controls: Callable[[Tensor], Tensor],
        *,
        region: float | None = None,
    ) -> Evaluation:
        """A trained value (batch, dims) -> (batch,) and its controls (batch, intervals + 1, dims) -> z.

        `value` and `relative_error` are at x0 (over a region: the mean over `STATES` random states, besides
        `worst_relative_error`, and `constant_relative_error` of the best constant); `mismatch` is the root
        mean square of Y_N - g(X_N) over fresh paths, `unexplained` its square over the variance of g(X_N).
        """
        problem = problem_of(run.info)
        metrics, curves = self._compare(run, value, region)
        paths = self.sample(run, self.test_paths, "test", region=region)
        mismatches = []
        for x, increments in zip(
            torch.split(paths.states, BLOCK), torch.split(paths.increments, BLOCK), strict=True
        ):
            block = Paths(x, increments, paths.dt)
            mismatches.append(self.mismatch(problem, block, value(x[:, 0]), controls(x))[0].double())
        mismatch = torch.cat(mismatches)
        payoff = problem.terminal(paths.states[:, -1]).double()
        metrics["mismatch"] = float(mismatch.square().mean().sqrt())
        metrics["unexplained"] = float(mismatch.square().mean() / payoff.var().clamp(min=1e-30))
        run.figure("terminal", _terminal(payoff, payoff + mismatch, metrics["unexplained"]))
        return Evaluation(metrics=metrics, curves=curves)

    def operation(self, info: DataInfo, *, region: float | None = None) -> Operation:
        """The served value and gradient at time 0: at x0 alone, or anywhere in the region."""
        problem = problem_of(info)
        batch, state = Dim(name="batch"), Dim(name="state", size=problem.dims)
        dtype, units = self.precision, problem.units
        if region is None:
            where = (
                f"at the trained state, {problem.start:g} in every entry, and at no other (a region is "
                "trained by method bsde-actor-critic, field region)"
            )
        else:
            where = f"in the trained region, {problem.start:g} +- {region:g} in every entry"
        reach = region or 0.0
        return Operation(
            summary=f"Value and gradient of the solution at time 0 {where}",
            inputs={
                "x0": ArraySpec(
                    dims=(batch, state),
                    dtype=dtype,
                    units=units,
                    long_name="state",
                    bounds=((problem.start - reach, problem.start + reach),),
                )
            },
            outputs={
                "value": ArraySpec(dims=(batch,), dtype=dtype, units=units, long_name="u(0, x0)"),
                "gradient": ArraySpec(
                    dims=(batch, state),
                    dtype=dtype,
                    units="dimensionless",
                    long_name="gradient of u(0, .) at x0",
                ),
            },
        )

    def _compare(
        self, run: Run, value: Callable[[Tensor], Tensor], region: float | None
    ) -> tuple[dict[str, float], dict[str, list[tuple[float, float]]]]:
        problem, at_start = problem_of(run.info), state_of(run.info)
        metrics = {"value": float(value(at_start.to(run.device, self.dtype))[0])}
        states = at_start
        if region is not None:
            states = self._starts(problem, STATES, region, run.generator("states")).double()
        reference = problem.reference(states)
        if reference is None:
            return metrics, {}
        answered = value(states.to(run.device, self.dtype)).double().cpu()
        error = (answered / reference - 1).abs()
        metrics["relative_error"] = float(error.mean())
        if region is None:
            return metrics, {}
        metrics["worst_relative_error"] = float(error.max())
        metrics["constant_relative_error"] = float((reference.median() / reference - 1).abs().mean())
        run.figure("region", _region(reference, answered, metrics["relative_error"]))
        return metrics, {
            "value_over_reference": list(zip(reference.tolist(), answered.tolist(), strict=True))
        }

    def _starts(
        self, problem: Semilinear, batch: int, region: float | None, generator: torch.Generator
    ) -> Tensor:
        starts = torch.full((batch, problem.dims), problem.start, dtype=torch.float64).to(self.dtype)
        if region is not None:
            starts += region * (2 * torch.rand(starts.shape, generator=generator, dtype=self.dtype) - 1)
        return starts

    def _increments(self, problem: Semilinear, batch: int, generator: torch.Generator) -> Tensor:
        shape = (batch, self.intervals, problem.dims)
        normal = torch.randn(shape, generator=generator, dtype=self.dtype)
        return normal.mul_(math.sqrt(problem.horizon / self.intervals))

    def _simulate(self, problem: Semilinear, starts: Tensor, generator: torch.Generator) -> Paths:
        increments = self._increments(problem, len(starts), generator)
        dt = problem.horizon / self.intervals
        return Paths(problem.paths(starts, increments, dt), increments, dt)


class Recent(nn.Module):
    """The last values of a number that is trained; their mean is the answer."""

    values: Tensor

    def __init__(self, first: Tensor, window: int) -> None:
        super().__init__()
        self.register_buffer("values", first.detach().repeat(window))

    def keep(self, step: int, value: Tensor) -> None:
        """The value after `step` (from 0); until there are enough, it stands for those to come as well."""
        window = len(self.values)
        place = self.values[step:] if step < window else self.values[step % window]
        place.copy_(value.detach())

    def mean(self) -> Tensor:
        """A number on the device."""
        return self.values.mean()


class Finite:
    """Watches up to which time step the values of a training were finite, without looking at them.

    As a context: a NonFiniteError that leaves it names the time step.
    """

    def __init__(self, intervals: int, dt: float) -> None:
        self.intervals, self.dt = intervals, dt
        self.reached: Tensor | None = None

    def see(self, reached: Tensor) -> None:
        """`reached` as `BackwardPaths.mismatch` gives it."""
        before = reached if self.reached is None else self.reached
        # later steps are not finite because of the first that was not
        self.reached = torch.where(before < self.intervals, before, reached)

    def __enter__(self) -> Finite:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, NonFiniteError) or self.reached is None:
            return
        step = int(self.reached)
        if step < self.intervals:
            raise NonFiniteError(
                f"{error.message}. The value became not finite in time step {step} "
                f"(t = {step * self.dt:g}) of {self.intervals}: look at the driver f there",
                **{**error.facts, "time_step": step},
            ) from error


def problem_of(info: DataInfo) -> Semilinear:
    """The equation of the run."""
    problem: Any = info.problem
    assert isinstance(problem, Semilinear)
    return problem


def state_of(info: DataInfo) -> Tensor:
    """x0 as (1, dims), float64."""
    problem = problem_of(info)
    return torch.full((1, problem.dims), problem.start, dtype=torch.float64)


def _must_be_finite(values: Tensor, *shape: int, what: str) -> None:
    if tuple(values.shape) != shape:
        raise SpecError(
            f"{what} has shape {tuple(values.shape)}, expected {shape}: look at the problem's file",
            mistakes=["problem"],
        )
    bad = int((~values.isfinite()).sum())
    if bad:
        raise SpecError(
            f"{what} holds {bad} values of {values.numel()} that are NaN or infinite, on trial paths: look "
            "at the problem's parameters (and at method.paths.intervals, where the time step is too long)",
            mistakes=["problem"],
        )


def _terminal(payoff: Tensor, carried: Tensor, unexplained: float) -> Figure:
    """Y_N against g(X_N) on fresh paths."""
    figure, axes = _against(payoff, carried, "a fresh path", size=2.0)
    axes.set(xlabel="terminal value g(X)", ylabel="carried value Y", title=f"Unexplained: {unexplained:.1%}")
    return figure


def _region(reference: Tensor, answered: Tensor, error: float) -> Figure:
    """Values over a region of states against the reference."""
    figure, axes = _against(reference, answered, "a state of the region", size=4.0)
    axes.set(xlabel="reference u(0, x)", ylabel="answered", title=f"Mean relative error {error:.2%}")
    return figure


def _against(expected: Tensor, found: Tensor, label: str, *, size: float) -> tuple[Figure, Axes]:
    figure = empty((4.6, 4.2))
    axes = figure.subplots()
    x, y = expected.cpu().numpy(), found.cpu().numpy()
    ends = (min(x.min(), y.min()), max(x.max(), y.max()))
    axes.plot(x, y, "o", color=figures.REFERENCE, markersize=size, alpha=0.5, markeredgewidth=0, label=label)
    axes.plot(ends, ends, color=figures.INK, linewidth=1.0, linestyle="--", label="equal")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure, axes
