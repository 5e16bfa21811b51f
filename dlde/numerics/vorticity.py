"""Two-dimensional incompressible flow on a periodic box, in coefficients of the vorticity.

w = v_x - u_y; u = psi_y, v = -psi_x with Lap psi = -w, so that the mean velocity is zero. All is in the
units of the box.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlde.numerics.spectral import Transform


class VorticityAdvection:
    """-(u w_x + v w_y) of coefficients w (batch, *modes), dealiased, by 4 transforms.

    As the curl of a momentum flux: d_x d_y (u^2 - v^2) + (d_y^2 - d_x^2) (u v); the products have modes
    within twice those kept, which the 2/3 cut removes exactly. Buffers are kept between calls, so
    that one object serves one thread.
    """

    def __init__(self, transform: Transform, like: Tensor) -> None:
        self.transform = transform
        kx, ky = transform.wavenumbers()
        squared = kx**2 + ky**2
        inverse = np.divide(1.0, squared, out=np.zeros_like(squared), where=squared > 0)
        curl = np.stack(np.broadcast_arrays(1j * ky * inverse, -1j * kx * inverse))
        flux = np.stack(np.broadcast_arrays(kx * ky, kx**2 - ky**2))
        cut = transform.cuts[0]
        self._rows = [cut + 1, cut]
        self._curl = torch.from_numpy(curl).to(like)[:, None]
        self._curls = torch.split(self._curl, self._rows, dim=2)
        # doubled, for (re, im) pairs: a complex by real product would first promote the real factor
        doubled = (
            torch.from_numpy(flux)
            .to(like.device, like.real.dtype)[:, None, ..., None]
            .expand(-1, -1, -1, -1, 2)
        )
        self._flux = torch.split(doubled.contiguous(), self._rows, dim=2)
        self._buffers: dict[int, tuple[Any, ...]] = {}

    def velocity(self, w: Tensor) -> Tensor:
        """Coefficients (2, batch, *modes) of u and v."""
        return self._curl * w

    def __call__(self, w: Tensor) -> Tensor:
        columns, blocks, padded, kept, products, flux_difference, flux_product = self._buffers_for(w)
        for part, curl, rows in zip(torch.split(w, self._rows, dim=1), self._curls, blocks, strict=True):
            torch.mul(part, curl, out=rows)
        kept.copy_(torch.fft.ifft(columns, dim=-2, norm="forward"))
        u, v = torch.fft.irfft(padded, n=products.shape[-1], norm="forward")
        torch.mul(v, v, out=flux_difference).addcmul_(u, u, value=-1)
        torch.mul(u, v, out=flux_product)
        spectrum = torch.fft.rfft(products, norm="forward")[..., : w.shape[-1]]
        spectrum = torch.view_as_real(torch.fft.fft(spectrum, dim=-2, norm="forward"))
        out = torch.empty_like(w)
        low, high = self._rows
        for target, source, flux in zip(
            torch.split(torch.view_as_real(out), self._rows, dim=1),
            (spectrum[:, :, :low], spectrum[:, :, -high:]),
            self._flux,
            strict=True,
        ):
            torch.mul(source[0], flux[0], out=target).addcmul_(source[1], flux[1])
        return out

    def _buffers_for(self, w: Tensor) -> tuple[Any, ...]:
        """For that many samples: coefficients of the velocity on all rows (with the blocks of rows that

        are not zero), on all columns (with those that are not zero), and the two products (and each).
        """
        batch, modes = w.shape[0], w.shape[-1]
        if batch not in self._buffers:
            num_x, num_y = self.transform.num_points
            low, high = self._rows
            columns = w.new_zeros(2, batch, num_x, modes)
            padded = w.new_zeros(2, batch, num_x, num_y // 2 + 1)
            products = w.real.new_empty(2, batch, num_x, num_y)
            blocks = (columns[:, :, :low], columns[:, :, -high:])
            self._buffers[batch] = (columns, blocks, padded, padded[..., :modes], products, *products)
        return self._buffers[batch]
