"""What a certificate finds is true: of good solvers, bad ones, and ones that contradict themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlde.datasets import certificate, tolerance
from dlde.datasets.certificate import certify
from dlde.datasets.dataset import Dataset
from dlde.datasets.generate import generate
from dlde.datasets.instances import batch
from dlde.datasets.recipe import Recipe
from dlde.errors import CertificateError, DataError, InputError, NonFiniteError, SpecError

Heat = Callable[..., Recipe]


def burgers(**fields: Any) -> Recipe:
    raw = {
        "name": "b",
        "problem": {"name": "burgers", "initial_condition": {"kind": "gaussian", "num_modes": 16}},
        "num_points": [64],
        "times": {"stop": 0.5, "count": 3},
        "samples": {"train": 6},
        "solver": {"num_points": 128, "dt": 5e-3},
        "storage": {"part": 3},
    }
    return Recipe.parse({**raw, **fields}, source="test")


def test_a_sound_solver_is_certified() -> None:
    found = certify(burgers(), samples=4)
    by_name = {finding.name: finding for finding in found.findings}
    assert found.passed
    assert {"error", "order", "exact", "drift of mean velocity"} <= set(by_name)
    assert by_name["order"].value == pytest.approx(4, abs=0.6)
    # two independent measures of one error
    assert by_name["error"].value == pytest.approx(by_name["exact"].value, rel=0.5)
    sizes = [size for _, size in found.refinements]
    assert sizes == sorted(sizes, reverse=True)


def test_the_same_instances_every_time() -> None:
    first, second = (certify(burgers(), samples=2, short=True) for _ in range(2))
    assert first.findings == second.findings


def test_a_coarse_solver_fails_and_nothing_is_generated(tmp_path: Path) -> None:
    waves = {"kind": "gaussian", "num_modes": 16}
    problem = {"name": "burgers", "viscosity": 0.002, "initial_condition": waves}
    recipe = burgers(solver={"num_points": 64, "dt": 0.045}, problem=problem)
    found = certify(recipe, samples=4)
    assert not found.passed
    with pytest.raises(CertificateError, match=r"the solver fails its certificate: error .*at most 0.001"):
        generate(recipe, tmp_path)
    assert not recipe.store(tmp_path).exists()


def test_a_solver_that_is_wrong_but_converges_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the viscosity: smooth, convergent, conservative, and not the solution."""
    from dlde.problems.burgers import Burgers

    solve = Burgers.solve

    def wrong(self: Burgers, *arguments: Any) -> Any:
        other = Burgers(**{**self.model_dump(), "viscosity": 2 * self.viscosity})
        return solve(other, *arguments)

    monkeypatch.setattr(Burgers, "solve", wrong)
    found = certify(burgers(), samples=2)
    assert "exact" in certificate.failures(found)


def test_generate_certifies_in_short_and_keeps_it(tmp_path: Path) -> None:
    done = generate(burgers(), tmp_path)
    kept = done.dataset.certificate
    assert kept is not None
    assert kept.short
    assert kept.passed
    assert kept.samples == certificate.SHORT
    full = certify(burgers(), samples=3)
    certificate.write(done.store, full)
    generate(burgers(samples={"train": 9}), tmp_path)
    assert done.dataset.certificate == full


def test_instances_that_blow_up_are_left_to_generation(heat: Heat, tmp_path: Path) -> None:
    recipe = heat(problem={"name": "slab", "fails_above": -9.0})
    assert [finding.name for finding in certify(recipe).findings] == [certificate.NONE_FINITE]
    with pytest.raises(NonFiniteError, match=r"samples .* not finite in each of 5 draws"):
        generate(recipe, tmp_path)


@pytest.mark.parametrize("goal", [1e-3, 1e-6])
def test_a_tolerance_is_met_by_a_cheaper_solver(tmp_path: Path, goal: float) -> None:
    habit = {"num_points": 256, "dt": 1e-3}
    recipe = burgers(tolerance=goal, solver=habit)
    found, error = tolerance.search(recipe)
    assert error <= goal
    assert found.dt > 2e-3
    drawn = batch(recipe, "train", 0, [0] * 6)
    truth = certificate.reference(recipe, drawn, recipe.solver)
    assert certificate.error(recipe, drawn, found, truth) <= goal


def test_the_solver_that_was_found_names_the_store(tmp_path: Path) -> None:
    recipe = burgers(tolerance=1e-4)
    with pytest.raises(DataError, match="is not there yet"):
        Dataset.open(recipe, tmp_path)
    done = generate(recipe, tmp_path)
    assert done.dataset.recipe.tolerance is None
    assert done.dataset.recipe.solver != recipe.solver
    explicit = burgers(solver=done.dataset.recipe.solver.dump())
    assert explicit.store(tmp_path) == done.store
    assert Dataset.open(recipe, tmp_path).digest == done.digest == generate(explicit, tmp_path).digest


def test_a_tolerance_that_nothing_meets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tolerance, "REFINEMENTS", 3)
    with pytest.raises(CertificateError, match="no solver was found to tolerance=1e-15"):
        tolerance.search(burgers(tolerance=1e-15, storage={"part": 4, "dtype": "float64"}))


def test_a_tolerance_finer_than_what_is_stored() -> None:
    with pytest.raises(SpecError, match=r"tolerance=1e-09 is finer than float32 .* storage.dtype=float64"):
        burgers(tolerance=1e-9)


def save(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


def test_given_instances_are_solved_like_random_ones(tmp_path: Path) -> None:
    drawn = batch(burgers(), "train", 0, [0] * 5)
    file = save(tmp_path / "mine.npz", u=np.stack([one["u"] for one in drawn]))
    recipe = burgers(samples={"train": 5}, instances={"train": file}).fingerprinted()
    given = generate(recipe, tmp_path).dataset
    random = generate(burgers(), tmp_path).dataset
    np.testing.assert_array_equal(given.read("train", "u"), random.read("train", "u")[:5])
    assert given.store != random.store


def test_a_changed_file_is_another_dataset(tmp_path: Path) -> None:
    u = np.sin(2 * np.pi * np.arange(64) / 64)[None]
    file = save(tmp_path / "mine.npz", u=u)
    recipe = burgers(samples={"train": 1}, instances={"train": file}).fingerprinted()
    save(tmp_path / "mine.npz", u=2 * u)
    with pytest.raises(InputError, match="is not the file that this dataset was begun with"):
        generate(recipe, tmp_path)
    assert burgers(samples={"train": 1}, instances={"train": file}).fingerprinted().digest != recipe.digest


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"v": np.zeros((4, 64))}, r"lacks u; expected one array for each of u \(samples, \*\(64,\)\)"),
        ({"u": np.zeros((4, 64)), "w": np.zeros(4)}, "holds w, which this problem does not draw"),
        ({"u": np.zeros((4, 32))}, r"u is float64 \(4, 32\), expected numbers \(samples, \*\(64,\)\)"),
        ({"u": np.zeros((2, 64))}, "u has 2 rows, but samples.train=4; set samples.train=2"),
        ({"u": np.full((4, 64), np.nan)}, "u is not finite in row 0"),
    ],
)
def test_instances_that_do_not_fit(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    file = save(tmp_path / "mine.npz", **arrays)
    recipe = burgers(samples={"train": 4}, instances={"train": file}).fingerprinted()
    with pytest.raises(InputError, match=message):
        generate(recipe, tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_no_pickles_and_no_lost_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"
    np.savez(file, u=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match=r"no \.npz file that can be read"):
        generate(burgers(samples={"train": 1}, instances={"train": str(file)}).fingerprinted(), tmp_path)
    with pytest.raises(SpecError, match=r"there is no file nowhere\.npz"):
        burgers(samples={"train": 1}, instances={"train": "nowhere.npz"}).fingerprinted()
    with pytest.raises(SpecError, match="instances are given for test, but samples"):
        burgers(instances={"test": str(file)})


def test_the_certificate_survives_json(tmp_path: Path) -> None:
    found = certify(burgers(), samples=2)
    certificate.write(tmp_path, found)
    assert certificate.read(tmp_path) == found
    (tmp_path / certificate.FILE).write_text(json.dumps({"passed": True}))
    assert certificate.read(tmp_path) is None
