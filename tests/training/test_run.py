"""The engine: exact resume, equal mathematics on several workers, nothing poisoned is kept."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from dlde import catalog
from dlde.errors import NonFiniteError, SpecError, StorageFullError, TrainingError
from dlde.method import Descent, Run, _optimizers
from dlde.training import checkpoint
from dlde.training import job as jobs
from dlde.training import run as training_run
from dlde.training.run import Execution, Progress, _Reading
from tests.training import loops


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def curve(folder: Path, phase: str = "fit") -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "curves" / f"{phase}.jsonl").read_text().splitlines()]


def losses(folder: Path, phase: str = "fit") -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in curve(folder, phase)]


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_fit_improves_and_logs_every_step(tmp_path: Path) -> None:
    seen: list[Progress] = []
    loops.fit(tmp_path, progress=seen.append)
    rows = curve(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 61))
    assert set(rows[0]) == {"step", "seconds", "fit", "size"}
    assert sum(row["fit"] for row in rows[-10:]) < 0.5 * sum(row["fit"] for row in rows[:10])
    assert seen[-1].step == seen[-1].steps == 60


def test_two_runs_of_one_seed_are_equal_to_the_bit(tmp_path: Path) -> None:
    assert same(loops.fit(tmp_path / "a"), loops.fit(tmp_path / "b"))
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


@pytest.mark.parametrize("killed_after", [1, 20, 44])
def test_killed_run_ends_bitwise_where_the_undisturbed_one_does(tmp_path: Path, killed_after: int) -> None:
    undisturbed = loops.fit(tmp_path / "a")
    command = [sys.executable, "-m", "tests.training.loops", str(tmp_path / "b"), str(killed_after)]
    died = subprocess.run(command, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert died.returncode == -signal.SIGKILL
    resumed = loops.fit(tmp_path / "b")
    assert same(undisturbed, resumed)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_own_loop_resumes_with_all_its_state(tmp_path: Path) -> None:
    whole = loops.by_hand(loops.run_in(tmp_path / "a"))
    run = loops.run_in(tmp_path / "b", execution=Execution(checkpoint_steps=10))
    descend, calls = run.descend, []

    def interrupted(*arguments: object, **options: object) -> None:
        calls.append(1)
        if len(calls) == 50:
            raise KeyboardInterrupt
        descend(*arguments, **options)  # type: ignore[arg-type]

    run.descend = interrupted  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        loops.by_hand(run)
    resumed = loops.by_hand(loops.run_in(tmp_path / "b"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert losses(tmp_path / "a", "game") == losses(tmp_path / "b", "game")


def test_finished_phase_is_not_repeated(tmp_path: Path) -> None:
    first = loops.fit(tmp_path)
    run = loops.run_in(tmp_path)
    model = loops.network()
    run.fit(model, loops.batch, lambda model, pair: pytest.fail("trained again"), loops.DESCENT)
    assert same(first, model)


def test_stop_ends_early_and_stays_ended(tmp_path: Path) -> None:
    for _ in range(2):
        run = loops.run_in(tmp_path)
        state = run.state(value=torch.zeros(()))
        for step in run.steps(100, state=state):
            state.value = state.value + 1
            if step == 6:
                run.stop()
        run.close()
        assert state.value == 7


def test_break_is_an_error(tmp_path: Path) -> None:
    run = loops.run_in(tmp_path)
    for _ in run.steps(5, state=run.state(x=torch.zeros(()))):
        break
    with pytest.raises(TrainingError, match=r"left before its end; .*run\.stop"):
        run.close()


def test_two_phases_of_one_name_are_refused(tmp_path: Path) -> None:
    run = loops.run_in(tmp_path)
    list(run.steps(1, state=run.state(x=torch.zeros(()))))
    with pytest.raises(TrainingError, match="two phases of this run are called 'steps'"):
        list(run.steps(1, state=run.state(x=torch.zeros(()))))


def test_descend_outside_a_loop_is_refused(tmp_path: Path) -> None:
    run = loops.run_in(tmp_path)
    with pytest.raises(TrainingError, match="inside a loop"):
        run.descend(torch.optim.SGD(nn.Linear(1, 1).parameters()), {"a": torch.zeros(())})


def test_descend_moves_its_optimizers_parameters_only(tmp_path: Path) -> None:
    run = loops.run_in(tmp_path)
    a, b = nn.Linear(2, 1), nn.Linear(1, 1)
    before = b.weight.clone()
    optimizer = torch.optim.SGD(a.parameters(), 0.1)
    for _ in run.steps(1, state=run.state(a=a)):
        run.descend(optimizer, {"loss": b(a(torch.ones(1, 2))).square().sum()})
    assert b.weight.grad is None
    assert torch.equal(b.weight, before)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_non_finite_loss_stops_and_is_not_saved(tmp_path: Path, poison: float) -> None:
    run = loops.run_in(tmp_path, execution=Execution(checkpoint_steps=5))
    model, calls = loops.network(), []

    def loss(model: nn.Module, pair: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
        calls.append(1)
        terms = dict(loops.loss(model, pair))
        if len(calls) == 18:
            terms["size"] = terms["size"] * poison
        return terms

    with pytest.raises(NonFiniteError, match=r"phase 'fit', step 18: the loss term 'size' is .*worker 0"):
        run.fit(model, loops.batch, loss, loops.DESCENT)
    saved = checkpoint.latest(tmp_path / "checkpoints" / "fit", torch.device("cpu"))
    assert saved is not None
    assert saved["step"] == 15
    assert all(torch.isfinite(value).all() for value in saved["state"]["model"].values())


def test_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    whole = loops.fit(tmp_path / "a")
    loops.fit(tmp_path / "b", execution=Execution(checkpoint_steps=20))
    newest = sorted((tmp_path / "b" / "checkpoints" / "fit").glob("*.pt"))[-1]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    assert same(whole, loops.fit(tmp_path / "b"))
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_only_two_checkpoints_are_kept(tmp_path: Path) -> None:
    loops.fit(tmp_path, execution=Execution(checkpoint_steps=5))
    assert len(list((tmp_path / "checkpoints" / "fit").iterdir())) == checkpoint.KEPT


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_checkpoint_that_finds_no_room_stops_with_the_last_good_one_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    whole = loops.fit(tmp_path / "a")
    execution, saved = Execution(checkpoint_steps=10), tmp_path / "b" / "checkpoints" / "fit"
    plain = os.fsync

    def full(descriptor: int) -> None:
        if len(list(saved.glob("step-*.pt"))) == 2:
            raise OSError(number, os.strerror(number))
        plain(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageFullError, match=r"no space left while writing .*the same command again"):
            loops.fit(tmp_path / "b", execution=execution)
    assert sorted(path.name for path in saved.iterdir()) == ["step-000000010.pt", "step-000000020.pt"]
    assert same(whole, loops.fit(tmp_path / "b", execution=execution))
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_once_is_made_once_and_read_back(tmp_path: Path) -> None:
    made = []

    def make() -> dict[str, torch.Tensor]:
        made.append(1)
        return {"basis": torch.eye(3)[:, :2].T}

    for _ in range(2):
        result = loops.run_in(tmp_path).once("svd", make)
        assert torch.equal(result["basis"], torch.eye(3)[:2])
    assert len(made) == 1


def test_generator_is_a_function_of_seed_and_keys(tmp_path: Path) -> None:
    run = loops.run_in(tmp_path)
    draws = [
        torch.rand(1, generator=run.generator(*keys)).item()
        for keys in (("a", 1), ("a", 1), ("a", 2), ("a1",))
    ]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3


def test_batch_that_workers_cannot_share_is_refused() -> None:
    method = pytest.importorskip("dlde.methods.fno").FNO(descent=Descent(steps=1, batch=20))
    with pytest.raises(
        SpecError, match=r"batch=20 cannot be shared equally by 3 workers; choose a multiple of 3"
    ):
        method.check_workers(3)


@pytest.mark.parametrize("task", [*loops.SETTINGS, "by_hand"])
def test_two_workers_do_the_mathematics_of_one(tmp_path: Path, task: str) -> None:
    """Averages over halves differ from the average over the whole by rounding: 1e-5 after 60 steps."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "two").mkdir()
    mp.spawn(loops.worker, (2, str(tmp_path / "two"), port, task), nprocs=2)
    two = torch.load(tmp_path / "two" / "result.pt", weights_only=True)
    one = (
        loops.fit(tmp_path / "one", **loops.SETTINGS[task]).state_dict()  # type: ignore[arg-type]
        if task in loops.SETTINGS
        else loops.by_hand(loops.run_in(tmp_path / "one"))
    )
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)


def test_a_budget_of_seconds_ends_a_phase_and_counts_earlier_starts(tmp_path: Path) -> None:
    """Whoever resumes has only what is left of it."""

    def spend(seconds: float) -> tuple[int, float]:
        run = loops.run_in(tmp_path)
        state = run.state(count=torch.zeros(()))
        for _ in run.steps(10**6, state=state, name="timed", seconds=seconds):
            time.sleep(0.005)
            state.count = state.count + 1
        run.close()
        return int(state.count), run.seconds

    steps, seconds = spend(0.4)
    assert 0.4 <= seconds < 30
    assert 0 < steps <= seconds / 0.005
    assert spend(0.4) == (steps, seconds)  # finished: found, not repeated


def noisy(folder: Path, *, die_at: int | None = None, **settings: object) -> dict[str, torch.Tensor]:
    """Dropout, a running average, and a value that `after` keeps: all of it must resume."""
    run = loops.run_in(folder, execution=Execution(checkpoint_steps=3), **settings)
    model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 3))
    seen = nn.ParameterDict({"count": torch.zeros(())})

    def after(done: int) -> None:
        if done == die_at:
            raise KeyboardInterrupt
        with torch.no_grad():
            seen["count"].add_(done)

    descent = Descent(steps=20, batch=8, rate=1e-2, average=0.9)
    run.fit(model, loops.batch, loops.loss, descent, keep={"seen": seen}, after=after)
    later = torch.randn(3)  # drawn after the phase, by a network that is initialised late
    run.close()
    return {**model.state_dict(), "count": seen["count"].detach(), "later": later}


def test_dropout_averages_and_kept_values_resume_to_the_bit(tmp_path: Path) -> None:
    undisturbed = noisy(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        noisy(tmp_path / "b", die_at=13)
    resumed = noisy(tmp_path / "b")
    found = noisy(tmp_path / "b")
    assert undisturbed["count"] == sum(range(1, 21))
    for key, value in undisturbed.items():
        assert torch.equal(resumed[key], value), key
    assert torch.equal(found["later"], undisturbed["later"])


def test_the_average_of_the_weights_is_the_result(tmp_path: Path) -> None:
    """w <- w - 1 with average a <- (a + w) / 2 from w = a = 0: -1/2, -5/4, -17/8."""
    run = loops.run_in(tmp_path)
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    descent = Descent(steps=3, batch=1, optimizer="sgd", rate=1.0, average=0.5)
    run.fit(model, lambda generator: torch.zeros(1, 1), lambda m, x: {"sum": m.weight.sum()}, descent)
    assert model.weight.item() == -17 / 8


def test_a_term_that_is_logged_twice_in_a_step_is_refused(tmp_path: Path) -> None:
    run = loops.run_in(tmp_path)
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def twice() -> None:
        for _ in run.steps(2, state=run.state(model=model)):
            for _ in range(2):
                run.descend(optimizer, {"fit": model.weight.square().sum()})

    with pytest.raises(TrainingError, match="logs fit twice in one step"):
        twice()


def test_curves_go_on_through_the_phases(tmp_path: Path) -> None:
    run = loops.run_in(tmp_path)
    for name in ("fit-2", "fit-10"):
        for step in run.steps(3, state=run.state(model=nn.Linear(1, 1)), name=name):
            run.log(value=float(step) if name == "fit-2" else 10.0 + step)
    rows = jobs.curves(tmp_path, ("value", "other"))["value"]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["value"] for row in rows] == [0, 1, 2, 10, 11, 12]
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)


def test_a_state_that_is_not_finite_is_found_in_lists_and_complex_numbers(tmp_path: Path) -> None:
    run = loops.run_in(tmp_path)
    state = run.state(count=torch.zeros(()), spectrum=[torch.zeros(2, dtype=torch.complex64)])

    def poison() -> None:
        for _ in run.steps(1, state=state):
            state.spectrum = [torch.full((2,), complex(float("nan"), 0))]

    with pytest.raises(NonFiniteError, match=r"state\.spectrum\[0\] is not finite"):
        poison()


def test_any_optimizer_of_torch_moves_the_weights(tmp_path: Path) -> None:
    for name in _optimizers():
        descent = Descent(steps=3, batch=8, optimizer=name, rate=1e-2)
        model = loops.fit(tmp_path / name, descent)
        assert not same(model, loops.fit(tmp_path / "none", Descent(steps=1, batch=8, rate=1e-12))), name


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"optimizer": "adm"}, "unknown optimizer 'adm'; did you mean 'adam'"),
        (
            {"optimizer": "sgd", "options": {"momentun": 0.9}},
            "has no option 'momentun'; did you mean 'momentum'",
        ),
        ({"optimizer": "adam", "options": {"betas": [2.0, 0.9]}}, "refuses its options: Invalid beta"),
        ({"optimizer": "rprop", "weight_decay": 0.1}, "knows no weight_decay"),
        ({"optimizer": "lbfgs", "clip": 1.0}, "mislead the line search"),
        ({"schedule": "cosine", "seconds": 1.0}, "budget of seconds cuts anywhere"),
    ],
)
def test_a_descent_that_cannot_be_is_refused(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        Descent.parse({"steps": 3, **wrong}, source="test")


def test_a_method_with_a_loop_of_its_own_takes_no_chain_and_a_chain_keeps_its_batch() -> None:
    deep_bsde = catalog.read("method", {"name": "deep-bsde", "descent": {"steps": 9, "then": {"steps": 2}}})
    with pytest.raises(SpecError, match=r"method\.descent: this method writes its own loop"):
        deep_bsde.check_workers(1)
    assert Descent.parse({"steps": 9, "batch": 64, "then": {"steps": 2}}, source="test").chain[1].batch == 64
    with pytest.raises(SpecError, match=r"then\.batch=8 is not batch=64"):
        Descent.parse({"steps": 9, "batch": 64, "then": {"steps": 2, "batch": 8}}, source="test")


def test_options_reach_the_optimizer_and_a_factory_replaces_it(tmp_path: Path) -> None:
    descent = Descent(steps=3, batch=8, optimizer="sgd", rate=1e-2, options={"momentum": 0.9})
    plain = descent.model_copy(update={"options": {}})
    with_momentum = loops.fit(tmp_path / "a", descent)
    run, model = loops.run_in(tmp_path / "b"), loops.network()
    run.fit(
        model, loops.batch, loops.loss, plain,
        optimizer=lambda weights: torch.optim.SGD(weights, 1e-2, momentum=0.9, fused=True),
    )  # fmt: skip
    assert same(with_momentum, model)
    assert not same(with_momentum, loops.fit(tmp_path / "c", plain))


def test_lbfgs_minimises_a_quadratic_exactly(tmp_path: Path) -> None:
    matrix = torch.tensor([[4.0, 1.0, 0.0], [1.0, 3.0, 1.0], [0.0, 1.0, 2.0]], dtype=torch.float64)
    right = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    model = nn.Linear(3, 1, bias=False, dtype=torch.float64)

    def loss(model: nn.Module, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        x = model.weight[0]
        return {"energy": 0.5 * x @ matrix @ x - right @ x}

    tolerances = {"tolerance_grad": 1e-14, "tolerance_change": 1e-18}
    descent = Descent(steps=3, batch=1, optimizer="lbfgs", options={"max_iter": 10, **tolerances})
    loops.run_in(tmp_path).fit(model, lambda generator: torch.zeros(1), loss, descent)
    torch.testing.assert_close(
        model.weight.detach()[0], torch.linalg.solve(matrix, right), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("killed_after", [10, 30])
def test_a_chain_resumes_to_the_bit_in_both_of_its_descents(tmp_path: Path, killed_after: int) -> None:
    descent = loops.SETTINGS["chain"]["descent"]
    assert isinstance(descent, Descent)
    undisturbed = loops.fit(tmp_path / "a", descent)
    run, model, calls = (
        loops.run_in(tmp_path / "b", execution=Execution(checkpoint_steps=2)),
        loops.network(),
        [],
    )

    def dying(model: nn.Module, pair: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
        calls.append(1)
        if len(calls) > killed_after:
            raise KeyboardInterrupt
        return dict(loops.loss(model, pair))

    with pytest.raises(KeyboardInterrupt):
        run.fit(model, loops.batch, dying, descent)
    assert same(undisturbed, loops.fit(tmp_path / "b", descent))
    for phase in ("fit", "fit-2"):
        assert losses(tmp_path / "a", phase) == losses(tmp_path / "b", phase)
    rows = losses(tmp_path / "a", "fit-2")
    assert rows[-1]["fit"] < 0.5 * rows[0]["fit"]


def test_pieces_of_a_batch_add_up_to_it(tmp_path: Path) -> None:
    whole = loops.fit(tmp_path / "a")
    pieces = loops.fit(tmp_path / "b", execution=Execution(accumulate=4))
    for first, second in zip(whole.parameters(), pieces.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)
    with pytest.raises(
        SpecError, match=r"accumulate=3: a worker's share of 8 rows cannot be taken in 3 equal"
    ):
        loops.fit(tmp_path / "c", execution=Execution(accumulate=3))
    with pytest.raises(SpecError, match="this method writes its own loop"):
        loops.by_hand(loops.run_in(tmp_path / "d", execution=Execution(accumulate=2)))


def test_bfloat16_follows_float32_and_leaves_the_weights_as_they_were_made(tmp_path: Path) -> None:
    exact = loops.fit(tmp_path / "a")
    rounded = loops.fit(tmp_path / "b", precision="bfloat16")
    assert all(p.dtype == torch.float32 for p in rounded.parameters())
    assert not same(exact, rounded)
    last = [np.mean([row["fit"] for row in losses(tmp_path / name)[-10:]]) for name in ("a", "b")]
    assert last[1] == pytest.approx(last[0], rel=0.05)


def test_a_loss_that_is_not_finite_names_the_samples(tmp_path: Path) -> None:
    class Numbered:
        def samples(self, step: int, run: Run) -> torch.Tensor:
            return torch.tensor([3 * step, 3 * step + 1])

        def at(self, step: int, run: Run) -> torch.Tensor:
            return torch.full((2, 4), float("nan") if step == 5 else 1.0)

    run = loops.run_in(tmp_path)
    with pytest.raises(NonFiniteError, match=r"step 6: .*worker 0; its samples are 15, 16\)"):
        run.fit(loops.network(), Numbered(), lambda m, x: {"a": m(x).square().mean()}, loops.DESCENT)


def test_losses_that_arrive_late_are_all_written_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a GPU, where the losses of one sync are read at the next."""
    prompt = loops.fit(tmp_path / "a", execution=Execution(checkpoint_steps=25))
    monkeypatch.setattr(_Reading, "instant", False)
    monkeypatch.setattr(training_run, "SYNC_STEPS", 7)
    late = loops.fit(tmp_path / "b", execution=Execution(checkpoint_steps=25))
    assert same(prompt, late)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    calls = []

    def poisoned(model: nn.Module, pair: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
        calls.append(1)
        return {"fit": loops.loss(model, pair)["fit"] * (float("nan") if len(calls) == 12 else 1.0)}

    run = loops.run_in(tmp_path / "c", execution=Execution(checkpoint_seconds=1e9))
    with pytest.raises(NonFiniteError, match="step 12"):
        run.fit(loops.network(), loops.batch, poisoned, loops.DESCENT)
    assert len(calls) <= 12 + 2 * 7


def test_checkpoints_are_bounded_in_number_and_bytes(tmp_path: Path) -> None:
    loops.fit(tmp_path / "a", execution=Execution(checkpoint_steps=5, checkpoints=4))
    paths = sorted((tmp_path / "a" / "checkpoints" / "fit").iterdir())
    assert len(paths) == 4
    size = max(path.stat().st_size for path in paths)
    loops.fit(
        tmp_path / "b",
        execution=Execution(checkpoint_steps=5, checkpoints=4, checkpoint_bytes=2 * size + size // 2),
    )
    kept = list((tmp_path / "b" / "checkpoints" / "fit").iterdir())
    assert len(kept) == 2
    assert sum(path.stat().st_size for path in kept) <= 2 * size + size // 2
    with pytest.raises(TrainingError, match=r"takes \d+ bytes, but training\.checkpoint_bytes allows 100"):
        loops.fit(tmp_path / "c", execution=Execution(checkpoint_steps=5, checkpoint_bytes=100))


@pytest.mark.skipif(
    not (shutil.which("c++") or shutil.which("g++")), reason="torch.compile needs a C++ compiler"
)
def test_a_compiled_loss_is_the_same_loss(tmp_path: Path) -> None:
    plain = loops.fit(tmp_path / "a")
    compiled = loops.fit(tmp_path / "b", execution=Execution(compile=True))
    for first, second in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)


def test_deterministic_refuses_for_the_time_of_the_training_only(tmp_path: Path) -> None:
    with jobs._deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
