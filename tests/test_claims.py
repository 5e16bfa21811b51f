"""The long table, and what a claim reads off it."""

import pytest

from dlde.claims import Table
from dlde.errors import SpecError

TABLE = Table(
    tuple(
        {"variant": variant, "seed": seed, "metric": "relative_l2", "value": value}
        for variant, values in {"fno": (0.02, 0.03, 0.04), "fcn": (0.1, 0.2, 0.3)}.items()
        for seed, value in enumerate(values)
    )
)


def test_values_by_seed_and_their_mean() -> None:
    assert TABLE.by_seed("relative_l2", variant="fcn") == {0: 0.1, 1: 0.2, 2: 0.3}
    assert TABLE.mean("relative_l2", variant="fno") == pytest.approx(0.03)


def test_metric_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"no 'relative_l3' where .*did you mean 'relative_l2'"):
        TABLE.mean("relative_l3", variant="fno")
    with pytest.raises(SpecError, match="no 'relative_l2'"):
        TABLE.mean("relative_l2", variant="unet")
