"""Actor-critic for parabolic equations: exact controls, one state and a region, resume, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dlde.errors import InputError, SpecError
from dlde.method import DataInfo, Descent
from dlde.methods.bsde_actor_critic import ActorCritic, BSDEActorCritic
from dlde.problems.black_scholes_default import BlackScholesDefault
from dlde.problems.black_scholes_lending import BlackScholesLending
from dlde.problems.burgers_hd import BurgersHD
from dlde.problems.hjb_lq import HJBLQ
from dlde.tasks.parabolic import BackwardPaths
from dlde.training.run import EngineRun, Execution, Progress

SMALL = BSDEActorCritic(
    width=16,
    paths=BackwardPaths(intervals=5, window=50, test_paths=1000),
    descent=Descent(steps=200, batch=32, rate=1e-2),
)


def run_of(problem: Any, folder: Path, **arguments: Any) -> EngineRun:
    return EngineRun(folder, DataInfo(problem=problem), {}, seed=100, **arguments)


def test_its_size_does_not_grow_with_the_number_of_time_steps() -> None:
    info = DataInfo(problem=HJBLQ())
    for intervals in (20, 80):
        model = BSDEActorCritic(paths=BackwardPaths(intervals=intervals)).build(info)
        size = 101 * 110 + 110 + 110 * 110 + 110 + 110 * 100 + 100 + 100 + 1
        assert sum(p.numel() for p in model.parameters()) == size == 34_631
    box = BSDEActorCritic(region=1.0).build(info)
    assert sum(p.numel() for p in box.critic.parameters()) == 1 + 101 * 32 + 33 * 32 + 33


@pytest.mark.parametrize("problem", [HJBLQ(dims=3), BlackScholesDefault(dims=3)], ids=repr)
@pytest.mark.parametrize("region", [None, 0.5])
def test_it_begins_without_control_and_in_the_range_of_values(problem: Any, region: float | None) -> None:
    torch.manual_seed(0)
    model = BSDEActorCritic(region=region).build(DataInfo(problem=problem))
    start = torch.full((1, 3), problem.start)
    low, high = problem.value_range
    assert low <= float(model.critic.answer(start).detach()) <= high
    assert not model.actor(torch.randn(2, 21, 3)).any()


def test_the_actor_at_the_start_is_its_first_time_step() -> None:
    torch.manual_seed(0)
    model = BSDEActorCritic().build(DataInfo(problem=HJBLQ(dims=3)))
    torch.nn.init.normal_(model.actor.network.layers[-1].weight)
    states = torch.randn(4, 21, 3)
    controls = model.actor(states)
    torch.testing.assert_close(controls[0], model.actor.at_start(states[:, 0]))
    assert not torch.allclose(model.actor(states[:, [5] * 21])[0], model.actor(states[:, [5] * 21])[9])


def test_the_critic_goes_its_fraction_of_the_way_to_the_mean_return(tmp_path: Path) -> None:
    """Without control and driver each step moves Y by 0.3 of the batch's mean of Y - g."""
    problem = HJBLQ(dims=4, control_gain=1e-12)
    method = SMALL.model_copy(update={"descent": Descent(steps=1, batch=64, rate=1e-9)})
    run = run_of(problem, tmp_path)
    torch.manual_seed(0)
    before = method.build(run.info).critic.level.detach()
    torch.manual_seed(0)
    model = method.train(run)
    assert isinstance(model, ActorCritic)
    ends = method.paths.sample(run, 64, 0).states[:, -1]
    expected = before - 0.3 * (before - problem.terminal(ends).mean())
    torch.testing.assert_close(model.critic.level.detach(), expected)


def test_it_finds_value_and_control_of_a_front(tmp_path: Path) -> None:
    """Burgers' type: u = 1/2 at the start, and s grad u = u (1 - u) = 1/4 in every entry."""
    problem = BurgersHD(dims=5)
    method = SMALL.model_copy(update={"descent": Descent(steps=300, batch=64, rate=1e-2, schedule="cosine")})
    run = run_of(problem, tmp_path)
    method.check(run.info)
    model = method.train(run)
    metrics = method.evaluate(model, run).metrics
    assert metrics["relative_error"] < 0.03
    assert metrics["unexplained"] < 0.15
    answer = method.value(model, torch.zeros(2, 5))
    torch.testing.assert_close(answer["gradient"], torch.full((2, 5), 0.25 / 5), rtol=0.2, atol=0)
    torch.testing.assert_close(answer["value"], torch.full((2,), 0.5), rtol=0.03, atol=0)
    with pytest.raises(InputError, match="has 5 values other than 0, such as 1"):
        method.operations(run.info)["value"].check({"x0": torch.ones(1, 5)})


def test_prices_of_57_are_learned_in_single_precision(tmp_path: Path) -> None:
    """One asset and equal intensities: the discounted forward, whose hedge is the asset itself.

    A time step of a fifth grows the asset by 1.004 and the money by 1 + (0.06 / 3 + 0.02) / 5.
    """
    problem = BlackScholesDefault(dims=1, intensity_high=0.06, intensity_low=0.06)
    method = SMALL.model_copy(update={"descent": Descent(steps=250, batch=64, rate=1e-2, schedule="cosine")})
    run = run_of(problem, tmp_path)
    model = method.train(run)
    metrics = method.evaluate(model, run).metrics
    assert metrics["value"] == pytest.approx(100 * (1.004 / 1.008) ** 5, rel=2e-3)
    assert metrics["unexplained"] < 0.05
    assert "relative_error" not in metrics


def test_one_training_gives_the_values_of_a_region(tmp_path: Path) -> None:
    problem = BurgersHD(dims=3)
    method = SMALL.model_copy(
        update={"region": 2.0, "descent": Descent(steps=300, batch=64, rate=1e-2, schedule="cosine")}
    )
    run = run_of(problem, tmp_path)
    method.check(run.info)
    model = method.train(run)
    metrics = method.evaluate(model, run).metrics
    assert metrics["relative_error"] < 0.5 * metrics["constant_relative_error"]
    states = torch.tensor([[2.0, 2.0, 2.0], [-2.0, -2.0, -2.0]])
    values = method.value(model, states)["value"]
    assert values[0] > 0.7 > 0.3 > values[1]
    with pytest.raises(InputError, match=r"outside \[-2, 2\]"):
        method.operations(run.info)["value"].check({"x0": states + 1})


@pytest.mark.parametrize("region", [None, 1.0])
def test_a_training_that_was_stopped_goes_on_to_the_same_bits(tmp_path: Path, region: float | None) -> None:
    method = SMALL.model_copy(update={"region": region, "descent": Descent(steps=60, batch=8, rate=1e-2)})

    def stop(progress: Progress) -> None:
        if progress.step >= 40:
            raise KeyboardInterrupt

    execution = Execution(checkpoint_steps=20)
    with pytest.raises(KeyboardInterrupt):
        method.train(run_of(HJBLQ(dims=3), tmp_path / "cut", execution=execution, progress=stop))
    resumed = method.train(run_of(HJBLQ(dims=3), tmp_path / "cut", execution=execution))
    whole = method.train(run_of(HJBLQ(dims=3), tmp_path / "whole"))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    curves = [
        [json.loads(line)["value"] for line in (tmp_path / name / "curves" / "steps.jsonl").open()]
        for name in ("cut", "whole")
    ]
    assert curves[0] == curves[1]


def test_what_cannot_be_trained_is_refused() -> None:
    info = DataInfo(problem=HJBLQ(dims=2))
    with pytest.raises(SpecError, match="the actor is trained by adam without decay"):
        BSDEActorCritic(descent=Descent(steps=10, optimizer="sgd")).check(info)
    with pytest.raises(SpecError, match="region=200 around the state 100"):
        BSDEActorCritic(region=200.0).check(DataInfo(problem=BlackScholesLending(dims=2)))
    for fields, message in (
        ({"region": 0.0}, "region: input should be greater than 0"),
        ({"critic_step": 1.5}, "critic_step: input should be less than or equal to 1"),
        ({"paths": {"intervals": 0}}, "paths.intervals: input should be greater than 0"),
    ):
        with pytest.raises(SpecError, match=message):
            BSDEActorCritic.parse(fields, source="method")
