"""The noun `Feedback`: a law that sees a random field and answers with a control, and what it costs.

What every controller of an actuated field shares: episodes by simulation, the cost on paths of noise
that nobody was trained on (the same for all laws), pictures, and the served operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from pydantic import Field
from scipy.stats import t as student
from torch import Tensor, nn

from dlde.errors import SpecError
from dlde.figures import empty
from dlde.method import ArraySpec, DataInfo, Dim, Evaluation, Operation, Run
from dlde.numerics.threads import one_thread
from dlde.problem import ActuatedField, Seed
from dlde.spec import Spec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Law = Callable[[Tensor], Tensor]  # fields (batch, num_points) -> controls (batch, places)

UNCONTROLLED, CONTROLLED, INK = "#b0b0b0", "#1f4e79", "#333333"


class SaturatedLinear(nn.Module):
    """a = -K (u - target), cut at the limit: fields (batch, points) -> controls (batch, places)."""

    gain: Tensor
    target: Tensor

    def __init__(self, gain: Tensor, target: Tensor, limit: float) -> None:
        super().__init__()
        self.limit = limit
        self.register_buffer("gain", gain.float())
        self.register_buffer("target", target.float())

    def forward(self, u: Tensor) -> Tensor:
        return self.scaled(u, 1.0)

    def scaled(self, u: Tensor, factor: Tensor | float) -> Tensor:
        """The same with `factor` times K."""
        return (-factor * (u - self.target) @ self.gain.T).clamp(-self.limit, self.limit)


class Controller(nn.Module):
    """A law, and the force that its controls make: fields (batch, points) -> controls (batch, places)."""

    shapes: Tensor

    def __init__(self, law: nn.Module, problem: ActuatedField) -> None:
        super().__init__()
        self.law = law
        self.register_buffer("shapes", problem.shapes.float())

    def forward(self, u: Tensor) -> Tensor:
        control: Tensor = self.law(u)
        return control

    def force(self, control: Tensor) -> Tensor:
        """(batch, places) -> (batch, points)."""
        return control @ self.shapes.to(control)


@dataclass(frozen=True)
class Paths:
    """Episodes under one law."""

    fields: Tensor  # (paths, decisions + 1, points)
    controls: Tensor  # (paths, decisions, places)
    costs: Tensor  # (paths, decisions): minus the rewards

    @property
    def totals(self) -> Tensor:
        """Cost (paths,) of the whole episode."""
        return self.costs.sum(1)


class Feedback(Spec):
    """On which paths a law is measured."""

    paths: Annotated[int, Field(ge=2)] = 64
    seed: Seed = 2110_11265  # of the paths: the same for all laws, and none that is trained on

    def evaluate(self, law: nn.Module, run: Run) -> Evaluation:
        """Mean cost of an episode with its 95 % interval over the paths, beside that without control.

        `distance`, `energy` and `slope` are means over paths, time and space of (u - target)^2, of the
        squared control, and of the squared slope of the field, in which shocks show.
        """
        problem = actuated(run.info)
        law.to(run.device).eval()
        episodes = range(self.paths)
        acted = simulate(problem, law, self.seed, episodes, run.device)
        free = simulate(problem, at_rest(problem), self.seed, episodes, run.device)
        cost, low, high = interval(acted.totals)
        uncontrolled = float(free.totals.mean())
        run.figure("fields", fields_figure(problem, free, acted))
        run.figure("cost", cost_figure(problem, free, acted))
        times = [problem.interval * (number + 1) for number in range(problem.decisions)]
        return Evaluation(
            metrics={
                "cost": cost,
                "cost_low": low,
                "cost_high": high,
                "cost_uncontrolled": uncontrolled,
                "relative_cost": cost / max(uncontrolled, 1e-300),
                "distance": float((acted.fields[:, 1:] - problem.target.to(run.device)).square().mean()),
                "energy": float(acted.controls.square().mean()),
                "slope": float(slopes(problem, acted.fields[:, 1:]).mean()),
                "slope_uncontrolled": float(slopes(problem, free.fields[:, 1:]).mean()),
            },
            curves={
                name: list(zip(times, (paths.costs.mean(0) / problem.interval).tolist(), strict=True))
                for name, paths in (("cost_over_time", acted), ("cost_over_time_uncontrolled", free))
            },
        )

    def operation(self, info: DataInfo) -> Operation:
        """The served law: it keeps nothing from one field to the next.

        A field more than three times as large as any that leaves itself to the noise is answered with
        a warning.
        """
        problem = actuated(info)
        batch = Dim(name="batch")
        along = Dim(name="x", size=problem.axis.num_points, axis=problem.axis)
        reach = 3 * largest_field(problem)
        return Operation(
            summary="The control to hold now, and the force field that it makes",
            inputs={
                "u": ArraySpec(dims=(batch, along), long_name="field now", trained_range=((-reach, reach),))
            },
            outputs={
                "a": ArraySpec(
                    dims=(batch, Dim(name="actuator", size=len(problem.shapes))), long_name="control"
                ),
                "force": ArraySpec(dims=(batch, along), long_name="force on the field"),
            },
        )

    def answer(self, model: nn.Module, u: Tensor) -> dict[str, Tensor]:
        """What the operation gives for fields (batch, points)."""
        assert isinstance(model, Controller)
        control = model(u)
        return {"a": control, "force": model.force(control)}


def actuated(info: DataInfo) -> ActuatedField:
    """The problem. Raises SpecError where it is none that a law can act on."""
    problem: object = info.problem
    if not isinstance(problem, ActuatedField):
        raise SpecError(
            f"a feedback law needs a problem with actuators, such as controlled-burgers; got {problem!r}",
            mistakes=["problem"],
        )
    return problem


def simulate(
    problem: ActuatedField,
    law: Law,
    seed: int,
    episodes: Sequence[int],
    device: torch.device | str = "cpu",
) -> Paths:
    """Whole episodes in float64, one decision after another; the law sees float32."""
    with torch.no_grad(), one_thread():
        state = problem.initial(seed, episodes).to(device)
        fields, controls, costs = [state], [], []
        for decision in range(problem.decisions):
            control = law(state.float())
            noise = problem.noise(seed, episodes, decision).to(device)
            state, reward = problem.step(state, control, noise)
            fields.append(state)
            controls.append(control)
            costs.append(-reward)
        return Paths(torch.stack(fields, 1), torch.stack(controls, 1).double(), torch.stack(costs, 1))


def at_rest(problem: ActuatedField) -> Law:
    """The law that does nothing."""
    return lambda u: u.new_zeros(len(u), len(problem.shapes))


def interval(values: Tensor) -> tuple[float, float, float]:
    """Mean of independent values (count,), and the ends of its 95 % interval (Student)."""
    half = float(student.ppf(0.975, len(values) - 1) * values.std() / math.sqrt(len(values)))
    mean = float(values.mean())
    return mean, mean - half, mean + half


@lru_cache(maxsize=32)
def largest_field(problem: ActuatedField) -> float:
    """Largest |u| on 16 paths without control, to two digits; a law only makes fields smaller.

    Two digits, so that it does not hang on how a machine rounds.
    """
    paths = simulate(problem, at_rest(problem), Feedback().seed + 1, range(16))
    return float(f"{float(paths.fields.abs().max()):.1e}")


def fields_figure(problem: ActuatedField, free: Paths, acted: Paths) -> Figure:
    """The path of median cost without control: field without control, with it, and the force."""
    chosen = int(free.totals.argsort()[len(free.totals) // 2])
    force = acted.controls[chosen] @ problem.shapes.to(acted.controls)
    panels = (
        ("without control", free.fields[chosen], free.costs[chosen]),
        ("with control", acted.fields[chosen], acted.costs[chosen]),
        ("force", force, None),
    )
    figure = empty((12, 3.6))
    columns = figure.subplots(1, 3, sharey=True)
    size = float(free.fields[chosen].abs().max())
    end = problem.decisions * problem.interval
    for axes, (name, values, costs) in zip(columns, panels, strict=True):
        scale = size if costs is not None else max(float(values.abs().max()), 1e-12)
        image = axes.imshow(
            values.cpu().numpy(),
            origin="lower",
            aspect="auto",
            extent=(problem.axis.start, problem.axis.stop, 0, end),
            cmap="RdBu_r",
            vmin=-scale,
            vmax=scale,
        )
        figure.colorbar(image, ax=axes)
        cost = "" if costs is None else f": cost {float(costs.sum()):.3f}"
        axes.set(title=f"{name}{cost}", xlabel="x")
    columns[0].set_ylabel("time")
    return figure


def cost_figure(problem: ActuatedField, free: Paths, acted: Paths) -> Figure:
    """Cost per unit of time (its mean and the middle 90 % of the paths), and cost of whole episodes."""
    times = problem.interval * (np.arange(problem.decisions) + 1)
    figure = empty((11, 3.8))
    left, right = figure.subplots(1, 2)
    bins = np.linspace(0, float(free.totals.max()) * 1.001, 25)
    for paths, colour, name in ((free, UNCONTROLLED, "without control"), (acted, CONTROLLED, "with control")):
        rate = paths.costs.cpu().numpy() / problem.interval
        low, high = np.quantile(rate, [0.05, 0.95], axis=0)
        left.fill_between(times, low, high, color=colour, alpha=0.25, linewidth=0)
        left.plot(times, rate.mean(0), color=colour, linewidth=2, label=name)
        totals = paths.totals.cpu().numpy()
        right.hist(totals, bins.tolist(), color=colour, alpha=0.7, label=f"{name}: mean {totals.mean():.3f}")
        right.axvline(totals.mean(), color=colour, linewidth=2)
    left.set(xlabel="time", ylabel="cost per unit of time", title="Mean over the paths, and 90 % of them")
    left.set_ylim(bottom=0)
    right.set(xlabel="cost of an episode", ylabel="paths", title=f"{len(acted.totals)} unseen paths of noise")
    for axes in (left, right):
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=9)
    return figure


def slopes(problem: ActuatedField, fields: Tensor) -> Tensor:
    """Mean over space of u_x^2 (...,), by the field's Fourier coefficients (Parseval)."""
    n, length = problem.axis.num_points, problem.axis.stop - problem.axis.start
    coefficients = torch.fft.rfft(fields, norm="forward").abs().square()
    k = 2 * math.pi / length * torch.arange(n // 2 + 1, device=fields.device)
    pairs = torch.full_like(k, 2.0)
    if n % 2 == 0:
        pairs[-1] = 0.0  # the slope of the highest mode vanishes at the points
    slopes: Tensor = (coefficients * k**2 * pairs).sum(-1)
    return slopes
