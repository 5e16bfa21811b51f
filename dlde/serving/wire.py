"""Arrays over HTTP: JSON lists and `.npz` archives, in and out. Nothing read here can run code.

What a client sends is bounded before memory is taken for it: the body by its bytes, the arrays of an
archive by the sizes they declare. Every refusal is an InputError that says what is expected.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlde.errors import InputError, nearest

MAX_BYTES = 64 << 20  # of a request's body, and of the arrays unpacked from it
MAX_ARRAYS = 64
COORDINATE = "coordinates/"  # prefix of a coordinate's name in an archive
OPTION = "options/"  # of an option's name: an array of no dimensions
_KEYS = ("inputs", "coordinates", "options", "operation")


class TooLargeError(InputError):
    """A request holds more than is taken."""


@dataclass(frozen=True)
class Question:
    """What a client asks."""

    inputs: dict[str, Tensor]
    coordinates: dict[str, Tensor] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)  # checked by the operation
    operation: str | None = None


def read_json(body: bytes) -> Question:
    """`{"inputs": {name: nested lists}, "coordinates": {name: list}, "options": {…}, "operation": name}`."""
    try:
        document = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise InputError('the body must be an object such as {"inputs": {"u": [[[0.1], [0.2]]]}}')
    unknown = [f"unknown key {key!r}; {nearest(key, _KEYS)}" for key in document if key not in _KEYS]
    operation = document.get("operation")
    if operation is not None and not isinstance(operation, str):
        unknown.append(f"operation must be a name, got {type(operation).__name__}")
    options = document.get("options") or {}
    if not isinstance(options, dict):
        unknown.append(f"options must map names to numbers, got {type(options).__name__}")
    if unknown:
        raise InputError("; ".join(unknown), mistakes=unknown)
    return Question(
        inputs=_arrays(document, "inputs"),
        coordinates=_arrays(document, "coordinates"),
        options=options,
        operation=operation,
    )


def write_json(outputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Nested lists by name; a float32 comes back from them as the same float32."""
    return {name: tensor.tolist() for name, tensor in outputs.items()}


def read_npz(body: bytes, *, limit: int = MAX_BYTES, operation: str | None = None) -> Question:
    """Arrays by name; those named `coordinates/x` are coordinates, `options/n` a number.

    Raises TooLargeError where the archive says that it unpacks to more than `limit` bytes.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            arrays = _unpacked(archive, limit)
    except InputError:
        raise
    except Exception as error:  # what the parsers of zip and npy raise on hostile bytes is not documented
        raise InputError(f"the body is not a readable .npz archive: {error}") from None
    options = {
        name.removeprefix(OPTION): _number(name, arrays.pop(name))
        for name in [name for name in arrays if name.startswith(OPTION)]
    }
    tensors = {name: _tensor(name, array) for name, array in arrays.items()}
    return Question(
        options=options,
        inputs={name: tensor for name, tensor in tensors.items() if not name.startswith(COORDINATE)},
        coordinates={
            name.removeprefix(COORDINATE): tensor
            for name, tensor in tensors.items()
            if name.startswith(COORDINATE)
        },
        operation=operation,
    )


def write_npz(outputs: Mapping[str, Tensor]) -> bytes:
    """An archive of the outputs, uncompressed."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in outputs.items()}
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _unpacked(archive: zipfile.ZipFile, limit: int) -> dict[str, Any]:
    members = archive.infolist()
    if len(members) > MAX_ARRAYS:
        raise TooLargeError(f"the archive holds {len(members)} arrays, at most {MAX_ARRAYS} are read")
    declared = sum(member.file_size for member in members)
    if declared > limit:
        raise TooLargeError(f"the archive unpacks to {declared} bytes, at most {limit} are read")
    arrays: dict[str, Any] = {}
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name == member.filename or name in arrays:
            raise InputError(f"{member.filename!r} in the archive is not an array of its own (NAME.npy)")
        if member.flag_bits & 0x1:
            raise InputError(f"{member.filename!r} in the archive is encrypted")
        with archive.open(member) as file:
            arrays[name] = _array(name, file.read(member.file_size))
    return arrays


def _array(name: str, content: bytes) -> Any:
    """An array from the bytes of an .npy file, whose header must tell exactly what follows."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise InputError(f"array {name!r} has .npy version {version}; 1.0 and 2.0 are read")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = header(file)
    if dtype.kind not in "fiu":
        raise InputError(
            f"array {name!r} has type {dtype}; numbers are expected (float32, float64, integers)"
        )
    rest = content[file.tell() :]
    if any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != len(rest):
        raise InputError(f"array {name!r} declares shape {shape}, but {len(rest)} bytes follow")
    flat = np.frombuffer(rest, dtype=dtype)
    return flat.reshape(shape, order="F" if fortran_order else "C")


def _number(name: str, array: Any) -> int | float:
    if array.ndim:
        raise InputError(
            f"array {name!r} has shape {array.shape}; an option is one number, without dimensions"
        )
    number: int | float = array.item()
    return number


def _arrays(document: Mapping[str, Any], key: str) -> dict[str, Tensor]:
    given = document.get(key) or {}
    if not isinstance(given, dict):
        raise InputError(f"{key!r} must map names to nested lists of numbers")
    if len(given) > MAX_ARRAYS:
        raise TooLargeError(f"{key!r} holds {len(given)} arrays, at most {MAX_ARRAYS} are read")
    arrays = {}
    for name, value in given.items():
        if not isinstance(value, list):
            raise InputError(
                f"{name!r} in {key!r} must be nested lists of numbers, got {type(value).__name__}"
            )
        try:
            arrays[name] = np.asarray(value)
        except (ValueError, OverflowError, RecursionError):
            raise InputError(
                f"{name!r} in {key!r} is ragged or too deep: lists on one level must be equally long"
            ) from None
    return {name: _tensor(name, array) for name, array in arrays.items()}


def _tensor(name: str, array: Any) -> Tensor:
    if array.size and array.dtype.kind not in "fiu":
        raise InputError(f"array {name!r} holds values that are not numbers ({array.dtype})")
    kind: type[np.generic] = np.float64
    if array.dtype.kind == "f" and array.dtype.itemsize <= 4:
        kind = np.float32
    elif array.size and array.dtype.kind in "iu":
        kind = np.int64  # beyond 2^53 a float64 would round
        if int(array.max()) > np.iinfo(np.int64).max:
            raise InputError(f"array {name!r} holds whole numbers beyond 2^63 - 1")
    try:
        return torch.from_numpy(np.array(array, dtype=kind))
    except (ValueError, OverflowError, RuntimeError) as error:
        raise InputError(f"array {name!r} cannot be used: {error}") from None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that JSON knows")
