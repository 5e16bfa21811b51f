"""The path end to end, for someone who sees it for the first time: `make demo`."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dlde.datasets.dataset import Dataset
from dlde.datasets.plot import plot
from dlde.datasets.recipe import Recipe
from dlde.files import unwritable_named
from dlde.metrics import relative_l2
from dlde.pipeline import Pipeline, Stage, Walk, Watch
from dlde.registry import store
from dlde.serving.deploy import serving

PIPELINE = "neural-operator"
SEED = 20210318  # of the question's initial state, which no dataset holds


@dataclass(frozen=True)
class Summary:
    """What was done, where it lies, and what was answered."""

    stages: dict[str, list[Stage]]  # by variant
    metrics: dict[str, dict[str, float]]  # by variant
    x: NDArray[np.float64]
    question: NDArray[np.float32]
    answer: NDArray[np.float32]
    reference: NDArray[np.float32]
    difference: float  # relative L2
    seconds_to_serve: float
    seconds_to_answer: float
    model: str
    store: Path
    pictures: tuple[Path, ...]
    tracking_uri: str


def demo(root: Path, *, workers: int, watch: Watch, say: Callable[[str], None], verbose: bool) -> Summary:
    """Generate, train on Ray workers, evaluate, register, serve, ask; then stop what was started."""
    stages: dict[str, list[Stage]] = {}
    say(f"1/4  Burgers' equation into Zarr; a Fourier neural operator on {workers} Ray workers")
    walk = Walk(_pipeline(workers=workers), root, watch=watch, verbose=verbose)
    stages["fno"] = walk()
    say("2/4  its baseline, a convolutional network of equal size, in this process")
    baseline = Walk(_pipeline(variant="fcn"), root, watch=watch, verbose=verbose)
    stages["fcn"] = [baseline.train(), baseline.evaluate()]
    say("3/4  pictures")
    recipe = walk.pipeline.data["solutions"]
    dataset = Dataset.open(recipe, root)
    picture = root / "pictures" / f"{recipe.name}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    with unwritable_named(picture):
        plot(dataset).savefig(picture, dpi=120)
    say("4/4  the registered model behind HTTP, and one question to it")
    model = f"{walk.pipeline.model_name}@{walk.pipeline.registration.alias}"
    x, question, reference = _question(recipe, walk.pipeline.method.map.num_points)  # type: ignore[attr-defined]
    began = monotonic()
    with serving(root, model, port=_free_port(), verbose=verbose) as service:
        ready = monotonic()
        answer = _ask(service.url, question)
        answered = monotonic()
    difference = relative_l2(
        torch.from_numpy(answer)[None, :, None], torch.from_numpy(reference)[None, :, None]
    )
    return Summary(
        stages=stages,
        metrics={name: _metrics(done) for name, done in stages.items()},
        x=x,
        question=question,
        answer=answer,
        reference=reference,
        difference=float(difference[0]),
        seconds_to_serve=ready - began,
        seconds_to_answer=answered - ready,
        model=model,
        store=recipe.store(root),
        pictures=(picture, *sorted((walk.folder / "figures").glob("*.png"))),
        tracking_uri=store.tracking_uri(root),
    )


def _pipeline(*, workers: int | None = None, variant: str | None = None) -> Pipeline:
    return Pipeline.load(PIPELINE, variant=variant, overrides={"training.workers": workers})


def _metrics(stages: list[Stage]) -> dict[str, float]:
    metrics: dict[str, float] = next(s for s in stages if s.stage == "evaluate").detail["metrics"]
    return metrics


def _question(
    recipe: Recipe, num_points: int
) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.float32]]:
    """Grid, a new initial state on it, and what the reference solver makes of it at the last time."""
    problem, axes = recipe.solvable, recipe.axes
    drawn = problem.draw(np.random.Generator(np.random.Philox(SEED)), axes)
    instance = {name: torch.from_numpy(value)[None] for name, value in drawn.items()}
    solved = problem.solve(instance, axes, recipe.times, recipe.solver)["u"][0]
    every = recipe.num_points[0] // num_points
    first, last = solved[0, ::every].numpy(), solved[-1, ::every].numpy()
    return axes["x"].points[::every], first.astype(np.float32), last.astype(np.float32)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _ask(url: str, question: NDArray[np.float32]) -> NDArray[np.float32]:
    """One POST of JSON, as any client would send it."""
    body = json.dumps({"inputs": {"u": question[None, :, None].tolist()}}).encode()
    request = urllib.request.Request(f"{url}/predict", body, {"content-type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
        answered: dict[str, Any] = json.load(response)
    return np.asarray(answered["outputs"]["u"], dtype=np.float32)[0, :, 0]
