"""From paths to states: the regression against numpy, blocks, workers, resuming, measuring, serving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dlde.datasets.info import DatasetInfo
from dlde.errors import DataError, GridError, InputError, NonFiniteError, SpecError
from dlde.method import DataInfo
from dlde.tasks.path_map import PathMap, PathReadout, nmse
from tests.fake_paths import FakePaths, info_of, run_over, walks, with_workers

ONE = PathMap(lambdas=(1e-3,))


class Powers(nn.Module):
    """Increments -> the path from 0 and its first powers, (batch, time, channels * degree)."""

    cure = "use fewer powers"

    def __init__(self, channels: int, degree: int) -> None:
        super().__init__()
        self.degree, self.num_features = degree, channels * degree

    def forward(self, increments: Tensor) -> Tensor:
        path = torch.cat([torch.zeros_like(increments[:, :1]), increments.cumsum(1)], 1)
        return torch.cat([path**power for power in range(1, self.degree + 1)], -1)


def model_for(data: FakePaths, map: PathMap, degree: int = 3) -> PathReadout:
    lift = Powers(1 + map.drivers(info_of(data)), degree)
    return map.readout(info_of(data), lift, lift.num_features)


def fitted(data: FakePaths, map: PathMap, folder: Path, *, degree: int = 3, **how: Any) -> PathReadout:
    model = model_for(data, map, degree)
    map.regress(model, run_over(data, folder, **how))
    return model


def table(data: FakePaths, model: PathReadout, split: str = "train", every: int = 1) -> tuple[Any, Any]:
    """Features and targets of a split as rows."""
    times = torch.tensor(data.info.times, dtype=torch.float64).expand(data.info.samples[split], -1)
    features = model.features(times, torch.from_numpy(data.splits[split]["control"]))[:, ::every]
    target = data.splits[split]["state"][:, ::every]
    return features.flatten(0, 1).numpy(), target.reshape(-1, target.shape[-1])


def by_hand(z: NDArray[Any], y: NDArray[Any], lam: float) -> NDArray[Any]:
    std = z.std(0)
    standard = (z - z.mean(0)) / np.where(std > 0, std, np.inf)
    gram = standard.T @ standard / len(z) + lam * np.eye(z.shape[1])
    return np.asarray(standard @ np.linalg.solve(gram, standard.T @ (y - y.mean(0)) / len(z)) + y.mean(0))


def test_an_affine_map_is_found_exactly(tmp_path: Path) -> None:
    data = walks(state=lambda t, w: 2 - 3 * t[:, None] + 0.5 * w, drivers=2)
    model = fitted(data, PathMap(lambdas=(0.0,)), tmp_path, degree=1)
    metrics = PathMap().evaluate(model, run_over(data, tmp_path / "evaluation")).metrics
    assert metrics["nmse"] < 1e-20
    assert metrics["num_features"] == 3


@pytest.mark.parametrize("every", [1, 5])
def test_it_is_ridge_regression_on_all_rows(tmp_path: Path, every: int) -> None:
    data = walks(drivers=2)
    model = fitted(data, PathMap(lambdas=(1e-3,), every=every), tmp_path)
    z, y = table(data, model, every=every)
    np.testing.assert_allclose(z @ model.weight.numpy() + model.bias.numpy(), by_hand(z, y, 1e-3), rtol=1e-9)
    assert float(model.lam) == 1e-3


def test_more_features_than_rows(tmp_path: Path) -> None:
    data = walks(6, steps=4)
    model = fitted(data, PathMap(lambdas=(1e-3,), every=4, folds=2), tmp_path, degree=20)
    z, y = table(data, model, every=4)
    assert z.shape == (12, 40)
    np.testing.assert_allclose(z @ model.weight.numpy() + model.bias.numpy(), by_hand(z, y, 1e-3), rtol=1e-7)
    chosen = fitted(data, PathMap(every=4, folds=2), tmp_path / "chosen", degree=20)
    assert float(chosen.lam) in PathMap().lambdas


def test_a_driver_is_measured_by_its_size_and_time_by_its_length(tmp_path: Path) -> None:
    data = walks(drivers=3)
    data.splits["train"]["control"][..., 1] *= 100
    data.splits["train"]["control"][..., 2] = 5.0
    model = model_for(data, ONE)
    ONE.fit_scale(model.scaler, run_over(data, tmp_path))
    size = np.sqrt(np.square(data.splits["train"]["control"]).mean((0, 1)))
    torch.testing.assert_close(model.scaler.scale, torch.tensor([1.0, size[0], size[1], 1.0]).double())
    times = torch.tensor(data.info.times, dtype=torch.float64)
    data.info = data.info.model_copy(update={"times": tuple((4 * times).tolist())})
    other = model_for(data, ONE)
    ONE.fit_scale(other.scaler, run_over(data, tmp_path / "longer"))
    assert float(other.scaler.scale[0]) == 4


@pytest.mark.parametrize("part", [1, 3, 20])
def test_the_blocks_do_not_matter(tmp_path: Path, part: int) -> None:
    whole, cut = walks(part=7), walks(part=part)
    first, second = fitted(whole, PathMap(), tmp_path / "a"), fitted(cut, PathMap(), tmp_path / "b")
    torch.testing.assert_close(first.weight, second.weight, rtol=1e-6, atol=1e-8)
    assert first.lam == second.lam


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_agree_with_one_alone(tmp_path: Path, workers: int) -> None:
    """The last block has one path: with it some workers have nothing."""
    data = walks(13, drivers=2)
    alone = fitted(data, PathMap(), tmp_path / "alone")
    models = with_workers(
        workers, lambda comm: fitted(data, PathMap(), tmp_path / "together", comm=comm, every_step=True)
    )
    for model in models:
        assert isinstance(model, PathReadout)
        torch.testing.assert_close(model.weight, alone.weight, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(model.scaler.scale, alone.scaler.scale)


@pytest.mark.parametrize("workers_after", [1, 2])
def test_it_resumes_where_it_stopped_also_with_other_workers(
    tmp_path: Path, workers_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = walks(drivers=2)
    whole = fitted(data, PathMap(), tmp_path / "whole")
    with monkeypatch.context() as patch:
        original, calls = data.block, []

        def block(split: str, number: int, *names: str) -> Any:
            calls.append(number)
            if len(calls) == 5 + 3:  # the scale, and three blocks of the regression
                raise KeyboardInterrupt
            return original(split, number, *names)

        patch.setattr(data, "block", block)
        with pytest.raises(KeyboardInterrupt):
            fitted(data, PathMap(), tmp_path / "stopped", every_step=True)
    seen: list[int] = []
    original = data.block
    monkeypatch.setattr(
        data, "block", lambda split, n, *names: (seen.append(n), original(split, n, *names))[1]
    )
    models = with_workers(
        workers_after, lambda comm: fitted(data, PathMap(), tmp_path / "stopped", comm=comm)
    )
    assert sorted(set(seen)) == [2, 3, 4]
    for model in models:
        assert isinstance(model, PathReadout)
        if workers_after == 1:
            assert torch.equal(model.weight, whole.weight)
        torch.testing.assert_close(model.weight, whole.weight, rtol=1e-6, atol=1e-8)


def test_lambda_is_chosen_on_paths_that_were_not_fitted(tmp_path: Path) -> None:
    """Few paths and many features: the least error of the fit itself would take the smallest lambda."""
    data = walks(10, steps=8, state=lambda t, w: w + torch.sin(37 * w.cumsum(1)))
    model = fitted(data, PathMap(lambdas=(1e-12, 1.0)), tmp_path, degree=12)
    assert float(model.lam) == 1.0


def test_nmse_by_hand() -> None:
    reference = torch.tensor([[[0.0, 5.0], [1.0, 5.0]], [[0.0, 5.0], [3.0, 5.0]]], dtype=torch.float64)
    mean = reference.mean(0, keepdim=True).expand_as(reference)
    assert float(nmse(mean, reference)) == 1.0  # the second component does not vary and does not count
    wrong = reference + torch.tensor([0.5, 9.0], dtype=torch.float64)
    assert float(nmse(wrong, reference)) == pytest.approx(0.25 / 0.5)
    by_time = nmse(wrong, reference, keep_time=True)
    assert by_time[0].isnan()
    assert float(by_time[1]) == pytest.approx(0.25)
    with pytest.raises(DataError, match="no component of the state differs between the paths"):
        nmse(mean, mean)


def test_an_evaluation_and_its_pictures(tmp_path: Path) -> None:
    data = walks(drivers=2)
    model = fitted(data, PathMap(), tmp_path)
    found = PathMap().evaluate(model, run_over(data, tmp_path))
    z, y = table(data, model, "test")
    error = np.square(z @ model.weight.numpy() + model.bias.numpy() - y).mean(0)
    states = data.splits["test"]["state"]
    variance = np.square(states - states.mean(0)).mean((0, 1))
    assert found.metrics["nmse"] == pytest.approx((error / variance).mean())
    assert found.metrics["rmse"] == pytest.approx(np.sqrt(error.mean()))
    assert found.metrics["lambda"] == float(model.lam)
    assert found.metrics["feature_seconds"] > 0
    times, errors = zip(*found.curves["nmse_by_time"], strict=True)
    assert times == data.info.times[1:]  # all paths start alike
    assert found.metrics["nmse_end"] == errors[-1]
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"paths.png", "error-over-time.png"}


def inputs(batch: int = 2, points: int = 5, drivers: int = 1) -> dict[str, Tensor]:
    times = torch.linspace(0, 1, points, dtype=torch.float64).expand(batch, -1).clone()
    return {"time": times, "control": torch.zeros(batch, points, drivers, dtype=torch.float64)}


def test_the_served_map_takes_any_times(tmp_path: Path) -> None:
    data = walks(state=lambda t, w: 2 - 3 * t[:, None] + 0.5 * w)
    map = PathMap(lambdas=(0.0,))
    model = fitted(data, map, tmp_path, degree=1)
    operation = map.operation(info_of(data))
    given = inputs(points=7)
    given["control"][1, 3:] = 2.0
    operation.check(given)
    answer = map.answer(model, given)["state"]
    assert operation.outputs["state"].describe() == "(batch, time >= 2, component = 1)"
    expected = 2 - 3 * given["time"][..., None] + 0.5 * given["control"]
    torch.testing.assert_close(answer, expected)
    shifted = {**given, "control": given["control"] + 4}
    torch.testing.assert_close(map.answer(model, shifted)["state"], expected)  # a path starts where it starts
    assert not operation.warnings(given)
    later = {**given, "time": given["time"] + 1}
    assert "have values outside the training range [0, 1]" in operation.warnings(later)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"control": torch.zeros(2, 5, 3)}, r"expected \(batch, time >= 2, driver = 1\): driver is 3"),
        ({k: v[:, :1] for k, v in inputs().items()}, r"time is 1"),
        ({"control": torch.full((2, 5, 1), torch.nan)}, "10 values that are NaN or infinite"),
        ({"control": torch.zeros(2, 4, 1)}, "time is 4, but 5 in another input"),
    ],
    ids=("drivers", "one point", "nan", "ragged"),
)
def test_inputs_that_are_no_paths_are_refused(change: dict[str, Tensor], message: str) -> None:
    operation = PathMap().operation(info_of(walks()))
    with pytest.raises(InputError, match=message):
        operation.check({**inputs(), **change})


@pytest.mark.parametrize("time", [0.5, 0.2], ids=("standing", "going back"))
def test_times_must_increase(time: float) -> None:
    given = inputs()
    given["time"][1, 3] = time
    with pytest.raises(InputError, match=rf"input 'time', sample 1: {time:g} does not come after 0.5"):
        PathMap().operation(info_of(walks())).check(given)


def test_an_overflow_names_path_time_and_cure(tmp_path: Path) -> None:
    data = walks()
    given = inputs()
    given["control"][1, 2:] = 1e200
    model = fitted(data, ONE, tmp_path)
    with pytest.raises(InputError, match=r"path 1: the features overflow at time 0.5; use fewer powers"):
        PathMap().answer(model, given)
    data.splits["train"]["control"][9, 7:] = 1e120
    data.splits["train"]["control"][9, 8:] = -1e120
    scaled = model_for(data, ONE)
    scaled.scaler.scale.fill_(1.0)
    run = run_over(data, tmp_path / "again")
    times = torch.tensor(data.info.times, dtype=torch.float64).expand(4, -1)
    path, state = (torch.from_numpy(data.splits["train"][name][8:12]) for name in ("control", "state"))
    with pytest.raises(NonFiniteError, match=r"path 9: the features overflow at time 0.35; use fewer powers"):
        ONE._rows_of(scaled, torch.arange(8, 12), times, path, state)
    run.close()


def changed(data: FakePaths, **update: Any) -> DataInfo:
    info: DatasetInfo = data.info.model_copy(update=update)
    return DataInfo(data={"paths": info})


@pytest.mark.parametrize(
    ("map", "update", "message"),
    [
        (PathMap(input="contrl"), {}, "has no variable 'contrl'; did you mean 'control'"),
        (PathMap(), {"samples": {"train": 4}}, "has no split 'test'; it has train"),
    ],
    ids=("variable", "split"),
)
def test_data_without_paths_are_refused(map: PathMap, update: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        map.check(changed(walks(), **update))


def test_a_path_of_one_point_is_refused() -> None:
    with pytest.raises(GridError, match="dataset 'fake' stores 1 time: a path has at least two points"):
        PathMap().check(changed(walks(), times=(0.0,)))


def test_a_field_is_no_path() -> None:
    variable = walks().info.variables["state"].model_copy(update={"dims": ("time", "x", "y")})
    variables = {**walks().info.variables, "state": variable}
    with pytest.raises(SpecError, match=r"holds 'state' over .*; expected time and one dimension beside it"):
        PathMap().check(changed(walks(), variables=variables))


@pytest.mark.parametrize(
    ("map", "features", "message"),
    [
        (PathMap(folds=21), 5, "has 20 training paths, which cannot be divided into map.folds=21"),
        (
            PathMap(lambdas=(0.0,), every=10),
            60,
            "gives 60 rows to fit 60 features and an intercept: with lambda = 0 there must be at least 61",
        ),
        (PathMap(lambdas=(0.0, 1.0), every=10), 48, "gives 48 rows to fit 48 features"),
        (
            PathMap(),
            2_000_000,
            r"2000000 features make a regression of 6.3 GiB, more than 4 GiB. Use few, or",
        ),
    ],
    ids=("folds", "rows", "rows without a fold", "memory"),
)
def test_a_regression_without_a_solution_or_without_room_is_refused(
    map: PathMap, features: int, message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        map.check_regression(info_of(walks()), features, fewer="few")


def test_enough_rows_are_accepted() -> None:
    PathMap(lambdas=(0.0,), every=10).check_regression(info_of(walks()), 59, fewer="")
    PathMap(lambdas=(0.0, 1.0), every=10).check_regression(info_of(walks()), 47, fewer="")


@pytest.mark.parametrize(
    "fields", [{"lambdas": ()}, {"lambdas": (-1.0,)}, {"folds": 1}, {"every": 0}], ids=str
)
def test_fields_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="mistake"):
        PathMap.parse(fields, source="map")
