"""The randomized signature: its scan against the definition, its system, and what it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dlde.claims import Table
from dlde.errors import InputError, NonFiniteError, SpecError
from dlde.methods.linear_path import LinearPath
from dlde.methods.randomized_signature import RandomizedSignature, RandomSystem, claim
from dlde.pipeline import Pipeline
from dlde.tasks.path_map import PathMap
from tests.fake_paths import info_of, run_over, walks


def system(k: int = 6, channels: int = 3, *, seed: int = 0, **fields: Any) -> RandomSystem:
    made = RandomSystem(k, channels, **{"activation": "tanh", "scheme": "euler", **fields})
    made.draw(torch.Generator().manual_seed(seed), weight_scale=0.8, bias_scale=0.5)
    return made


def increments(steps: int = 9, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 0.3 * torch.randn(2, steps, channels, generator=generator, dtype=torch.float64)


def test_one_scan_is_the_definition() -> None:
    """Z_{j+1} = Z_j + sum_i tanh(A_i Z_j + b_i) dX^i_j, written out with loops."""
    made, dx = system(), increments()
    found = made(dx)
    for path in range(2):
        z = made.z0.numpy().copy()
        np.testing.assert_allclose(found[path, 0], z)
        for step in range(9):
            z = z + sum(
                np.tanh(made.a[i].numpy() @ z + made.b[i].numpy()) * float(dx[path, step, i])
                for i in range(3)
            )
            np.testing.assert_allclose(found[path, step + 1], z, rtol=1e-12)


@pytest.mark.parametrize(("scheme", "growth"), [("euler", (1, 1, 0)), ("heun", (1, 1, 0.5))])
def test_a_linear_system_of_one_variable(scheme: str, growth: tuple[float, ...]) -> None:
    """phi(z) = z, b = 0: Z is multiplied by 1 + a dX, or by 1 + a dX + (a dX)^2 / 2."""
    made = system(1, 1, activation="identity", scheme=scheme)
    made.b.zero_()
    dx = increments(channels=1)
    change = made.a[0, 0, 0] * dx[..., 0]
    factors = growth[0] + growth[1] * change + growth[2] * change**2
    torch.testing.assert_close(made(dx)[:, 1:, 0], made.z0 * factors.cumprod(1))


@pytest.mark.parametrize(("scheme", "order"), [("euler", 1), ("heun", 2)])
def test_order_along_a_smooth_path(scheme: str, order: int) -> None:
    made = system(8, 2, scheme=scheme)

    def end(steps: int) -> Tensor:
        t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        return made(torch.stack([t, torch.sin(3 * t)], -1)[None].diff(dim=1))[0, -1]

    errors = [float((end(n) - end(4096)).norm()) for n in (32, 64, 128)]
    assert np.polyfit(np.log([1 / 32, 1 / 64, 1 / 128]), np.log(errors), 1)[0] == pytest.approx(
        order, abs=0.1
    )


def test_every_time_knows_only_the_path_before_it() -> None:
    made, dx = system(), increments()
    changed = dx.clone()
    changed[:, 5:] = 7.0
    assert torch.equal(made(dx)[:, :6], made(changed)[:, :6])
    assert not torch.equal(made(dx)[:, 6], made(changed)[:, 6])


def test_the_sizes_of_a_system() -> None:
    made = RandomSystem(400, 2, activation="tanh", scheme="euler")
    made.draw(torch.Generator().manual_seed(0), weight_scale=0.7, bias_scale=0.2)
    assert float(made.a.std()) * 20 == pytest.approx(0.7, rel=0.01)
    assert float(made.b.std()) == pytest.approx(0.2, rel=0.1)
    assert float(made.z0.std()) == pytest.approx(1.0, rel=0.1)


def test_one_more_driver_leaves_the_others_fields() -> None:
    few, many = system(channels=2), system(channels=5)
    assert torch.equal(few.z0, many.z0)
    assert torch.equal(few.a, many.a[:2])
    assert torch.equal(few.b, many.b[:2])


def test_the_seed_of_the_run_chooses_the_system_which_the_model_keeps(tmp_path: Path) -> None:
    data, method = walks(drivers=2), RandomizedSignature(features=12)
    method.check(info_of(data))
    first, again, other = (
        method.train(run_over(data, tmp_path / name, seed=seed))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert torch.equal(first.lift.a, again.lift.a)
    assert not torch.equal(first.lift.a, other.lift.a)
    assert torch.equal(first.weight, again.weight)
    rebuilt = method.build(info_of(data))
    rebuilt.load_state_dict(first.state_dict())
    given = {
        "time": torch.linspace(0, 1, 21, dtype=torch.float64).expand(10, -1),
        "control": torch.from_numpy(data.splits["test"]["control"]),
    }
    method.operations(info_of(data))["predict"].check(given)
    answer = method.predict(rebuilt, **given)["state"]
    assert torch.equal(answer, first(*given.values()))
    assert answer.shape == (10, 21, 2)


def test_it_remembers_the_path_where_a_line_cannot(tmp_path: Path) -> None:
    data = walks(150, 60, steps=40, part=50)
    errors = {}
    for method in (RandomizedSignature(features=48), LinearPath()):
        method.check(info_of(data))
        model = method.train(run_over(data, tmp_path / type(method).__name__))
        run = run_over(data, tmp_path / f"{type(method).__name__}-evaluation")
        errors[type(method)] = method.evaluate(model, run).metrics["nmse"]
    assert errors[RandomizedSignature] < errors[LinearPath] / 30


def test_a_system_that_explodes_names_path_time_and_cure(tmp_path: Path) -> None:
    data = walks(steps=200)
    method = RandomizedSignature(features=8, weight_scale=1e4, activation="identity")
    with pytest.raises(
        NonFiniteError, match=r"path 0: the features overflow at time .*lower method.weight_scale"
    ):
        method.train(run_over(data, tmp_path))
    model = RandomizedSignature(features=8).train(run_over(data, tmp_path / "tame"))
    wild = {
        "time": torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64),
        "control": torch.tensor([[[0.0], [1e308], [-1e308]]], dtype=torch.float64),
    }
    with pytest.raises(InputError, match=r"path 0: the features overflow at time [12]; lower"):
        method.predict(model, **wild)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"features": 0}, "features: input should be greater than 0, got 0"),
        ({"weight_scale": 0.0}, "weight_scale: input should be greater than 0"),
        ({"activation": "relu"}, "activation: input should be 'tanh' or 'identity', got 'relu'"),
        ({"feature": 3}, "feature: unknown key; did you mean 'features'"),
    ],
    ids=str,
)
def test_fields_out_of_range_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        RandomizedSignature.parse(fields, source="method")


def test_fewer_rows_than_features_need_a_lambda() -> None:
    method = RandomizedSignature(features=500, map=PathMap(lambdas=(0.0,)))
    with pytest.raises(
        SpecError, match="gives 420 rows to fit 500 features and an intercept: with lambda = 0"
    ):
        method.check(info_of(walks()))


def table(**changes: Any) -> Table:
    """A study's table on which everything holds, with some values changed."""
    rows: list[dict[str, Any]] = []

    def add(variant: str, metric: str, value: float, **axes: Any) -> None:
        name = "_".join([variant, metric, *map(str, axes.values())]).replace("-", "_")
        rows.extend(
            {"variant": variant, "seed": seed, "metric": metric, "value": changes.get(name, value), **axes}
            for seed in (0, 1, 2)
        )

    for problem in ("double-well", "ou", "gbm"):
        add("randomized", "nmse", 0.001, problem=problem)
        add("linear", "nmse", 0.1, problem=problem)
    for k, error in ((16, 0.04), (32, 0.02), (64, 0.01), (128, 0.005), (192, 0.006)):
        add("size", "nmse", error, features=k)
    add("gru", "nmse", 0.006)
    add("gru-long", "nmse", 0.0006)
    for drivers, features in ((4, 155), (50, 135303)):
        add("randomized-drivers", "num_features", 128, drivers=drivers)
        add("signature-drivers", "num_features", features, drivers=drivers)
        add("randomized-drivers", "feature_seconds", 0.01 * drivers / 4, drivers=drivers)
        add("signature-drivers", "feature_seconds", 0.01 * features / 155, drivers=drivers)
    return Table(tuple(rows))


def test_the_claim_holds() -> None:
    checks = claim(table())
    assert len(checks) == 13
    assert all(check.holds for check in checks)
    assert all(check.seeds == (0, 1, 2) for check in checks)


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({"randomized_nmse_ou": 0.002}, ["ou: the error is at most 0.001"]),
        ({"linear_nmse_gbm": 0.02}, ["gbm: 30 times the error is at most the line's"]),
        ({"size_nmse_64": 0.03}, ["double-well: the error falls when k is doubled, from 16 to 128"]),
        ({"gru_nmse": 0.004}, ["double-well: the error is at most 0.2 times that of a GRU trained for 2 s"]),
        (
            {"gru_long_nmse": 0.0004},
            ["double-well: the error is at most 2 times that of a GRU trained for 60 s"],
        ),
        (
            {"signature_drivers_num_features_50": 1000.0},
            ["those of the signature of order 3 by at least 800"],
        ),
        (
            {"randomized_drivers_feature_seconds_50": 0.9},
            [
                "the time for the features grows at most like the drivers, 12.5 times",
            ],
        ),
    ],
    ids=str,
)
def test_the_claim_breaks(change: dict[str, float], broken: list[str]) -> None:
    assert [check.text for check in claim(table(**change)) if not check.holds] == broken


@pytest.mark.parametrize(
    ("variant", "axis"),
    [("randomized", "problem"), ("size", "features"), ("signature-drivers", "drivers"), ("gru-long", None)],
)
def test_the_pipeline_and_every_trial_of_its_study_load(variant: str, axis: str | None) -> None:
    study = Pipeline.load("randomized-signature").study
    assert study is not None
    points = study.axes[axis].points if axis else {None: {}}
    for overrides in points.values():
        pipeline = Pipeline.load("randomized-signature", variant=variant, overrides=overrides)
        assert pipeline.data["paths"].name.startswith("sde-")
    if variant == "signature-drivers":
        assert pipeline.data["paths"].problem.drivers == 50  # type: ignore[attr-defined]
        assert pipeline.data["paths"].samples == {"train": 40, "test": 20}
