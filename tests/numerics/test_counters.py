"""Counter-based random numbers: a function of their numbers, with the right law."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dlde.errors import InputError
from dlde.numerics.counters import normals, uniforms

NUMBERS = st.integers(0, 2**62)


@given(seed=NUMBERS, paths=st.lists(NUMBERS, min_size=1, max_size=4, unique=True), time=NUMBERS)
def test_a_path_does_not_hang_on_the_others(seed: int, paths: list[int], time: int) -> None:
    together = normals(seed, paths, time, (3, 2))
    assert together.shape == (len(paths), 3, 2)
    for path, drawn in zip(paths, together, strict=True):
        np.testing.assert_array_equal(normals(seed, [path], time, (3, 2))[0], drawn)


def test_a_longer_draw_begins_with_the_shorter() -> None:
    np.testing.assert_array_equal(normals(1, [2], 3, (8,))[0, :5], normals(1, [2], 3, (5,))[0])


@pytest.mark.parametrize("changed", [{"seed": 8}, {"paths": [4]}, {"time": 6}, {"purpose": 1}], ids=str)
def test_every_number_counts(changed: dict[str, object]) -> None:
    numbers: dict[str, object] = {"seed": 7, "paths": [3], "time": 5, "purpose": 0}
    one, other = (normals(shape=(4000,), **n)[0] for n in (numbers, {**numbers, **changed}))  # type: ignore[arg-type]
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.07  # 4.4 standard deviations of independent draws


def test_the_laws_are_normal_and_uniform() -> None:
    """Kolmogorov-Smirnov over many paths and times: a fixed sample, so the p-values are fixed too."""
    normal = np.concatenate([normals(0, range(100), time, (10,)).ravel() for time in range(20)])
    uniform = np.concatenate([uniforms(0, range(100), time, (10,)).ravel() for time in range(20)])
    assert stats.kstest(normal, "norm").pvalue > 0.01
    assert stats.kstest(uniform, "uniform").pvalue > 0.01


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(InputError, match=r"counted from 0: got seed 1, time 2, purpose 0, paths from -3"):
        normals(1, [4, -3], 2, (1,))
