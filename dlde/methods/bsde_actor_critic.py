"""Actor-critic for parabolic equations in many dimensions: one network for the controls of all times.

The value at the start and the controls along simulated paths are chosen as in the deep BSDE method, so
that Y_N meets g(X_N). By the Markov property the control is a function of time and state: the actor
pi(t, x) -> Z is one network for all time steps, with a fraction 1 / N of the weights; as the paths do
not depend on it, it is asked once for all times and paths. The critic V(x0) is a number, or with
`region` a network over a box of states. Both learn from the mismatch m = Y_N - g(X_N): the actor
descends the mean of m^2, the critic moves towards the mean return V(x0) - m.

Source: Xiaohan Zhang, Actor-Critic Algorithm for High-dimensional Partial Differential Equations,
arXiv 2010.03647: the scheme, and what it is said to gain over the deep BSDE method. We know nothing
of its networks and rates; ours are a reconstruction: two hidden layers of tanh and a residual connection,
and a critic of one state whose rate is the fraction of the way that it goes to the mean return, which
needs no tuning to the size of the value. The critic descends (V(x0) - (V(x0) - m))^2 with the return
held fixed, which for a driver that does not depend on the value is the gradient of the mean of m^2.
It is not started at the mean of g(X_N), which for some equations is within a percent of the answer.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from dlde.errors import SpecError
from dlde.method import DataInfo, Descent, Evaluation, Method, Operation, Run
from dlde.nn.mlp import MLP
from dlde.problem import Semilinear
from dlde.tasks.parabolic import BackwardPaths, Finite, Recent, problem_of

PILOTS = 1024  # paths by which the actor's inputs are normalised


class Actor(nn.Module):
    """pi(t, x): states (batch, intervals + 1, dims) -> controls (intervals, batch, dims).

    Inputs and outputs are in units of what pilot paths show: a state by its mean and deviation, the
    controls by the size at which they would make all of the deviation of g(X_N). A residual connection
    passes every entry of the state on, by a weight of its own. Starts as zero.
    """

    mean: Tensor
    deviation: Tensor
    terminal_deviation: Tensor

    def __init__(self, problem: Semilinear, paths: BackwardPaths, width: int) -> None:
        super().__init__()
        dims, dtype = problem.dims, paths.dtype
        self.per_deviation = 1 / math.sqrt(problem.horizon * dims)
        self.network = MLP((dims + 1, width, width, dims), dtype=dtype)
        _start_at_zero(self.network)
        self.residual = nn.Parameter(torch.zeros(dims, dtype=dtype))
        self.register_buffer("mean", torch.zeros(dims, dtype=dtype))
        self.register_buffer("deviation", torch.ones(dims, dtype=dtype))
        self.register_buffer("terminal_deviation", torch.ones((), dtype=dtype))

    def normalise(self, states: Tensor, terminal: Tensor) -> None:
        """By pilot paths (batch, intervals + 1, dims) and g at their ends (batch,)."""
        flat = states[:, :-1].flatten(0, 1)
        self.mean.copy_(flat.mean(0))
        self.deviation.copy_(flat.std(0).clamp(min=1e-6))
        self.terminal_deviation.copy_(terminal.std().clamp(min=1e-6))

    def forward(self, states: Tensor) -> Tensor:
        times = states.shape[1] - 1
        t = torch.arange(times, dtype=states.dtype, device=states.device) / times
        return self._at(t[:, None, None], states[:, :-1].transpose(0, 1))

    def at_start(self, x0: Tensor) -> Tensor:
        """The control at time 0: (batch, dims) -> (batch, dims)."""
        return self._at(x0.new_zeros(1, 1), x0)

    def _at(self, t: Tensor, x: Tensor) -> Tensor:
        x = (x - self.mean) / self.deviation
        inputs = torch.cat([t.expand(*x.shape[:-1], 1), x], -1)
        units: Tensor = self.network(inputs) + self.residual * x
        return units * self.terminal_deviation * self.per_deviation


class Critic(nn.Module):
    """V(x0): a level, and over a region the deviations from it by a network that starts as zero.

    The network's output is in units of the deviation of g(X_N). Without a level of its own it would have to
    grow to the size of the value first, and would vary over the region by what it grew from.
    """

    unit: Tensor

    def __init__(self, problem: Semilinear, paths: BackwardPaths, window: int) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.empty((), dtype=paths.dtype).uniform_(*problem.value_range))
        self.recent = Recent(self.level, window)
        self.register_buffer("unit", torch.ones((), dtype=paths.dtype))
        self.network: MLP | None = None

    def add_region(self, problem: Semilinear, paths: BackwardPaths, region: float, width: int) -> None:
        """Make it a function of x0 within `region` of the problem's state."""
        self.start, self.region = problem.start, region
        # steep enough that the units bend within the box; else the network begins all but linear in x0
        self.network = MLP((problem.dims, width, width, 1), steepness=3.0, dtype=paths.dtype)
        _start_at_zero(self.network)

    def deviation(self, x0: Tensor) -> Tensor:
        """From the level (batch,), at x0 (batch, dims)."""
        if self.network is None:
            return x0.new_zeros(len(x0))
        out: Tensor = self.network((x0 - self.start) / self.region).squeeze(-1)
        return out * self.unit

    def answer(self, x0: Tensor) -> Tensor:
        """V (batch,) with the mean of the last levels."""
        return self.recent.mean() + self.deviation(x0)


class ActorCritic(nn.Module):
    """The two of them, and the equation that they were trained for."""

    def __init__(self, problem: Semilinear, actor: Actor, critic: Critic) -> None:
        super().__init__()
        self.problem = problem
        self.actor, self.critic = actor, critic


class BSDEActorCritic(Method):
    """Actor-critic for high-dimensional parabolic equations: one control network for all times."""

    requires: ClassVar = Semilinear

    width: PositiveInt | None = None  # of the actor's hidden layers; None: dims + 10
    region: PositiveFloat | None = None  # half the side of the box of states x0; None: one state
    critic_width: PositiveInt = 32  # of its hidden layers, with a region
    critic_step: Annotated[float, Field(gt=0, le=1)] = 0.3  # fraction of the way to the batch's mean return
    critic_rate: PositiveFloat = 3e-3  # Adam's for the network of the critic, with a region
    paths: BackwardPaths = BackwardPaths()
    # The actor's; the critic's rate follows the same schedule. Of the rates 1e-3, 5e-3, 2e-2 the best.
    descent: Descent = Descent(steps=1000, batch=64, rate=2e-2, schedule="cosine")

    def check(self, info: DataInfo) -> None:
        """Raises SpecError for another optimizer than Adam, and for an equation that gives no numbers."""
        if self.descent.optimizer != "adam" or self.descent.weight_decay:
            raise SpecError(
                f"method.descent: optimizer={self.descent.optimizer}, weight_decay="
                f"{self.descent.weight_decay:g}, but the actor is trained by adam without decay",
                mistakes=["method.descent"],
            )
        self.paths.check(info, region=self.region)

    def build(self, info: DataInfo) -> ActorCritic:
        problem = problem_of(info)
        window = min(self.paths.window, self.descent.steps)
        critic = Critic(problem, self.paths, window)
        if self.region is not None:
            critic.add_region(problem, self.paths, self.region, self.critic_width)
        return ActorCritic(problem, Actor(problem, self.paths, self.width or problem.dims + 10), critic)

    def train(self, run: Run) -> nn.Module:
        problem, reference = problem_of(run.info), self.paths.reference(run)
        model = self.build(run.info).to(run.device).train()
        variance = self._normalise(model, run)
        optimizers, rates = self._optimizers(model)
        state = run.state(local=(), model=model, **optimizers)
        with Finite(self.paths.intervals, problem.horizon / self.paths.intervals) as finite:
            for step in run.steps(self.descent.steps, state=state, seconds=self.descent.seconds):
                factor = self.descent.factor(step)
                for name, optimizer in optimizers.items():
                    for group in optimizer.param_groups:
                        group["lr"] = rates[name] * factor
                paths = self.paths.sample(run, self.descent.batch, step, region=self.region)
                deviation = model.critic.deviation(paths.states[:, 0])
                level = model.critic.level
                values = (level + deviation).detach()
                mismatch, reached = self.paths.mismatch(problem, paths, values, model.actor(paths.states))
                finite.see(reached)
                returns = values - mismatch.detach()
                loss = self.paths.loss(mismatch) / variance
                run.descend(optimizers["actor"], {"unexplained": loss}, clip=self.descent.clip)
                run.descend(
                    optimizers["level"], {"level": self.paths.loss(level + deviation.detach() - returns)}
                )
                if self.region is not None:
                    loss = self.paths.loss(level.detach() + deviation - returns) / variance
                    run.descend(optimizers["deviation"], {"deviation": loss})
                model.critic.recent.keep(step, level)
                run.log(value=level)
                if reference is not None and self.region is None:
                    run.log(relative_error=(level.detach() / reference - 1).abs())
        return model

    def evaluate(self, model: nn.Module, run: Run) -> Evaluation:
        assert isinstance(model, ActorCritic)
        model.to(run.device).eval()
        with torch.no_grad():
            return self.paths.measure(run, model.critic.answer, model.actor, region=self.region)

    def operations(self, info: DataInfo) -> dict[str, Operation]:
        return {"value": self.paths.operation(info, region=self.region)}

    def value(self, model: nn.Module, x0: Tensor) -> dict[str, Tensor]:
        """The value at time 0 by the critic, its gradient Z / s by the actor, at states (batch, dims)."""
        assert isinstance(model, ActorCritic)
        controls = model.actor.at_start(x0)
        return {"value": model.critic.answer(x0), "gradient": controls / model.problem.diffusion(x0)}

    def _normalise(self, model: ActorCritic, run: Run) -> Tensor:
        """Units of the networks, by pilot paths; returns the variance of g(X_N)."""
        states = self.paths.pilots(run, PILOTS, region=self.region)
        model.actor.normalise(states, model.problem.terminal(states[:, -1]))
        model.critic.unit.copy_(model.actor.terminal_deviation)
        return model.critic.unit.square()

    def _optimizers(self, model: ActorCritic) -> tuple[dict[str, torch.optim.Optimizer], dict[str, float]]:
        """By name, with their rates: a rate of r / 2 goes the fraction r of the way to the mean return."""
        rates = {"actor": self.descent.rate, "level": self.critic_step / 2}
        optimizers: dict[str, torch.optim.Optimizer] = {
            "actor": torch.optim.Adam(model.actor.parameters(), fused=True),
            "level": torch.optim.SGD([model.critic.level]),
        }
        if model.critic.network is not None:
            optimizers["deviation"] = torch.optim.Adam(model.critic.network.parameters(), fused=True)
            rates["deviation"] = self.critic_rate
        return optimizers, rates


def _start_at_zero(network: MLP) -> None:
    for tensor in network.layers[-1].parameters():
        nn.init.zeros_(tensor)
