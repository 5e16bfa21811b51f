"""The engine behind a method's `train`: steps that resume exactly, and the one hot loop.

A run lives in a folder: `checkpoints/<phase>/`, `curves/<phase>.jsonl` (one row a step), `figures/`,
`once/`. Nothing here knows of Ray or MLflow; both look at the folder from outside.

Losses stay on the device. Every so often (a *sync*: about once a second, at most `SYNC_STEPS` steps
apart) they set off to the host, to be checked, written to the curve and shown; from a GPU those of the
sync before arrive meanwhile, so that nobody waits for them. A checkpoint is taken at a sync where it is
due, after every loss before it was looked at. Rank 0 says when the next sync is and whether the
training is to stop, so that all workers do it at the same step.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from dlde.errors import NonFiniteError, SpecError, StoppedError, TrainingError
from dlde.files import unwritable_named, write_atomically
from dlde.method import LBFGS, Batches, Comm, DataInfo, Descent, RolloutWorkers, Run, Terms
from dlde.spec import Spec
from dlde.training import checkpoint
from dlde.training.averaging import Averager
from dlde.training.comm import Alone
from dlde.training.rollouts import InProcess, Make

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dlde.datasets.dataset import Dataset

SYNC_STEPS = 50
SYNC_SECONDS = 1.0
SAVING = 0.05  # most of the time that checkpoints by the clock may take

SUPERSEDED = "superseded"

Precision = Literal["float32", "bfloat16"]


class Execution(Spec):
    """How a training is executed; none of it changes the mathematics."""

    checkpoint_seconds: NonNegativeFloat = 10.0  # between checkpoints; more where one takes long to write
    checkpoint_steps: PositiveInt | None = None  # steps between checkpoints, besides
    checkpoints: PositiveInt = checkpoint.KEPT  # of a phase that are kept
    checkpoint_bytes: PositiveInt | None = None  # of all that are kept; None: no bound
    accumulate: PositiveInt = 1  # pieces that a worker's share of a batch is taken in, to save memory
    compile: bool | None = None  # by torch.compile; None: where it was measured to pay (docs/benchmarks)
    deterministic: bool = False  # refuse operations that are not, on GPU
    hang_seconds: PositiveFloat = 1800.0  # longest wait for another worker
    wait_seconds: PositiveFloat = 300.0  # longest wait for a place for all workers


class Supervisor:
    """Whom a run obeys and reports to, here nobody: `training.launch` has those that listen."""

    def wanted_end(self) -> str | None:
        """Why the run should end now, asked on rank 0 at every sync; None: it should go on."""
        return None

    def urgent(self) -> bool:
        """Whether the next sync should come at once; asked at every step of a run with one worker."""
        return False

    def at(self, step: int) -> None:
        """The run begins this step."""

    def busy(self, what: str) -> AbstractContextManager[None]:
        """This worker does something that others wait for."""
        return nullcontext()


@dataclass(frozen=True)
class Progress:
    """Where a loop stands, for a person watching."""

    phase: str
    step: int
    steps: int
    terms: dict[str, float]  # the latest value of everything that is logged
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
        precision: Precision = "float32",
        progress: Callable[[Progress], None] | None = None,
        rollouts: Callable[[Make], RolloutWorkers] | None = None,
        supervisor: Supervisor | None = None,
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
        self._precision = precision
        self._progress = progress or (lambda progress: None)
        self._rollouts = rollouts or InProcess
        self._supervisor = supervisor or Supervisor()
        self._pictures = pictures
        self._phase: _Phase | None = None
        self._names: set[str] = set()
        self._last = 0  # steps of the phase that ended last
        self._averagers: dict[int, tuple[torch.optim.Optimizer, Averager]] = {}  # by the optimizer's id
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
        if self.execution.accumulate > 1:
            raise SpecError(
                f"training.accumulate={self.execution.accumulate}: this method writes its own loop "
                f"({name!r}), whose batches are not taken in pieces; leave it out",
                mistakes=["training.accumulate"],
            )
        return self._steps(n, state, name, seconds)

    def stop(self) -> None:
        self._current("stop").finished = True

    def descend(
        self,
        optimizer: torch.optim.Optimizer,
        loss: Terms | Callable[[], Terms],
        *,
        weights: Mapping[str, float] | None = None,
        clip: float | None = None,
        local: bool = False,
    ) -> None:
        parts = [loss if callable(loss) else lambda: loss]
        self._descend(optimizer, parts, weights or {}, clip, local)

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
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
        name: str = "fit",
    ) -> None:
        model.to(self.device).train()
        loss = self.compiled(loss)
        done = 0
        for number, one in enumerate(descent.chain, start=1):
            phase = name if number == 1 else f"{name}-{number}"
            make = optimizer if optimizer is not None and number == 1 else one.optimizer_of
            used = make(model.parameters())
            average = Average(model, one.average) if one.average is not None else None
            kept = {**(keep or {}), **({"average": average} if average else {})}
            state = self.state(model=model, optimizer=used, **kept)
            draw = self._whole(batches, phase) if one.whole else self._draw(batches, phase)
            samples = (
                None if one.whole or not hasattr(batches, "samples") else partial(_samples, batches, self)
            )
            for step in self._steps(one.steps, state, phase, one.seconds, samples):
                if optimizer is None or number > 1:
                    one.set_rate(used, step)
                pieces = _pieces(draw(step), self.execution.accumulate)
                parts = [partial(loss, model, piece) for piece in pieces]
                self._descend(used, parts, weights or {}, one.clip)
                if average:
                    average.update()
                if after:
                    after(done + step + 1)
                    if not model.training:
                        model.train()
            if average:
                average.into_model()
            done += self._last  # fewer than planned where it was stopped

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if not self.execution.compile:
            return function
        if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
            # A process that was killed while it compiled leaves half a library, which every later one
            # with the same place would load: every process has a place of its own.
            place = tempfile.mkdtemp(prefix="dlde-compiled-")
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = place
            atexit.register(shutil.rmtree, place, ignore_errors=True)
        return torch.compile(function)

    def once(self, name: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        path = self.folder / "once" / f"{name}.safetensors"
        if self.rank == 0 and not path.exists():
            with self._supervisor.busy(name):
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
            with unwritable_named(path):
                figure.savefig(path, dpi=120, bbox_inches="tight", metadata={"Software": None})

    def close(self) -> None:
        """The method has returned. Raises TrainingError where it left a loop by `break`."""
        self._enter("")

    def _steps(
        self,
        n: int,
        state: State,
        name: str,
        seconds: float | None,
        samples: Callable[[int], Tensor] | None = None,
    ) -> Iterator[int]:
        self._enter(name)
        phase = _Phase(self, name, n, state, seconds)
        phase.samples = samples
        step = phase.resume()
        self._phase = phase
        while step < n and not phase.finished:
            self._supervisor.at(step)
            self._reseed("step", name, step, self.rank)
            yield step
            step += 1
            phase.end_of_step(step)
        phase.finish(step)
        self._reseed("after", name)  # found or trained: what is drawn next is the same
        self.seconds += phase.elapsed
        self._phase, self._last = None, step

    def _draw(self, batches: Batches | Callable[[torch.Generator], Any], phase: str) -> Callable[[int], Any]:
        """This worker's share of a step's batch."""
        if callable(batches):
            return lambda step: self._shared(batches(self.generator(phase, step)))
        return lambda step: batches.at(step, self)

    def _whole(self, batches: Batches | Callable[[torch.Generator], Any], phase: str) -> Callable[[int], Any]:
        """This worker's share of the one batch that every step takes."""
        if callable(batches):
            whole = self._shared(batches(self.generator(phase, "whole")))
        elif hasattr(batches, "whole"):
            whole = batches.whole(self)
        else:
            raise SpecError(
                f"optimizer {LBFGS!r} takes whole batches, which {type(batches).__name__} does not offer "
                "(`whole`); choose another optimizer",
                mistakes=["descent.optimizer"],
            )
        return lambda step: whole

    def _descend(
        self,
        optimizer: torch.optim.Optimizer,
        parts: Sequence[Callable[[], Terms]],
        weights: Mapping[str, float],
        clip: float | None,
        local: bool = False,
    ) -> None:
        """One step on the mean of the parts' terms; what is logged are those that the step began with."""
        phase = self._current("descend")
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        evaluations = 0

        def gradients() -> Tensor:
            nonlocal evaluations
            optimizer.zero_grad(set_to_none=True)
            names, own, averaged = self._gradients(optimizer, parameters, parts, weights, local)
            if clip is not None:
                nn.utils.clip_grad_norm_(parameters, clip)
            if not evaluations:
                phase.record_local(names, own)
                phase.record(names, averaged.float())
            evaluations += 1
            return averaged @ _factors(names, weights, averaged) if weights else averaged.sum()

        if isinstance(optimizer, torch.optim.LBFGS):
            optimizer.step(gradients)  # type: ignore[no-untyped-call]
        else:
            gradients()
            optimizer.step()

    def _gradients(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: list[nn.Parameter],
        parts: Sequence[Callable[[], Terms]],
        weights: Mapping[str, float],
        local: bool,
    ) -> tuple[tuple[str, ...], Tensor, Tensor]:
        """Names of the terms; their values here, and as averaged over the workers like the gradients."""
        sums: Tensor | None = None
        for number, part in enumerate(parts, start=1):
            with self._autocast():
                terms = part()
            names, stacked = tuple(terms), _stacked(terms)
            if len(parts) > 1:
                stacked = stacked / len(parts)
            values = stacked.detach()
            total = stacked @ _factors(names, weights, values) if weights else stacked.sum()
            sums = values if sums is None else sums + values
            if number == len(parts) and self.world_size > 1 and not local:
                averager = self._averager(optimizer, parameters, len(sums))
                averager.begin(sums)
            total.backward(inputs=parameters)  # type: ignore[no-untyped-call]
        assert sums is not None
        if self.world_size == 1:
            return names, sums, sums
        averaged = self.comm.all_reduce(sums.clone()) if local else averager.end().to(sums.dtype)
        return names, sums, averaged

    def _averager(
        self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], extra: int
    ) -> Averager:
        _, known = self._averagers.get(id(optimizer), (None, None))
        if known is None or not known.fits(parameters, extra):
            if known is not None:
                known.close()
            known = Averager(parameters, self.comm, extra=extra)
            self._averagers[id(optimizer)] = optimizer, known
        return known

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

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
        text = f"[{', '.join(map(_quoted, (self.seed, *keys)))}]"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1

    def _shared(self, batch: Any) -> Any:
        if isinstance(batch, Tensor):
            return self.share(batch).to(self.device)
        if isinstance(batch, Mapping):
            return {key: self._shared(value) for key, value in batch.items()}
        return type(batch)(self._shared(value) for value in batch)


def _stacked(terms: Terms) -> Tensor:
    """(terms,); of a single one without a copy, which small models would notice."""
    first, *others = terms.values()
    return torch.stack([first, *others]) if others else first.reshape(1)


def _factors(names: tuple[str, ...], weights: Mapping[str, float], like: Tensor) -> Tensor:
    return _row_of(tuple(weights.get(name, 1.0) for name in names), like.dtype, like.device)


@lru_cache(maxsize=64)
def _row_of(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Kept, as a copy to a GPU in every step would hold up the loop."""
    return torch.tensor(numbers, dtype=dtype, device=device)


def _samples(batches: Any, run: Run, step: int) -> Tensor:
    numbers: Tensor = batches.samples(step, run)
    return numbers


def _pieces(batch: Any, count: int) -> list[Any]:
    """A batch in `count` pieces of equally many rows."""
    if count == 1:
        return [batch]
    if isinstance(batch, Tensor):
        if len(batch) % count:
            raise SpecError(
                f"training.accumulate={count}: a worker's share of {len(batch)} rows cannot be taken in "
                f"{count} equal pieces; choose a divisor of {len(batch)}",
                mistakes=["training.accumulate"],
            )
        return list(batch.chunk(count))
    if isinstance(batch, Mapping):
        columns = {key: _pieces(value, count) for key, value in batch.items()}
        return [{key: column[number] for key, column in columns.items()} for number in range(count)]
    entries = [_pieces(value, count) for value in batch]
    return [type(batch)(entry[number] for entry in entries) for number in range(count)]


class _Reading:
    """Losses of consecutive steps on their way to the host."""

    def __init__(
        self,
        steps: list[tuple[int, float, dict[tuple[str, ...], Tensor]]],
        local: list[tuple[tuple[str, ...], Tensor]],
    ) -> None:
        self.steps, self.local = steps, local
        pieces = [values for _, _, row in steps for values in row.values()]
        flat = torch.cat(pieces) if pieces else torch.empty(0)
        self._arrived: torch.cuda.Event | None = None
        if flat.is_cuda:
            self._host = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
            self._host.copy_(flat, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()
        else:
            self._host = flat

    @property
    def instant(self) -> bool:
        """Whether reading needs no waiting."""
        return self._arrived is None

    def rows(self) -> list[dict[str, Any]]:
        """One row a step: {step, seconds, term: value}."""
        if self._arrived is not None:
            self._arrived.synchronize()
        numbers = iter(self._host.tolist())
        rows = []
        for step, seconds, row in self.steps:
            plain: dict[str, Any] = {"step": step, "seconds": round(seconds, 6)}
            for names in row:
                plain.update((name, next(numbers)) for name in names)
            rows.append(plain)
        return rows


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
        self.readings: list[_Reading] = []
        self.latest: dict[str, float] = {}  # of every value that was logged
        self.samples: Callable[[int], Tensor] | None = None  # numbers of those that a step takes
        self.saving = 0.0  # seconds that the last checkpoint took

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
        alone = self.run.world_size == 1
        if (
            step >= self.next_sync
            or step == self.steps
            or self.finished
            or (alone and self.run._supervisor.urgent())
        ):
            self._sync(step)

    def finish(self, step: int) -> None:
        if not self.over:
            self.seconds, self.over = self.elapsed, True
        if not (self.finished and self.saved_step == step) or not self.folder.exists():
            self._save(step, finished=True)

    def _sync(self, step: int) -> None:
        self.readings.append(_Reading(self.unread, self.local))
        self.unread, self.local = [], []
        now = time.monotonic()
        rate = (step - self.synced_step) / max(now - self.synced_at, 1e-9)
        execution = self.run.execution
        due = now - self.saved_at >= max(execution.checkpoint_seconds, self.saving / SAVING) or (
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
        end = self.run._supervisor.wanted_end() if self.run.rank == 0 else None
        due, distance, late, end = self.run.comm.broadcast((due, distance, late, end))
        self.finished = self.finished or late
        self.next_sync = step + distance
        self.synced_at, self.synced_step = now, step
        over = step == self.steps or self.finished
        rows = self._arrived(all_of_them=due or over or end is not None)
        if self.run.rank == 0 and rows:
            with unwritable_named(self.curve), self.curve.open("a") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows))
            for row in rows:
                self.latest.update(row)
        if end is not None:
            if end == SUPERSEDED:
                raise StoppedError("another start of this run has taken over", superseded=True)
            self._save(step, finished=over)
            raise StoppedError(
                f"stopped ({end}) in phase {self.name!r} at step {step} of {self.steps}, which is saved; the "
                "same command again goes on from there",
                step=step,
            )
        if due and not over:
            self._save(step, finished=False)
        if self.run.rank == 0 and rows:
            terms = {key: value for key, value in self.latest.items() if key not in ("step", "seconds")}
            self.run._progress(Progress(self.name, step, self.steps, terms, rate))

    def _arrived(self, *, all_of_them: bool) -> list[dict[str, Any]]:
        """The losses that have reached the host, as plain rows. Raises NonFiniteError."""
        waiting = 0 if all_of_them or self.readings[-1].instant else 1
        rows = []
        while len(self.readings) > waiting:
            reading = self.readings.pop(0)
            some = reading.rows()
            if not all(_finite(value) for row in some for value in row.values()):
                self._refuse_non_finite(some, reading.local)
            rows += some
        return rows

    def _refuse_non_finite(
        self, rows: list[dict[str, Any]], local: list[tuple[tuple[str, ...], Tensor]]
    ) -> None:
        first = next(r for r in rows if not all(map(_finite, r.values())))
        term = next(name for name, value in first.items() if not _finite(value))
        flags = torch.cat([~torch.isfinite(values) for _, values in local] or [torch.zeros(1)])
        bad = self.run.comm.gather(flags.any().float().reshape(1).to(self.run.device))
        workers = torch.nonzero(bad).flatten().tolist()
        samples = self._samples(first["step"] - 1, workers)
        named = f"; its samples are {_shortened(samples)}" if samples else ""
        raise NonFiniteError(
            f"phase {self.name!r}, step {first['step']}: the loss term {term!r} is {first[term]} "
            f"(worker {', '.join(map(str, workers)) or 'none alone: the average'}{named}). No state after it "
            "was saved. Lower the learning rate or clip the gradient (method.descent.rate, "
            "method.descent.clip), or look at the data",
            phase=self.name,
            step=first["step"],
            term=term,
            workers=workers,
            samples=samples,
        )

    def _samples(self, step: int, workers: list[int]) -> list[int]:
        """Numbers of the samples that these workers (none: all) took at a step (from 0), where known."""
        if self.samples is None:
            return []
        shares = self.run.comm.gather(self.samples(step).to(self.run.device).unsqueeze(0))
        chosen: list[int] = (shares[workers] if workers else shares).flatten().tolist()
        return chosen

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
            began = time.monotonic()
            execution = self.run.execution
            checkpoint.save(
                self.folder,
                step,
                content,
                kept=execution.checkpoints,
                most_bytes=execution.checkpoint_bytes,
            )
            self.saving = time.monotonic() - began
        self.saved_at, self.saved_step, self.finished = time.monotonic(), step, finished


def _shortened(numbers: Sequence[int], shown: int = 10) -> str:
    text = ", ".join(map(str, numbers[:shown]))
    return text if len(numbers) <= shown else f"{text} and {len(numbers) - shown} more"


def _tensors(place: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield place, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _tensors(f"{place}.{key}", inner)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _tensors(f"{place}[{index}]", inner)


@cache
def _word(key: str) -> str:
    return json.dumps(key)


def _quoted(key: str | int) -> str:
    """As `json.dumps`, which takes several times as long in the hot loop."""
    return _word(key) if isinstance(key, str) else str(key)


def _step_of(row: str) -> int:
    try:
        return int(json.loads(row)["step"])
    except ValueError:  # the last row of a killed process may be cut
        return 1 << 62


def _finite(value: float) -> bool:
    return abs(value) <= 1e308
