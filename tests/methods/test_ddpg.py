"""DDPG: its symmetry, that it finds a law that is known, and that simulation spreads without a trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dlde.claims import Table
from dlde.errors import GridError, SpecError
from dlde.method import DataInfo
from dlde.methods.ddpg import DDPG, Followers, Replay, claim
from dlde.problems.burgers import Burgers
from dlde.problems.controlled_burgers import ControlledBurgers
from dlde.tasks.feedback import Feedback, SaturatedLinear, simulate
from dlde.training.run import EngineRun, Execution
from tests.actuated import Cells, Quick

FIELD = ControlledBurgers(horizon=0.08, num_points=32, actuators=4, noise_modes=4)
TINY = DDPG(
    width=4,
    layers=2,
    batch=8,
    decisions=80,
    warmup=16,
    decisions_per_update=2,
    environments=4,
    groups=2,
    interval=2,
    feedback=Feedback(paths=3),
)


def info_of(problem: Any) -> DataInfo:
    return DataInfo.model_construct(problem=problem, data={})


def trained(folder: Path, method: DDPG = TINY, problem: Any = FIELD, **engine: Any) -> dict[str, Tensor]:
    run = EngineRun(folder, info_of(problem), {}, seed=100, **engine)
    model = method.train(run)
    run.close()
    return model.state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize("target", [(), (0.3,)], ids=["rest", "target"])
def test_the_networks_commute_with_shifts_by_one_actuator(target: tuple[float, ...]) -> None:
    """Where there is a target, it has to be shifted too."""
    problem = ControlledBurgers(target_modes=target)
    method = DDPG()
    actor, critic = method.build(info_of(problem)).double(), method.build_critic(info_of(problem)).double()
    u, a = torch.randn(3, 64, dtype=torch.float64), torch.randn(3, 8, dtype=torch.float64)
    torch.nn.init.normal_(actor.law.head.weight)  # type: ignore[union-attr, arg-type]
    before = actor(u), critic(u, a)
    for module in (actor.law, critic):
        module.target = module.target.roll(8, 1)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(actor(u.roll(8, 1)), before[0].roll(1, 1))
    torch.testing.assert_close(critic(u.roll(8, 1), a.roll(1, 1)), before[1])
    assert float(before[0].detach().std()) > 0.1
    assert float(actor(1e3 * u).detach().abs().max()) <= 5


def test_dense_networks_have_the_plain_sizes() -> None:
    info = info_of(ControlledBurgers())
    method = DDPG(network="dense")
    count = [sum(p.numel() for p in m.parameters()) for m in (method.build(info), method.build_critic(info))]
    assert count == [64 * 256 + 256 + 256 * 256 + 256 + 256 * 8 + 8, 72 * 256 + 256 + 256 * 256 + 256 + 257]
    assert method.build(info)(torch.randn(2, 64)).shape == (2, 8)


def test_it_finds_the_best_law_of_a_linear_system(tmp_path: Path) -> None:
    """Independent cells with quadratic costs: the cost comes within 5 % of the Riccati law's."""
    problem = Cells()
    method = DDPG(
        kernel=1, width=16, layers=2, batch=64, decisions=3200, warmup=320, decisions_per_update=4,
        discount=0.9, polyak=0.05, reward_scale=1.0, actor_rate=3e-3, critic_rate=3e-3,
    )  # fmt: skip
    model = method.train(Quick(tmp_path, info_of(problem), {}, seed=100))
    best = SaturatedLinear(problem.best_gain() * problem.shapes, problem.target, problem.control_limit)
    laws = {"learned": model, "best": best, "none": SaturatedLinear(0 * problem.shapes, problem.target, 1.0)}
    costs = {name: float(simulate(problem, law, 7, range(64)).totals.mean()) for name, law in laws.items()}
    assert costs["best"] < 0.6 * costs["none"]
    assert costs["learned"] < 1.05 * costs["best"]


def test_a_field_is_calmer_under_the_model_that_was_trained(tmp_path: Path) -> None:
    run = EngineRun(tmp_path, info_of(FIELD), {}, seed=100)
    model = TINY.train(run)
    metrics = TINY.evaluate(model, Quick(tmp_path, info_of(FIELD), {}, seed=100)).metrics
    assert metrics["cost"] > 0
    answer = TINY.control(model, u=torch.randn(2, 32))
    assert {name: tuple(part.shape) for name, part in answer.items()} == {"a": (2, 4), "force": (2, 32)}
    assert sorted(answer) == sorted(TINY.operations(info_of(FIELD))["control"].outputs)


class Scattered:
    """Three rollout workers that answer in any order, each with a simulator of its own."""

    size = 3

    def __init__(self, make: Callable[[], Callable[[Any], Any]]) -> None:
        self.simulators = [make() for _ in range(3)]
        self.calls = 0

    def map(self, items: Sequence[Any]) -> list[Any]:
        results = {number: self.submit(items[number])() for number in reversed(range(len(items)))}
        return [results[number] for number in range(len(items))]

    def submit(self, item: Any) -> Callable[[], Any]:
        self.calls += 1
        simulator = self.simulators[self.calls % 3]
        return lambda: simulator(item)  # only when it is asked for: as late as a remote one could be


@pytest.mark.parametrize("asynchronous", [False, True])
def test_rollout_workers_leave_no_trace(asynchronous: bool, tmp_path: Path) -> None:
    method = TINY.model_copy(update={"asynchronous": asynchronous})
    alone = trained(tmp_path / "alone", method)
    assert same(alone, trained(tmp_path / "scattered", method, rollouts=Scattered))


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("every", [4, 5])
def test_a_training_that_was_killed_goes_on_to_the_same_bits(
    asynchronous: bool, every: int, tmp_path: Path
) -> None:
    """From a checkpoint at the border of two intervals (of 4 updates), and from one within."""
    method = TINY.model_copy(update={"asynchronous": asynchronous})
    whole = trained(tmp_path / "whole", method)

    class Killed(EngineRun):
        def log(self, **values: Any) -> None:
            if self._phase is not None and self._phase.saved_step >= 8:
                raise KeyboardInterrupt
            super().log(**values)

    execution = Execution(checkpoint_steps=every, checkpoint_seconds=1e6)
    with pytest.raises(KeyboardInterrupt):
        method.train(Killed(tmp_path / "cut", info_of(FIELD), {}, seed=100, execution=execution))
    assert same(whole, trained(tmp_path / "cut", method))


def test_learning_while_simulating_is_another_training(tmp_path: Path) -> None:
    late = TINY.model_copy(update={"asynchronous": True})
    assert not same(trained(tmp_path / "sync"), trained(tmp_path / "late", late))


def test_the_options_of_td3_work_together(tmp_path: Path) -> None:
    method = DDPG(**{**TINY.model_dump(), "critics": 2, "actor_every": 2, "smoothing": 0.2})
    weights = trained(tmp_path, method)
    assert all(torch.isfinite(weight).all() for weight in weights.values())


def test_of_two_critics_the_smaller_value_is_the_target() -> None:
    class Constant(torch.nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = torch.nn.Parameter(torch.tensor(value))

        def forward(self, u: Tensor, a: Tensor | None = None) -> Tensor:
            return self.value * u if a is None else self.value + a.sum(1)

    followers = Followers(Constant(9.0), torch.nn.ModuleList([Constant(1.0), Constant(-1.0)]), limit=2.0)
    u = torch.tensor([[1.0], [0.1]])
    assert followers.value(u, torch.zeros(())).tolist() == pytest.approx([1.0, -0.1])  # 9 is cut at 2
    followers.follow(Constant(1.0), torch.nn.ModuleList([Constant(1.0), Constant(1.0)]), 0.25)
    assert [float(p.detach()) for p in followers.parameters()] == [7.0, 1.0, -0.5]


def test_the_buffer_keeps_the_newest() -> None:
    replay = Replay(5, state=(1,), reward=())
    for first in (0, 3):
        numbers = torch.arange(first, first + 3.0)
        replay.put(first, {"state": numbers[:, None], "reward": 10 * numbers})
    state, reward = replay.at(torch.arange(5))
    assert state.flatten().tolist() == [5, 1, 2, 3, 4]
    assert reward.tolist() == [50, 10, 20, 30, 40]


def test_a_transition_at_the_end_of_an_episode_is_no_end(tmp_path: Path) -> None:
    """Every transition has its next field, from which the next one goes on, but for a new episode's first."""
    kept: list[Any] = []

    class Spying(Scattered):
        def map(self, items: Sequence[Any]) -> list[Any]:
            kept.append(super().map(items))
            return list(kept[-1])

    trained(tmp_path, rollouts=Spying)
    assert len(kept) == TINY.intervals == 10
    first, second, third = (torch.cat([part["state"] for part, _ in kept[n]], 1) for n in (0, 1, 2))
    ends = [torch.cat([part["next_state"] for part, _ in kept[n]], 1)[-1] for n in (0, 1)]
    assert ends[0].equal(second[0])  # the same episode: 4 decisions are two intervals
    assert not ends[1].equal(third[0])
    torch.testing.assert_close(third[0], FIELD.initial(_path_seed(), range(4, 8)).float())
    assert first.shape == (2, 4, 32)


def _path_seed() -> int:
    return EngineRun(Path(), info_of(FIELD), {}, seed=100).generator("paths").initial_seed()


def test_noise_fades_and_the_beginning_is_random() -> None:
    scales = [TINY.noise_at(number) for number in range(TINY.intervals)]
    assert scales[:2] == [None, None]
    assert scales[2] == pytest.approx(0.4)
    assert scales[-1] == pytest.approx(0.1)
    assert DDPG().updates == (24_000 - 1120) / 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"environments": 15}, "environments=15 cannot be cut into groups=2"),
        ({"decisions": 24_100}, "no multiple of environments x interval = 160; use decisions=24160"),
        ({"decisions_per_update": 3}, "decisions_per_update=3 does not divide environments x interval = 160"),
        ({"warmup": 24_000}, "leaves none of decisions=24000 to learn from; use warmup <= 23840"),
        ({"kernel": 4}, "kernel=4 has no centre; use an odd number"),
        ({"discount": 1.0}, "discount: input should be less than 1"),
        ({"polyack": 0.1}, "did you mean 'polyak'"),
    ],
    ids=str,
)
def test_meaningless_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        DDPG.parse(fields, source="test")


def test_meaningless_pairs_with_the_problem_are_refused() -> None:
    seven = info_of(ControlledBurgers(actuators=7))
    with pytest.raises(
        GridError, match=r"7 places do not divide .* of 64 points; use one of 1, 2, 4, .*dense"
    ):
        DDPG().check(seven)
    DDPG(network="dense").check(seven)
    with pytest.raises(SpecError, match="interval=10 does not divide the 25 decisions of an episode"):
        DDPG().check(info_of(ControlledBurgers(horizon=0.5)))
    with pytest.raises(SpecError, match="needs a problem with actuators"):
        DDPG().check(info_of(Burgers()))
    with pytest.raises(SpecError, match="batch=128 cannot be shared equally by 3 workers"):
        DDPG().check_workers(3)
    DDPG().check_workers(2)


def rows(**costs: tuple[float, float, float]) -> Table:
    return Table(
        tuple(
            {"variant": variant, "seed": seed, "metric": "cost", "value": value}
            for variant, values in costs.items()
            for seed, value in enumerate(values)
        )
    )


@pytest.mark.parametrize(
    ("ddpg", "held"),
    [
        ((0.16, 0.16, 0.16), [True, True, True]),
        ((0.16, 0.9, 0.16), [True, True, True]),
        ((0.16, 0.9, 0.9), [False, False, False]),
        ((0.172, 0.172, 0.172), [True, True, False]),
        ((0.19, 0.19, 0.19), [False, True, False]),
    ],
)
def test_the_claim(ddpg: tuple[float, float, float], held: list[bool]) -> None:
    table = rows(ddpg=ddpg, none=(0.29,) * 3, instantaneous=(0.235,) * 3, proportional=(0.155,) * 3)
    checks = claim(table)
    assert [check.holds for check in checks] == held
    assert all(check.seeds == (0, 1, 2) for check in checks)
    assert claim.variants == ("ddpg", "none", "proportional", "instantaneous")
