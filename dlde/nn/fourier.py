"""Spectral convolutions: a linear map of the channels of each low Fourier mode (Fourier neural operators).

Arrays are (batch, *space, channel) on uniform grids, taken as periodic. Weights belong to modes, not
to points, so they fit every resolution. Two roads give the same result:

- `matrix` writes the truncated discrete Fourier transform as real matrices. No complex number
  occurs, all work is in large products, and reduced precision works.
- `fft` transforms everything and keeps a little. It needs fewer operations when many modes are kept.

Transforms are normalised forward (1 / number of points), so that coefficients do not grow with the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dlde.errors import GridError

Road = Literal["auto", "matrix", "fft"]

# Up to so many modes per axis, by number of axes, the matrix road is the faster one on one CPU core; at
# 128 modes in 1-D and 24 in 2-D they are about equal. The number of points hardly matters, as the FFT
# road pays for strided memory too. `python benchmarks/fno_step.py --roads` prints the table.
MATRIX_MODES = {1: 64, 2: 16}


class SpectralConv1d(nn.Module):
    """Maps the modes 0 … modes - 1 of (batch, points, in_channels), and drops the others.

    `weight` (2, modes, in_channels, out_channels) holds real and imaginary parts.
    """

    def __init__(self, in_channels: int, out_channels: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        self.weight = _initial_weight(modes, in_channels, out_channels)

    def forward(self, u: Tensor, plus: Tensor | None = None, *, road: Road = "auto") -> Tensor:
        """The convolution of u, added to `plus`: (batch, points, out_channels).

        Raises GridError below 2 * modes points.
        """
        (points,) = _check(u, self.modes, dims=1)
        if road == "fft" or (road == "auto" and self.modes > MATRIX_MODES[1]):
            return _added(plus, self._by_fft(u))
        batch, _, channels = u.shape
        forward, backward = _real_transforms(points, self.modes, u.dtype, u.device)
        spectrum = torch.matmul(forward, u).view(batch, self.modes, 2 * channels)
        mapped = torch.bmm(spectrum.transpose(0, 1), _real_block(self.weight))  # (modes, batch, 2 out)
        mapped = mapped.transpose(0, 1).reshape(batch, 2 * self.modes, -1)
        return _multiply_add(plus, backward, mapped)

    def _by_fft(self, u: Tensor) -> Tensor:
        weight = torch.complex(*_exact(self.weight))
        spectrum = torch.fft.rfft(_exact(u), dim=1, norm="forward")[:, : self.modes]
        mapped = torch.bmm(spectrum.transpose(0, 1), weight).transpose(0, 1)
        out: Tensor = torch.fft.irfft(mapped, n=u.shape[1], dim=1, norm="forward")
        return out.to(u.dtype)


class SpectralConv2d(nn.Module):
    """Maps the modes (-modes … modes - 1, 0 … modes - 1) of (batch, x, y, in_channels).

    `weight` (2, 2 * modes, modes, in_channels, out_channels) holds real and imaginary parts; along
    its second axis stand the non-negative modes of x, then the negative ones.
    """

    def __init__(self, in_channels: int, out_channels: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        weight = _initial_weight(2 * modes * modes, in_channels, out_channels)
        self.weight = nn.Parameter(weight.data.view(2, 2 * modes, modes, in_channels, out_channels))

    def forward(self, u: Tensor, plus: Tensor | None = None, *, road: Road = "auto") -> Tensor:
        """The convolution of u, added to `plus`: (batch, x, y, out_channels).

        Raises GridError below 2 * modes points per axis.
        """
        nx, ny = _check(u, self.modes, dims=2)
        if road == "fft" or (road == "auto" and self.modes > MATRIX_MODES[2]):
            return _added(plus, self._by_fft(u))
        batch, modes = len(u), self.modes
        forward_y, backward_y = _real_transforms(ny, modes, u.dtype, u.device, interleaved=False)
        forward_x, backward_x = _complex_transforms(nx, modes, u.dtype, u.device)

        rows = torch.matmul(forward_y, u.reshape(batch * nx, ny, -1))  # (batch x, part modes, in)
        spectrum = torch.matmul(forward_x, rows.view(batch, 2 * nx, -1))  # (batch, modes part, modes in)
        spectrum = spectrum.view(batch, 2 * modes, 2, modes, -1).permute(1, 3, 0, 2, 4)
        mapped = torch.bmm(
            spectrum.reshape(2 * modes * modes, batch, -1), _real_block(self.weight.flatten(1, 2))
        )
        mapped = mapped.view(2 * modes, modes, batch, 2, -1).permute(2, 0, 3, 1, 4)
        rows = torch.matmul(backward_x, mapped.reshape(batch, 4 * modes, -1))
        plus = None if plus is None else plus.reshape(batch * nx, ny, -1)
        out = _multiply_add(plus, backward_y, rows.view(batch * nx, 2 * modes, -1))
        return out.view(batch, nx, ny, -1)

    def _by_fft(self, u: Tensor) -> Tensor:
        nx, ny = u.shape[1:3]
        modes = self.modes
        weight = torch.complex(*_exact(self.weight))
        whole = torch.fft.rfft2(_exact(u), dim=(1, 2), norm="forward")
        spectrum = torch.cat([whole[:, :modes, :modes], whole[:, nx - modes :, :modes]], dim=1)
        mapped = torch.einsum("bxyi,xyio->bxyo", spectrum, weight)
        gap = mapped.new_zeros(len(u), nx - 2 * modes, modes, mapped.shape[-1])
        whole = torch.cat([mapped[:, :modes], gap, mapped[:, modes:]], dim=1)
        out: Tensor = torch.fft.irfft2(whole, s=(nx, ny), dim=(1, 2), norm="forward")
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
    space = tuple(u.shape[1:-1])
    if len(space) != dims:
        expected = "(batch, x, channel)" if dims == 1 else "(batch, x, y, channel)"
        raise GridError(f"expected {expected}, got an array of shape {tuple(u.shape)}")
    check_points(space, modes)
    return space


def _initial_weight(modes: int, in_channels: int, out_channels: int) -> nn.Parameter:
    """Uniform in [0, 1) / (in_channels out_channels), as in the paper's repository."""
    return nn.Parameter(torch.rand(2, modes, in_channels, out_channels) / (in_channels * out_channels))


def _real_block(weight: Tensor) -> Tensor:
    """(2, modes, in, out) -> (modes, 2 in, 2 out): acts on (real, imaginary) as w does on a complex row."""
    real, imag = weight
    return torch.cat([torch.cat([real, imag], dim=2), torch.cat([-imag, real], dim=2)], dim=1)


def _multiply_add(plus: Tensor | None, matrix: Tensor, u: Tensor) -> Tensor:
    if plus is None:
        return torch.matmul(matrix, u)
    return torch.baddbmm(plus, matrix.expand(len(u), *matrix.shape), u)


def _added(plus: Tensor | None, u: Tensor) -> Tensor:
    return u if plus is None else plus + u


def _exact(u: Tensor) -> Tensor:
    """FFTs know no half precision."""
    return u if u.dtype == torch.float64 else u.float()


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


@lru_cache(maxsize=32)
def _complex_transforms(
    points: int, modes: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Truncated fft (4 modes, 2 points) and ifft (2 points, 4 modes) of one axis, on (real, imaginary).

    Points are (point, part), modes (mode, part): 0 … modes - 1, then -modes … -1.
    """
    k = np.r_[np.arange(modes), np.arange(-modes, 0)]
    phase = _phase(k, np.arange(points), points)
    c, s = np.cos(phase), np.sin(phase)
    forward = np.block([[[[c]], [[s]]], [[[-s]], [[c]]]])  # exp(-i phase) (a + ib)
    forward = forward.transpose(2, 0, 3, 1).reshape(4 * modes, 2 * points)
    return _tensor(forward / points, dtype, device), _tensor(forward.T, dtype, device)


def _phase(k: NDArray[np.int64], j: NDArray[np.int64], points: int) -> NDArray[np.float64]:
    """2 pi k j / points, reduced exactly before it is rounded."""
    return 2 * np.pi * (np.outer(k, j) % points) / points


def _tensor(array: NDArray[np.float64], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # kept for later calls, which may be training
        return torch.tensor(np.ascontiguousarray(array), dtype=dtype, device=device)
