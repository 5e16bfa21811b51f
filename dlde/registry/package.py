"""A model as a folder without code: weights, a JSON document, a card, and a seal over all of them.

    model.safetensors   the weights
    model.json          how to rebuild the model, what it answers, what it was trained on (`Document`)
    card.md             the same for a person
    MLmodel             lets `mlflow.pyfunc.load_model` find `dlde.registry.pyfunc`; no pickle anywhere
    SHA256SUMS          one line per file above; `sha256sum -c SHA256SUMS` checks them

The SHA-256 of SHA256SUMS is the package's digest: `sha256sum SHA256SUMS` prints it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dlde import __version__, catalog
from dlde.errors import (
    InputError,
    IntegrityError,
    NonFiniteError,
    RegistryError,
    SpecError,
    UnknownNameError,
    nearest,
)
from dlde.files import unwritable_named
from dlde.method import AnyMethod, ArraySpec, DataInfo, Method, Operation
from dlde.spec import Spec

FORMAT: Literal[1] = 1
SEAL = "SHA256SUMS"
LIMITS = {  # bytes; what a package holds, and nothing else
    "MLmodel": 1 << 16,
    "card.md": 1 << 20,
    "model.json": 1 << 24,
    "model.safetensors": 1 << 36,
    SEAL: 1 << 12,
}
_LEFT_BY_MLFLOW = "registered_model_meta"  # written beside a model that MLflow fetches; never read here


class Document(Spec):
    """What `model.json` holds."""

    format: Literal[1]
    method: AnyMethod
    info: DataInfo
    operations: dict[str, Operation]
    metrics: dict[str, float]
    lineage: dict[str, Any]  # run, data (by role) and code, by their digests


@dataclass(frozen=True)
class Model:
    """A model read from its package, ready to answer."""

    method: Method
    info: DataInfo
    module: nn.Module
    operations: dict[str, Operation]
    document: dict[str, Any]  # `model.json` as it stands
    digest: str
    card: str

    def operation(self, name: str) -> Operation:
        """Raises UnknownNameError with the nearest operations."""
        if name not in self.operations:
            raise UnknownNameError(f"unknown operation {name!r}; {nearest(name, self.operations)}", name=name)
        return self.operations[name]

    def __getattr__(self, name: str) -> Callable[..., dict[str, Any]]:
        """An operation as a function: `model.predict(u=array)`."""
        if name.startswith("_") or name not in self.__dict__.get("operations", {}):
            raise AttributeError(name)
        return partial(self.ask, name)

    def ask(
        self, operation: str, *, coordinates: Mapping[str, Any] | None = None, **given: Any
    ) -> dict[str, Any]:
        """Outputs of an operation for arrays and options given by name, as the kind of array that was given.

        Takes numpy and xarray arrays, torch tensors and nested lists (which are answered in numpy). A
        warning of `answer` is issued as a UserWarning. Raises as `answer` does.
        """
        expected = self.operation(operation)
        options = {name: value for name, value in given.items() if name in expected.options}
        arrays = {name: value for name, value in given.items() if name not in options}
        outputs, told = self.answer(
            operation,
            {name: _tensor(value) for name, value in arrays.items()},
            {name: _tensor(value) for name, value in (coordinates or {}).items()},
            options,
        )
        for text in told:
            warnings.warn(text, stacklevel=2)
        return {name: _like(tensor, expected.outputs[name], arrays) for name, tensor in outputs.items()}

    def answer(
        self,
        operation: str,
        inputs: Mapping[str, Tensor],
        coordinates: Mapping[str, Tensor] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[dict[str, Tensor], list[str]]:
        """Outputs of an operation, on the CPU, and warnings about inputs unlike the training data.

        Raises InputError where inputs do not fit, NonFiniteError where an output is not finite.
        """
        expected = self.operation(operation)
        given = {name: _cast(name, tensor, expected) for name, tensor in inputs.items()}
        for name, points in (coordinates or {}).items():
            if not points.numel() or not torch.isfinite(points).all():
                raise InputError(
                    f"coordinate {name!r} is empty, or holds NaN or infinite values", mistakes=[name]
                )
        expected.check(given, coordinates)
        chosen = expected.chosen(options)
        kept = itertools.chain(self.module.parameters(), self.module.buffers())
        device = next(kept, torch.empty(0)).device
        with torch.no_grad():
            answered = getattr(self.method, operation)(
                self.module, **{name: tensor.to(device) for name, tensor in given.items()}, **chosen
            )
        outputs = {name: tensor.cpu() for name, tensor in answered.items()}
        for name, tensor in outputs.items():
            bad = int((~torch.isfinite(tensor)).sum())
            if bad:
                raise NonFiniteError(
                    f"output {name!r} of {operation!r} holds {bad} values that are NaN or infinite; "
                    "the inputs are likely far from the training data",
                    output=name,
                )
        return outputs, expected.warnings(given)


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    array = np.asarray(getattr(value, "values", value))
    if array.dtype.kind not in "fiu":
        raise InputError(f"an array of numbers is expected, got values of type {array.dtype}")
    return torch.from_numpy(np.ascontiguousarray(array))


def _like(tensor: Tensor, spec: ArraySpec, given: Mapping[str, Any]) -> Any:
    """The answer as the kind of array that was asked with; xarray's with names and units."""
    kinds = list(given.values())
    if any(isinstance(value, Tensor) for value in kinds):
        return tensor
    known = [value for value in kinds if hasattr(value, "dims") and hasattr(value, "coords")]
    if not known:
        return tensor.numpy()
    import xarray as xr

    dims = [dim.name for dim in spec.dims]
    coords = {
        dim: value.coords[dim].values
        for value in known
        for dim, size in zip(dims, tensor.shape, strict=True)
        if dim in value.coords and value.coords[dim].shape == (size,)
    }
    attributes = {"units": spec.units, "long_name": spec.long_name}
    return xr.DataArray(tensor.numpy(), dims=dims, coords=coords, attrs=attributes)


def write(
    folder: Path,
    method: Method,
    info: DataInfo,
    model: nn.Module,
    *,
    metrics: Mapping[str, float],
    lineage: Mapping[str, Any],
) -> str:
    """Write a model's package, whole or not at all; returns its digest.

    The same model gives the same bytes. A package that is already there is replaced. `lineage` is
    plain data; `registry.lineage` knows what a whole one holds. Raises NonFiniteError where a weight
    or a metric is not finite.
    """
    folder = Path(folder)
    for name, value in metrics.items():
        if not abs(value) < float("inf"):
            raise NonFiniteError(f"metric {name!r} is {value}; such a model is not kept", metric=name)
    document = Document(
        format=FORMAT,
        method=method,
        info=info,
        operations=method.operations(info),
        metrics={name: float(value) for name, value in sorted(metrics.items())},
        lineage=dict(lineage),
    )
    contents = {
        "MLmodel": _mlmodel().encode(),
        "card.md": _card(document, model).encode(),
        "model.json": (json.dumps(document.dump(), indent=1, allow_nan=False) + "\n").encode(),
        "model.safetensors": safetensors.torch.save(_weights(model)),
    }
    contents[SEAL] = _seal(contents).encode()
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    with unwritable_named(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            for name, content in contents.items():
                with (partial / name).open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            _replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return hashlib.sha256(contents[SEAL]).hexdigest()


def read(folder: Path, *, expected_digest: str | None = None, device: torch.device | str = "cpu") -> Model:
    """Check a package, then rebuild its model; nothing in it is run.

    Raises IntegrityError where a file differs from what was written (or, with `expected_digest`,
    from what was registered), RegistryError where the package does not fit this version of dlde.
    """
    folder = Path(folder)
    found, contents = _checked(folder, expected_digest)
    document, plain = _document(contents["model.json"], folder)
    try:
        weights = safetensors.torch.load(contents.pop("model.safetensors"))
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise RegistryError(f"{folder}: model.safetensors cannot be read: {error}") from None
    module = _rebuild(document.method, document.info, weights, folder).to(device).eval()
    return Model(
        method=document.method,
        info=document.info,
        module=module,
        operations=document.method.operations(document.info),
        document=plain,
        digest=found,
        card=contents["card.md"].decode(errors="replace"),
    )


def describe(folder: Path, *, expected_digest: str | None = None) -> dict[str, Any]:
    """What `model.json` holds, checked as by `read`, without rebuilding the model."""
    _, contents = _checked(Path(folder), expected_digest)
    return _document(contents["model.json"], Path(folder))[1]


def digest(folder: Path) -> str:
    """A package's digest, after checking every file. Raises IntegrityError, RegistryError."""
    return _checked(Path(folder), None)[0]


def is_package(folder: Path) -> bool:
    """Whether a folder looks like a model package (its files are not checked)."""
    return (folder / SEAL).is_file() and (folder / "model.json").is_file()


def _checked(folder: Path, expected: str | None) -> tuple[str, dict[str, bytes]]:
    """Digest and contents. Each file is read once, so that what was checked is what is used."""
    contents = {name: _bytes(folder / name, limit) for name, limit in _listed(folder).items()}
    found = hashlib.sha256(contents[SEAL]).hexdigest()
    if expected is not None and found != expected:
        raise IntegrityError(
            f"{folder}: {SEAL} is not the registered one: expected digest {expected}, found {found}",
            expected=expected,
            found=found,
            file=SEAL,
        )
    lines = contents[SEAL].decode("latin-1").splitlines()
    sealed = {name: value for value, _, name in (line.partition("  ") for line in lines)}
    for name, content in contents.items():
        if name == SEAL:
            continue
        actual = hashlib.sha256(content).hexdigest()
        if sealed.get(name) != actual:
            raise IntegrityError(
                f"{folder}: {name} was altered: expected SHA-256 {sealed.get(name)}, found {actual}. "
                "Fetch or register the model again",
                expected=sealed.get(name),
                found=actual,
                file=name,
            )
    if contents[SEAL] != _seal(contents).encode():
        raise IntegrityError(
            f"{folder}: {SEAL} is not as dlde writes it", expected=None, found=found, file=SEAL
        )
    return found, contents


def _listed(folder: Path) -> dict[str, int]:
    """The files of a package with their limits. Raises RegistryError for anything else in the folder."""
    if not folder.is_dir():
        raise RegistryError(f"no model package at {folder}", folder=str(folder))
    with os.scandir(folder) as entries:
        listed = {entry.name: entry for entry in entries if entry.name != _LEFT_BY_MLFLOW}
    unexpected = sorted(set(listed) - set(LIMITS))
    if unexpected:
        raise RegistryError(
            f"{folder} holds {', '.join(map(repr, unexpected))}, which a model package may not: "
            f"only {', '.join(sorted(LIMITS))}. Nothing of it was loaded",
            folder=str(folder),
            unexpected=unexpected,
        )
    missing = sorted(set(LIMITS) - set(listed))
    if missing:
        raise RegistryError(
            f"{folder} is not a model package: {', '.join(missing)} missing",
            folder=str(folder),
            missing=missing,
        )
    for name, entry in listed.items():
        if not entry.is_file(follow_symlinks=False):
            raise RegistryError(f"{folder}: {name} is a link or no plain file; refused", folder=str(folder))
        size = entry.stat(follow_symlinks=False).st_size
        if size > LIMITS[name]:
            raise RegistryError(
                f"{folder}: {name} has {size} bytes, at most {LIMITS[name]} are read", folder=str(folder)
            )
    return {name: LIMITS[name] for name in sorted(listed)}


def _bytes(path: Path, limit: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise RegistryError(f"{path} cannot be read: {error.strerror}") from None
    with open(descriptor, "rb") as file:
        content = file.read(os.fstat(descriptor).st_size)  # a larger count would be allocated at once
    if len(content) > limit:
        raise RegistryError(f"{path} grew beyond {limit} bytes while it was read")
    return content


def _document(content: bytes, folder: Path) -> tuple[Document, dict[str, Any]]:
    source = f"{folder}/model.json"
    try:
        raw = json.loads(content, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RegistryError(f"{source}: not valid JSON: {error}") from None
    found = raw.get("format") if isinstance(raw, dict) else None
    if found != FORMAT or isinstance(found, bool):
        raise RegistryError(
            f"{source}: format {found!r}, but this dlde ({__version__}) reads format {FORMAT}; "
            "install the version that wrote it, or train and register the model again",
            expected=FORMAT,
            found=found,
        )
    try:
        return Document.parse(raw, source=source), raw
    except SpecError as error:
        raise RegistryError(error.message, mistakes=error.mistakes) from None
    except (LookupError, TypeError, ValueError, RecursionError) as error:  # from a validator of a plug-in
        raise RegistryError(f"{source}: {type(error).__name__}: {error}") from None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _rebuild(method: Method, info: DataInfo, weights: dict[str, Tensor], folder: Path) -> nn.Module:
    """The built model with these weights; building it may not take much more memory than they do."""
    budget = max(1 << 26, 4 * sum(tensor.nbytes for tensor in weights.values()))
    try:
        with torch.random.fork_rng(devices=[]), _Budget(budget):
            module = method.build(info)
    except InputError as error:
        raise RegistryError(f"{folder}: {type(method).__name__} cannot be built: {error}") from None
    except (RuntimeError, MemoryError) as error:
        reason = str(error).partition("\n")[0]
        raise RegistryError(
            f"{folder}: the weights do not fit the method's model, which cannot be built: {reason}"
        ) from None
    _check_weights(module, weights, folder)
    module.load_state_dict(weights)
    return module


class _Budget(TorchFunctionMode):
    """Stops a document that asks for a giant model before its memory is touched.

    (Building on torch's meta device would tell as much, but imports its compiler: 3 s.)
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.nbytes > self.limit:
            raise MemoryError(f"a tensor of {result.nbytes} bytes, where {self.limit} are expected at most")
        return result


def _check_weights(module: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
    built = module.state_dict()
    wrong = [f"{name} is missing" for name in built if name not in weights]
    wrong += [f"{name} is not of this model" for name in weights if name not in built]
    for name, tensor in built.items():
        given = weights.get(name, tensor)
        if (given.shape, given.dtype) != (tensor.shape, tensor.dtype):
            wrong.append(
                f"{name} is {_kind(given)}, the model needs {_kind(tensor)}"
            )  # fmt: skip
    if wrong:
        shown = "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise RegistryError(f"{folder}: the weights do not fit the method's model: {shown}", mistakes=wrong)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{tuple(tensor.shape)}"


def _cast(name: str, tensor: Tensor, operation: Operation) -> Tensor:
    spec = operation.inputs.get(name)
    if spec is None:
        return tensor
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise InputError(f"input {name!r} is {tensor.dtype}, expected {spec.dtype}", mistakes=[name])
    dtype: torch.dtype = getattr(torch, spec.dtype)
    broken = tensor.is_floating_point() and not bool((tensor == tensor.round()).all())
    if not dtype.is_floating_point and broken:
        raise InputError(f"input {name!r} holds values that are no whole numbers", mistakes=[name])
    return tensor.detach().to(dtype)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    weights = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise RegistryError(f"{name} of the model's state is no tensor and cannot be stored", name=name)
        if not torch.isfinite(tensor).all():
            raise NonFiniteError(f"weight {name!r} holds NaN or infinite values", weight=name)
        # tied weights share memory, which the format refuses: each name gets its own copy
        weights[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return weights


def _seal(contents: Mapping[str, bytes]) -> str:
    return "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n"
        for name, content in sorted(contents.items())
        if name != SEAL
    )


def _replace(new: Path, folder: Path) -> None:
    """Put a finished folder in place, and an older one out of the way first."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _mlmodel() -> str:
    flavor = {"loader_module": "dlde.registry.pyfunc", "python_version": platform.python_version()}
    return yaml.safe_dump({"flavors": {"python_function": flavor, "dlde": {"format": FORMAT}}})


def _card(document: Document, model: nn.Module) -> str:
    """A page for a person, with front matter as model hubs read it."""
    method = catalog.write("method", document.method)
    datasets = {role: dataset.recipe for role, dataset in document.info.data.items()}
    front = {
        "library_name": "dlde",
        "tags": ["differential-equations", method["name"]],
        "datasets": sorted(set(datasets.values())),
    }
    parameters = sum(parameter.numel() for parameter in model.parameters())
    lines = [
        f"# {method['name']}" + (f" on {', '.join(sorted(set(datasets.values())))}" if datasets else ""),
        "",
        type(document.method).summary(),
        "",
        f"- parameters: {parameters:,}",
        *(f"- {name}: {value}" for name, value in method.items() if name != "name"),
        "",
        "## Trained on",
        "",
        *_card_data(document.info),
        "",
        "## Metrics",
        "",
        *(f"- {name}: {value:.6g}" for name, value in document.metrics.items()),
        "",
        "## Operations",
        "",
    ]
    for name, operation in document.operations.items():
        lines.append(f"- `{name}`: {operation.summary}")
        for word, arrays in (("takes", operation.inputs), ("returns", operation.outputs)):
            if word == "returns":
                lines += [
                    f"  - option `{key}` = {option.default}: {option.summary}"
                    for key, option in operation.options.items()
                ]
            lines += [
                f"  - {word} `{key}` {spec.describe()}, {spec.dtype}, {spec.units}: {spec.long_name}"
                for key, spec in arrays.items()
            ]
    lines += ["", "## Lineage", "", *_nested(document.lineage)]
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n" + "\n".join(lines) + "\n"


def _nested(plain: Mapping[str, Any], indent: str = "") -> list[str]:
    lines = []
    for key, value in plain.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}- {key}:", *_nested(value, indent + "  ")]
        else:
            lines.append(f"{indent}- {key}: {value}")
    return lines


def _card_data(info: DataInfo) -> list[str]:
    lines = []
    for role, dataset in info.data.items():
        problem = catalog.write("problem", dataset.problem)
        axes = ", ".join(
            f"{name} in [{axis.start:g}, {axis.stop:g}], {axis.num_points} points, {axis.boundary}"
            for name, axis in dataset.axes.items()
        )
        samples = ", ".join(f"{count} {split}" for split, count in dataset.samples.items())
        lines += [
            f"- {role}: {dataset.recipe} ({samples} samples)",
            f"  - problem: {', '.join(f'{key}={value}' for key, value in problem.items())}",
            f"  - grid: {axes}",
        ]
    if info.problem is not None:
        problem = catalog.write("problem", info.problem)
        lines.append(f"- problem: {', '.join(f'{key}={value}' for key, value in problem.items())}")
    return lines or ["- nothing that is recorded"]
