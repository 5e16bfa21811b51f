"""The engine behind a method's `train`: steps that resume exactly, and the one hot loop.

A run lives in a folder: `checkpoints/<phase>/`, `curves/<phase>.jsonl` (one row a step), `figures/`,
`once/`. Nothing here knows of Ray or MLflow; both look at the folder from outside.

Losses stay on the device. Every so often (a *sync*: about once a second, at most `SYNC_STEPS` steps
apart) they are read at once, checked, written to the curve and shown; a checkpoint is taken there
when it is due. Rank 0 says when the next sync is, so that all workers do it at the same step.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import NonNegativeFloat, PositiveInt
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from dlde.errors import NonFiniteError, SpecError, TrainingError
from dlde.files import disk_full_named, write_atomically
from dlde.method import Batches, Comm, DataInfo, Descent, RolloutWorkers, Run, Terms
from dlde.spec import Spec
from dlde.training import checkpoint
from dlde.training.comm import Alone
from dlde.training.rollouts import InProcess, Make

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dlde.datasets.dataset import Dataset

SYNC_STEPS = 50
SYNC_SECONDS = 1.0


class Execution(Spec):
    """How a training is executed; none of it changes the mathematics."""

    checkpoint_seconds: NonNegativeFloat = 10.0  # time between checkpoints
    checkpoint_steps: PositiveInt | None = None  # steps between checkpoints, besides
    deterministic: bool = False  # refuse operations that are not, on GPU


@dataclass(frozen=True)
class Progress:
    """Where a loop stands, for a person watching."""

    phase: str
    step: int
    steps: int
    terms: dict[str, float]
    rate: float  # steps per second


class State:
    """What a loop changes, by name; values are read and assigned as attributes."""

    def __init__(self, local: tuple[str, ...], entries: dict[str, Any]) -> None:
        object.__setattr__(self, "_local", local)
        object.__setattr__(self, "_entries", entries)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._entries[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._entries:
            raise AttributeError(f"{name!r} was not named in run.state(...)")
        self._entries[name] = value

    def dump(self, comm: Comm) -> dict[str, Any]:
        """All entries as `state_dict`s, tensors and plain values; local ones joined over the workers."""
        content = {
            name: value.state_dict() if hasattr(value, "state_dict") else value
            for name, value in self._entries.items()
        }
        return content | {name: _each(content[name], comm.gather) for name in self._local}

    def load(self, content: dict[str, Any], comm: Comm) -> None:
        """The inverse of `dump`, also in place for objects."""
        for name, value in self._entries.items():
            loaded = content[name]
            if name in self._local:
                loaded = _each(loaded, partial(_part, name, comm))
            if hasattr(value, "load_state_dict"):
                value.load_state_dict(loaded)
            elif isinstance(value, Tensor):
                self._entries[name] = loaded.to(value.device)
            else:
                self._entries[name] = loaded


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Plain data with every tensor of at least one axis changed; its axis 0 is what workers share."""
    if isinstance(value, Tensor):
        return change(value) if value.ndim else value
    if isinstance(value, Mapping):
        return {key: _each(inner, change) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_each(inner, change) for inner in value)
    return value


def _part(name: str, comm: Comm, whole: Tensor) -> Tensor:
    if len(whole) % comm.size:
        raise TrainingError(
            f"state {name!r} has {len(whole)} rows, which {comm.size} workers cannot share; "
            "resume with the number of workers that the run was started with"
        )
    return whole.chunk(comm.size)[comm.rank].clone()


class Average:
    """Running average of a model's weights: average <- decay average + (1 - decay) weights."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._trained: list[Tensor] = list(model.parameters())
        self._averages = [parameter.detach().clone() for parameter in self._trained]
        self._decay = decay

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights of this step."""
        torch._foreach_lerp_(self._averages, self._trained, 1 - self._decay)

    @torch.no_grad()
    def into_model(self) -> None:
        """The averages become the model's weights."""
        torch._foreach_copy_(self._trained, self._averages)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"averages": self._averages}

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        torch._foreach_copy_(self._averages, content["averages"])


class EngineRun(Run):
    """A run in `folder`. `progress` is called on rank 0 at every sync."""

    def __init__(
        self,
        folder: Path,
        info: DataInfo,
        data: Mapping[str, Dataset],
        *,
        seed: int,
        device: torch.device | str = "cpu",
        comm: Comm | None = None,
        execution: Execution | None = None,
        progress: Callable[[Progress], None] | None = None,
        rollouts: Callable[[Make], RolloutWorkers] | None = None,
        pictures: bool = True,
    ) -> None:
        self.folder = folder
        self.info = info
        self.data = data
        self.seed = seed
        self.device = torch.device(device)
        self.comm = comm or Alone()
        self.execution = execution or Execution()
        self.seconds = 0.0  # of all phases so far, earlier starts included
        self._progress = progress or (lambda progress: None)
        self._rollouts = rollouts or InProcess
        self._pictures = pictures
        self._phase: _Phase | None = None
        self._names: set[str] = set()
        torch.manual_seed(self._seed_of("initialisation"))

    def generator(self, *keys: str | int) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed_of(*keys))

    def share(self, batch: Tensor) -> Tensor:
        if len(batch) % self.world_size:
            raise SpecError(
                f"a batch of {len(batch)} cannot be shared equally by {self.world_size} workers; "
                f"choose a multiple of {self.world_size}",
                mistakes=["batch"],
            )
        return batch.chunk(self.world_size)[self.rank] if self.world_size > 1 else batch

    def state(self, *, local: tuple[str, ...] = (), **entries: Any) -> State:
        return State(local, entries)

    def steps(
        self, n: int, *, state: State, name: str = "steps", seconds: float | None = None
    ) -> Iterator[int]:
        self._enter(name)
        phase = _Phase(self, name, n, state, seconds)
        step = phase.resume()
        self._phase = phase
        while step < n and not phase.finished:
            self._reseed("step", name, step, self.rank)
            yield step
            step += 1
            phase.end_of_step(step)
        phase.finish(step)
        self._reseed("after", name)  # found or trained: what is drawn next is the same
        self.seconds += phase.elapsed
        self._phase = None

    def stop(self) -> None:
        self._current("stop").finished = True

    def descend(
        self,
        optimizer: torch.optim.Optimizer,
        loss: Terms,
        *,
        weights: Mapping[str, float] | None = None,
        clip: float | None = None,
        local: bool = False,
    ) -> None:
        phase = self._current("descend")
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        weights = weights or {}
        total = torch.stack([term * weights.get(name, 1.0) for name, term in loss.items()]).sum()
        optimizer.zero_grad(set_to_none=True)
        total.backward(inputs=parameters)  # type: ignore[no-untyped-call]
        terms = torch.stack([term.detach().float() for term in loss.values()])
        phase.record_local(tuple(loss), terms)
        terms = self._average([] if local else parameters, terms)
        if clip is not None:
            nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        phase.record(tuple(loss), terms)

    def fit(
        self,
        model: nn.Module,
        batches: Batches | Callable[[torch.Generator], Any],
        loss: Callable[[nn.Module, Any], Terms],
        descent: Descent,
        *,
        weights: Mapping[str, float] | None = None,
        keep: Mapping[str, Any] | None = None,
        after: Callable[[int], None] | None = None,
        name: str = "fit",
    ) -> None:
        model.to(self.device).train()
        optimizer = descent.optimizer_of(model.parameters())
        average = Average(model, descent.average) if descent.average is not None else None
        kept = {**(keep or {}), **({"average": average} if average else {})}
        state = self.state(model=model, optimizer=optimizer, **kept)
        for step in self.steps(descent.steps, state=state, name=name, seconds=descent.seconds):
            descent.set_rate(optimizer, step)
            batch = (
                self._shared(batches(self.generator(name, step)))
                if callable(batches)
                else batches.at(step, self)
            )
            self.descend(optimizer, loss(model, batch), weights=weights, clip=descent.clip)
            if average:
                average.update()
            if after:
                after(step + 1)
                model.train()
        if average:
            average.into_model()

    def once(self, name: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        path = self.folder / "once" / f"{name}.safetensors"
        if self.rank == 0 and not path.exists():
            made = {key: value.detach().cpu().contiguous() for key, value in make().items()}
            write_atomically(path, to_bytes(made))
        self.comm.barrier()
        tensors: dict[str, Tensor] = load_file(path, device=str(self.device))
        return tensors

    def rollout_workers(self, make: Make) -> RolloutWorkers:
        return self._rollouts(make)

    def log(self, **values: float | Tensor) -> None:
        numbers = [torch.as_tensor(value, device=self.device).detach().float() for value in values.values()]
        self._current("log").record(tuple(values), torch.stack(numbers))

    def figure(self, name: str, figure: Figure) -> None:
        if self.rank == 0 and self._pictures:
            path = self.folder / "figures" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            with disk_full_named(path):
                figure.savefig(path, dpi=120, bbox_inches="tight", metadata={"Software": None})

    def close(self) -> None:
        """The method has returned. Raises TrainingError where it left a loop by `break`."""
        self._enter("")

    def _enter(self, name: str) -> None:
        if self._phase is not None:
            raise TrainingError(
                f"the loop over run.steps(name={self._phase.name!r}) was left before its end; "
                "end it by run.stop(), which keeps its state"
            )
        if name in self._names:
            raise TrainingError(f"two phases of this run are called {name!r}; give each its own name=")
        self._names.add(name)

    def _current(self, what: str) -> _Phase:
        if self._phase is None:
            raise TrainingError(f"run.{what} works inside a loop over run.steps(...) only")
        return self._phase

    def _reseed(self, *keys: str | int) -> None:
        """torch's own generators, which dropout and initialisation use, as a function of the keys."""
        seed = self._seed_of(*keys)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed costs a hundred times as much
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _seed_of(self, *keys: str | int) -> int:
        text = json.dumps([self.seed, *keys])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1

    def _shared(self, batch: Any) -> Any:
        if isinstance(batch, Tensor):
            return self.share(batch).to(self.device)
        if isinstance(batch, Mapping):
            return {key: self._shared(value) for key, value in batch.items()}
        return type(batch)(self._shared(value) for value in batch)

    def _average(self, parameters: list[nn.Parameter], terms: Tensor) -> Tensor:
        """Mean over the workers of gradients (in place) and of the terms, in one message."""
        if self.world_size == 1:
            return terms
        gradients = [p.grad for p in parameters if p.grad is not None]
        dtype = gradients[0].dtype if gradients else terms.dtype
        flat = torch.cat([*(g.reshape(-1) for g in gradients), terms.to(dtype)])
        self.comm.all_reduce(flat)
        *pieces, averaged = torch.split(flat, [*(g.numel() for g in gradients), len(terms)])
        if gradients:
            torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(pieces, gradients, strict=True)])
        return averaged.float()


class _Phase:
    """One loop: its state, its unread losses, its curve and its checkpoints."""

    def __init__(self, run: EngineRun, name: str, steps: int, state: State, limit: float | None) -> None:
        self.run, self.name, self.steps, self.state, self.limit = run, name, steps, state, limit
        self.before = run.seconds  # of the phases before this one
        self.folder = run.folder / "checkpoints" / name
        self.curve = run.folder / "curves" / f"{name}.jsonl"
        self.finished = False  # to end after this step
        self.over = False  # its last state is saved
        self.seconds = 0.0  # of this phase before `started`
        self.started = self.synced_at = self.saved_at = time.monotonic()
        self.saved_step = self.synced_step = 0
        self.next_sync = 1
        self.row: dict[tuple[str, ...], Tensor] = {}
        self.unread: list[tuple[int, float, dict[tuple[str, ...], Tensor]]] = []
        self.local: list[tuple[tuple[str, ...], Tensor]] = []

    @property
    def elapsed(self) -> float:
        """Seconds of this phase; of a finished one, those that it took."""
        return self.seconds + (0.0 if self.over else time.monotonic() - self.started)

    def resume(self) -> int:
        """Load the newest checkpoint, cut the curve to it, and return the step to go on from."""
        content = checkpoint.latest(self.folder, self.run.device)
        step = 0
        if content is not None:
            self.state.load(content["state"], self.run.comm)
            step, self.finished, self.seconds = content["step"], content["finished"], content["seconds"]
            self.over = self.finished
        self.saved_step = self.synced_step = step
        self.next_sync = step + 1
        if self.run.rank == 0:
            rows = self.curve.read_text().splitlines() if self.curve.exists() else []
            write_atomically(self.curve, "".join(row + "\n" for row in rows if _step_of(row) <= step))
        self.started = self.synced_at = self.saved_at = time.monotonic()
        return step

    def record(self, names: tuple[str, ...], values: Tensor) -> None:
        twice = {name for known in self.row for name in known} & set(names)
        if twice:
            raise TrainingError(
                f"phase {self.name!r} logs {', '.join(sorted(twice))} twice in one step; "
                "give each loss term and each logged value its own name"
            )
        self.row[names] = values

    def record_local(self, names: tuple[str, ...], values: Tensor) -> None:
        self.local.append((names, values))

    def end_of_step(self, step: int) -> None:
        """`step` steps are done: keep the losses; at a sync read, check, write and maybe save."""
        self.unread.append((step, self.before + self.elapsed, self.row))
        self.row = {}
        if step >= self.next_sync or step == self.steps or self.finished:
            self._sync(step)

    def finish(self, step: int) -> None:
        if not self.over:
            self.seconds, self.over = self.elapsed, True
        if not (self.finished and self.saved_step == step) or not self.folder.exists():
            self._save(step, finished=True)

    def _sync(self, step: int) -> None:
        rows = self._read()
        now = time.monotonic()
        rate = (step - self.synced_step) / max(now - self.synced_at, 1e-9)
        execution = self.run.execution
        due = now - self.saved_at >= execution.checkpoint_seconds or (
            execution.checkpoint_steps is not None
            and step // execution.checkpoint_steps > self.saved_step // execution.checkpoint_steps
        )
        distance = max(1, min(SYNC_STEPS, int(rate * SYNC_SECONDS)))
        if execution.checkpoint_steps is not None:
            distance = min(distance, execution.checkpoint_steps - step % execution.checkpoint_steps)
        if self.limit is not None:  # closer and closer to the end of the time
            left = self.limit - self.elapsed
            distance = max(1, min(distance, int(rate * left * 0.5)))
        late = self.limit is not None and self.elapsed >= self.limit
        due, distance, late = self.run.comm.broadcast((due, distance, late))
        self.finished = self.finished or late
        self.next_sync = step + distance
        self.synced_at, self.synced_step = now, step
        if self.run.rank == 0 and rows:
            with disk_full_named(self.curve), self.curve.open("a") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows))
            terms = {key: value for key, value in rows[-1].items() if key not in ("step", "seconds")}
            self.run._progress(Progress(self.name, step, self.steps, terms, rate))
        if due and step < self.steps and not self.finished:
            self._save(step, finished=False)

    def _read(self) -> list[dict[str, Any]]:
        """The unread losses as plain rows: one read from the device. Raises NonFiniteError."""
        if not self.unread:
            return []
        flat = torch.cat([values for _, _, row in self.unread for values in row.values()] or [torch.empty(0)])
        numbers = iter(flat.tolist())
        rows = []
        for step, seconds, row in self.unread:
            plain: dict[str, Any] = {"step": step, "seconds": round(seconds, 6)}
            for names in row:
                plain.update((name, next(numbers)) for name in names)
            rows.append(plain)
        if not bool(torch.isfinite(flat).all()):
            self._refuse_non_finite(rows)
        self.unread, self.local = [], []
        return rows

    def _refuse_non_finite(self, rows: list[dict[str, Any]]) -> None:
        first = next(r for r in rows if not all(map(_finite, r.values())))
        term = next(name for name, value in first.items() if not _finite(value))
        local = torch.cat([~torch.isfinite(values) for _, values in self.local] or [torch.zeros(1)])
        bad = self.run.comm.gather(local.any().float().reshape(1).to(self.run.device))
        workers = torch.nonzero(bad).flatten().tolist()
        raise NonFiniteError(
            f"phase {self.name!r}, step {first['step']}: the loss term {term!r} is {first[term]} "
            f"(worker {', '.join(map(str, workers)) or 'none alone: the average'}). No state after it was "
            "saved. Lower the learning rate or clip the gradient (method.descent.rate, method.descent.clip), "
            "or look at the data",
            phase=self.name,
            step=first["step"],
            term=term,
            workers=workers,
        )

    def _save(self, step: int, *, finished: bool) -> None:
        """A state that is not finite is never saved."""
        content = {
            "step": step,
            "finished": finished,
            "seconds": self.elapsed,
            "state": self.state.dump(self.run.comm),
        }
        for place, tensor in _tensors("state", content["state"]):
            if not bool(torch.isfinite(tensor).all()):
                raise NonFiniteError(
                    f"phase {self.name!r}, step {step}: {place} is not finite; it was not saved",
                    phase=self.name,
                    step=step,
                )
        if self.run.rank == 0:
            checkpoint.save(self.folder, step, content)
        self.saved_at, self.saved_step, self.finished = time.monotonic(), step, finished


def _tensors(place: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield place, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _tensors(f"{place}.{key}", inner)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _tensors(f"{place}[{index}]", inner)


def _step_of(row: str) -> int:
    try:
        return int(json.loads(row)["step"])
    except ValueError:  # the last row of a killed process may be cut
        return 1 << 62


def _finite(value: float) -> bool:
    return abs(value) <= 1e308
