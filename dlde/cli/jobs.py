"""`dlde run|train|evaluate|reproduce`: pipelines and what becomes of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlde.cli.console import (
    ClusterFile,
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
    say,
    table,
)
from dlde.errors import DldeError, SpecError
from dlde.files import storage_root

if TYPE_CHECKING:
    from dlde.pipeline import Stage, Walk, Watch
    from dlde.study.reproduce import Reproduction

PipelineName = Annotated[str, typer.Argument(metavar="PIPELINE", help="A pipeline's name, or its YAML file.")]
Variant = Annotated[str | None, typer.Option("--variant", help="A variant of the pipeline's study.")]


def run(
    pipeline: PipelineName,
    workers: Workers = None,
    cluster: ClusterFile = None,
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
        walk = _walk(pipeline, workers, cluster, set_, preset, variant, root, watch, verbose)
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
    cluster: ClusterFile = None,
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
        walk = _walk(pipeline, workers, cluster, set_, preset, variant, root, watch, verbose)
        walk.generate(workers=workers)
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
        list[str] | None,
        typer.Option("--data", metavar="[ROLE=]STORE", help="Another dataset: a store's path or a recipe."),
    ] = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Measure a trained model.

    On its own test data, or on another dataset (--data).
    """
    from dlde.evaluation import evaluate as measure

    result = measure(what, storage_root(root), data=data or ())
    document = {"run": result.run, "model": result.model, "metrics": result.metrics, "data": result.data}
    emit(document, f"{what} on {result.data}\n\n{_metrics(result.metrics)}", as_json=as_json)


def reproduce(
    pipeline: Annotated[
        str | None, typer.Argument(metavar="PIPELINE", help="A pipeline's name, or its YAML file.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every pipeline that has a study.")] = False,
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="0,1,2", help="Instead of the study's.")
    ] = None,
    workers: Workers = None,
    results: Annotated[
        str | None,
        typer.Option("--results", metavar="DIR", help="Write page, verdict and figure here too."),
    ] = None,
    set_: Set = None,
    preset: Preset = None,
    root: Root = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Run a study and check the method's claim.

    Trials that are finished are found; the same command again runs what is missing. With --workers,
    trials that do not measure time run side by side on Ray. Exit code 3 where a condition does not hold.
    """
    from dlde.study.reproduce import parse_seeds, reproducible
    from dlde.study.reproduce import reproduce as study

    if all_ == (pipeline is not None):
        raise SpecError("name one PIPELINE, or give --all", mistakes=["PIPELINE"])
    if all_ and (set_ or preset):
        raise SpecError("--all goes without --set and --preset: they belong to one pipeline", mistakes=[])
    place = storage_root(root)
    documents, failures = [], []
    for name in reproducible() if all_ else [str(pipeline)]:
        with watching() as watch:
            try:
                result = study(
                    name,
                    place,
                    preset=preset,
                    overrides=overrides(set_),
                    seeds=parse_seeds(seeds),
                    workers=workers or 1,
                    results=Path(results) if results else None,
                    watch=watch,
                    verbose=verbose,
                )
            except DldeError as error:
                if not all_:
                    raise
                failures.append(name)
                say(f"error: {name}: {error.message}")
                continue
        documents.append(_reproduced(result))
        if not as_json:
            print(_told(result), flush=True)
    held = all(document["holds"] for document in documents)
    if as_json:
        document = {"studies": documents, "failed": failures} if all_ else documents[0]
        emit(document, "", as_json=True)
    if failures:
        say(f"could not be run: {', '.join(failures)}")
        raise typer.Exit(1)
    if not held:
        raise typer.Exit(3)


def _reproduced(result: Reproduction) -> dict[str, Any]:
    return {
        "pipeline": result.pipeline,
        "claim": result.claim,
        "holds": result.holds,
        "conditions": [check.dump() for check in result.conditions],
        "table": [dict(row) for row in result.table.rows if row.get("step") is None],
        "runs": list(result.runs),
        "folder": str(result.folder),
    }


def _told(result: Reproduction) -> str:
    """What was measured and whether it is what was claimed, for a person."""
    from dlde.study.report import summary

    fixed = ("metric", "variant", "mean", "lowest", "highest", "seeds")
    measured = table(
        ["metric", "variant", "where", "mean", "lowest", "highest", "seeds"],
        [
            [
                row["metric"],
                row["variant"],
                ", ".join(f"{key} {value}" for key, value in row.items() if key not in fixed),
                *(f"{row[key]:.5g}" for key in ("mean", "lowest", "highest")),
                row["seeds"],
            ]
            for row in summary(result.table)
        ],
    )
    conditions = table(
        ["holds", "left", "right", "condition"],
        [
            ["yes" if check.holds else "NO", *map(_figure, (check.left, check.right)), check.text]
            for check in result.conditions
        ],
    )
    return f"{result.pipeline}\n\n{measured}\n\n{conditions}\n\n{result.folder}\n"


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _walk(
    name: str,
    workers: int | None,
    cluster: str | None,
    set_: list[str] | None,
    preset: str | None,
    variant: str | None,
    root: str | None,
    watch: Watch,
    verbose: bool,
) -> Walk:
    from dlde.cluster import Cluster
    from dlde.pipeline import Pipeline, Walk

    fields = overrides(set_)
    if workers is not None:
        fields["training.workers"] = workers
    pipeline = Pipeline.load(name, preset=preset, overrides=fields, variant=variant)
    place = Cluster.load(cluster) if cluster else None
    where = storage_root(root or (place.root if place else None))
    return Walk(pipeline, where, watch=watch, verbose=verbose, cluster=place)


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
                highlight=False, markup=False, soft_wrap=True,
            )  # fmt: skip

        def aloud(text: str) -> None:
            bars.console.print(text, highlight=False, markup=False, soft_wrap=True)

        yield Watch(
            samples=samples,
            trials=report(bars, "trials", "trials"),
            training=training,
            stage=stage,
            say=aloud,
        )


def _metrics(metrics: dict[str, float]) -> str:
    return table(["metric", "value"], [[name, f"{value:.5g}"] for name, value in sorted(metrics.items())])
