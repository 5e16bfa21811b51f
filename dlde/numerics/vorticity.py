"""Two-dimensional incompressible flow on a periodic box, in coefficients of the vorticity.

w = v_x - u_y; u = psi_y, v = -psi_x with Lap psi = -w, so that the mean velocity is zero. All is in the
units of the box.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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
        self._velocity = np.stack(np.broadcast_arrays(1j * ky * inverse, -1j * kx * inverse))
        flux = np.stack(np.broadcast_arrays(kx * ky, kx**2 - ky**2))
        self._curl = self._turned(self._velocity).to(like)
        # doubled, for (re, im) pairs: a complex by real product would first promote the real factor
        pairs = self._turned(flux).to(like.device, like.real.dtype)[..., None]
        self._flux = pairs.expand(-1, -1, -1, -1, 2).contiguous()
        self._buffers: dict[int, tuple[Any, ...]] = {}

    def _turned(self, factors: NDArray[Any]) -> Tensor:
        """(2, *modes) -> (2, 1, modes of y, points of x): along x all modes, lying next to one another.

        So a transform along x needs no copy of its own, and products run through the memory.
        """
        cut, num_x = self.transform.cuts[0], self.transform.num_points[0]
        full = np.zeros((2, 1, factors.shape[-1], num_x), factors.dtype)
        full[:, 0, :, : cut + 1] = factors[:, : cut + 1].swapaxes(1, 2)
        full[:, 0, :, -cut:] = factors[:, cut + 1 :].swapaxes(1, 2)
        return torch.from_numpy(full)

    def velocity(self, w: Tensor) -> Tensor:
        """Coefficients (2, batch, *modes) of u and v."""
        return torch.from_numpy(self._velocity).to(w)[:, None] * w

    def __call__(self, w: Tensor) -> Tensor:
        cut = self.transform.cuts[0]
        turned, columns, kept, padded, products, spectrum = self._buffers_for(w)
        turned[..., : cut + 1] = w[:, : cut + 1].transpose(1, 2)
        turned[..., -cut:] = w[:, cut + 1 :].transpose(1, 2)
        torch.mul(turned, self._curl, out=columns)
        kept.copy_(torch.fft.ifft(columns, norm="forward").transpose(2, 3))
        u, v = torch.fft.irfft(padded, n=self.transform.num_points[1], norm="forward")
        torch.mul(v, v, out=products[0]).addcmul_(u, u, value=-1)
        torch.mul(u, v, out=products[1])
        spectrum.copy_(torch.fft.rfft(products, norm="forward")[..., : w.shape[-1]].transpose(2, 3))
        difference, product = torch.view_as_real(torch.fft.fft(spectrum, norm="forward"))
        change = difference.mul_(self._flux[0]).addcmul_(product, self._flux[1])
        rows = torch.view_as_complex(change).transpose(1, 2)
        out = torch.empty_like(w)
        out[:, : cut + 1] = rows[:, : cut + 1]
        out[:, cut + 1 :] = rows[:, -cut:]
        return out

    def _buffers_for(self, w: Tensor) -> tuple[Any, ...]:
        """For that many samples; what is read and not written is zero."""
        batch, modes = w.shape[0], w.shape[-1]
        if batch not in self._buffers:
            num_x, num_y = self.transform.num_points
            turned = w.new_zeros(batch, modes, num_x)  # coefficients of w, with x last
            columns = w.new_empty(2, batch, modes, num_x)  # of u and v
            padded = w.new_zeros(2, batch, num_x, num_y // 2 + 1)  # of them along y, with those kept
            products = w.real.new_empty(2, batch, num_x, num_y)
            spectrum = w.new_empty(2, batch, modes, num_x)  # of the products along y, with x last
            self._buffers[batch] = (turned, columns, padded[..., :modes], padded, products, spectrum)
        return self._buffers[batch]
