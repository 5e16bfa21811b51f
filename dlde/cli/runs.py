"""`dlde runs …`: the trainings of a storage root."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from dlde.cli.console import Json, Root, emit, table
from dlde.errors import InputError
from dlde.files import storage_root

app = typer.Typer(help="Trainings: list, show, stop, remove.", no_args_is_help=True)

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's name, as `dlde runs list` shows it.")]


@app.command("list")
def list_runs(
    state: Annotated[
        str | None,
        typer.Option("--state", help="running, finished, stopped, failed or interrupted."),
    ] = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """All trainings, the newest first."""
    from dlde.training import history

    states = ("running", "finished", "stopped", "failed", "interrupted")
    if state is not None and state not in states:
        raise InputError(f"--state {state}: expected one of {', '.join(states)}")
    entries = [one for one in history.entries(storage_root(root)) if state in (None, one.state)]
    rows = [
        [
            one.run,
            one.pipeline,
            one.state,
            one.step,
            _losses(one.losses),
            _size(one.bytes),
            _time(one.started),
        ]
        for one in entries
    ]
    human = table(["run", "pipeline", "state", "step", "losses", "size", "started"], rows)
    emit(
        {"runs": [one.dump() for one in entries]},
        human if rows else "no such run; `dlde train PIPELINE` begins one",
        as_json=as_json,
    )


@app.command()
def show(run: Run, root: Root = None, as_json: Json = False) -> None:
    """One training: what it computes, how far it is, what it left."""
    from dlde.training import history

    found = history.inspect(storage_root(root), run)
    emit(found, _shown(found), as_json=as_json)


@app.command()
def stop(run: Run, root: Root = None, as_json: Json = False) -> None:
    """Let a training save its state and end, wherever under this root it runs."""
    from dlde.training import history

    entry = history.stop(storage_root(root), run)
    emit(entry.dump(), f"run {run}: {entry.state} at step {entry.step}", as_json=as_json)


@app.command()
def remove(
    runs: Annotated[list[str], typer.Argument(metavar="RUN…", help="Names of runs.")],
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Free the checkpoints of finished runs, and keep the rest.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Remove trainings, with their checkpoints, models and MLflow runs.

    Refused for one that runs, and for one that a registered model comes from.
    """
    from dlde.training import history

    if not checkpoints and not yes:
        if not sys.stdin.isatty():
            raise InputError(f"`dlde runs remove {' '.join(runs)}` removes for good; say --yes")
        typer.confirm(f"Remove {', '.join(runs)} for good?", abort=True, err=True)
    freed = history.remove(storage_root(root), runs, checkpoints_only=checkpoints)
    what = "checkpoints of " if checkpoints else ""
    emit(
        {"removed": runs, "checkpoints_only": checkpoints, "bytes": freed},
        f"removed {what}{', '.join(runs)}: {_size(freed)} freed",
        as_json=as_json,
    )


def _shown(found: dict[str, Any]) -> str:
    import yaml

    rows = [
        ["run", found["run"]],
        ["pipeline", found["pipeline"] or "unknown"],
        ["state", found["state"]],
        ["step", f"{found['step']}  {_losses(found['losses'])}"],
        ["started", _time(found["started"])],
        ["folder", found["folder"]],
        ["size", _size(found["bytes"])],
        ["MLflow run", found["mlflow_run"] or "none"],
        ["code", ", ".join(f"{key} {value}" for key, value in found["code"].items())],
        *([["failure", found["failure"]["message"]]] if found["failure"] else []),
        *([f"data {role}", digest] for role, digest in found["data"].items()),
        *(["checkpoint", f"{name}  {_size(size)}"] for name, size in found["checkpoints"].items()),
        *(["figure", path] for path in found["figures"]),
        *([["model", found["model"]]] if found["model"] else []),
        *(["metric", f"{name} {value:.5g}"] for name, value in sorted(found["metrics"].items())),
    ]
    execution = yaml.safe_dump(found["execution"], sort_keys=False).rstrip()
    job = yaml.safe_dump(found["job"], sort_keys=False, default_flow_style=None, width=100).rstrip()
    return f"{table(['', ''], rows).partition(chr(10))[2]}\n\n{execution}\n\n{job}"


def _losses(losses: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in losses.items())


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
