"""Spectral convolutions: both roads against numpy, and what a Fourier multiplier must do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dlde.errors import GridError
from dlde.nn.fourier import SpectralConv1d, SpectralConv2d

TOLERANCE = {
    torch.float32: 2e-6,
    torch.float64: 1e-13,
}  # rounding of sums over the points, with weights below 1


def numpy_1d(u: Tensor, weight: Tensor) -> Tensor:
    modes = weight.shape[1]
    w = _complex(weight)
    spectrum = np.fft.rfft(u.double().numpy(), axis=1)
    mapped = np.zeros((len(u), spectrum.shape[1], w.shape[-1]), complex)
    mapped[:, :modes] = np.einsum("bki,kio->bko", spectrum[:, :modes], w)
    return torch.from_numpy(np.fft.irfft(mapped, n=u.shape[1], axis=1))


def numpy_2d(u: Tensor, weight: Tensor) -> Tensor:
    w, modes = _complex(weight), weight.shape[2]
    spectrum = np.fft.rfft2(u.double().numpy(), axes=(1, 2))
    mapped = np.zeros((*spectrum.shape[:3], w.shape[-1]), complex)
    mapped[:, :modes, :modes] = np.einsum("bxyi,xyio->bxyo", spectrum[:, :modes, :modes], w[:modes])
    mapped[:, -modes:, :modes] = np.einsum("bxyi,xyio->bxyo", spectrum[:, -modes:, :modes], w[modes:])
    return torch.from_numpy(np.fft.irfft2(mapped, s=u.shape[1:3], axes=(1, 2)))


def _complex(weight: Tensor) -> np.ndarray:
    real, imag = weight.detach().double().numpy()
    return real + 1j * imag


@pytest.mark.parametrize("road", ["matrix", "fft"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("points", [(12,), (13,), (64,), (12, 12), (13, 16), (20, 15)], ids=str)
def test_both_roads_are_the_truncated_transform(
    points: tuple[int, ...], dtype: torch.dtype, road: str
) -> None:
    torch.manual_seed(0)
    conv = (SpectralConv1d if len(points) == 1 else SpectralConv2d)(3, 2, 6).to(dtype)
    u = torch.randn(4, *points, 3, dtype=dtype)
    plus = torch.randn(4, *points, 2, dtype=dtype)
    expected = (numpy_1d if len(points) == 1 else numpy_2d)(u, conv.weight).movedim(0, -2)
    u, plus = u.movedim(0, -2), plus.movedim(0, -2)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(conv(u, road=road).double(), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(
        conv(u, plus, road=road).double(), expected + plus.double(), rtol=0, atol=tolerance
    )


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_roads_and_their_gradients_agree_for_any_shape(data: st.DataObject) -> None:
    dims = data.draw(st.sampled_from([1, 2]))
    modes = data.draw(st.integers(1, 5))
    points = data.draw(st.tuples(*[st.integers(2 * modes, 2 * modes + 12)] * dims))
    channels = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    torch.manual_seed(0)
    conv = (SpectralConv1d if dims == 1 else SpectralConv2d)(*channels, modes).double()
    u = torch.randn(*points, 2, channels[0], dtype=torch.float64, requires_grad=True)
    plus = torch.randn(*points, 2, channels[1], dtype=torch.float64, requires_grad=True)
    seen = torch.randn_like(plus)
    matrix, fft = (
        (out := conv(u, plus, road=road), *torch.autograd.grad((out * seen).sum(), [u, plus, conv.weight]))
        for road in ("matrix", "fft")
    )
    for one, other in zip(matrix, fft, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("road", ["matrix", "fft"])
def test_one_mode_is_turned_by_its_weight(road: str) -> None:
    """Weight r exp(i a) at mode 3 maps cos(3 x) to r cos(3 x + a); mode 7 is dropped."""
    conv = SpectralConv1d(1, 1, 5).double()
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[:, 3, 0, 0] = torch.tensor([1.6, 1.2], dtype=torch.float64)
    x = 2 * np.pi * torch.arange(33, dtype=torch.float64) / 33
    u = (torch.cos(3 * x) + torch.cos(7 * x) + 1).view(33, 1, 1)
    expected = 2 * torch.cos(3 * x + np.arctan2(0.6, 0.8)).view(33, 1, 1)
    torch.testing.assert_close(conv(u, road=road), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("road", ["matrix", "fft"])
def test_one_mode_in_two_dimensions(road: str) -> None:
    """Mode (-2, 1), which stands in the negative block: cos(-2 x + y) -> r cos(-2 x + y + a)."""
    conv = SpectralConv2d(1, 1, 3).double()
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[:, 6 - 2, 1, 0, 0] = torch.tensor([1.6, 1.2], dtype=torch.float64)
    x = 2 * np.pi * torch.arange(9, dtype=torch.float64).view(9, 1) / 9
    y = 2 * np.pi * torch.arange(8, dtype=torch.float64).view(1, 8) / 8
    u = (torch.cos(-2 * x + y) + torch.cos(2 * x + y)).view(9, 8, 1, 1)
    expected = 2 * torch.cos(-2 * x + y + np.arctan2(0.6, 0.8)).view(9, 8, 1, 1)
    torch.testing.assert_close(conv(u, road=road), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("road", ["matrix", "fft"])
def test_a_band_limited_field_gives_the_same_on_every_grid(road: str) -> None:
    torch.manual_seed(0)
    conv = SpectralConv1d(1, 2, 8).double()

    def on(points: int) -> Tensor:
        x = 2 * np.pi * torch.arange(points, dtype=torch.float64) / points
        return conv((torch.sin(x) + torch.cos(5 * x + 1) - 0.5).view(points, 1, 1), road=road)

    torch.testing.assert_close(on(16), on(240)[::15], rtol=0, atol=1e-13)


@pytest.mark.parametrize("dims", [1, 2])
def test_a_shift_of_the_input_shifts_the_output(dims: int) -> None:
    torch.manual_seed(0)
    conv = (SpectralConv1d if dims == 1 else SpectralConv2d)(2, 2, 4).double()
    u = torch.randn(*[15] * dims, 3, 2, dtype=torch.float64)
    axes = tuple(range(dims))
    torch.testing.assert_close(
        conv(u.roll([4] * dims, axes)), conv(u).roll([4] * dims, axes), rtol=0, atol=1e-13
    )


def test_initial_weights_are_small_and_positive() -> None:
    weight = SpectralConv1d(4, 8, 16).weight
    assert 0 <= weight.min() < weight.max() < 1 / 32


def test_only_the_weight_is_kept() -> None:
    conv = SpectralConv2d(2, 3, 4)
    conv(torch.randn(8, 9, 1, 2))
    assert {name: tuple(value.shape) for name, value in conv.state_dict().items()} == {
        "weight": (2, 8, 4, 2, 3)
    }


def test_matrices_made_in_inference_mode_serve_training_later() -> None:
    conv = SpectralConv1d(1, 1, 2)
    u = torch.randn(29, 1, 1)  # a size that no other test uses
    with torch.inference_mode():
        conv(u)
    conv(u.clone().requires_grad_()).sum().backward()
    assert conv.weight.grad is not None


def test_the_matrix_road_works_in_reduced_precision() -> None:
    torch.manual_seed(0)
    conv, u = SpectralConv1d(4, 4, 8), torch.randn(64, 2, 4)
    exact, rounded = conv(u), conv.to(torch.bfloat16)(u.bfloat16(), road="matrix")
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).norm() < 2e-2 * exact.norm()  # bfloat16 holds 8 bits


@pytest.mark.parametrize("road", ["auto", "matrix", "fft"])
def test_too_few_points_are_refused(road: str) -> None:
    with pytest.raises(
        GridError, match="modes=8 needs at least 16 points per axis, but the grid has 15"
    ) as e:
        SpectralConv1d(1, 1, 8)(torch.zeros(15, 1, 1), road=road)
    assert e.value.smallest == 16
    with pytest.raises(GridError, match=r"grid has 16 x 7. Use a finer grid, or modes <= 3"):
        SpectralConv2d(1, 1, 4)(torch.zeros(16, 7, 1, 1), road=road)


def test_a_wrong_number_of_axes_is_refused() -> None:
    with pytest.raises(
        GridError, match=r"expected \(x, batch, channel\), got an array of shape \(8, 8, 1, 1\)"
    ):
        SpectralConv1d(1, 1, 2)(torch.zeros(8, 8, 1, 1))


@pytest.mark.parametrize("points", [(7,), (5, 6)], ids=str)
def test_gradients_of_the_matrix_road(points: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    conv = (SpectralConv1d if len(points) == 1 else SpectralConv2d)(2, 3, 2).double()
    u = torch.randn(*points, 2, 2, dtype=torch.float64, requires_grad=True)
    plus = torch.randn(*points, 2, 3, dtype=torch.float64, requires_grad=True)

    def convolved(u: Tensor, plus: Tensor, weight: Tensor) -> Tensor:
        values = {"weight": weight}
        out: Tensor = torch.func.functional_call(conv, values, (u, plus), {"road": "matrix"})
        return out

    assert torch.autograd.gradcheck(convolved, (u, plus, conv.weight.detach().requires_grad_()))


@pytest.mark.parametrize("road", ["matrix", "fft"])
@pytest.mark.parametrize("dims", [1, 2])
def test_autocast_keeps_the_answer_and_the_gradients(dims: int, road: str) -> None:
    torch.manual_seed(0)
    conv = (SpectralConv1d if dims == 1 else SpectralConv2d)(4, 4, 5)
    u, plus = (torch.randn(*[16] * dims, 3, 4, requires_grad=True) for _ in range(2))
    seen = torch.randn(*[16] * dims, 3, 4)

    def answer(reduced: bool) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            out = conv(u, plus, road=road)
        return [out, *torch.autograd.grad((out.float() * seen).sum(), [u, conv.weight])]

    for exact, rounded in zip(answer(False), answer(True), strict=True):
        assert (rounded.float() - exact).norm() < 2e-2 * exact.norm()  # bfloat16 holds 8 bits
