"""Pairs of stored fields: what is read, how it is shuffled, how a model on it is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dlde import metrics
from dlde.datasets.generate import generate
from dlde.datasets.recipe import Recipe
from dlde.errors import GridError, InputError, SpecError
from dlde.method import DataInfo
from dlde.tasks.field_map import FieldMap, Pairs, predict
from tests.fakes import FakeDataset, FakeRun, axis, waves


class Transport(nn.Module):
    """Exact for `waves` times `factor`: the shift by a tenth, in Fourier space."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, u: Tensor) -> Tensor:
        n = u.shape[1]
        turn = torch.exp(-2j * np.pi * 0.1 * torch.arange(n // 2 + 1)).unsqueeze(-1)
        return self.factor * torch.fft.irfft(torch.fft.rfft(u, dim=1) * turn, n=n, dim=1)


def info(**axes: Any) -> DataInfo:
    """Fields u and v at times 0, 0.5, 1 on these axes."""
    shape = (4, 3, *(a.num_points for a in axes.values()))
    fields = {"u": np.ones(shape), "v": np.ones(shape)}
    return DataInfo(
        data={"solutions": FakeDataset({"train": fields, "test": fields}, axes, (0.0, 0.5, 1.0)).info}
    )


def test_pairs_are_the_first_and_last_time_with_a_channel() -> None:
    data = waves(64)
    pairs = FieldMap(num_points=16).pairs(FakeRun(data), batch=4)
    assert pairs.inputs.shape == pairs.targets.shape == (40, 16, 1)
    np.testing.assert_array_equal(pairs.inputs[..., 0], data.splits["train"]["u"][:, 0, ::4])
    np.testing.assert_array_equal(pairs.targets[..., 0], data.splits["train"]["u"][:, 1, ::4])


def test_times_and_fields_can_be_chosen() -> None:
    fields = {name: np.random.default_rng(i).standard_normal((2, 3, 8)) for i, name in enumerate("uv")}
    data = FakeDataset({"train": fields, "test": fields}, {"x": axis(8)}, (0.0, 0.5, 1.0))
    pairs = FieldMap(output="v", input_time=0.5, output_time=0.0).pairs(FakeRun(data), batch=1)
    np.testing.assert_array_equal(pairs.inputs[..., 0], fields["u"][:, 1].astype(np.float32))
    np.testing.assert_array_equal(pairs.targets[..., 0], fields["v"][:, 0].astype(np.float32))


@pytest.mark.parametrize(
    ("stored", "trained"), [(axis(64), 16), (axis(85, "wall"), 43), (axis(85, "open"), 2)], ids=str
)
def test_axes_are_those_trained_on(stored: Any, trained: int) -> None:
    every = {16: 4, 43: 2, 2: 84}[trained]
    found = FieldMap(num_points=trained).axes(info(x=stored))["x"]
    assert found.boundary == stored.boundary
    np.testing.assert_allclose(found.points, stored.points[::every], rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("fields", "axes", "message"),
    [
        ({"num_points": 48}, {"x": axis(64)}, "64 points of x .* Use one of 1, 2, 4, 8, 16, 32, 64"),
        ({"num_points": 128}, {"x": axis(64)}, "no sub-grid of the 64 points"),
        ({"num_points": 42}, {"x": axis(85, "wall")}, "Use one of 2, 3, 4, 5, 7, 8, 13, 15, 22, 29, 43, 85"),
        ({"num_points": 1}, {"x": axis(85, "wall")}, "no sub-grid"),
        ({"num_points": 8}, {"x": axis(64), "y": axis(12)}, "every 8th point, which .* 12 points of y"),
    ],
)  # fmt: skip
def test_grids_that_do_not_fit_are_refused(fields: Any, axes: Any, message: str) -> None:
    with pytest.raises(GridError, match=message):
        FieldMap(**fields).check(info(**axes))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"output": "w"}, "has no variable 'w'; known: u, v"),
        ({"output_time": 0.7}, r"does not hold map.output_time=0.7; its times are 0, 0.5, 1"),
        ({"output_time": 0.0}, "asked to map 'u' to itself"),
    ],
)
def test_fields_and_times_that_are_not_stored_are_refused(fields: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        FieldMap(**fields).check(info(x=axis(64)))


def test_a_missing_split_is_refused() -> None:
    data = info(x=axis(8)).data["solutions"].model_copy(update={"samples": {"train": 4}})
    with pytest.raises(SpecError, match="has no split 'test'; it has train"):
        FieldMap().check(DataInfo(data={"solutions": data}))


def _without_time() -> DataInfo:
    known = info(x=axis(8)).data["solutions"]
    coefficient = known.variables["u"].model_copy(update={"dims": ("x",)})
    return DataInfo(
        data={
            "solutions": known.model_copy(
                update={"variables": {**known.variables, "u": coefficient}, "axes": known.axes}
            )
        }
    )


def test_a_field_without_times_needs_none() -> None:
    FieldMap(input="u", output="v").check(_without_time())
    with pytest.raises(SpecError, match=r"holds 'u' without times; leave out map.input_time"):
        FieldMap(input="u", output="v", input_time=0.0).check(_without_time())


def test_fields_over_different_axes_are_refused() -> None:
    known = info(x=axis(8), y=axis(8)).data["solutions"]
    line = known.variables["v"].model_copy(update={"dims": ("time", "x")})
    data = known.model_copy(update={"variables": {**known.variables, "v": line}})
    with pytest.raises(SpecError, match=r"holds 'u' over \('x', 'y'\), but 'v' over \('x',\)"):
        FieldMap(output="v").check(DataInfo(data={"solutions": data}))


@settings(deadline=None, max_examples=80)
@given(
    samples=st.integers(1, 60),
    share=st.integers(1, 7),
    workers=st.integers(1, 4),
    epochs=st.integers(1, 3),
    data=st.data(),
)
def test_every_sample_comes_once_in_each_epoch(
    samples: int, share: int, workers: int, epochs: int, data: st.DataObject
) -> None:
    """For any batch and number of workers, and from any step that a run resumes at."""
    source = waves(4, train=1, test=1)
    batch = share * workers
    values = torch.arange(samples).view(-1, 1, 1)
    steps = -(-samples * epochs // batch)
    resumed = data.draw(st.integers(0, steps))

    def seen(rank: int) -> list[list[int]]:
        run = FakeRun(source, rank=rank, world_size=workers)
        first, second = (Pairs(values, values, batch=batch, floor=0.0) for _ in range(2))
        return [
            (first if step < resumed else second).at(step, run)[0].flatten().tolist() for step in range(steps)
        ]

    by_worker = [seen(rank) for rank in range(workers)]
    stream = [sample for step in range(steps) for worker in by_worker for sample in worker[step]]
    for epoch in range(epochs):
        assert sorted(stream[epoch * samples : (epoch + 1) * samples]) == list(range(samples))
    assert all(len(part) == share for worker in by_worker for part in worker)


def test_the_order_changes_with_epoch_and_seed() -> None:
    values = torch.arange(64).view(-1, 1, 1)
    pairs = Pairs(values, values, batch=64, floor=0.0)
    run = FakeRun(waves(4, train=1, test=1))
    orders = [pairs.indices(0, run), pairs.indices(1, run)]
    orders.append(Pairs(values, values, batch=64, floor=0.0).indices(0, FakeRun(waves(4), seed=1)))
    assert not any(torch.equal(orders[i], orders[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_a_batch_holds_inputs_with_their_own_targets() -> None:
    values = torch.arange(10.0).view(-1, 1, 1)
    inputs, targets = Pairs(values, 2 * values, batch=4, floor=0.0).at(1, FakeRun(waves(4)))
    torch.testing.assert_close(targets, 2 * inputs)


def test_pairs_that_do_not_fit_in_memory_are_those_that_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit; they come in another order."""
    raw = {
        "name": "small",
        "problem": {"name": "burgers"},
        "num_points": [256],
        "times": [0.0, 0.02, 0.05],
        "samples": {"train": 10, "test": 1},
        "storage": {"part": 4, "dtype": "float64"},
        "solver": {"dt": 1e-2},
    }
    dataset = generate(Recipe.parse(raw, source="test"), tmp_path).dataset
    run = FakeRun(dataset)  # type: ignore[arg-type]
    map = FieldMap(num_points=32, input_time=0.02)
    held = map.pairs(run, batch=5)
    monkeypatch.setattr("dlde.tasks.field_map.MEMORY", 1000)
    streamed = map.pairs(run, batch=5)
    assert streamed.floor == held.floor
    for step in (0, 1, 2, 9):
        numbers = streamed.samples(step, run)
        assert len(set(numbers.tolist())) == 5
        for found, whole in zip(streamed.at(step, run), held.whole(run), strict=True):
            assert found.dtype == torch.float32
            assert torch.equal(found, whole[numbers])
    with pytest.raises(InputError, match="does not fit in memory"):
        streamed.whole(run)


def test_the_loss_is_the_relative_error_with_the_floor() -> None:
    run = FakeRun(waves(64))
    pairs = FieldMap(floor=0.5).pairs(run, batch=20)
    rms = metrics.rms(pairs.targets)
    assert pairs.floor == pytest.approx(0.5 * float(rms.max()), rel=1e-6)
    batch = pairs.at(0, run)
    expected = (metrics.rms(batch[1]) / metrics.rms(batch[1]).clamp(min=pairs.floor)).mean()
    torch.testing.assert_close(pairs.loss(Transport(2.0), batch)["relative_l2"], expected, rtol=1e-5, atol=0)


def test_an_exact_model_scores_zero_at_every_resolution() -> None:
    run = FakeRun(waves(128))
    evaluation = FieldMap(num_points=32).evaluate(Transport(), run, minimum=16)
    assert evaluation.metrics.keys() == {"relative_l2", "relative_l2_fine", "rmse", "max_error", "floored"}
    assert all(value < 1e-5 for value in evaluation.metrics.values())
    assert [n for n, _ in evaluation.curves["relative_l2_by_resolution"]] == [16, 32, 64, 128]


def test_an_evaluation_gives_known_errors() -> None:
    """A model 10 % too large errs by 10 % of every sample, at every resolution."""
    run = FakeRun(waves(64))
    map = FieldMap(num_points=16)
    evaluation = map.evaluate(Transport(1.1), run, minimum=16)
    targets = torch.from_numpy(run.data["solutions"].splits["test"]["u"][:, 1])
    assert evaluation.metrics["relative_l2"] == pytest.approx(0.1, rel=1e-5)
    assert evaluation.metrics["relative_l2_fine"] == pytest.approx(0.1, rel=1e-5)
    assert evaluation.metrics["rmse"] == pytest.approx(0.1 * float(metrics.rms(targets).mean()), rel=1e-5)
    assert evaluation.metrics["max_error"] == pytest.approx(
        0.1 * float(targets[:, ::4].abs().max()), rel=1e-4
    )
    assert [value for _, value in evaluation.curves["relative_l2_by_resolution"]] == pytest.approx(
        [0.1] * 3, rel=1e-4
    )


def test_vanished_samples_are_counted() -> None:
    data = waves(32)
    data.splits["test"]["u"][:3] *= 1e-6
    assert FieldMap().evaluate(Transport(), FakeRun(data), minimum=8).metrics["floored"] == 3


def test_figures_are_drawn(tmp_path: Path) -> None:
    run = FakeRun(waves(64))
    FieldMap(num_points=32).evaluate(Transport(1.1), run, minimum=8)
    assert run.figures.keys() == {"samples", "errors", "resolutions"}
    run.save(tmp_path)
    assert all((tmp_path / f"{name}.png").stat().st_size > 5000 for name in run.figures)


def test_figures_of_planes_are_drawn(tmp_path: Path) -> None:
    fields = {"u": np.random.default_rng(0).standard_normal((4, 2, 16, 8))}
    data = FakeDataset({"train": fields, "test": fields}, {"x": axis(16), "y": axis(8)}, (0.0, 1.0))
    run = FakeRun(data)
    evaluation = FieldMap(num_points=8).evaluate(nn.Identity(), run, minimum=4)
    assert [n for n, _ in evaluation.curves["relative_l2_by_resolution"]] == [8, 16]
    run.save(tmp_path)


def test_prediction_in_blocks_is_prediction_at_once() -> None:
    u = torch.randn(200, 1024, 1)
    torch.testing.assert_close(predict(Transport(), u), Transport()(u))


def test_the_operation_says_what_it_takes() -> None:
    run = FakeRun(waves(64))
    operation = FieldMap(num_points=32).operation(run.info, minimum=12)
    field = operation.inputs["u"]
    assert field.describe() == "(batch, x >= 12, channel = 1)"
    assert field.dims[1].axis == axis(32)
    assert (field.long_name, operation.outputs["u"].long_name) == ("field u at t = 0", "field u at t = 1")
    rms = metrics.rms(torch.from_numpy(run.data["solutions"].splits["train"]["u"][:, 0]))
    assert field.rms_range == pytest.approx((float(rms.min()), float(rms.max())), rel=1e-6)
    assert operation.outputs["u"].rms_range is None
    operation.check({"u": torch.zeros(2, 12, 1)})
