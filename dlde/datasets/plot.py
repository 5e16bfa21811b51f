"""A first look at a dataset: some of its samples, drawn as what they are."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from dlde.datasets.dataset import Dataset
from dlde.datasets.pictures import animation, space
from dlde.datasets.pictures.graph import graph
from dlde.datasets.pictures.images import images
from dlde.datasets.pictures.paths import paths
from dlde.datasets.pictures.shown import Shown, take
from dlde.errors import GridError, InputError, UnknownNameError, nearest
from dlde.problem import Variable

# Kind -> how many samples are drawn where nobody says; the first that a dataset has is drawn.
SAMPLES = {
    "graph": 1, "images": 24, "frames": 3, "space-time": 6, "still": 6, "profiles": 6, "paths": 6
}  # fmt: skip
SIDE_BY_SIDE = 3  # samples, where several variables share a picture


def plot(
    dataset: Dataset,
    split: str = "train",
    samples: int | None = None,
    seed: int = 0,
    *,
    variables: Sequence[str] = (),
    times: Sequence[float] = (),
) -> Figure:
    """Random samples of a split, in a picture that fits their variables' dimensions.

    Fields of time and one axis are images of both, those of time and more axes frames at some `times` (the
    nearest stored ones; by default spread), fields without time images, trajectories curves over bands of
    all samples and phase portraits; labelled images are drawn as such, and graphs, coloured by class or by
    what changes at their nodes. Of several kinds the first in this order, unless `variables` are named. All
    samples share one colour scale for each field.

    Raises GridError where nothing can be drawn, or named variables do not go together, UnknownNameError for
    split or variables.
    """
    kind, shown = _shown(dataset, split, samples, seed, variables)
    if times and kind != "frames":
        raise InputError(
            f"times={list(times)} choose frames of fields over time and two axes; {_list(shown.values)} "
            f"of dataset {dataset.info.recipe!r} {'is' if len(shown.values) == 1 else 'are'} not such"
        )
    if kind == "frames":
        stored = shown.times
        chosen = [int(np.abs(stored - time).argmin()) for time in times] or space.spread(stored)
        return space.frames(shown, sorted(set(chosen)))
    return _DRAW[kind](shown)


def film(
    dataset: Dataset,
    suffix: str,
    split: str = "train",
    samples: int | None = None,
    seed: int = 0,
    *,
    variables: Sequence[str] = (),
) -> bytes:
    """Random samples through all stored times, as the content of a `.gif` or `.mp4`.

    Raises GridError where no field of time and space is there, InputError where an .mp4 cannot be written,
    UnknownNameError.
    """
    animation.check_format(suffix)
    kinds = _kinds(dataset)
    moving = [name for name, kind in kinds.items() if kind in ("frames", "space-time")]
    still = [name for name in variables if name in kinds and name not in moving]
    if still or not moving:
        raise GridError(
            f"{_list(still) or 'dataset ' + repr(dataset.info.recipe)} has no field over time and space, so "
            f"nothing moves; draw it as a picture (.png)"
            + (f", or choose among {_list(moving)}" * bool(moving))
        )
    _, shown = _shown(dataset, split, samples or SIDE_BY_SIDE, seed, variables or _first(kinds, moving))
    return animation.animation(shown, suffix)


def png(figure: Figure) -> bytes:
    """The picture as a file; the same picture gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def check_output(path: Path) -> str:
    """The kind of picture that a file name asks for. Raises InputError for one that cannot be written."""
    suffix = path.suffix.lower()
    if suffix not in (".png", *animation.FORMATS):
        raise InputError(f"{path}: expected a name that ends in .png, or in .gif or .mp4 for what moves")
    animation.check_format(suffix)
    return suffix


_DRAW: dict[str, Callable[[Shown], Figure]] = {
    "graph": graph, "images": images, "space-time": space.space_time, "still": space.still,
    "profiles": space.profiles, "paths": paths,
}  # fmt: skip


def _shown(
    dataset: Dataset, split: str, samples: int | None, seed: int, variables: Sequence[str]
) -> tuple[str, Shown]:
    """The kind of picture, and what it shows."""
    info = dataset.info
    if split not in info.samples:
        raise UnknownNameError(f"no split {split!r}; {nearest(split, info.samples)}", name=split)
    kinds = _kinds(dataset)
    for name in variables:
        if name not in info.variables:
            raise UnknownNameError(f"no variable {name!r}; {nearest(name, info.variables)}", name=name)
        if name not in kinds:
            raise GridError(
                f"there is no picture of variable {name!r} of dataset {info.recipe!r}, with dimensions "
                f"{_list(_dims(info.variables[name]))}; drawable: {_list(kinds) or 'none'}"
            )
    if not kinds:
        raise GridError(
            f"dataset {info.recipe!r} has no variable to draw: there are pictures of fields over time or "
            "space, of trajectories, images and graphs"
        )
    chosen = list(variables) or _first(kinds, kinds)
    if len(groups := {(kinds[name], _space(dataset, name)) for name in chosen}) > 1:
        raise GridError(
            f"{_list(chosen)} do not go into one picture: "
            + ", ".join(f"{name} has dimensions {_list(_dims(info.variables[name]))}" for name in chosen)
        )
    kind = next(iter(groups))[0]
    count = min(samples or _usual(kind, len(chosen)), info.samples[split])
    numbers = np.sort(np.random.default_rng(seed).choice(info.samples[split], count, replace=False))
    return kind, take(dataset, split, numbers.tolist(), chosen)


def _usual(kind: str, num_variables: int) -> int:
    """How many samples make a picture of a good size."""
    if num_variables > 1 and kind in ("space-time", "still"):
        return SIDE_BY_SIDE
    return max(1, SAMPLES[kind] // num_variables) if kind == "frames" else SAMPLES[kind]


def _kinds(dataset: Dataset) -> dict[str, str]:
    """The kind of picture of every variable that has one."""
    axes, variables = dataset.info.axes, dataset.info.variables
    pictures = {"images", "idx"} & {dataset.recipe.dump()["problem"].get("format")}
    found: dict[str, str] = {}
    for name, variable in variables.items():
        space_dims = [dim for dim in variable.dims if dim in axes]
        moving = "time" in variable.dims and len(dataset.info.times) > 1
        if "node" in variable.sizes or "edge" in variable.sizes:
            still, changing = variable.dims == ("node",), moving and variable.dims[:2] == ("time", "node")
            if "edges" in variables and (name == "edges" or still or changing):
                found[name] = "graph"
        elif pictures and variable.dims[:2] == ("y", "x"):
            found[name] = "images"
        elif not space_dims:
            if moving:
                found[name] = "paths"
        elif len(space_dims) <= 3:
            one = len(space_dims) == 1
            if "time" in variable.dims and not (moving and one):
                found[name] = "frames" if not one else "profiles"
            elif moving:
                found[name] = "space-time"
            else:
                found[name] = "profiles" if one else "still"
    return found


def _first(kinds: Mapping[str, str], among: Sequence[str] | Mapping[str, str]) -> list[str]:
    """The variables of the kind that comes first in `SAMPLES`."""
    kind = next(kind for kind in SAMPLES if kind in {kinds[name] for name in among})
    return [name for name in among if kinds[name] == kind]


def _space(dataset: Dataset, name: str) -> tuple[str, ...]:
    return tuple(dim for dim in dataset.info.variables[name].dims if dim in dataset.info.axes)


def _dims(variable: Variable) -> list[str]:
    return ["sample", *variable.dims]


def _list(names: Sequence[str] | Mapping[str, object]) -> str:
    return ", ".join(names)
