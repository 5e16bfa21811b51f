"""Deep BSDE: its size, its networks against plain modules, that it learns, resumes and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlde.claims import Table
from dlde.errors import InputError, NonFiniteError, SpecError
from dlde.method import DataInfo, Descent
from dlde.methods.deep_bsde import BatchNorms, DeepBSDE, Subnets, ValueAndControls, claim
from dlde.pipeline import Pipeline
from dlde.problems.black_scholes_default import BlackScholesDefault
from dlde.problems.hjb_lq import HJBLQ
from dlde.tasks.parabolic import BackwardPaths
from dlde.training.run import EngineRun, Execution, Progress

SMALL = DeepBSDE(
    width=8,
    paths=BackwardPaths(intervals=4, window=20, test_paths=500),
    descent=Descent(steps=150, batch=32, rate=3e-2),
)


def identity(tensor: Tensor) -> Tensor:
    return tensor


def run_of(problem: Any, folder: Path, **arguments: Any) -> EngineRun:
    return EngineRun(folder, DataInfo(problem=problem), {}, seed=100, **arguments)


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "curves" / "steps.jsonl").open()]


def test_the_published_size() -> None:
    """19 networks of three layers and four normalisations, and the value and control at the start."""
    model = DeepBSDE().build(DataInfo(problem=HJBLQ()))
    each = 100 * 110 + 110 * 110 + 110 * 100 + 100 + 2 * (100 + 110 + 110 + 100)
    assert sum(p.numel() for p in model.parameters()) == 19 * each + 100 + 1 == 665_861


def test_it_begins_where_the_authors_do() -> None:
    torch.manual_seed(0)
    model = DeepBSDE().build(DataInfo(problem=BlackScholesDefault()))
    assert 40 <= float(model.value.detach()) <= 50
    assert float(model.control.abs().max()) <= 0.1
    assert model.subnets is not None
    for norm in model.subnets.norms:
        assert isinstance(norm, BatchNorms)
        assert 0.1 <= float(norm.scale.min()) <= float(norm.scale.max()) <= 0.5
        assert 0.09 < float(norm.shift.std()) < 0.11
    for weight in model.subnets.weights:
        bound = (6 / (weight.shape[1] + weight.shape[2])) ** 0.5
        assert 0.99 * bound < float(weight.abs().max()) <= bound
    assert not model.subnets.bias.any()


def plain_network(subnets: Subnets, number: int) -> nn.Sequential:
    """The same network of one time step from torch's own modules."""
    layers: list[nn.Module] = []
    for index, norm in enumerate(subnets.norms):
        assert isinstance(norm, BatchNorms)
        if index:
            weight = subnets.weights[index - 1][number]
            last = index == len(subnets.weights)
            linear = nn.Linear(*weight.shape, bias=last, dtype=weight.dtype)
            linear.weight.data = weight.detach().T.contiguous()
            if last:
                linear.bias.data = subnets.bias[number, 0].detach()
            layers.append(linear)
        batch_norm = nn.BatchNorm1d(norm.scale.shape[-1], eps=1e-6, momentum=0.01, dtype=norm.scale.dtype)
        batch_norm.weight.data = norm.scale[number, 0].detach()
        batch_norm.bias.data = norm.shift[number, 0].detach()
        layers.append(batch_norm)
        if 0 < index < len(subnets.weights):
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def test_all_networks_at_once_are_each_by_itself() -> None:
    """In training, and after it by the running averages (torch's own variance is the unbiased one)."""
    torch.manual_seed(0)
    subnets = Subnets(3, 4, 6, torch.float64)
    plain = [plain_network(subnets, number).train() for number in range(3)]
    for _ in range(5):
        x = 2 + torch.randn(3, 4000, 4, dtype=torch.float64)
        together = subnets(x, identity)
        alone = torch.stack([network(part) for network, part in zip(plain, x, strict=True)])
        torch.testing.assert_close(together, alone)
    together = subnets(x, None)
    alone = torch.stack([network.eval()(part) for network, part in zip(plain, x, strict=True)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-3)


def test_statistics_of_a_shared_batch_are_those_of_the_whole() -> None:
    """Two workers that exchange their means, played one after the other."""
    torch.manual_seed(0)
    norms, x = BatchNorms(2, 3, torch.float64), torch.randn(2, 10, 3, dtype=torch.float64)
    seen: list[Tensor] = []

    def record(tensor: Tensor) -> Tensor:
        seen.append(tensor.detach())
        return tensor

    whole = norms(x, record)
    for part in (slice(0, 5), slice(5, 10)):
        given = iter(seen)
        torch.testing.assert_close(norms(x[:, part], lambda tensor: next(given)), whole[:, part])  # noqa: B023


def test_it_finds_the_value_and_keeps_its_last_ones(tmp_path: Path) -> None:
    run = run_of(HJBLQ(dims=10), tmp_path)
    SMALL.check(run.info)
    model = SMALL.train(run)
    run.close()
    assert isinstance(model, ValueAndControls)
    curve = [row["value"] for row in rows(tmp_path)]
    assert abs(float(model.recent.mean()) - sum(curve[-20:]) / 20) < 1e-6
    metrics = SMALL.evaluate(model, run).metrics
    assert metrics["relative_error"] < 0.05
    assert rows(tmp_path)[0]["relative_error"] > 0.5
    answer = SMALL.value(model, torch.zeros(2, 10))
    assert answer["value"].shape == (2,)
    assert answer["gradient"].shape == (2, 10)
    torch.testing.assert_close(answer["value"][0], model.recent.mean())
    torch.testing.assert_close(answer["gradient"][1], model.control / 2**0.5)
    with pytest.raises(InputError, match=r"has 10 values other than 0, such as 0\.1"):
        SMALL.operations(run.info)["value"].check({"x0": torch.full((1, 10), 0.1)})


def test_a_training_that_was_stopped_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.step >= 100:
            raise KeyboardInterrupt

    execution = Execution(checkpoint_steps=40)
    with pytest.raises(KeyboardInterrupt):
        SMALL.train(run_of(HJBLQ(dims=3), tmp_path / "cut", execution=execution, progress=stop))
    resumed = SMALL.train(run_of(HJBLQ(dims=3), tmp_path / "cut", execution=execution))
    whole = SMALL.train(run_of(HJBLQ(dims=3), tmp_path / "whole"))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    assert [row["value"] for row in rows(tmp_path / "cut")] == [
        row["value"] for row in rows(tmp_path / "whole")
    ]


def test_one_time_step_needs_no_network(tmp_path: Path) -> None:
    method = SMALL.model_copy(update={"paths": BackwardPaths(intervals=1, test_paths=100)})
    run = run_of(HJBLQ(dims=2), tmp_path)
    model = method.train(run)
    assert sum(p.numel() for p in model.parameters()) == 3
    ends = method.paths.sample(run, 20_000, "ends").states[:, -1]
    expected = float(run.info.problem.terminal(ends).mean())  # by symmetry the best control is zero
    assert method.evaluate(model, run).metrics["value"] == pytest.approx(expected, abs=0.1)


def test_double_precision(tmp_path: Path) -> None:
    method = SMALL.model_copy(
        update={
            "paths": BackwardPaths(intervals=2, precision="float64", test_paths=100),
            "descent": Descent(steps=2, batch=4, rate=1e-2),
        }
    )
    model = method.train(run_of(HJBLQ(dims=2), tmp_path))
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float64}
    assert method.operations(DataInfo(problem=HJBLQ(dims=2)))["value"].inputs["x0"].dtype == "float64"


class Trap(HJBLQ):
    """Gives numbers until the value has grown."""

    def driver(self, t: float, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return super().driver(t, x, y, z) + (0.0 if t < 0.4 else 0 / (y < 1.5).to(y))


def test_a_driver_that_fails_in_training_is_named_with_its_time_step(tmp_path: Path) -> None:
    problem = Trap(dims=4)
    SMALL.check(DataInfo(problem=problem))
    with pytest.raises(
        NonFiniteError, match=r"'mismatch' is nan .* in time step 2 \(t = 0.5\) of 4: look at"
    ):
        SMALL.train(run_of(problem, tmp_path))


@pytest.mark.parametrize("fields", [{"optimizer": "sgd"}, {"weight_decay": 1e-3}], ids=str)
def test_another_optimizer_is_refused(fields: dict[str, Any]) -> None:
    method = DeepBSDE(descent=Descent(steps=10, **fields))
    with pytest.raises(SpecError, match="deep-bsde is trained by adam without decay"):
        method.check(DataInfo(problem=HJBLQ(dims=2)))


def test_the_pipeline_has_what_the_claim_needs() -> None:
    for preset in (None, "paper"):
        pipeline = Pipeline.load("deep-bsde", preset=preset)
        assert pipeline.claim is claim
        assert pipeline.study is not None
        for variant in pipeline.study.variants:
            points = [
                axis.points for axis in pipeline.study.axes.values() if variant in (axis.variants or ())
            ]
            for settings in (points[0] if points else {"alone": {}}).values():
                chosen = Pipeline.load("deep-bsde", preset=preset, variant=variant, settings=[settings])
                chosen.job.check(workers=2)
                precision = "float64" if preset else "float32"
                assert chosen.job.dump()["method"]["paths"]["precision"] == precision


def table(one: float, two: float, slow: int, quick: int, size: int, region: float) -> Table:
    """Errors, steps to 1 % (a step takes a second), parameters of the critic's method, error in the box."""
    found: list[dict[str, Any]] = []
    for seed in (0, 1, 2):
        for problem in ("hjb", "allen-cahn"):
            for variant, axis, error, arrival, parameters in (
                ("deep-bsde", "problem", one, slow, 1500),
                ("deep-bsde-quick", "quick-problem", one, 250, 1500),
                ("actor-critic", "problem", two, quick, size),
            ):
                where = {"variant": variant, axis: problem, "seed": seed}
                ends = {"relative_error": error, "num_parameters": float(parameters), "value": 1.0}
                found += [{**where, "metric": metric, "value": value} for metric, value in ends.items()]
                for step in range(1, 1001):
                    value = 5.0 if step <= arrival - 100 else 0.005
                    point = {"step": step, "seconds": float(step), "value": value}
                    found.append({**where, "metric": "relative_error", **point})
        where = {"variant": "region", "seed": seed}
        found.append({**where, "metric": "relative_error", "value": region})
        found.append({**where, "metric": "constant_relative_error", "value": 0.03})
    return Table(tuple(found))


@pytest.mark.parametrize(
    ("figures", "held"),
    [
        ((0.01, 0.01, 600, 200, 100, 0.02), [True] * 9),
        ((0.011, 0.01, 600, 200, 100, 0.02), [False, True, True, True] * 2 + [True]),
        ((0.01, 0.012, 600, 200, 101, 0.021), [True, False, False, True] * 2 + [False]),
        ((0.01, 0.01, 600, 201, 100, 0.02), [True, True, True, False] * 2 + [True]),
        ((0.01, 0.01, 2000, 900, 100, 0.02), [True] * 9),  # one that never arrives is beaten
        ((0.01, 0.01, 600, 2000, 100, 0.02), [True, True, True, False] * 2 + [True]),
    ],
)
def test_the_claim(figures: tuple[float, float, int, int, int, float], held: list[bool]) -> None:
    checks = claim(table(*figures))
    assert [check.holds for check in checks] == held
    assert all(check.seeds == (0, 1, 2) for check in checks)
    assert "250 seconds, 250 steps" in checks[3].text
