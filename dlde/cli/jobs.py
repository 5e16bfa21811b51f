"""`dlde run|train|evaluate|reproduce`: pipelines and what becomes of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlde.cli.console import (
    Fresh,
    Json,
    Preset,
    Root,
    Set,
    Verbose,
    Workers,
    emit,
    overrides,
    progress,
    report,
    table,
)
from dlde.files import storage_root

if TYPE_CHECKING:
    from dlde.pipeline import Stage, Walk, Watch

PipelineName = Annotated[str, typer.Argument(metavar="PIPELINE", help="A pipeline's name, or its YAML file.")]
Variant = Annotated[str | None, typer.Option("--variant", help="A variant of the pipeline's study.")]


def run(
    pipeline: PipelineName,
    workers: Workers = None,
    set_: Set = None,
    preset: Preset = None,
    variant: Variant = None,
    root: Root = None,
    fresh: Fresh = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Generate, train, evaluate and register.

    Run again, it finds what is done; killed, it continues.
    """
    with watching() as watch:
        walk = _walk(pipeline, workers, set_, preset, variant, root, watch, verbose)
        stages = walk(fresh=fresh)
    model = next(stage.detail["model"] for stage in stages if stage.stage == "register")
    document = {
        "pipeline": walk.pipeline.name,
        "run": walk.job.run,
        "model": model,
        "metrics": next(stage.detail["metrics"] for stage in stages if stage.stage == "evaluate"),
        "stages": [{"stage": s.stage, "state": s.state, "seconds": s.seconds, **s.detail} for s in stages],
    }
    alias = walk.pipeline.registration.alias
    served = f"{walk.pipeline.model_name}@{alias}" if alias else model
    human = (
        table(["stage", "state", "seconds"], [[s.stage, s.state, f"{s.seconds:.1f}"] for s in stages])
        + "\n\n" + _metrics(document["metrics"]) + f"\n\nmodel {model}; serve it: dlde serve {served}"
    )  # fmt: skip
    emit(document, human, as_json=as_json)


def train(
    pipeline: PipelineName,
    workers: Workers = None,
    set_: Set = None,
    preset: Preset = None,
    variant: Variant = None,
    root: Root = None,
    fresh: Fresh = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Train a pipeline's method.

    Data that are missing are generated first. The same command again continues.
    """
    with watching() as watch:
        walk = _walk(pipeline, workers, set_, preset, variant, root, watch, verbose)
        walk.generate(workers=workers or 1)
        stage = walk.train(fresh=fresh)
        metrics = walk.evaluate().detail["metrics"]
    folder = walk.folder
    document = {
        "run": walk.job.run,
        "state": stage.state,
        "seconds": stage.seconds,
        "metrics": metrics,
        "model": str(folder / "model"),
    }
    emit(document, f"run {walk.job.run}: {stage.state}\n\n{_metrics(metrics)}\n\n{folder}", as_json=as_json)


def evaluate(
    what: Annotated[
        str, typer.Argument(metavar="MODEL|RUN", help="NAME@alias, NAME/version, or a run's name.")
    ],
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="STORE", help="Another dataset: a store's path or a recipe."),
    ] = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Measure a trained model.

    On its own test data, or on another dataset (--data).
    """
    from dlde.evaluation import evaluate as measure

    result = measure(what, storage_root(root), data=data)
    document = {"run": result.run, "model": result.model, "metrics": result.metrics, "data": result.data}
    emit(document, f"{what} on {result.data}\n\n{_metrics(result.metrics)}", as_json=as_json)


def reproduce(
    pipeline: PipelineName,
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="0,1,2", help="Instead of the study's.")
    ] = None,
    set_: Set = None,
    preset: Preset = None,
    root: Root = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Run a study and check the method's claim.

    Exit code 3 where a condition does not hold.
    """
    from dlde.study import parse_seeds
    from dlde.study import reproduce as study

    with watching() as watch:
        result = study(
            pipeline,
            storage_root(root),
            preset=preset,
            overrides=overrides(set_),
            seeds=parse_seeds(seeds),
            watch=watch,
            verbose=verbose,
        )
    document: dict[str, Any] = {
        "pipeline": pipeline,
        "claim": result.claim,
        "holds": result.holds,
        "conditions": [check.dump() for check in result.conditions],
        "table": [dict(row) for row in result.table.rows],
        "runs": list(result.runs),
    }
    conditions = table(
        ["holds", "left", "right", "condition"],
        [["yes" if c.holds else "NO", f"{c.left:.4g}", f"{c.right:.4g}", c.text] for c in result.conditions],
    )
    emit(document, f"{_by_variant(document['table'])}\n\n{conditions}", as_json=as_json)
    if not result.holds:
        raise typer.Exit(3)


def _walk(
    name: str,
    workers: int | None,
    set_: list[str] | None,
    preset: str | None,
    variant: str | None,
    root: str | None,
    watch: Watch,
    verbose: bool,
) -> Walk:
    from dlde.pipeline import Pipeline, Walk

    fields = overrides(set_)
    if workers is not None:
        fields["training.workers"] = workers
    pipeline = Pipeline.load(name, preset=preset, overrides=fields, variant=variant)
    return Walk(pipeline, storage_root(root), watch=watch, verbose=verbose)


@contextlib.contextmanager
def watching() -> Iterator[Watch]:
    """Bars for samples and steps, and a line for every stage that ends."""
    from dlde.pipeline import Watch

    with progress() as bars:
        began = time.monotonic()
        samples = report(bars, "generate", "samples")
        steps = report(bars, "train", "steps")

        def training(at: Any) -> None:
            terms = ", ".join(f"{name} {value:.4g}" for name, value in at.terms.items())
            steps(at.step, at.steps, f"{terms} · {at.rate:.0f} steps/s")

        def stage(ended: Stage) -> None:
            bars.console.print(
                f"[{time.monotonic() - began:6.1f} s] {ended.stage}: {ended.state} in {ended.seconds:.1f} s",
                highlight=False, markup=False,
            )  # fmt: skip

        yield Watch(samples=samples, training=training, stage=stage)


def _metrics(metrics: dict[str, float]) -> str:
    return table(["metric", "value"], [[name, f"{value:.5g}"] for name, value in sorted(metrics.items())])


def _by_variant(rows: list[dict[str, Any]]) -> str:
    """One line per metric and variant, the seeds beside one another."""
    seeds = sorted({row["seed"] for row in rows})
    values = {(row["metric"], row["variant"], row["seed"]): row["value"] for row in rows}
    lines = dict.fromkeys((row["metric"], row["variant"]) for row in rows)
    return table(
        ["metric", "variant", *(f"seed {seed}" for seed in seeds)],
        [
            [m, v, *(f"{values[m, v, s]:.5g}" if (m, v, s) in values else "-" for s in seeds)]
            for m, v in sorted(lines)
        ],
    )
