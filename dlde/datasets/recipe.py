"""The noun `Recipe`: a dataset to be, and where it is stored."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    StringConstraints,
    model_validator,
)

from dlde.errors import DataError, DldeError, SpecError, UnknownNameError, nearest
from dlde.files import find_yaml, sha256_of, storage_root
from dlde.problem import AnyProblem, Axis, Problem, Seed, Solvable, Solver, Variable
from dlde.problems.recorded import Recorded
from dlde.spec import Spec, digest_of, override, read_yaml

FORMAT = 1  # of a store's folder; raised when older code could not read a newer store
CHUNK_BYTES = 2 * 2**20  # a chunk holds consecutive samples up to about this many bytes


class Storage(Spec):
    """How samples lie on disk: one task computes and writes one part, always as one whole batch."""

    dtype: Literal["float32", "float64"] = "float32"
    part: PositiveInt = 20  # consecutive samples
    compression: Literal["lz4", "none"] = "lz4"
    # One file for each part and variable instead of one for each chunk: where files are dear.
    sharded: bool = False


class Given(Spec):
    """Instances from a file (.npz or NetCDF) instead of random ones; read again only if it is the same."""

    file: str
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None  # None: not read yet


class EquallySpaced(Spec):
    """`count` times from `start` to `stop`, both included."""

    start: float = 0.0
    stop: float
    count: Annotated[int, Field(ge=2)]

    @property
    def times(self) -> tuple[float, ...]:
        """The times, each rounded once."""
        extent = self.stop - self.start
        return tuple(self.start + extent * step / (self.count - 1) for step in range(self.count))


def _expand(value: Any) -> Any:
    return EquallySpaced.model_validate(value).times if isinstance(value, Mapping) else value


def _given(value: Any) -> Any:
    return {"file": value} if isinstance(value, str) else value


def _increasing(times: tuple[float, ...]) -> tuple[float, ...]:
    if any(later <= earlier for earlier, later in pairwise(times)):
        raise ValueError("must increase")
    if times[0] < 0:
        raise ValueError("must not be negative: instances are given at time 0")
    return times


def _not_reserved(split: str) -> str:
    if split == "parts":
        raise ValueError("is a folder of the store; name the split otherwise")
    return split


def _solvable(problem: Problem) -> Problem:
    if not isinstance(problem, Solvable | Recorded):
        raise ValueError("has no reference solver, so no data can be made of it")
    return problem


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
Split = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=50), AfterValidator(_not_reserved)
]


class Recipe(Spec):
    """A dataset to be. Sample i of a split depends on (seed, split, i) alone, whatever the counts."""

    name: Name  # the file's
    description: str = ""
    problem: Annotated[AnyProblem, AfterValidator(_solvable)]
    num_points: tuple[PositiveInt, ...]  # of the stored grid, per axis
    times: Annotated[
        tuple[float, ...], Field(min_length=1), AfterValidator(_increasing), BeforeValidator(_expand)
    ]
    samples: Annotated[dict[Split, PositiveInt], Field(min_length=1)]  # by split
    seed: Seed = 0
    solver: Solver = Solver()
    # Largest relative error of a stored sample; where it is given, the solver is found by it, and the
    # `solver` here says where the search begins (docs/decisions/0014).
    tolerance: PositiveFloat | None = None
    device: Literal["cpu", "cuda"] = "cpu"  # that solves
    instances: dict[Split, Annotated[Given, BeforeValidator(_given)]] = {}  # by split
    # What becomes of a random instance whose solution is not finite: another draw, or an error.
    diverged: Literal["replace", "refuse"] = "replace"
    storage: Storage = Storage()

    _arguments: tuple[str, ...] = PrivateAttr(default=())

    @model_validator(mode="after")
    def _fits_the_grid(self) -> Self:
        try:
            axes = self.axes
            dims = {"time", *axes}
            variables = self.variables
            self.subject.check_solver(axes, self.times, self.solver)
        except DldeError as error:
            raise ValueError(error.message) from None
        if unknown := set(self.instances) - set(self.samples):
            raise ValueError(
                f"instances are given for {', '.join(sorted(unknown))}, but samples are asked for in "
                f"{', '.join(self.samples)}; add samples.{min(unknown)}"
            )
        rounding = {"float32": 2.0**-23, "float64": 2.0**-52}[self.storage.dtype]
        if self.tolerance is not None and self.tolerance < rounding:
            raise ValueError(
                f"tolerance={self.tolerance:g} is finer than {self.storage.dtype} holds a value "
                f"({rounding:.2g}); use a larger one"
                + ("" if self.storage.dtype == "float64" else ", or storage.dtype=float64")
            )
        for name, variable in variables.items():
            known = dims | set(variable.sizes)
            assert known.issuperset(variable.dims), f"{name} has dimensions without an axis: {variable.dims}"
            assert dims.isdisjoint(variable.sizes), f"{name} has sizes for axes of the grid: {variable.sizes}"
        return self

    @classmethod
    def load(
        cls,
        name_or_path: str,
        *,
        preset: str | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> Self:
        """A recipe by name or path: the file, then its preset, then the overrides.

        Raises SpecError with every mistake, or UnknownNameError.
        """
        path = find_yaml("data", name_or_path)
        raw = read_yaml(path)
        presets = raw.pop("presets", None) or {}
        if "name" in raw:
            raise SpecError(f"{path.name}: name: a recipe is named by its file; remove it", mistakes=["name"])
        raw = {"name": path.stem, **raw}
        if preset is not None:
            if preset not in presets:
                raise UnknownNameError(
                    f"recipe {path.stem!r} has no preset {preset!r}; {nearest(preset, presets)}", name=preset
                )
            raw = override(raw, presets[preset] or {})
        arguments = [name_or_path, *(("--preset", preset) if preset else ())]
        for place, value in (overrides or {}).items():
            arguments += ["--set", f"{place}={_flow(value)}"]
        recipe = cls.parse(override(raw, overrides or {}), source=path.name)
        return recipe.fingerprinted().named_by(arguments)

    def fingerprinted(self) -> Self:
        """The same recipe, with the SHA-256 of all files of instances. Raises SpecError where one is lost."""
        if all(given.sha256 for given in self.instances.values()):
            return self
        read = {}
        for split, given in self.instances.items():
            if not Path(given.file).is_file():
                raise SpecError(
                    f"{self.name}: instances.{split}: there is no file {given.file}",
                    mistakes=[f"instances.{split}"],
                )
            read[split] = {"file": given.file, "sha256": given.sha256 or sha256_of(Path(given.file))}
        return type(self).parse({**self.dump(), "instances": read}, source=self.name)

    def __eq__(self, other: object) -> bool:
        """Equal fields; how it was loaded does not count."""
        return isinstance(other, Recipe) and self.dump() == other.dump()

    __hash__ = None  # type: ignore[assignment]  # it holds a mapping

    @property
    def arguments(self) -> tuple[str, ...]:
        """How a command line names this recipe: its file, preset and overrides, where it was loaded so."""
        return self._arguments or (self.name,)

    def named_by(self, arguments: Sequence[str]) -> Self:
        """The same recipe, with those `arguments`."""
        recipe = self.model_copy()
        recipe._arguments = tuple(arguments)
        return recipe

    def command(self, root: Path) -> str:
        """The command line that makes, completes and repairs this dataset under that storage root."""
        if isinstance(self.problem, Recorded):
            return self.problem.command(self.name, *_elsewhere(root))
        return self.generating(root)

    def generating(self, root: Path) -> str:
        """`dlde data generate` of this dataset; of imported data it makes no more than the statistics."""
        return shlex.join(["dlde", "data", "generate", *self.arguments, *_elsewhere(root)])

    @property
    def identity(self) -> dict[str, Any]:
        """What the store's digest covers: all that its values depend on, and their layout; no counts."""
        plain = self.model_dump(
            mode="json", include={"problem", "num_points", "times", "seed", "solver", "storage"}
        )
        if not self.storage.sharded:  # digests from before there were shards stay valid
            del plain["storage"]["sharded"]
        if self.instances:
            plain["instances"] = {split: given.sha256 for split, given in sorted(self.instances.items())}
        return {
            "format": FORMAT,
            **plain,
            "solver_version": self.subject.version,
            "chunks": {name: self.chunk(name) for name in self.variables},
            "device": self.device,
        }

    @property
    def digest(self) -> str:
        """SHA-256 (hex) that names the store."""
        return digest_of(self.identity)

    def store(self, root: Path | str) -> Path:
        """Where the dataset lies under a storage root."""
        return Path(root) / "data" / f"{self.name}-{self.digest[:12]}.zarr"

    @property
    def subject(self) -> Solvable | Recorded:
        """The problem, as what it was checked to be."""
        return cast(Solvable | Recorded, self.problem)

    @property
    def solvable(self) -> Solvable:
        """The problem with its solver. Raises DataError for imported data, naming their command."""
        if isinstance(self.problem, Recorded):
            raise DataError(
                f"dataset {self.name!r} is imported, not computed, and not all of it is there; "
                f"`{self.problem.command(self.name)}` imports it from {', '.join(self.problem.files)}"
            )
        return cast(Solvable, self.problem)

    @property
    def time_units(self) -> str:
        """Of the stored times."""
        return self.problem.time_units if isinstance(self.problem, Recorded) else "dimensionless"

    @property
    def axes(self) -> dict[str, Axis]:
        """The spatial axes of the stored grid, in order."""
        return self.subject.axes(self.num_points)

    @property
    def variables(self) -> dict[str, Variable]:
        """What is stored of every sample, by name."""
        return self.subject.variables

    def shape(self, variable: str) -> tuple[int, ...]:
        """Of one sample."""
        sizes = {"time": len(self.times), **{name: axis.num_points for name, axis in self.axes.items()}}
        sizes.update(self.variables[variable].sizes)
        return tuple(sizes[dim] for dim in self.variables[variable].dims)

    def chunk(self, variable: str) -> int:
        """Samples in a chunk: the most that stay below `CHUNK_BYTES` and divide a part, at least one."""
        size = {"float32": 4, "float64": 8}[self.storage.dtype]
        for length in self.shape(variable):
            size *= length
        part = self.storage.part
        return max(n for n in range(1, part + 1) if part % n == 0 and (n == 1 or n * size <= CHUNK_BYTES))


def _elsewhere(root: Path) -> tuple[str, ...]:
    return () if root.resolve() == storage_root() else ("--root", str(root))


def _flow(value: Any) -> str:
    """A value as `--set` reads it."""
    import yaml

    return (
        yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")
    )
