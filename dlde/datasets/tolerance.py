"""The cheapest solver that meets a stated tolerance, found once per recipe and storage root.

A habit such as "1024 points, dt 1e-3" costs up to forty times what its accuracy is worth. Grid and step
are coarsened from a setting that has converged, as long as random instances stay within most of
the tolerance; then others confirm it. What is found names the store like any other solver, so that nothing
depends on how it was found.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from scipy.fft import next_fast_len

from dlde.datasets import certificate
from dlde.datasets.instances import batch
from dlde.datasets.recipe import Recipe
from dlde.errors import CertificateError, DataError, InputError
from dlde.files import write_json
from dlde.problem import Solver
from dlde.spec import digest_of

SEARCHED, CONFIRMED = 12, 12  # instances: rare ones are ten times as hard as most
MARGIN = 0.7  # of the tolerance, that a searched instance may use up
REFINEMENTS = 6  # of the recipe's solver, until it has converged
Tell = Callable[[int, int, str], None]


def known(recipe: Recipe, root: Path | str) -> Recipe:
    """The recipe with the solver that was found for its tolerance. Raises DataError where none was yet."""
    if recipe.tolerance is None:
        return recipe
    try:
        plain = json.loads(_path(recipe, root).read_bytes())
        return _with(recipe, Solver.parse(plain["solver"], source="solver"))
    except (FileNotFoundError, ValueError, KeyError, TypeError, InputError):
        raise DataError(
            f"dataset {recipe.name!r} is not there yet; `{recipe.command(Path(root))}` generates it"
        ) from None


def resolved(recipe: Recipe, root: Path | str, tell: Tell) -> Recipe:
    """`known`, found now where it was not. Raises CertificateError where nothing meets the tolerance."""
    if recipe.tolerance is None:
        return recipe
    try:
        return known(recipe, root)
    except DataError:
        tell(0, sum(recipe.samples.values()), f"looking for a solver to {recipe.tolerance:g}")
        found, error = search(recipe)
        write_json(
            _path(recipe, root), {"solver": found.dump(), "error": error, "tolerance": recipe.tolerance}
        )
        return _with(recipe, found)


def search(recipe: Recipe) -> tuple[Solver, float]:
    """The cheapest solver within the recipe's tolerance, and its largest error on instances not searched."""
    assert recipe.tolerance is not None
    plain = _with(recipe, recipe.solver)
    fine = _converged(plain, recipe.tolerance)
    drawn = batch(plain, "certificate", 0, [0] * SEARCHED)
    reference = certificate.reference(plain, drawn, fine)

    allowed = MARGIN * recipe.tolerance
    steps = [fine]  # from the finest to the cheapest: one step back where the confirmation fails
    for coarsen, factor in ((_longer, 2.0), (_fewer, 2.0), (_longer, 2.0), (_longer, 1.25), (_fewer, 1.2)):
        while (coarser := coarsen(plain, steps[-1], factor)) is not None:
            if certificate.error(plain, drawn, coarser, reference) > allowed:
                break
            steps.append(coarser)
    others = batch(plain, "certificate", SEARCHED, [0] * CONFIRMED)
    reference = certificate.reference(plain, others, fine)
    for solver in reversed(steps):
        error = certificate.error(plain, others, solver, reference)
        if error <= recipe.tolerance:
            return solver, error
    raise AssertionError("the reference differs from itself")


def _converged(recipe: Recipe, tolerance: float) -> Solver:
    """The recipe's solver, refined until refining changes no instance by a tenth of the tolerance."""
    drawn = batch(recipe, "certificate", 0, [0] * SEARCHED)
    solver, errors = recipe.solver, [float("inf")]
    for _ in range(REFINEMENTS):
        finer = recipe.solvable.finer(solver, recipe.axes)
        if finer is None or (len(errors) > 2 and errors[-1] >= errors[-3]):  # rounding, or chaos, is reached
            break
        errors.append(certificate.error(recipe, drawn, solver, certificate.reference(recipe, drawn, finer)))
        if errors[-1] <= tolerance / 10:
            return solver
        solver = finer
    raise CertificateError(
        f"{recipe.name}: no solver was found to tolerance={tolerance:g}; refined to dt={solver.dt:g}, "
        f"num_points={solver.num_points}, solutions still change by {errors[-1]:.2g}. Use a larger one, "
        "shorter times (chaotic solutions lose every accuracy in time), or a finer solver to begin with"
    )


def _longer(recipe: Recipe, solver: Solver, factor: float) -> Solver | None:
    """A longer step, and none beyond the distance of the stored times, which cuts it short."""
    longer = recipe.solvable.refined(solver, recipe.axes, 1 / factor)
    widest = max(later - earlier for earlier, later in pairwise((0.0, *recipe.times)))
    return None if longer is None or longer == solver or longer.dt > widest else longer


def _fewer(recipe: Recipe, solver: Solver, factor: float) -> Solver | None:
    """Fewer points, of a number that transforms like; with walls both ends are among them."""
    if not recipe.axes:
        return None
    points = solver.num_points or max(axis.num_points for axis in recipe.axes.values())
    ends = int(any(axis.boundary != "periodic" for axis in recipe.axes.values()))
    fewer = next_fast_len(math.ceil((points - ends) / factor / 2), real=True) * 2 + ends
    return Solver(**{**solver.model_dump(), "num_points": fewer}) if 4 <= fewer < points else None


def _with(recipe: Recipe, solver: Solver) -> Recipe:
    plain = {**recipe.dump(), "solver": solver.dump(), "tolerance": None}
    return Recipe.parse(plain, source=recipe.name).named_by(recipe.arguments)


def _path(recipe: Recipe, root: Path | str) -> Path:
    named = digest_of({**recipe.identity, "tolerance": recipe.tolerance})
    return Path(root) / "data" / ".solvers" / f"{recipe.name}-{named[:12]}.json"
