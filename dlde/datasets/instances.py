"""Whom a part solves for: random instances by their number, or those that a user gives in a file.

A file (.npz, NetCDF) holds one array for each entry that the problem draws, samples first:
`u (sample, x)` for an initial field, `viscosity (sample)` for a parameter.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlde.datasets.recipe import Recipe
from dlde.errors import InputError
from dlde.files import sha256_of
from dlde.numerics.threads import one_thread
from dlde.problem import Solver
from dlde.spec import digest_of

Instance = dict[str, NDArray[Any]]


def generator(recipe: Recipe, split: str, sample: int, attempt: int) -> np.random.Generator:
    """Counter-based random numbers that are a function of seed, split, sample and attempt alone."""
    key = digest_of(["sample", recipe.seed, split, sample, attempt])
    return np.random.Generator(np.random.Philox(key=int(key[:32], 16)))


def batch(recipe: Recipe, split: str, start: int, attempts: Sequence[int]) -> list[Instance]:
    """The instances of consecutive samples, each in its attempt.

    Of a file, the last row stands for those behind the end, so that parts are full.
    """
    if split in recipe.instances:
        rows = given(recipe, split)
        last = len(next(iter(rows.values()))) - 1
        return [
            {name: values[min(start + i, last)] for name, values in rows.items()}
            for i in range(len(attempts))
        ]
    axes, draw = recipe.axes, recipe.solvable.draw
    return [draw(generator(recipe, split, start + i, n), axes) for i, n in enumerate(attempts)]


def stacked(recipe: Recipe, drawn: Sequence[Instance]) -> dict[str, Tensor]:
    """Instances as one batch, (batch, ...) per entry, on the recipe's device.

    Raises InputError where this machine has no such device.
    """
    if recipe.device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"{recipe.name} is solved on a GPU (device: cuda), and this machine has none; generate it where "
            "one is, or set device: cpu, which makes another dataset"
        )
    return {
        name: torch.from_numpy(np.stack([one[name] for one in drawn])).to(recipe.device) for name in drawn[0]
    }


def solve(
    recipe: Recipe, drawn: Sequence[Instance], times: Sequence[float], solver: Solver
) -> dict[str, Tensor]:
    """The instances' solutions, computed as one batch on one thread."""
    with one_thread(), torch.no_grad():
        return recipe.solvable.solve(stacked(recipe, drawn), recipe.axes, times, solver)


def given(recipe: Recipe, split: str) -> dict[str, NDArray[Any]]:
    """The instances of a split's file, checked. Raises InputError naming what is wrong, and the cure."""
    entry = recipe.instances[split]
    path = Path(entry.file)
    if not path.is_file():
        raise InputError(f"instances.{split}: there is no file {entry.file}")
    arrays = _read(str(path), path.stat().st_mtime_ns, entry.sha256)
    drawn = recipe.solvable.draw(generator(recipe, split, 0, 0), recipe.axes)
    where, count = f"instances.{split}: {path.name}", recipe.samples[split]
    if missing := set(drawn) - set(arrays):
        raise InputError(
            f"{where} lacks {', '.join(sorted(missing))}; expected one array for each of {_shapes(drawn)}"
        )
    if unknown := set(arrays) - set(drawn):
        raise InputError(f"{where} holds {', '.join(sorted(unknown))}, which this problem does not draw; "
                         f"it draws {_shapes(drawn)}")  # fmt: skip
    for name, example in drawn.items():
        values = arrays[name]
        if values.dtype.kind not in "fiu" or values.shape[1:] != np.shape(example) or not values.ndim:
            raise InputError(
                f"{where}: {name} is {values.dtype} {values.shape}, expected numbers (samples, "
                f"*{np.shape(example)}), on the grid num_points={list(recipe.num_points)}"
            )
        if len(values) < count:
            raise InputError(
                f"{where}: {name} has {len(values)} rows, but samples.{split}={count}; set "
                f"samples.{split}={len(values)}, or give more"
            )
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(1))[0])
            raise InputError(f"{where}: {name} is not finite in row {row}")
    return {name: arrays[name].astype(np.float64) for name in drawn}


def _shapes(drawn: Instance) -> str:
    return ", ".join(f"{name} (samples, *{np.shape(values)})" for name, values in drawn.items())


@lru_cache(maxsize=4)
def _read(file: str, changed: int, sha256: str | None) -> dict[str, NDArray[Any]]:
    path = Path(file)
    if sha256 is not None and sha256_of(path) != sha256:
        raise InputError(
            f"{file} is not the file that this dataset was begun with (SHA-256 {sha256[:12]}...); put that "
            "one back, or load the recipe anew, which makes another dataset"
        )
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path.name} is no .npz file that can be read: {error}") from None
    import xarray as xr  # slow to load, and rarely needed

    try:
        with xr.open_dataset(path) as opened:
            return {str(name): np.asarray(values) for name, values in opened.data_vars.items()}
    except (OSError, ValueError) as error:
        raise InputError(f"{path.name} is neither .npz nor NetCDF: {error}") from None
