"""Collocation: a network inside a problem's conditions, trained on the residual at points of a box.

What every method shares that solves one equation without solved examples: the trial function, the
loss, a counter of the residual's evaluations, the measurement against the reference, the pictures,
and the served operation `solve`. Points are (points, coordinates).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from dlde.errors import GridError, SpecError
from dlde.figures import INK, MUTED, PREDICTION, REFERENCE, empty
from dlde.method import ArraySpec, DataInfo, Dim, Evaluation, Operation, Run, Terms
from dlde.numerics import jets, sampling
from dlde.numerics.jets import Jet, Operators
from dlde.problem import Residual
from dlde.spec import Spec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]

BLOCK = 1 << 14  # points that a measurement takes at once
MEASURED = {1: 8192, 2: 256, 3: 48}  # midpoints per axis that errors are measured at
LOGGED = {1: 1024, 2: 48, 3: 16}  # the same while training
SCATTERED = 1 << 16  # points instead, in more dimensions


class Trial(nn.Module):
    """u(x) = A(x) + D(x) N(x): a network within the conditions of its problem.

    `network` maps a jet (points, coordinates), scaled to [-1, 1], to a jet (points, unknowns). The
    model called gives the unknowns (points, unknowns).
    """

    middle: Tensor
    radius: Tensor
    evaluations: Tensor  # of the residual at a point while training, over all workers

    def __init__(self, problem: Residual, network: nn.Module) -> None:
        super().__init__()
        self.problem = problem
        self.network = network
        low, high = corners(problem)
        self.register_buffer("middle", (low + high) / 2)
        self.register_buffer("radius", (high - low) / 2)
        self.register_buffer("evaluations", torch.zeros((), dtype=torch.int64))

    def forward(self, points: Tensor) -> Tensor:
        u = self.jets(points, ())
        return torch.stack([u[name].value for name in self.problem.unknowns], dim=-1)

    def jets(
        self, points: Tensor, derivatives: Sequence[str], operators: Operators | None = None
    ) -> dict[str, Jet]:
        """The unknowns with these derivatives and operators, in the dtype of the network's weights."""
        dtype = next(self.network.parameters()).dtype
        points, names = points.to(dtype), tuple(self.problem.box)
        middle, radius = self.middle.to(dtype), self.radius.to(dtype)
        outputs = self.network((jets.coordinates(points, names, derivatives, operators) - middle) / radius)
        scale = self.problem.output_scale
        free = {
            name: jet if scale[name] == 1 else jet * scale[name]
            for name, jet in jets.columns(outputs, tuple(self.problem.unknowns)).items()
        }
        return self.problem.constrain(jets.axes(points, names, derivatives, operators), free)

    def residual(self, points: Tensor) -> dict[str, Tensor]:
        """The defect of every equation (points,), by name."""
        u = self.jets(points, self.problem.derivatives, self.problem.operators)
        return self.residual_of(points, u)

    def residual_of(self, points: Tensor, u: Mapping[str, Jet]) -> dict[str, Tensor]:
        """The same, where the unknowns are at hand."""
        columns = points.to(next(iter(u.values())).value.dtype).unbind(1)
        return self.problem.residual(dict(zip(self.problem.box, columns, strict=True)), u)

    def count(self, points: Tensor, run: Run) -> None:
        """Add an evaluation at every point of a share, of all workers together."""
        self.evaluations += len(points) * run.world_size


class Collocation(Spec):
    """How a solution is watched and measured; which points it is trained on is the method's affair."""

    validation: PositiveInt = 1024  # Sobol points of the validation residual
    every: PositiveInt = 100  # steps between two looks at residual and error, for the curves
    stop_below: PositiveFloat | None = None  # root mean square of the validation residual to stop at

    def check(self, info: DataInfo, trial: Trial) -> None:
        """Refuse a problem whose parts do not fit together. Raises SpecError."""
        problem = trial.problem
        problem.check_conditions()
        low, high = corners(problem)
        points = sampling.uniform(3, low, high, torch.Generator().manual_seed(0))
        with torch.no_grad():
            residual = trial.residual(points)
        reference = problem.reference(points)
        mistakes = [
            f"residual {name!r} has shape {tuple(r.shape)}, expected (3,) for 3 points"
            for name, r in residual.items()
            if r.shape != (3,)
        ] + [
            f"the reference of {name!r} is missing or not one value a point"
            for name in problem.unknowns
            if name not in reference or reference[name].shape != (3,)
        ]
        if mistakes:
            raise SpecError("; ".join(mistakes), mistakes=mistakes)

    def check_slopes(self, trial: Trial) -> None:
        """Refuse a residual that autograd cannot differentiate along the points. Raises SpecError.

        Compares its derivative in random directions with a difference quotient, in float64.
        """
        low, high = corners(trial.problem)
        double = copy.deepcopy(trial).double()
        generator = torch.Generator().manual_seed(1)
        x = sampling.uniform(8, low + 1e-3 * (high - low), high - 1e-3 * (high - low), generator)
        direction = torch.randn(x.shape, generator=generator, dtype=x.dtype) * (high - low)
        small = 1e-6
        with torch.no_grad():
            beyond, before = (double.residual(x + sign * small * direction) for sign in (1, -1))
        x.requires_grad_()
        try:
            residual = double.residual(x)
        except RuntimeError as error:  # such as a source term that leaves torch
            raise SpecError(
                f"the residual cannot be taken at points that are differentiated along: {error}. Write every "
                "term in torch, without detach() or numpy()",
                mistakes=["problem.residual"],
            ) from None
        for name, r in residual.items():
            (gradient,) = torch.autograd.grad(r.sum(), x, retain_graph=True, allow_unused=True)
            slope = torch.zeros_like(r) if gradient is None else (gradient * direction).sum(1)
            quotient = (beyond[name] - before[name]) / (2 * small)
            size = quotient.abs().max() + slope.abs().max() + r.abs().max().detach()
            if not bool(((slope - quotient).abs() <= 1e-3 * size).all()):
                raise SpecError(
                    f"the residual {name!r} has no derivative along the points that autograd finds: "
                    f"{float(slope[0].detach()):.4g} where a difference quotient gives "
                    f"{float(quotient[0]):.4g}. A sampler that climbs it needs every term, the source too, "
                    "smooth and written in torch without detach()",
                    mistakes=[name],
                )

    def loss(self, trial: Trial, points: Tensor, run: Run, weights: Tensor | None = None) -> Terms:
        """Mean square of every equation's residual over this worker's points, which are counted.

        With `weights` (points,) the mean of weight times square.
        """
        trial.count(points, run)
        squares = {name: r.square() for name, r in trial.residual(points).items()}
        if weights is not None:
            squares = {name: weights.to(r) * r for name, r in squares.items()}
        return {name: r.mean() for name, r in squares.items()}

    def watch(self, run: Run) -> Watch:
        """What logs the curves of a training."""
        return Watch(self, run)

    def evaluate(self, trial: Trial, run: Run) -> Evaluation:
        """Errors against the reference at the midpoints of a fine grid, the residual at Sobol points."""
        problem = trial.problem
        trial.to(run.device).eval()
        points = _measured(problem, MEASURED).to(run.device)
        with torch.no_grad():
            prediction = _in_blocks(trial, points).double()
            residual = _residual_rms(trial, self._sobol(problem).to(run.device))
        reference = _reference(problem, points)
        errors = relative_l2(prediction, reference)
        names = tuple(problem.unknowns)
        measured = {
            "relative_l2": errors.mean(),
            "max_error": (prediction - reference).abs().max(),
            "residual_rms": residual,
            "evaluations": trial.evaluations,
        }
        if len(names) > 1:
            measured |= {f"relative_l2_{name}": error for name, error in zip(names, errors, strict=True)}
        if len(problem.box) <= 2:
            with torch.no_grad():
                squares = sum(r.double().square() for r in _residual_in_blocks(trial, points).values())
            draw = draw_line if len(problem.box) == 1 else draw_plane
            for place, (name, variable) in enumerate(problem.unknowns.items()):
                figure = draw(
                    problem, points, reference[:, place], prediction[:, place],
                    torch.as_tensor(squares).sqrt(), f"{variable.long_name} {name}",
                )  # fmt: skip
                run.figure("solution" if len(names) == 1 else f"solution-{name}", figure)
        return Evaluation(metrics={name: float(value) for name, value in measured.items()})

    def operation(self, problem: Residual) -> Operation:
        """The served solution at any points of the box, with its derivatives and its residual."""
        dims = (Dim(name="points"),)
        coordinate = Dim(name="coordinate", size=len(problem.box))
        names = ", ".join(problem.box)
        outputs = {}
        for name, variable in problem.unknowns.items():
            outputs[name] = ArraySpec(dims=dims, units=variable.units, long_name=variable.long_name)
            for derivative in _all_derivatives(problem):
                outputs[f"{name}_{derivative}"] = ArraySpec(
                    dims=dims, long_name=f"derivative of {variable.long_name} along {', '.join(derivative)}"
                )
        for name in self._equations(problem):
            outputs[f"residual_{name}"] = ArraySpec(dims=dims, long_name=f"defect of the equation {name}")
        return Operation(
            summary=f"The solution at points ({names}), its derivatives, and how far it misses the equation",
            inputs={
                "points": ArraySpec(
                    dims=(*dims, coordinate),
                    dtype="float64",
                    long_name=f"coordinates {names}",
                    bounds=tuple(problem.box.values()),
                )
            },
            outputs=outputs,
        )

    def solve(self, trial: Trial, points: Tensor) -> dict[str, Tensor]:
        """What `operation` promises."""
        problem = trial.problem
        served = _all_derivatives(problem)
        u = trial.jets(points, served, problem.operators)
        answers = {}
        for name, jet in u.items():
            answers[name] = jet.value
            answers |= {f"{name}_{derivative}": jet[derivative] for derivative in served}
        defects = trial.residual_of(points, u)
        return answers | {f"residual_{name}": defect for name, defect in defects.items()}

    def _equations(self, problem: Residual) -> tuple[str, ...]:
        low, _ = corners(problem)
        point = low.unsqueeze(0)
        x = dict(zip(problem.box, point.unbind(1), strict=True))
        carried = jets.closed(problem.derivatives, problem.operators)
        zero = {
            name: Jet(torch.zeros(1, dtype=low.dtype), {}, carried, problem.operators)
            for name in problem.unknowns
        }
        return tuple(problem.residual(x, zero))

    def _sobol(self, problem: Residual) -> Tensor:
        return sampling.sobol(self.validation, *corners(problem), seed=0)


class Watch:
    """Logs `relative_l2` and `residual_rms` every so often; the reference is computed once.

    Neither enters the training, so neither counts as an evaluation, unless it ends by `stop_below`.
    """

    def __init__(self, task: Collocation, run: Run) -> None:
        problem = problem_of(run.info)
        self.task, self.run = task, run
        self.points = _measured(problem, LOGGED).to(run.device)
        self.reference = _reference(problem, self.points)
        self.sobol = task._sobol(problem).to(run.device)

    def after(self, step: int, trial: Trial) -> None:
        """Called when the step of that number (from 0) is done."""
        if (step + 1) % self.task.every:
            return
        with torch.no_grad():
            error = relative_l2(_in_blocks(trial, self.points).double(), self.reference).mean()
            residual = _residual_rms(trial, self.sobol)
        self.run.log(relative_l2=error, residual_rms=residual)
        if (
            self.task.stop_below is not None
            and self.run.comm.broadcast(float(residual)) < self.task.stop_below
        ):
            self.run.stop()


def problem_of(info: DataInfo) -> Residual:
    """The equation that a pipeline names."""
    problem: Any = info.problem
    assert isinstance(problem, Residual)
    return problem


def corners(problem: Residual) -> tuple[Tensor, Tensor]:
    """Lowest and highest corner of the box, (coordinates,) float64."""
    ends = torch.tensor(list(problem.box.values()), dtype=torch.float64)
    return ends[:, 0].contiguous(), ends[:, 1].contiguous()


def _all_derivatives(problem: Residual) -> tuple[str, ...]:
    """What the residual reads, and what its operators consist of."""
    inside = (name for terms in problem.operators.values() for name in terms)
    return jets.closed((*problem.derivatives, *inside))


def affordable(budget: int, cost: Callable[[int], int]) -> int:
    """How many steps a budget of evaluations pays for, where step i (from 0) costs `cost(i)`."""
    steps = spent = 0
    while (spent := spent + cost(steps)) <= budget:
        steps += 1
    return steps


def relative_l2(prediction: Tensor, reference: Tensor) -> Tensor:
    """‖u - û‖ / ‖u‖ over the points, for each unknown: (points, unknowns) -> (unknowns,)."""
    if prediction.shape != reference.shape:
        raise GridError(f"{tuple(prediction.shape)} predictions, but {tuple(reference.shape)} references")
    return ((prediction - reference).square().sum(0) / reference.square().sum(0)).sqrt()


def _measured(problem: Residual, per_axis: Mapping[int, int]) -> Tensor:
    low, high = corners(problem)
    if len(low) in per_axis:
        return sampling.midpoints(per_axis[len(low)], low, high)
    return sampling.sobol(SCATTERED, low, high, seed=1)


def _reference(problem: Residual, points: Tensor) -> Tensor:
    known = problem.reference(points)
    return torch.stack([known[name] for name in problem.unknowns], dim=-1)


def _in_blocks(trial: Trial, points: Tensor) -> Tensor:
    return torch.cat([trial(block) for block in torch.split(points, BLOCK)])


def _residual_in_blocks(trial: Trial, points: Tensor) -> dict[str, Tensor]:
    blocks = [trial.residual(block) for block in torch.split(points, BLOCK)]
    return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}


def _residual_rms(trial: Trial, points: Tensor) -> Tensor:
    squares = [r.double().square().mean() for r in _residual_in_blocks(trial, points).values()]
    return torch.stack(squares).sum().sqrt()


def draw_line(
    problem: Residual, points: Tensor, reference: Tensor, prediction: Tensor, residual: Tensor, name: str
) -> Figure:
    """Solution, error and residual along the one coordinate."""
    x, u, v, r = (_plain(values) for values in (points[:, 0], reference, prediction, residual))
    figure = empty((6.4, 6.0))
    above, error, below = figure.subplots(3, 1, sharex=True, height_ratios=[3, 1.2, 1.2])
    above.plot(x, u, color=REFERENCE, linewidth=2.2, label="reference")
    above.plot(x, v, color=PREDICTION, linewidth=1.6, linestyle="--", label="prediction")
    above.set(ylabel=name, title="Solution by collocation")
    above.legend(frameon=False)
    error.axhline(0, color=MUTED, linewidth=0.8)
    error.plot(x, v - u, color=PREDICTION, linewidth=1.2)
    error.set_ylabel("error")
    below.semilogy(x, np.maximum(r, 1e-12), color=INK, linewidth=1.0)
    below.set(ylabel="|residual|", xlabel=next(iter(problem.box)))
    return _tidy(figure)


def draw_plane(
    problem: Residual, points: Tensor, reference: Tensor, prediction: Tensor, residual: Tensor, name: str
) -> Figure:
    """Reference, prediction, error and residual; the first coordinate points right."""
    per_axis = round(len(points) ** 0.5)
    (first, (a, b)), (second, (c, d)) = problem.box.items()
    u, v, r = (_plain(f).reshape(per_axis, per_axis).T for f in (reference, prediction, residual))
    figure = empty((14.0, 3.2))
    size = max(float(np.abs(v - u).max()), 1e-300)
    shared = {"vmin": u.min(), "vmax": u.max(), "cmap": "viridis"}
    panels: list[tuple[str, Array, dict[str, Any]]] = [
        (f"reference: {name}", u, shared),
        ("prediction", v, shared),
        ("error", v - u, {"vmin": -size, "vmax": size, "cmap": "RdBu_r"}),
        ("log10 |residual|", np.log10(np.maximum(r, 1e-12)), {"cmap": "magma"}),
    ]
    for axes, (title, values, colours) in zip(figure.subplots(1, 4), panels, strict=True):
        image = axes.imshow(values, origin="lower", extent=(a, b, c, d), aspect="equal", **colours)
        figure.colorbar(image, ax=axes, shrink=0.85)
        axes.set_title(title, fontsize=10)
        axes.set(xlabel=first, ylabel=second)
    return figure


def draw_density(problem: Residual, target: Tensor, found: Tensor, level: str) -> Figure:
    """Two densities in equal cells of a box of one or two coordinates: the best, and the sampler's."""
    wanted, placed = _plain(target), _plain(found)
    if len(problem.box) == 1:
        ((name, (start, stop)),) = problem.box.items()
        edges = np.linspace(start, stop, len(wanted) + 1)
        figure = empty((6.0, 3.6))
        axes = figure.subplots()
        axes.stairs(wanted, edges, color=REFERENCE, linewidth=2.0, label="best density")
        axes.stairs(placed, edges, color=PREDICTION, linewidth=1.4, label="sampler")
        axes.set(xlabel=name, ylabel="density", title=level)
        axes.legend(frameon=False)
        return _tidy(figure)
    (first, (a, b)), (second, (c, d)) = problem.box.items()
    figure = empty((8.0, 3.8))
    figure.suptitle(level, fontsize=10)
    for axes, title, values in zip(
        figure.subplots(1, 2), ("best density", "sampler"), (wanted, placed), strict=True
    ):
        shown = np.log10(np.maximum(values.T, 1e-4))
        image = axes.imshow(shown, origin="lower", extent=(a, b, c, d), aspect="equal", cmap="magma")
        figure.colorbar(image, ax=axes, shrink=0.85, label="log10")
        axes.set_title(title, fontsize=10)
        axes.set(xlabel=first, ylabel=second)
    return figure


def _plain(values: Tensor) -> Array:
    return np.asarray(values.detach().double().cpu().numpy())


def _tidy(figure: Figure) -> Figure:
    axes: Axes
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=9)
    return figure
