"""Small loops that tests run in this process, in killed processes and in pairs of workers."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from dlde.method import DataInfo, Descent, Terms
from dlde.training import averaging
from dlde.training.comm import Alone, Distributed
from dlde.training.run import EngineRun, Execution

DESCENT = Descent(steps=60, batch=8, rate=1e-2, schedule="cosine", warmup=0.1)
SETTINGS: dict[str, dict[str, object]] = {
    "fit": {},
    "buckets": {},
    "accumulated": {"execution": Execution(accumulate=2)},
    "chain": {
        "descent": Descent(
            steps=20, batch=8, rate=1e-2, then=Descent(steps=6, optimizer="lbfgs", options={"max_iter": 3})
        )
    },
}
WEIGHTS = torch.linspace(-1, 1, 12).reshape(4, 3)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))


def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x = torch.randn(8, 4, generator=generator)
    return x, torch.sin(x @ WEIGHTS)


def loss(model: nn.Module, pair: tuple[Tensor, Tensor]) -> Terms:
    x, y = pair
    return {"fit": (model(x) - y).square().mean(), "size": 1e-4 * model(x).square().mean()}


def run_in(folder: Path, **settings: object) -> EngineRun:
    return EngineRun(folder, DataInfo(), {}, seed=3, **settings)  # type: ignore[arg-type]


def fit(folder: Path, descent: Descent = DESCENT, **settings: object) -> nn.Module:
    """Train the network to the end; returns it."""
    run = run_in(folder, **settings)
    model = network()
    run.fit(model, batch, loss, descent)
    run.close()
    return model


def by_hand(run: EngineRun, steps: int = 40) -> dict[str, Tensor]:
    """A loop of a method's own: two optimizers, a value, and points of which every worker has a share."""
    actor, critic = nn.Linear(2, 1), nn.Linear(2, 1)
    first = torch.optim.Adam(actor.parameters(), 1e-2)
    second = torch.optim.SGD(critic.parameters(), 1e-2)
    points = run.share(torch.randn(8, 2, generator=run.generator("points")))
    own = nn.ParameterDict({"w": nn.Parameter(run.share(torch.linspace(-1, 1, 8).reshape(4, 2)).clone())})
    third = torch.optim.SGD(own.parameters(), 1e-2, momentum=0.9)
    state = run.state(
        local=("points", "own", "third"),
        own=own,
        third=third,
        actor=actor,
        critic=critic,
        first=first,
        second=second,
        points=points,
        mean=torch.zeros(()),
    )
    for step in run.steps(steps, state=state, name="game"):
        noise = run.share(torch.randn(8, 2, generator=run.generator("noise", step)))
        run.descend(
            first, {"actor": (actor(state.points + noise) - critic(state.points).detach()).square().mean()}
        )
        run.descend(second, {"critic": (critic(state.points) - 1).square().mean()})
        run.descend(third, {"own": (own["w"] - 1).square().sum()}, local=True)
        state.points = state.points * 0.99
        state.mean = 0.9 * state.mean + 0.1 * actor.weight.detach().mean()
    return {
        "actor": actor.weight.detach(),
        "critic": critic.weight.detach(),
        "points": state.points,
        "own": own["w"].detach(),
        "mean": state.mean,
    }


def worker(rank: int, size: int, folder: str, port: int, task: str) -> None:
    """One of a pair of gloo processes."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    try:
        comm = Distributed()
        if task in SETTINGS:
            if task == "buckets":
                averaging.BUCKET_BYTES = 64  # several messages for these few weights
            model = fit(Path(folder), comm=comm, **SETTINGS[task])  # type: ignore[arg-type]
            if rank == 0:
                torch.save(model.state_dict(), Path(folder) / "result.pt")
        elif task == "by_hand":
            result = by_hand(run_in(Path(folder), comm=comm))
            result |= {name: comm.gather(result[name]) for name in ("points", "own")}
            mine = torch.full((2,), float(rank))
            left, right = comm.shift(mine, 1), comm.shift(mine, -1, like=torch.empty(2))
            assert (left is None) == (rank == 0)
            assert (right is None) == (rank == size - 1)
            assert all(float(t[0]) == rank + by for t, by in ((left, -1), (right, 1)) if t is not None)
            if rank == 0:
                torch.save(result, Path(folder) / "result.pt")
    finally:
        torch.distributed.destroy_process_group()


def main() -> None:
    """A process that kills itself without warning after a number of steps (its last argument)."""
    folder, last = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)

    def dying_loss(model: nn.Module, pair: tuple[Tensor, Tensor]) -> Terms:
        dying_loss.calls += 1
        if dying_loss.calls > last:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss(model, pair)

    dying_loss.calls = 0
    run = run_in(folder, comm=Alone(), execution=Execution(checkpoint_steps=7))
    model = network()
    run.fit(model, batch, dying_loss, DESCENT)


if __name__ == "__main__":
    main()
