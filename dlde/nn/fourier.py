"""Spectral convolutions: a linear map of the channels of each low Fourier mode (Fourier neural operators).

Arrays are (*space, batch, channel) on uniform grids, taken as periodic. Weights belong to modes, not
to points, so they fit every resolution. Two roads give the same result:

- `matrix` writes the truncated discrete Fourier transform as real matrices. No complex number
  occurs, all work is in large products, and reduced precision works.
- `fft` transforms everything and keeps a little. It needs fewer operations when many modes are kept.

Transforms are normalised forward (1 / number of points), so that coefficients do not grow with the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dlde.errors import GridError

Road = Literal["auto", "matrix", "fft"]
F = TypeVar("F", bound=Callable[..., Any])

# Up to so many modes per axis, by number of axes, the matrix road is the faster one on one CPU core. In 1-D
# they are about equal at 64 modes (16384 points favour the FFT), and at 128 the FFT takes half the time; in
# 2-D more than 24 were not tried. `python benchmarks/fno_step.py --roads` prints the table.
MATRIX_MODES = {1: 64, 2: 24}


class SpectralConv1d(nn.Module):
    """Maps the modes 0 … modes - 1 of (points, batch, in_channels), and drops the others.

    `weight` (2, modes, in_channels, out_channels) holds real and imaginary parts.
    """

    def __init__(self, in_channels: int, out_channels: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        self.weight = _initial_weight(modes, in_channels, out_channels)

    def forward(self, u: Tensor, plus: Tensor | None = None, *, road: Road = "auto") -> Tensor:
        """The convolution of u, added to `plus`: (points, batch, out_channels).

        Raises GridError below 2 * modes points.
        """
        (points,) = _check(u, self.modes, dims=1)
        if road == "fft" or (road == "auto" and self.modes > MATRIX_MODES[1]):
            return _added(plus, self._by_fft(u))
        _, batch, channels = u.shape
        forward, backward = _real_transforms(points, self.modes, u.dtype, u.device)
        spectrum = torch.mm(forward, u.reshape(points, -1)).view(self.modes, 2, batch, channels)
        mapped = _Mapped.apply(spectrum, self.weight)  # type: ignore[no-untyped-call]
        return _multiply_add(plus, backward, mapped, (points, batch, -1))

    def _by_fft(self, u: Tensor) -> Tensor:
        with torch.autocast(u.device.type, enabled=False):
            weight = torch.complex(*_exact(self.weight))
            spectrum = torch.fft.rfft(_exact(u), dim=0, norm="forward")[: self.modes]
            mapped = torch.bmm(spectrum, weight)
            out: Tensor = torch.fft.irfft(mapped, n=u.shape[0], dim=0, norm="forward")
        return out.to(u.dtype)


class SpectralConv2d(nn.Module):
    """Maps the modes (-modes … modes - 1, 0 … modes - 1) of (x, y, batch, in_channels).

    `weight` (2, 2 * modes, modes, in_channels, out_channels) holds real and imaginary parts; along
    its second axis stand the non-negative modes of x, then the negative ones.
    """

    def __init__(self, in_channels: int, out_channels: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        weight = _initial_weight(2 * modes * modes, in_channels, out_channels)
        self.weight = nn.Parameter(weight.data.view(2, 2 * modes, modes, in_channels, out_channels))

    def forward(self, u: Tensor, plus: Tensor | None = None, *, road: Road = "auto") -> Tensor:
        """The convolution of u, added to `plus`: (x, y, batch, out_channels).

        Raises GridError below 2 * modes points per axis.
        """
        nx, ny = _check(u, self.modes, dims=2)
        if road == "fft" or (road == "auto" and self.modes > MATRIX_MODES[2]):
            return _added(plus, self._by_fft(u))
        modes, (batch, channels) = self.modes, u.shape[2:]
        forward_x, backward_x = _waves(nx, modes, u.dtype, u.device)
        forward_y, backward_y = _real_transforms(ny, modes, u.dtype, u.device, interleaved=False)

        lines = torch.mm(forward_x, u.reshape(nx, -1))  # (mode of x, cos and sin) x (y, batch, channel)
        products = torch.matmul(forward_y, lines.view(2 * modes + 2, ny, -1))
        spectrum = _Joined.apply(products.view(modes + 1, 2, 2, modes, batch, channels))  # type: ignore[no-untyped-call]
        mapped = _Mapped.apply(spectrum.flatten(0, 1), self.weight.flatten(1, 2))  # type: ignore[no-untyped-call]
        products = _Split.apply(mapped.view(2 * modes, modes, 2, batch, -1))  # type: ignore[no-untyped-call]
        lines = torch.matmul(backward_y, products.view(2 * modes + 2, 2 * modes, -1))
        return _multiply_add(plus, backward_x, lines, (nx, ny, batch, -1))

    def _by_fft(self, u: Tensor) -> Tensor:
        nx, ny = u.shape[:2]
        modes = self.modes
        with torch.autocast(u.device.type, enabled=False):
            weight = torch.complex(*_exact(self.weight)).flatten(0, 1)
            whole = torch.fft.rfft2(_exact(u), dim=(0, 1), norm="forward")
            spectrum = torch.cat([whole[:modes, :modes], whole[nx - modes :, :modes]])
            mapped = torch.bmm(spectrum.flatten(0, 1), weight).unflatten(0, (2 * modes, modes))  # type: ignore[no-untyped-call]
            gap = mapped.new_zeros(nx - 2 * modes, *mapped.shape[1:])
            whole = torch.cat([mapped[:modes], gap, mapped[modes:]])
            out: Tensor = torch.fft.irfft2(whole, s=(nx, ny), dim=(0, 1), norm="forward")
        return out.to(u.dtype)


def check_points(num_points: Sequence[int], modes: int) -> None:
    """Raises GridError where an axis has fewer than 2 * modes points."""
    if min(num_points) < 2 * modes:
        raise GridError(
            f"modes={modes} needs at least {2 * modes} points per axis, but the grid has "
            f"{' x '.join(map(str, num_points))}. Use a finer grid, or modes <= {min(num_points) // 2}",
            smallest=2 * modes,
            num_points=tuple(num_points),
        )


def _check(u: Tensor, modes: int, *, dims: int) -> tuple[int, ...]:
    space = tuple(u.shape[:-2])
    if len(space) != dims:
        expected = "(x, batch, channel)" if dims == 1 else "(x, y, batch, channel)"
        raise GridError(f"expected {expected}, got an array of shape {tuple(u.shape)}")
    check_points(space, modes)
    return space


def _initial_weight(modes: int, in_channels: int, out_channels: int) -> nn.Parameter:
    """Uniform in [0, 1) / (in_channels out_channels), as in the paper's repository."""
    return nn.Parameter(torch.rand(2, modes, in_channels, out_channels) / (in_channels * out_channels))


class _Mapped(torch.autograd.Function):
    """(modes, part, batch, in), (2, modes, in, out) -> (modes, part, batch, out): a complex product a mode.

    Real and imaginary rows of a mode are multiplied in one product; differentiable once.
    """

    @staticmethod
    def forward(ctx: Any, spectrum: Tensor, weight: Tensor) -> Tensor:
        weight = weight.to(spectrum.dtype)  # lower under autocast
        ctx.save_for_backward(spectrum, weight)
        by_real, by_imag = _products(spectrum, *weight)
        by_real[:, 0] -= by_imag[:, 1]
        by_real[:, 1] += by_imag[:, 0]
        return by_real

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        spectrum, weight = ctx.saved_tensors
        by_real, by_imag = _products(gradient, *weight.mT)
        by_real[:, 0] += by_imag[:, 1]
        by_real[:, 1] -= by_imag[:, 0]
        columns = spectrum.flatten(1, 2).mT
        turned = torch.stack([gradient[:, 1], -gradient[:, 0]], dim=1)
        of_weight = torch.empty_like(weight)
        torch.bmm(columns, gradient.flatten(1, 2), out=of_weight[0])
        torch.bmm(columns, turned.flatten(1, 2), out=of_weight[1])
        return by_real, of_weight


def _products(parts: Tensor, real: Tensor, imag: Tensor) -> tuple[Tensor, Tensor]:
    rows = parts.flatten(1, 2)
    return torch.bmm(rows, real).view(*parts.shape[:3], -1), torch.bmm(rows, imag).view(*parts.shape[:3], -1)


class _Joined(torch.autograd.Function):
    """Products with cos and sin of x and with the parts of exp(-i k y) become modes of both signs of x.

    (mode of x: 0 … modes, cos and sin, part of y, mode of y, batch, channel) -> (mode of x: 0 … modes - 1,
    -modes … -1, mode of y, part, batch, channel), as exp(-+ i k x) = cos -+ i sin.
    """

    @staticmethod
    def forward(ctx: Any, products: Tensor) -> Tensor:
        modes, batch, channels = products.shape[3:]
        (cc, cs), (sc, ss) = (one.unbind(1) for one in products.unbind(1))
        spectrum = products.new_empty(2 * modes, modes, 2, batch, channels)
        positive, negative = spectrum.split(modes)  # type: ignore[no-untyped-call]
        positive[:, :, 0] = cc[:-1] + ss[:-1]
        positive[:, :, 1] = cs[:-1] - sc[:-1]
        negative[:, :, 0] = (cc[1:] - ss[1:]).flip(0)
        negative[:, :, 1] = (cs[1:] + sc[1:]).flip(0)
        return spectrum

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        out: Tensor = _Split.apply(gradients[0])  # type: ignore[no-untyped-call]
        return out


class _Split(torch.autograd.Function):
    """The transpose of `_Joined`."""

    @staticmethod
    def forward(ctx: Any, spectrum: Tensor) -> Tensor:
        _, modes, _, batch, channels = spectrum.shape
        positive, negative = spectrum.split(modes)  # type: ignore[no-untyped-call]
        negative = negative.flip(0)
        products = spectrum.new_empty(modes + 1, 2, 2, modes, batch, channels)
        (cc, cs), (sc, ss) = (one.unbind(1) for one in products.unbind(1))
        (pr, pi), (nr, ni) = positive.unbind(2), negative.unbind(2)
        cc[1:-1] = pr[1:] + nr[:-1]
        cs[1:-1] = pi[1:] + ni[:-1]
        sc[1:-1] = ni[:-1] - pi[1:]
        ss[1:-1] = pr[1:] - nr[:-1]
        cc[0], cs[0], sc[0], ss[0] = pr[0], pi[0], -pi[0], pr[0]
        cc[-1], cs[-1], sc[-1], ss[-1] = nr[-1], ni[-1], ni[-1], -nr[-1]
        return products

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        out: Tensor = _Joined.apply(gradients[0])  # type: ignore[no-untyped-call]
        return out


def _multiply_add(plus: Tensor | None, matrix: Tensor, u: Tensor, shape: tuple[int, ...]) -> Tensor:
    u = u.reshape(matrix.shape[1], -1)
    if plus is None:
        return torch.mm(matrix, u).view(shape)
    return torch.addmm(plus.reshape(len(matrix), -1), matrix, u).view(shape)


def _added(plus: Tensor | None, u: Tensor) -> Tensor:
    return u if plus is None else plus + u


def _exact(u: Tensor) -> Tensor:
    """FFTs know no half precision."""
    return u if u.dtype == torch.float64 else u.float()


def _constant(function: F) -> F:
    """What `torch.compiler.assume_constant_result` does, which loads the compiler (2 s) to set one mark."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@_constant
@lru_cache(maxsize=32)
def _real_transforms(
    points: int, modes: int, dtype: torch.dtype, device: torch.device, *, interleaved: bool = True
) -> tuple[Tensor, Tensor]:
    """Truncated rfft (2 modes, points) and irfft (points, 2 modes) of one axis.

    Modes are (mode, part) if interleaved, else (part, mode).
    """
    k, j = np.arange(modes), np.arange(points)
    phase = _phase(k, j, points)
    parts = np.stack([np.cos(phase), -np.sin(phase)], axis=1 if interleaved else 0)  # of exp(-i phase)
    forward = parts.reshape(2 * modes, points)
    twice = np.where(k == 0, 1, 2)  # a real signal's mode k stands for k and -k
    twice = np.repeat(twice, 2) if interleaved else np.tile(twice, 2)
    return _tensor(forward / points, dtype, device), _tensor((forward * twice[:, None]).T, dtype, device)


@_constant
@lru_cache(maxsize=32)
def _waves(points: int, modes: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin of the modes 0 … modes of one axis: (2 modes + 2, points) / points, and its transpose."""
    phase = _phase(np.arange(modes + 1), np.arange(points), points)
    waves = np.stack([np.cos(phase), np.sin(phase)], axis=1).reshape(2 * modes + 2, points)
    return _tensor(waves / points, dtype, device), _tensor(waves.T, dtype, device)


def _phase(k: NDArray[np.int64], j: NDArray[np.int64], points: int) -> NDArray[np.float64]:
    """2 pi k j / points, reduced exactly before it is rounded."""
    return 2 * np.pi * (np.outer(k, j) % points) / points


def _tensor(array: NDArray[np.float64], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # kept for later calls, which may be training
        return torch.tensor(np.ascontiguousarray(array), dtype=dtype, device=device)
