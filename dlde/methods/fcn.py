"""Fully convolutional residual network: the baseline of operators that know no resolution.

Lift to `width` channels, add one residual block v <- v + C(gelu(C(gelu(v)))) for each of `dilations`,
and project; C is a convolution of `kernel` points per axis, that many grid points apart. Periodic
axes are continued periodically, others by their edge values. Trained as the Fourier neural
operator it is compared with: same loss, same epochs, as many weights.

Source: the baseline FCN of Zongyi Li et al., arXiv 2010.08895, which follows Yinhao Zhu and Nicholas
Zabaras, Bayesian deep convolutional encoder-decoder networks (2018), arXiv 1801.06879.
Otherwise than there: a residual network at full resolution instead of an encoder and decoder with
dense blocks. By default it is not dilated and sees 97 points; with dilations (1, 2, 4, 8, 4, 2) a
kernel of 5 sees 169, more than the 128 of its training grid, which makes it a much stronger
baseline at that resolution (docs/decisions/0005).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import AfterValidator, Field, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import gelu

from dlde.errors import GridError
from dlde.method import DataInfo, Descent, Evaluation, Method, Operation, Run
from dlde.problem import Axis
from dlde.tasks.field_map import ROLE, FieldMap


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise ValueError("must be odd, so that a kernel has a centre")
    return kernel


class Convolution(nn.Module):
    """Same-size convolution of (batch, channel, x, y); one axis is taken as (1, x)."""

    def __init__(self, width: int, kernel: int, dilation: int, axes: tuple[Axis, ...]) -> None:
        super().__init__()
        self.periodic = tuple(axis.boundary == "periodic" for axis in axes)
        self.reach = dilation * (kernel // 2)
        shape = (1, kernel) if len(axes) == 1 else (kernel, kernel)
        self.kernels = nn.Conv2d(width, width, shape, dilation=dilation)

    def forward(self, v: Tensor) -> Tensor:
        for dim, periodic in enumerate(self.periodic, start=4 - len(self.periodic)):
            v = _continued(v, self.reach, dim, periodic=periodic)
        out: Tensor = self.kernels(v)
        return out


class Block(nn.Module):
    """v + C(gelu(C(gelu(v))))."""

    def __init__(self, width: int, kernel: int, dilation: int, axes: tuple[Axis, ...]) -> None:
        super().__init__()
        self.first = Convolution(width, kernel, dilation, axes)
        self.second = Convolution(width, kernel, dilation, axes)

    def forward(self, v: Tensor) -> Tensor:
        update: Tensor = self.second(gelu(self.first(gelu(v))))
        return v + update


class ConvolutionalNetwork(nn.Module):
    """(batch, *space, 1) -> (batch, *space, 1), on any grid at least as wide as its kernels reach."""

    def __init__(
        self, axes: tuple[Axis, ...], *, width: int, kernel: int, dilations: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.lifting = nn.Linear(1, width)
        self.blocks = nn.Sequential(*(Block(width, kernel, dilation, axes) for dilation in dilations))
        self.projection = nn.Linear(width, 1)
        self.reach = reach(kernel, dilations)

    def forward(self, u: Tensor) -> Tensor:
        space = u.shape[1:-1]
        check_points(space, self.reach)
        v = self.lifting(u if len(space) == 2 else u.unsqueeze(1))
        v = self.blocks(v.permute(0, 3, 1, 2))  # memory stays channels-last, the fast one for convolutions
        out: Tensor = self.projection(gelu(v).permute(0, 2, 3, 1))
        return out.view(*u.shape)


class FCN(Method):
    """Fully convolutional residual network: learns the map between two fields, tied to one resolution."""

    roles: ClassVar = (ROLE,)
    chains: ClassVar = True
    precisions: ClassVar = ("float32", "bfloat16")

    width: PositiveInt = 36  # channels
    kernel: Annotated[PositiveInt, AfterValidator(_odd)] = 9  # points per axis
    dilations: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1,) * 6  # of each block
    map: FieldMap = FieldMap(num_points=128)
    # Of the rates 1e-3, 3e-3, 6e-3, 1e-2 the best on development seeds; the operator had four, too.
    descent: Descent = Descent(steps=2500, batch=20, rate=6e-3, schedule="cosine", warmup=0.05)

    def check(self, info: DataInfo) -> None:
        """Raises GridError or SpecError where the map, the grid and the kernels do not fit together."""
        self.map.check(info)
        axes = self.map.axes(info)
        if len(axes) > 2:
            raise GridError(f"fcn works in one and two dimensions, but the data have {len(axes)}")
        check_points([axis.num_points for axis in axes.values()], self._minimum)

    def build(self, info: DataInfo) -> nn.Module:
        axes = tuple(self.map.axes(info).values())
        return ConvolutionalNetwork(axes, width=self.width, kernel=self.kernel, dilations=self.dilations)

    def train(self, run: Run) -> nn.Module:
        model = self.build(run.info)
        pairs = self.map.pairs(run, batch=self.descent.batch)
        run.fit(model, pairs, pairs.loss, self.descent)
        return model

    def evaluate(self, model: nn.Module, run: Run) -> Evaluation:
        return self.map.evaluate(model, run, minimum=self._minimum)

    def operations(self, info: DataInfo) -> dict[str, Operation]:
        return {"predict": self.map.operation(info, minimum=self._minimum)}

    def predict(self, model: nn.Module, **inputs: Tensor) -> dict[str, Tensor]:
        """The output field on the grid of the input field."""
        return {self.map.output: model(inputs[self.map.input])}

    @property
    def _minimum(self) -> int:
        return reach(self.kernel, self.dilations)


def reach(kernel: int, dilations: Sequence[int]) -> int:
    """Points to either side of a point that one convolution sees: the fewest that an axis may have."""
    return max(1, max(dilations) * (kernel // 2))


def check_points(num_points: Sequence[int], minimum: int) -> None:
    """Raises GridError where an axis has fewer than `minimum` points."""
    if min(num_points) < minimum:
        raise GridError(
            f"kernels that reach {minimum} points to either side need at least {minimum} points per axis, "
            f"but the grid has {' x '.join(map(str, num_points))}. Use a finer grid, or smaller dilations",
            smallest=minimum,
            num_points=tuple(num_points),
        )


def _continued(v: Tensor, points: int, dim: int, *, periodic: bool) -> Tensor:
    """`v` with so many more points at both ends of an axis; memory stays channels-last."""
    size = v.shape[dim]
    if periodic:
        before, after = v.narrow(dim, size - points, points), v.narrow(dim, 0, points)
    else:
        edge = [-1] * v.ndim
        edge[dim] = points
        before, after = v.narrow(dim, 0, 1).expand(edge), v.narrow(dim, size - 1, 1).expand(edge)
    return torch.cat([before, v, after], dim)
