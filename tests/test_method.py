"""What an operation takes: bounds, options, ranges; and what a descent refuses."""

from __future__ import annotations

import pytest
import torch

from dlde.errors import InputError, SpecError
from dlde.method import ArraySpec, Descent, Dim, Operation, Option

POINTS = ArraySpec(
    dims=(Dim(name="batch"), Dim(name="coordinate", size=2)),
    dtype="float64",
    long_name="points of the domain",
    bounds=((0.0, 1.0), (None, 5.0)),
)
SAMPLE = Operation(
    summary="Draw points",
    options={
        "n": Option(default=10, minimum=1, maximum=100, summary="how many"),
        "scale": Option(kind="float", default=1.0, minimum=0.0, summary="spread"),
    },
    outputs={"points": POINTS},
)


def test_a_value_outside_the_bounds_is_refused_and_named() -> None:
    operation = Operation(summary="Solve", inputs={"x": POINTS}, outputs={"u": POINTS})
    operation.check({"x": torch.tensor([[0.0, -1e9], [1.0, 5.0]], dtype=torch.float64)})
    outside = torch.tensor([[0.5, 6.0], [1.5, 0.0], [-0.5, 0.0]], dtype=torch.float64)
    with pytest.raises(InputError) as refused:
        operation.check({"x": outside})
    assert refused.value.mistakes == [
        "input 'x': entry 0 of the last axis has 2 values outside [0, 1], such as 1.5",
        "input 'x': entry 1 of the last axis has 1 values outside at most 5, such as 6",
    ]
    positive = POINTS.model_copy(update={"bounds": ((0.0, None),)})
    one = Operation(summary="Solve", inputs={"x": positive}, outputs={"u": POINTS})
    with pytest.raises(InputError, match="has 3 values outside at least 0, such as -1"):
        one.check({"x": torch.tensor([[-1.0, -2.0], [1.0, -3.0]], dtype=torch.float64)})


def test_a_value_outside_the_training_range_is_answered_with_a_warning() -> None:
    usual = ArraySpec(dims=POINTS.dims, long_name="state", trained_range=((-1.0, 1.0),))
    operation = Operation(summary="Act", inputs={"u": usual}, outputs={"a": usual})
    u = torch.tensor([[0.0, 1.0], [0.0, 1.1]])
    operation.check({"u": u})
    assert operation.warnings({"u": u}) == [
        "input 'u': 1 of 2 in batch have values outside the training range [-1, 1], the first at 1"
    ]


def test_options_have_defaults_and_limits() -> None:
    assert SAMPLE.chosen(None) == {"n": 10, "scale": 1.0}
    assert SAMPLE.chosen({"n": 100, "scale": 2}) == {"n": 100, "scale": 2}
    with pytest.raises(InputError) as refused:
        SAMPLE.chosen({"n": 0, "scale": "x", "m": 3})
    assert refused.value.mistakes == [
        "unknown option 'm'; known: n, scale",
        "option 'n' is 0: expected [1, 100]",
        "option 'scale' must be a number, got 'x'",
    ]
    for wrong in (1.5, True, float("nan"), None):
        with pytest.raises(InputError, match="option 'n' must be a whole number"):
            SAMPLE.chosen({"n": wrong})


def test_a_budget_of_seconds_takes_no_schedule_over_steps() -> None:
    with pytest.raises(SpecError, match="which a budget of seconds cuts anywhere"):
        Descent.parse({"steps": 10, "seconds": 1.0, "schedule": "cosine"}, source="descent")
