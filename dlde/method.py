"""The contract of a method: `Method` is what a paper's file fills in, `Run` what the engine offers.

Control flow belongs to the method; the engine is a library that it calls. A method runs at a plain
Python prompt, in Ray Train workers and in a study's trial with the same code.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, Self

import torch
from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PlainSerializer,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from torch import Tensor, nn

from dlde import catalog
from dlde.datasets.info import DatasetInfo
from dlde.errors import InputError, SpecError, nearest
from dlde.problem import AnyProblem, Axis
from dlde.spec import Spec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dlde.datasets.dataset import Dataset

Terms = Mapping[str, Tensor]  # named scalar loss terms, unweighted


class Descent(Spec):
    """Gradient descent as a method's file states it: what changes the mathematics, nothing else.

    `optimizer` is any of torch.optim by its name in small letters, `options` its further arguments.
    "lbfgs" takes the whole batch for every step (several evaluations of the loss and its gradient), with
    a strong Wolfe line search unless `options` say otherwise; its rate is 1 where none is given.
    """

    steps: PositiveInt
    batch: PositiveInt = 20  # over all workers together
    optimizer: str = "adam"
    options: dict[str, bool | int | float | str | tuple[float, ...]] = {}  # such as {momentum: 0.9}
    rate: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.0
    schedule: Literal["constant", "cosine", "halving"] = "constant"
    floor: Annotated[float, Field(ge=0, lt=1)] = 0.0  # fraction of the rate at which "cosine" ends
    halve_every: PositiveInt | None = None  # steps; with schedule "halving"
    warmup: NonNegativeFloat = 0.0  # fraction of the steps with linearly rising rate
    clip: PositiveFloat | None = None  # largest norm of the gradient
    # Decay of a running average of the weights, per step; the average is the result. None: no average.
    average: Annotated[float, Field(gt=0, lt=1)] | None = None
    # Ends earlier, after so many seconds of training, for comparisons at equal time. How many steps
    # that makes depends on the machine: such a training resumes, but not to the same bits.
    seconds: PositiveFloat | None = None
    then: Descent | None = None  # goes on from where this one ends, such as Adam -> L-BFGS

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        filled = {"rate": 1.0, **value} if value.get("optimizer") == LBFGS else dict(value)
        if isinstance(filled.get("then"), Mapping) and "batch" in filled:
            filled["then"] = {"batch": filled["batch"], **filled["then"]}
        return filled

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.seconds is not None and self.schedule == "cosine":
            raise ValueError(
                "schedule=cosine runs over `steps`, which a budget of seconds cuts anywhere; "
                "use schedule: constant or halving"
            )
        known = _optimizers()
        if self.optimizer not in known:
            raise ValueError(f"unknown optimizer {self.optimizer!r}; {nearest(self.optimizer, known)}")
        taken = _arguments(known[self.optimizer])
        for name in self.options:
            if name not in taken:
                raise ValueError(
                    f"optimizer {self.optimizer!r} has no option {name!r}; {nearest(name, taken)}"
                )
        if self.weight_decay and "weight_decay" not in _arguments(known[self.optimizer], own=False):
            raise ValueError(f"optimizer {self.optimizer!r} knows no weight_decay; set it to 0")
        if self.optimizer == LBFGS and self.clip is not None:
            raise ValueError("a clipped gradient would mislead the line search of lbfgs; leave out clip")
        if self.then is not None and not self.then.whole and self.then.batch != self.batch:
            raise ValueError(
                f"then.batch={self.then.batch} is not batch={self.batch}; a chain keeps its batches"
            )
        if self.options:  # else there is nothing to refuse: a first optimizer loads torch's compiler (2 s)
            try:
                self.optimizer_of([nn.Parameter(torch.zeros(2, 2))])
            except (TypeError, ValueError) as error:
                raise ValueError(f"optimizer {self.optimizer!r} refuses its options: {error}") from None
        return self

    @property
    def chain(self) -> tuple[Descent, ...]:
        """This descent and those that follow it."""
        return (self, *(self.then.chain if self.then else ()))

    @property
    def whole(self) -> bool:
        """Whether every step takes the same, whole batch."""
        return self.optimizer == LBFGS

    def factor(self, step: int) -> float:
        """Learning rate at `step` (from 0) as a fraction of `rate`."""
        import math

        warm = self.warmup * self.steps
        if step < warm:
            return (step + 1) / (warm + 1)
        if self.schedule == "cosine":
            fall = 0.5 * (1 + math.cos(math.pi * (step - warm) / max(self.steps - warm, 1)))
            return self.floor + (1 - self.floor) * fall
        if self.schedule == "halving" and self.halve_every:
            return float(0.5 ** (step // self.halve_every))
        return 1.0

    def optimizer_of(
        self, parameters: Iterable[nn.Parameter], *, betas: tuple[float, float] | None = None
    ) -> torch.optim.Optimizer:
        """The optimizer, for a loop that the method writes itself."""
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        kind = _optimizers()[self.optimizer]
        taken = _arguments(kind, own=False)
        fields: dict[str, Any] = {"lr": self.rate}
        if "weight_decay" in taken:
            fields["weight_decay"] = self.weight_decay
        if "fused" in taken and not any(parameter.is_complex() for parameter in trained):
            fields["fused"] = True
        if self.optimizer == LBFGS:
            fields["line_search_fn"] = "strong_wolfe"
        if betas is not None and "betas" in taken:
            fields["betas"] = betas
        optimizer: torch.optim.Optimizer = kind(trained, **{**fields, **self.options})
        return optimizer

    def set_rate(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Give the optimizer the rate of that step (from 0)."""
        for group in optimizer.param_groups:
            group["lr"] = self.rate * self.factor(step)


LBFGS = "lbfgs"


@cache
def _optimizers() -> dict[str, Any]:
    """torch's optimizers by their names in small letters, but those that take special weights alone."""
    found = {name.lower(): kind for name, kind in vars(torch.optim).items() if isinstance(kind, type)}
    return {
        name: kind
        for name, kind in found.items()
        if issubclass(kind, torch.optim.Optimizer) and name not in ("optimizer", "sparseadam", "muon")
    }


@cache
def _arguments(kind: Any, *, own: bool = True) -> tuple[str, ...]:
    """What an optimizer takes; `own`: without what other fields or the engine say."""
    names = [name for name in inspect.signature(kind).parameters if name != "params"]
    elsewhere = ("lr", "weight_decay", "fused", "foreach", "capturable", "differentiable", "maximize")
    return tuple(name for name in names if not (own and name in elsewhere))


class DataInfo(Spec):
    """What a method learns before it is built: stored with the model, so that it can be rebuilt."""

    problem: AnyProblem | None = None
    data: dict[str, DatasetInfo] = {}  # by role


class Dim(Spec):
    """One axis of an operation's array: a fixed `size`, or any size of at least `minimum`."""

    name: str
    size: PositiveInt | None = None
    minimum: PositiveInt = 1
    axis: Axis | None = None  # a spatial axis: its ends and boundary; `num_points` as trained on


class ArraySpec(Spec):
    """One named array that an operation takes or returns."""

    dims: tuple[Dim, ...]
    dtype: Literal["float32", "float64", "int64"] = "float32"
    units: str = "dimensionless"
    long_name: str
    rms_range: tuple[float, float] | None = None  # of a sample, over the training split
    # Smallest and largest value that is answered, one pair for all or one for every entry of the last
    # axis (None: open); a value outside is refused.
    bounds: tuple[tuple[float | None, float | None], ...] = ()
    increasing: bool = False  # strictly, along the last axis, such as times
    # The same for values that are answered with a warning.
    trained_range: tuple[tuple[float | None, float | None], ...] = ()

    def describe(self) -> str:
        """The expected shape in words, such as "(batch, x >= 32, channel = 1)"."""
        return "(" + ", ".join(
            f"{dim.name} = {dim.size}" if dim.size else
            f"{dim.name} >= {dim.minimum}" if dim.minimum > 1 else dim.name
            for dim in self.dims
        ) + ")"  # fmt: skip


class Option(Spec):
    """A number that an operation takes beside its arrays, such as how many points to draw."""

    kind: Literal["int", "float"] = "int"
    default: int | float
    minimum: int | float | None = None
    maximum: int | float | None = None
    summary: str


class Operation(Spec):
    """What a model answers: named inputs and outputs.

    Dimensions of one name have one size. The first is the batch, or whatever the arrays are lists of
    (the nodes of a graph, the points of a context).
    """

    summary: str
    inputs: dict[str, ArraySpec] = {}
    options: dict[str, Option] = {}
    outputs: dict[str, ArraySpec]
    # Whether every entry of the first dimension has an answer of its own, so that many may be asked in
    # parts; False where they are answered together, as the nodes of a graph.
    independent: bool = True

    @property
    def rows(self) -> str | None:
        """The dimension along which a question may be divided, None where it may not."""
        first = {spec.dims[0].name for spec in (*self.inputs.values(), *self.outputs.values()) if spec.dims}
        return first.pop() if self.independent and self.inputs and len(first) == 1 else None

    def chosen(self, given: Mapping[str, Any] | None) -> dict[str, int | float]:
        """Every option's value, the defaults filled in. Raises InputError with every mistake."""
        given = given or {}
        mistakes = [
            f"unknown option {name!r}; {nearest(name, self.options)}"
            for name in given
            if name not in self.options
        ]
        values: dict[str, int | float] = {}
        for name, option in self.options.items():
            value = given.get(name, option.default)
            kinds = (int,) if option.kind == "int" else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not abs(value) < float("inf"):
                wanted = "a whole number" if option.kind == "int" else "a number"
                mistakes.append(f"option {name!r} must be {wanted}, got {value!r}")
                continue
            low, high = option.minimum, option.maximum
            if (low is not None and value < low) or (high is not None and value > high):
                mistakes.append(f"option {name!r} is {value}: expected {_interval((low, high))}")
            values[name] = value
        if mistakes:
            raise InputError("; ".join(mistakes), mistakes=mistakes)
        return values

    def check(self, inputs: Mapping[str, Tensor], coordinates: Mapping[str, Tensor] | None = None) -> None:
        """Refuse inputs that do not fit: names, shapes, sizes, NaN, bounds, and grids where given.

        Raises InputError with every mistake (facts: `mistakes`).
        """
        mistakes = [
            f"unknown input {name!r}; {nearest(name, self.inputs)}"
            for name in inputs
            if name not in self.inputs
        ]
        sizes: dict[str, int] = {}
        for name, expected in self.inputs.items():
            if name not in inputs:
                mistakes.append(f"input {name!r} is missing: expected {expected.describe()}")
                continue
            mistakes.extend(_array_mistakes(name, inputs[name], expected, sizes))
        dims = {dim.name: dim for spec in self.inputs.values() for dim in spec.dims if dim.axis}
        for name, points in (coordinates or {}).items():
            if name not in dims:
                mistakes.append(f"unknown coordinate {name!r}; {nearest(name, dims)}")
            else:
                mistakes.extend(_grid_mistakes(points, dims[name], sizes.get(name)))
        if mistakes:
            raise InputError("; ".join(mistakes), mistakes=mistakes)

    def warnings(self, inputs: Mapping[str, Tensor]) -> list[str]:
        """Inputs outside what the model was trained on: answered, but not silently."""
        found = []
        for name, spec in self.inputs.items():
            if name not in inputs:
                continue
            values, rows = inputs[name], spec.dims[0].name
            for entry, ends in enumerate(spec.trained_range):
                outside = _outside(values, spec.trained_range, entry).reshape(len(values), -1).any(1)
                if bool(outside.any()):
                    found.append(
                        f"input {name!r}: {int(outside.sum())} of {len(values)} in {rows} have values "
                        f"outside the training range {_interval(ends)}, the first at "
                        f"{int(outside.int().argmax())}"
                    )
            if spec.rms_range is not None:
                low, high = spec.rms_range
                rms = values.double().reshape(len(values), -1).pow(2).mean(1).sqrt()
                outside = (rms < low) | (rms > high)
                if bool(outside.any()):
                    first = int(outside.int().argmax())
                    found.append(
                        f"input {name!r}: {int(outside.sum())} of {len(values)} in {rows} have a root mean "
                        f"square outside the training range [{low:.4g}, {high:.4g}], the first at {first}: "
                        f"{rms[first]:.4g}"
                    )
        return found


@dataclass(frozen=True)
class Evaluation:
    """Named scalars and named curves ((x, y) pairs) of one evaluated model."""

    metrics: dict[str, float]
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


class Comm(Protocol):
    """Messages between the workers of a run; with one worker everything is the identity."""

    rank: int
    size: int

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Mean over the workers, in place; returns the tensor."""
        ...

    def begin_all_reduce(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Begin the mean over the workers, in place; what is returned waits for it."""
        ...

    def mean(self, tensor: Tensor) -> Tensor:
        """Mean over the workers, differentiable, for what a loss needs of the whole batch.

        Every worker must call it, in the same order; its gradient is right for a loss that the
        workers average, as `Run.descend` does.
        """
        ...

    def gather(self, tensor: Tensor) -> Tensor:
        """All workers' tensors (of one shape), joined along axis 0 in order of rank; on every worker."""
        ...

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value (plain data and tensors), on every worker."""
        ...

    def barrier(self) -> None:
        """Wait for all workers."""
        ...

    def shift(self, tensor: Tensor, by: int, *, like: Tensor | None = None) -> Tensor | None:
        """What worker rank - by sends, None where there is none: neighbours exchange what they share.

        `like` has the shape of what comes, where that is another than what goes. Not differentiable.
        """
        ...


class Batches(Protocol):
    """Batches as a function of the step alone, so that resuming needs nothing but its number.

    One that can give everything at once, for an optimizer that takes whole batches, also has
    `whole(run)`; one whose rows are numbered samples has `samples(step, run)`, so that an error can name
    them. Both give this worker's share.
    """

    def at(self, step: int, run: Run) -> Any:
        """This worker's share of the batch of `step`."""
        ...


class RolloutWorkers(Protocol):
    """Copies of one pure function: actors of a Ray cluster, or one in this process."""

    size: int

    def map(self, items: Sequence[Any]) -> list[Any]:
        """All results in the order of the items, which are spread over the workers."""
        ...

    def submit(self, item: Any) -> Callable[[], Any]:
        """Begin one call; what is returned waits for its result."""
        ...


class Run(ABC):
    """What the engine offers to a method's `train` and `evaluate`."""

    info: DataInfo
    data: Mapping[str, Dataset]
    device: torch.device
    comm: Comm
    seed: int

    @property
    def rank(self) -> int:
        """This worker's number, from 0."""
        return self.comm.rank

    @property
    def world_size(self) -> int:
        """Number of workers."""
        return self.comm.size

    @abstractmethod
    def generator(self, *keys: str | int) -> torch.Generator:
        """A CPU generator that is a pure function of the run's seed and the keys; equal on every worker."""

    @abstractmethod
    def share(self, batch: Tensor) -> Tensor:
        """This worker's part of a batch that every worker drew whole (axis 0)."""

    @abstractmethod
    def state(self, *, local: tuple[str, ...] = (), **entries: Any) -> Any:
        """Names everything that a loop changes; `local` entries differ by worker along axis 0.

        Objects are saved by their `state_dict`, local ones with every tensor of it split; tensors and
        plain values by assignment to the attribute of the same name of the returned object.
        """

    @abstractmethod
    def steps(
        self, n: int, *, state: Any, name: str = "steps", seconds: float | None = None
    ) -> Iterator[int]:
        """Step numbers up to n; checkpoints `state` and resumes it exactly.

        Ends early by `stop()`, or at the first look at the clock after so many `seconds`. torch's own
        generators are seeded anew for every step, so that dropout needs no state.
        """

    @abstractmethod
    def stop(self) -> None:
        """End the current `steps` after this step; all workers must say so at the same step."""

    @abstractmethod
    def descend(
        self,
        optimizer: torch.optim.Optimizer,
        loss: Terms | Callable[[], Terms],
        *,
        weights: Mapping[str, float] | None = None,
        clip: float | None = None,
        local: bool = False,
    ) -> None:
        """One step of that optimizer's parameters, and nothing else's, on the weighted sum of the terms.

        Terms given as a function are computed here, in the run's precision; L-BFGS, which evaluates
        several times in one step, needs them so.
        Gradients are averaged over the workers, unless the parameters are this worker's own (`local`).
        The terms are logged; a non-finite one stops the run with NonFiniteError naming step, term and
        worker.
        """

    @abstractmethod
    def fit(
        self,
        model: nn.Module,
        batches: Batches | Callable[[torch.Generator], Any],
        loss: Callable[[nn.Module, Any], Terms],
        descent: Descent,
        *,
        weights: Mapping[str, float] | None = None,
        keep: Mapping[str, Any] | None = None,
        after: Callable[[int], None] | None = None,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
        name: str = "fit",
    ) -> None:
        """Descend `loss(model, batch)` for `descent.steps` steps: the one hot loop.

        Every descent of `descent.chain` is a phase of its own: `name`, `name-2`, ... An optimizer that
        takes whole batches gets `batches.whole(run)`, or what the function gives for the key "whole".
        `optimizer` makes another than the (first) descent names. Batches are taken in
        `training.accumulate` pieces, whose gradients add up: the loss must be a mean over the rows.
        `after` is called with the number of steps done after each, in which it may validate, log and
        `stop()`; what it changes is named in `keep` and resumed like the rest of the state.
        A finished phase (`name`) is not repeated: its result is loaded into the model.
        """

    @abstractmethod
    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, compiled where the pipeline's `training.compile` says so; `fit` does it itself."""

    @abstractmethod
    def once(self, name: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors computed once on rank 0, stored, and read back on every worker and every restart."""

    @abstractmethod
    def rollout_workers(self, make: Callable[[], Callable[[Any], Any]]) -> RolloutWorkers:
        """Workers beside the training that simulate; `make` is called once on each of them.

        What it gives must be a pure function of its argument, both plain data and tensors: a worker
        that dies is started again and its call repeated. How many there are is part of the topology.
        """

    @abstractmethod
    def log(self, **values: float | Tensor) -> None:
        """Scalars of the current step, beside the loss terms."""

    @abstractmethod
    def figure(self, name: str, figure: Figure) -> None:
        """Keep a picture with the run (PNG)."""


class Method(Spec, ABC):
    """An algorithm of a paper; the fields are its hyperparameters, the docstring its source."""

    requires: ClassVar[type | None] = None  # the protocol that the pipeline's problem must offer
    roles: ClassVar[tuple[str, ...]] = ()  # the datasets that it reads; a property where fields decide
    precisions: ClassVar[tuple[str, ...]] = ("float32",)  # that it may be trained in; "bfloat16" beside it
    chains: ClassVar[bool] = False  # whether its descent may go on in another, or take whole batches
    compiles_on: ClassVar[tuple[str, ...]] = ()  # kinds of device where compiling was measured to pay

    @classmethod
    def summary(cls) -> str:
        """First line of the class's docstring."""
        return (cls.__doc__ or "").strip().partition("\n")[0]

    def check(self, info: DataInfo) -> None:
        """Refuse meaningless pairs of method and data. Raises GridError or SpecError."""
        return

    def check_workers(self, workers: int) -> None:
        """Refuse a number of workers that the method cannot be shared over. Raises SpecError."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Descent) and not self.chains and (value.then or value.whole):
                raise SpecError(
                    f"method.{name}: this method writes its own loop, which knows neither `then` nor "
                    f"optimizer {LBFGS}; leave them out",
                    mistakes=[f"method.{name}"],
                )
            for descent in value.chain if isinstance(value, Descent) else ():
                if descent.batch % workers:
                    raise SpecError(
                        f"method.{name}.batch={descent.batch} cannot be shared equally by {workers} workers; "
                        f"choose a multiple of {workers}, or another number of workers",
                        mistakes=[f"method.{name}.batch"],
                    )

    @abstractmethod
    def build(self, info: DataInfo) -> nn.Module:
        """The model, freshly initialised; also how the registry rebuilds it before loading weights."""

    @abstractmethod
    def train(self, run: Run) -> nn.Module:
        """The algorithm. Returns the complete model on rank 0."""

    @abstractmethod
    def evaluate(self, model: nn.Module, run: Run) -> Evaluation:
        """Measure a model reloaded from its package, on one worker."""

    @abstractmethod
    def operations(self, info: DataInfo) -> dict[str, Operation]:
        """What is served; for each name the method has a function of that name.

        It is called as `method.name(model, **inputs, **options) -> {output: tensor}`.
        """


def _array_mistakes(name: str, given: Tensor, expected: ArraySpec, sizes: dict[str, int]) -> list[str]:
    shape = tuple(given.shape)
    wrong = f"input {name!r} has shape {shape}, expected {expected.describe()}"
    if len(shape) != len(expected.dims):
        return [wrong]
    mistakes = []
    for dim, size in zip(expected.dims, shape, strict=True):
        if (dim.size is not None and size != dim.size) or size < dim.minimum:
            mistakes.append(f"{wrong}: {dim.name} is {size}")
        elif sizes.setdefault(dim.name, size) != size:
            mistakes.append(f"input {name!r}: {dim.name} is {size}, but {sizes[dim.name]} in another input")
    bad = int((~torch.isfinite(given)).sum())
    if bad:
        mistakes.append(f"input {name!r} holds {bad} values that are NaN or infinite")
    elif not mistakes:
        mistakes.extend(_bounds_mistakes(name, given, expected))
        if expected.increasing:
            mistakes.extend(_order_mistakes(name, given))
    return mistakes


def _order_mistakes(name: str, given: Tensor) -> list[str]:
    standing = torch.nonzero(given.diff(dim=-1) <= 0)
    if not len(standing):
        return []
    *row, number = standing[0].tolist()
    values = given[tuple(row)]
    where = f", sample {row[0]}" if row else ""
    return [
        f"input {name!r}{where}: {float(values[number + 1]):g} does not come after "
        f"{float(values[number]):g}; the values must increase strictly"
    ]


def _bounds_mistakes(name: str, given: Tensor, expected: ArraySpec) -> list[str]:
    mistakes = []
    for entry, ends in enumerate(expected.bounds):
        values = given[..., entry] if len(expected.bounds) > 1 else given
        outside = _outside(given, expected.bounds, entry)
        count = int(outside.sum())
        if count:
            which = f"entry {entry} of the last axis " if len(expected.bounds) > 1 else ""
            where = f"other than {ends[0]:g}" if ends[0] == ends[1] else f"outside {_interval(ends)}"
            mistakes.append(
                f"input {name!r}: {which}has {count} values {where}, such as {float(values[outside][0]):.6g}"
            )
    return mistakes


def _outside(given: Tensor, intervals: tuple[tuple[float | None, float | None], ...], entry: int) -> Tensor:
    """Where values lie outside an interval: one for all values, or one for each entry of the last axis."""
    values = given[..., entry] if len(intervals) > 1 else given
    low, high = intervals[entry]
    outside = torch.zeros_like(values, dtype=torch.bool)
    if low is not None:
        outside |= values < low
    if high is not None:
        outside |= values > high
    return outside


def _interval(ends: tuple[float | None, float | None]) -> str:
    low, high = ends
    if high is None:
        return f"at least {low:g}"
    return f"at most {high:g}" if low is None else f"[{low:g}, {high:g}]"


def _grid_mistakes(points: Tensor, dim: Dim, size: int | None) -> list[str]:
    axis = dim.axis
    assert axis is not None
    ends = "end point excluded" if axis.boundary == "periodic" else "both ends included"
    if not points.numel() or not torch.isfinite(points).all():
        return [f"coordinate {dim.name!r} is empty or not finite"]
    if points.ndim != 1 or (size is not None and points.numel() != size):
        return [f"coordinate {dim.name!r} has shape {tuple(points.shape)}, expected ({size},)"]
    expected = Axis(**{**axis.model_dump(), "num_points": points.numel()}).points
    spacing = (axis.stop - axis.start) / points.numel()
    if (points.double() - torch.from_numpy(expected)).abs().max() > 1e-3 * spacing:
        return [
            f"coordinate {dim.name!r}: the grid must be uniform from {axis.start:g} to {axis.stop:g}, "
            f"{axis.boundary}, {ends}"
        ]
    return []


AnyMethod = Annotated[
    Method,
    BeforeValidator(lambda value: catalog.read("method", value)),
    PlainSerializer(lambda noun: catalog.write("method", noun)),
]
