"""How every command speaks: results on stdout, all else on stderr; one JSON document with --json."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Root = Annotated[
    str | None,
    typer.Option("--root", metavar="DIR", help="Storage root (default: $DLDE_ROOT, else .dlde/ here)."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Override a field; may be given several times."),
]
Preset = Annotated[str | None, typer.Option("--preset", help="A preset named in the file, such as 'paper'.")]
ClusterFile = Annotated[
    str | None,
    typer.Option("--cluster", metavar="CLUSTER", help="Where to run: a file, or one of cluster/ by name."),
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, metavar="N", help="Number of workers.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over instead of continuing.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show what the libraries underneath say.")]


def overrides(assignments: Sequence[str] | None) -> dict[str, Any]:
    """What `--set` asks for, by dotted path. Raises SpecError."""
    from dlde.spec import parse_assignments

    return parse_assignments(assignments or [])


def emit(document: Mapping[str, Any], human: str, *, as_json: bool) -> None:
    """The command's result: the document with --json, the text for a person otherwise."""
    print(json.dumps(document, indent=1) if as_json else human, flush=True)


def say(text: str) -> None:
    """A line for the person watching, on stderr."""
    print(text, file=sys.stderr, flush=True)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Plain aligned columns."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """Room for bars on stderr; lines printed through `progress.console` appear above them."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield bars


def report(bars: Progress, description: str, unit: str) -> Callable[[int, int, str], None]:
    """A function (done, total, note) that moves one bar, which appears at its first call.

    Without a note it shows the rate. A bar that goes back starts anew (the next dataset or trial).
    """
    import time

    task = bars.add_task(description, total=1, visible=False, unit=unit, note="")
    first: list[float] = []

    def move(done: int, total: int, note: str = "") -> None:
        if not first or done < first[2] or bars.tasks[task].finished:
            bars.reset(task, total=total, visible=True)
            first[:] = [time.monotonic(), done, done]
        first[2] = done
        seconds = time.monotonic() - first[0]
        rate = f"{(done - first[1]) / seconds:.1f} {unit}/s" if seconds > 0 and done > first[1] else ""
        bars.update(task, completed=done, total=total, visible=True, note=note or rate)

    return move
