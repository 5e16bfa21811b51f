"""Random periodic fields, drawn so that a finer grid shows the same instance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dlde.errors import GridError


def gaussian_field(
    generator: np.random.Generator,
    num_points: Sequence[int],
    extent: Sequence[float],
    *,
    exponent: float,
    tau: float,
    sigma: float,
    num_modes: int,
) -> NDArray[np.float64]:
    """One periodic Gaussian field N(0, sigma^2 (-Lap + tau^2 I)^-exponent) with mean zero, 1-D or 2-D.

    A sum of cos and sin over the modes 0 < |k| <= num_modes (each axis of two), each with standard
    deviation `spectral_std`, taken at the points of the grid: `num_points` per axis, end point
    excluded. The generator is consumed alike for every grid, and in 1-D the modes come in
    order, so that more modes add detail to the same instance.
    Source: Li et al., Fourier Neural Operator (2021), arXiv 2010.08895, appendix A.3.
    """
    if len(num_points) not in (1, 2) or len(extent) != len(num_points):
        raise GridError(
            f"num_points={tuple(num_points)} and extent={tuple(extent)}: "
            "expected one or two axes, the same number in both"
        )
    k = np.arange(num_modes + 1)
    axes = [k] if len(extent) == 1 else [np.r_[k, -k[:0:-1]], k]
    std = spectral_std(_squared(axes, extent), exponent=exponent, tau=tau, sigma=sigma)
    cos, sin = np.moveaxis(generator.standard_normal((*std.shape, 2)), -1, 0)
    coefficients = 0.5 * std * (cos - 1j * sin)
    if len(extent) == 2:  # the column of k_y = 0 holds both of each pair +-k_x: keep one, mirror it
        coefficients[num_modes + 1 :, 0] = coefficients[num_modes:0:-1, 0].conj()
    coefficients.flat[0] = 0
    return _evaluate(coefficients, num_points)


def pointwise_std(
    extent: Sequence[float], *, exponent: float, tau: float, sigma: float, num_modes: int
) -> float:
    """Standard deviation of `gaussian_field` at a point; the same everywhere."""
    k = np.arange(-num_modes, num_modes + 1)
    std = spectral_std(_squared([k] * len(extent), extent), exponent=exponent, tau=tau, sigma=sigma)
    std.flat[std.size // 2] = 0  # the mean
    return float(np.sqrt((std**2).sum() / 2))  # half: each pair +-k is one mode


def spectral_std(
    wavenumber_squared: NDArray[np.float64], *, exponent: float, tau: float, sigma: float
) -> NDArray[np.float64]:
    """Standard deviation of a mode's cos and sin coefficient: sqrt(2) sigma (k^2 + tau^2)^(-exponent/2)."""
    std: NDArray[np.float64] = np.sqrt(2) * sigma * (wavenumber_squared + tau**2) ** (-exponent / 2)
    return std


def _squared(axes: Sequence[NDArray[np.int_]], extent: Sequence[float]) -> NDArray[np.float64]:
    """|2 pi k / extent|^2 over the modes."""
    scaled = (2 * np.pi * k / length for k, length in zip(axes, extent, strict=True))
    squared: NDArray[np.float64] = np.sum([k**2 for k in np.meshgrid(*scaled, indexing="ij")], axis=0)
    return squared


def _evaluate(coefficients: NDArray[np.complex128], num_points: Sequence[int]) -> NDArray[np.float64]:
    """The trigonometric sum at the points of a grid; on one too coarse for the modes it is sampled."""
    num_modes = coefficients.shape[-1] - 1
    strides = [num_modes * 2 // n + 1 for n in num_points]
    fine = [n * stride for n, stride in zip(num_points, strides, strict=True)]
    if len(fine) == 2:
        rows = np.zeros((fine[0], num_modes + 1), complex)
        rows[: num_modes + 1] = coefficients[: num_modes + 1]
        rows[-num_modes:] = coefficients[-num_modes:]
        coefficients = np.fft.ifft(rows, axis=0, norm="forward")
    field = np.fft.irfft(coefficients, n=fine[-1], axis=-1, norm="forward")
    return np.ascontiguousarray(field[tuple(slice(None, None, stride) for stride in strides)])
