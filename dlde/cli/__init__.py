"""The command line: `dlde …`, one module per noun.

Modules here import at the top only what is cheap: `dlde --help` must answer at once, so everything
that needs torch, ray or mlflow is imported inside the command that uses it.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer

from dlde import __version__
from dlde.cli import data, demo, jobs, listing, models, runs
from dlde.cli.plan import plan
from dlde.cli.predict import predict
from dlde.cli.serve import serve
from dlde.cli.tune import tune
from dlde.errors import DldeError

app = typer.Typer(
    name="dlde",
    help="From a differential equation to an answered request: generate, train, register, serve.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data.app, name="data")
app.add_typer(runs.app, name="runs")
app.add_typer(models.app, name="models")
app.command("run")(jobs.run)
app.command("train")(jobs.train)
app.command("tune")(tune)
app.command("evaluate")(jobs.evaluate)
app.command("reproduce")(jobs.reproduce)
app.command("plan")(plan)
app.command("predict")(predict)
app.command("serve")(serve)
app.command("demo")(demo.demo)
app.command("list")(listing.list_names)
app.command("show")(listing.show)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(f"dlde {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


def main() -> None:
    """The console script: errors of ours become one message and an exit code."""
    arguments = sys.argv[1:]
    try:
        app(standalone_mode=True)
    except DldeError as error:
        if "--json" in arguments:
            print(json.dumps({"error": {"type": type(error).__name__, "message": error.message}}, indent=1))
        print(f"error: {error.message}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("stopped; the same command again continues", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone, such as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
