"""Whether a recipe's reference solver deserves trust: measured on random instances, not believed.

Four questions, each where the problem can answer it: does the solution change when it is computed more
finely (`error`), does the error fall as fast as the solver promises (`order`), does it agree with the
exact solution (`exact`), and does it keep what the equation keeps and meet the equation itself (`drift`,
`defect`). The limits are the problem's `thresholds`.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dlde.datasets.instances import Instance, batch, solve, stacked
from dlde.datasets.recipe import Recipe
from dlde.errors import CertificateError, GridError, InputError
from dlde.files import write_json
from dlde.numerics.threads import one_thread
from dlde.problem import Solver
from dlde.spec import Spec

FILE = "certificate.json"  # in the store
SAMPLES = 8
NONE_FINITE = "instances without a finite solution"
SHORT = 2  # samples, before a dataset is generated
NOISE = 1e-11  # relative differences below are rounding
COARSE = 0.05  # relative differences above say nothing of an order

Solution = Mapping[str, Tensor]


class Finding(Spec):
    """One measured value and its limit."""

    name: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def passed(self) -> bool:
        """Whether the value is on the right side of its limit."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        return f"{self.name} {self.value:.3g} ({'at least' if self.at_least else 'at most'} {self.limit:.3g})"


class Certificate(Spec):
    """What was found of a recipe's solver; `notes` says what could not be asked, and why."""

    recipe_digest: str
    samples: int
    short: bool
    passed: bool
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    # step or grid relative to the recipe's -> root mean square difference from the next finer one
    refinements: tuple[tuple[float, float], ...] = ()
    seconds: float


def certify(recipe: Recipe, *, samples: int = SAMPLES, short: bool = False) -> Certificate:
    """Measure the recipe's solver on `samples` instances of their own.

    `short` leaves out the order, and compares with the exact solution and the equation at the end alone.
    """
    began = time.monotonic()
    problem, limits = recipe.solvable, recipe.solvable.thresholds
    drawn = _instances(recipe, samples)
    axes, times, solver = recipe.axes, recipe.times, recipe.solver
    findings: list[Finding] = []
    notes: list[str] = []
    solution = _double(solve(recipe, drawn, times, solver))
    finite = _finite_samples(solution)
    if not finite.all():  # what generation replaces or refuses, by the recipe's policy
        kept = torch.nonzero(finite)[:, 0].tolist()
        notes.append(f"{samples - len(kept)} of {samples} instances have no finite solution")
        if not kept:
            findings.append(Finding(name=NONE_FINITE, value=float(samples), limit=0))
            return _sealed(recipe, samples, short, findings, notes, (), began)
        drawn = [drawn[i] for i in kept]
        solution = {name: values[kept] for name, values in solution.items()}

    finer = problem.finer(solver, axes)
    if finer is None:
        notes.append("error: the solver has no finer setting")
    else:
        difference = _relative(solution, _double(solve(recipe, drawn, times, finer)))
        findings.append(Finding(name="error", value=_worst(difference), limit=limits.error))
    refinements: tuple[tuple[float, float], ...] = ()
    if not short:
        order, refinements = _order(recipe, drawn)
        if order is None:
            notes.append("order: no three refinements show an error between rounding and 5 %")
        else:
            least = problem.order - 0.5 if limits.order is None else limits.order
            findings.append(Finding(name="order", value=order, limit=least, at_least=True))

    instances = stacked(recipe, drawn)
    asked = times[-1:] if short else times  # the last one has gathered what there is of errors
    with one_thread(), torch.no_grad():
        exact = getattr(problem, "exact", None)
        if exact is not None:
            try:
                closed = _double(exact(instances, axes, asked))
                known = {name: _at(recipe, name, solution[name], len(asked)) for name in closed}
                findings.append(
                    Finding(name="exact", value=_worst(_relative(known, closed)), limit=limits.exact)
                )
            except InputError as error:
                notes.append(f"exact: {error.message}")
        for name, values in problem.conserved(solution, axes).items():
            drift = _drift(values.double(), solution)
            findings.append(Finding(name=f"drift of {name}", value=drift, limit=limits.drift))
        for name, values in problem.defect(instances, axes, asked, solver).items():
            worst = float(values.double().max())
            findings.append(Finding(name=f"defect of {name}", value=_number(worst), limit=limits.defect))
    return _sealed(recipe, samples, short, findings, notes, refinements, began)


def check(recipe: Recipe, store: Path) -> Certificate:
    """The store's certificate, in short form made now where there is none. Raises CertificateError."""
    found = read(store)
    if found is None or found.recipe_digest != recipe.digest:
        found = certify(recipe, samples=SHORT, short=True)
        if found.passed:
            write(store, found)
    unsolvable = [finding.name for finding in found.findings] == [NONE_FINITE]
    if not found.passed and not unsolvable:  # generation says which samples, and what they are
        raise CertificateError(
            f"{recipe.name}: the solver fails its certificate: {failures(found)}. Use a smaller solver.dt, "
            f"more solver.num_points, or state a tolerance and leave both to dlde",
            findings=[finding.dump() for finding in found.findings],
        )
    return found


def failures(certificate: Certificate) -> str:
    """The findings that did not pass, in words."""
    return "; ".join(str(finding) for finding in certificate.findings if not finding.passed)


def read(store: Path) -> Certificate | None:
    """The certificate in a store; None where there is none that can be read."""
    try:
        return Certificate.parse(json.loads((store / FILE).read_bytes()), source=FILE)
    except (FileNotFoundError, NotADirectoryError, ValueError, InputError):
        return None


def write(store: Path, certificate: Certificate) -> None:
    """Keep it in the store."""
    write_json(store / FILE, certificate.dump())


def error(recipe: Recipe, drawn: Sequence[Instance], solver: Solver, reference: Solution) -> float:
    """Largest relative distance of the instances' solutions from those of a finer solver; inf if none."""
    try:
        solution = _double(solve(recipe, drawn, recipe.times, solver))
    except GridError:
        return math.inf
    return _worst(_relative(solution, reference)) if _finite(solution) else math.inf


def reference(recipe: Recipe, drawn: Sequence[Instance], solver: Solver) -> Solution:
    """The instances' solutions in float64."""
    return _double(solve(recipe, drawn, recipe.times, solver))


def _instances(recipe: Recipe, samples: int) -> list[Instance]:
    """Random ones that no split has; where all are given, the first of those."""
    random = [split for split in recipe.samples if split not in recipe.instances]
    split = "certificate" if random else next(iter(recipe.instances))
    return batch(recipe, split, 0, [0] * samples)


def _sealed(
    recipe: Recipe,
    samples: int,
    short: bool,
    findings: Sequence[Finding],
    notes: Sequence[str],
    refinements: tuple[tuple[float, float], ...],
    began: float,
) -> Certificate:
    return Certificate(
        recipe_digest=recipe.digest,
        samples=samples,
        short=short,
        passed=all(finding.passed for finding in findings),
        findings=tuple(findings),
        notes=tuple(notes),
        refinements=refinements,
        seconds=round(time.monotonic() - began, 3),
    )


def _order(recipe: Recipe, drawn: Sequence[Instance]) -> tuple[float | None, tuple[tuple[float, float], ...]]:
    """The order that three successive refinements show, and their differences.

    Of four solvers, each twice as fine as the one before, the differences of neighbours fall by 2^order.
    The recipe's own solver is among them where it is neither too fine for that (rounding) nor too coarse.
    At the last stored time alone, since times in between shorten the steps; at an earlier one where a
    chaotic solution has lost its accuracy by then.
    """
    stored = [t for t in recipe.times if t > 0] or list(recipe.times)
    for last in dict.fromkeys(stored[i] for i in (-1, len(stored) // 2, len(stored) // 8)):
        order, refinements = _order_at(recipe, drawn, last)
        if order is not None:
            return order, refinements
    return None, ()


def _order_at(
    recipe: Recipe, drawn: Sequence[Instance], last: float
) -> tuple[float | None, tuple[tuple[float, float], ...]]:
    solutions: dict[float, Solution | None] = {}

    def at(factor: float) -> Solution | None:
        if factor not in solutions:
            solver = recipe.solvable.refined(recipe.solver, recipe.axes, factor)
            try:
                found = None if solver is None else _double(solve(recipe, drawn, [last], solver))
            except GridError:
                found = None
            solutions[factor] = found if found is not None and _finite(found) else None
        return solutions[factor]

    for coarsest in (0.25, 0.125, 0.0625, 0.03125, 0.5, 1.0):
        factors = [coarsest * 2**i for i in range(4)]
        levels = [found for factor in factors if (found := at(factor)) is not None]
        if len(levels) < 4:
            continue
        sizes = [_size(recipe, a, b) for a, b in itertools.pairwise(levels)]
        if sizes[-1] > NOISE and NOISE < sizes[0] < COARSE:
            return math.log2(sizes[0] / sizes[-1]) / 2, tuple(zip(factors, sizes, strict=False))
    return None, ()


def _double(solution: Solution) -> dict[str, Tensor]:
    return {name: values.double() for name, values in solution.items()}


def _at(recipe: Recipe, name: str, values: Tensor, last: int) -> Tensor:
    """The values at that many times from the end."""
    return values[:, -last:] if "time" in recipe.variables[name].dims else values


def _finite_samples(solution: Solution) -> Tensor:
    """(batch,): whether everything of a sample is finite."""
    whole = [torch.isfinite(values).reshape(len(values), -1).all(1) for values in solution.values()]
    return torch.stack(whole).all(0)


def _finite(solution: Solution) -> bool:
    return bool(_finite_samples(solution).all())


def _relative(solution: Solution, reference: Solution) -> list[Tensor]:
    """(batch,) per variable: norms of the difference over those of the reference."""
    return [
        _ratio((solution[name] - values).reshape(len(values), -1), values.reshape(len(values), -1))
        for name, values in reference.items()
    ]


def _size(recipe: Recipe, coarse: Solution, fine: Solution) -> float:
    """Relative difference of the variable that differs most, as root mean square over samples."""
    evolving = [name for name, variable in recipe.variables.items() if "time" in variable.dims]
    differences = _relative(coarse, {name: fine[name] for name in evolving or fine})
    return max(float(difference.square().mean().sqrt()) for difference in differences)


def _ratio(difference: Tensor, reference: Tensor) -> Tensor:
    scale = reference.norm(dim=1)
    floor = scale.max().clamp_min(torch.finfo(torch.float64).tiny) * 1e-6
    ratio: Tensor = difference.norm(dim=1) / scale.clamp_min(float(floor))
    return ratio


def _worst(differences: Sequence[Tensor]) -> float:
    return _number(max(float(difference.max()) for difference in differences))


def _drift(values: Tensor, solution: Solution) -> float:
    """Largest change in time over the quantity's own size, or the solution's where it is about zero."""
    size = float(values.abs().max())
    floor = max(float(field.square().mean().sqrt()) for field in solution.values())
    change = float((values - values[:, :1]).abs().max())
    return _number(change / max(size, 1e-3 * floor, torch.finfo(torch.float64).tiny))


def _number(value: float) -> float:
    """What JSON can hold."""
    return value if math.isfinite(value) else 1e300
