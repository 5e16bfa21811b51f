"""The long table, and what a claim reads off it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlde.claims import Check, Table, at_most, line, needs
from dlde.errors import SpecError

TABLE = Table(
    tuple(
        {"variant": variant, "seed": seed, "metric": "relative_l2", "value": value}
        for variant, values in {"fno": (0.02, 0.03, 0.07), "fcn": (0.1, 0.2, 0.3)}.items()
        for seed, value in enumerate(values)
    )
)


def along(axis: str, values: dict[float, list[float]]) -> Table:
    return Table(
        tuple(
            {"variant": "a", "seed": seed, axis: place, "metric": "error", "value": value}
            for place, column in values.items()
            for seed, value in enumerate(column)
        )
    )


def curve(values: list[float], seed: int = 0) -> list[dict[str, Any]]:
    return [
        {"variant": "a", "seed": seed, "metric": "loss", "value": v, "step": i + 1, "seconds": 0.5 * (i + 1)}
        for i, v in enumerate(values)
    ]


def test_reducers_over_the_seeds() -> None:
    assert TABLE.by_seed("relative_l2", variant="fcn") == {0: 0.1, 1: 0.2, 2: 0.3}
    assert TABLE.seeds("relative_l2", variant="fcn") == (0, 1, 2)
    assert TABLE.mean("relative_l2", variant="fno") == pytest.approx(0.04)
    assert TABLE.median("relative_l2", variant="fno") == 0.03
    assert TABLE.worst("relative_l2", variant="fno") == 0.07
    assert TABLE.worst("relative_l2", highest=False, variant="fno") == 0.02


def test_metric_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"no 'relative_l3' where .*did you mean 'relative_l2'"):
        TABLE.mean("relative_l3", variant="fno")
    with pytest.raises(SpecError, match="no 'relative_l2'"):
        TABLE.mean("relative_l2", variant="unet")


def test_a_point_of_an_axis_must_be_named() -> None:
    table = along("width", {4: [1.0, 2.0], 8: [3.0, 5.0]})
    with pytest.raises(SpecError, match="several values of 'error' for seed 0"):
        table.mean("error", variant="a")
    assert table.along("error", "width", variant="a") == {4: 1.5, 8: 4.0}
    with pytest.raises(SpecError, match="no 'error' along 'depth'"):
        table.along("error", "depth", variant="a")


@given(st.floats(-3, 3), st.floats(0.1, 10))
def test_slope_is_the_exponent_of_a_power_law(exponent: float, factor: float) -> None:
    table = along("n", {n: [factor * n**exponent] * 2 for n in (16.0, 32.0, 64.0)})
    slope = table.slope("error", "n")
    assert slope.value == pytest.approx(exponent, abs=1e-9)
    assert slope.low <= slope.value <= slope.high
    assert slope.high - slope.low < 1e-5


def test_interval_of_a_slope_is_that_of_least_squares() -> None:
    """y = 2 x + (0.1, -0.2, 0.1): slope 2, residuals orthogonal to x, one degree of freedom."""
    table = along("x", {0.0: [0.1], 1.0: [1.8], 2.0: [4.1]})
    slope = table.slope("error", "x", log=False)
    error = math.sqrt((0.1**2 + 0.2**2 + 0.1**2) / 1 / 2)
    assert slope.value == pytest.approx(2.0)
    assert slope.high - slope.value == pytest.approx(12.706 * error, rel=1e-3)


def test_slopes_that_cannot_be() -> None:
    with pytest.raises(SpecError, match="needs three points"):
        along("n", {1.0: [1.0], 2.0: [1.0]}).slope("error", "n")
    with pytest.raises(SpecError, match="not positive"):
        along("n", {1.0: [1.0], 2.0: [-1.0], 3.0: [1.0]}).slope("error", "n")


def test_time_to_a_level() -> None:
    table = Table(tuple(curve([4, 1, 3, 1, 1, 1]) + curve([5, 5, 5, 5, 5, 0], seed=1)))
    assert table.time_to("loss", 1.0) == {0: 1.0, 1: 3.0}
    assert table.time_to("loss", 1.0, unit="step") == {0: 2, 1: 6}
    assert table.time_to("loss", 1.0, unit="step", window=3) == {0: 6, 1: math.inf}
    with pytest.raises(SpecError, match=r"no 'los'.*did you mean 'loss'"):
        table.time_to("los", 1.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(1, 5), st.floats(0, 1))
def test_time_to_is_the_first_window_at_the_level(values: list[float], window: int, level: float) -> None:
    found = Table(tuple(curve(values))).time_to("loss", level, unit="step", window=window)[0]
    means = [np.mean(values[i - window : i]) for i in range(window, len(values) + 1)]
    if math.isinf(found):
        assert all(mean > level - 1e-12 for mean in means)
    else:
        assert means[int(found) - window] <= level + 1e-12
        assert all(mean > level - 1e-12 for mean in means[: int(found) - window])


def test_conditions_with_numbers_that_are_not_there() -> None:
    assert at_most("ok", 1, 1, (0, 1)) == Check(text="ok", left=1, right=1, holds=True, seeds=(0, 1))
    never = at_most("never reached", math.inf, math.inf)
    assert (never.holds, never.left, never.right) == (False, None, None)
    assert at_most("the other never did", 1.0, math.inf).holds


def test_a_claim_says_what_it_needs_and_in_words() -> None:
    @needs(variants=("a",), axes=("n",))
    def claim(results: Table) -> list[Check]:
        """It is fast.

        Or so they say.
        """
        return [at_most("seeds", len(results.rows), 9)]

    assert (claim.variants, claim.axes) == (("a",), ("n",))
    assert claim.words == "It is fast.\n\nOr so they say."
    assert claim(TABLE)[0].left == 6


def test_a_line_through_points_of_a_claim_s_own() -> None:
    found = line([(n, 3.0 / n) for n in (10, 20, 40)])
    assert found.value == pytest.approx(-1.0)
    assert found.r2 == pytest.approx(1.0)
    with pytest.raises(ValueError, match="needs three points"):
        line([(1.0, 1.0)])


def test_curves_of_an_evaluation_are_points_of_an_axis() -> None:
    rows = tuple(
        {"variant": "a", "seed": seed, "metric": "error", "at": x, "value": x**-2.0}
        for seed in (0, 1)
        for x in (4.0, 8.0, 16.0)
    )
    assert Table(rows).along("error", "at", variant="a") == {4.0: 1 / 16, 8.0: 1 / 64, 16.0: 1 / 256}
    assert Table(rows).slope("error", "at", variant="a").value == pytest.approx(-2.0)
    assert Table(rows).mean("error", variant="a", at=8.0) == 1 / 64
