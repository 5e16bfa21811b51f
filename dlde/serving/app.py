"""The web application around one model; it knows neither Ray nor MLflow.

POST /predict   JSON or .npz: inputs -> outputs of an operation
GET  /model     the card and what model.json holds
GET  /healthz   whether the service answers
GET  /docs      this, for a person
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from dlde import __version__
from dlde.errors import DldeError, InputError, NonFiniteError, NotConvergedError, ServingError
from dlde.method import ArraySpec, Operation
from dlde.registry.package import Model
from dlde.serving import wire

logger = logging.getLogger(__name__)

NPZ = ("application/x-npz", "application/octet-stream")
OPEN = ("/healthz",)  # answered without a token


def build(
    model: Model,
    *,
    registered: Mapping[str, Any] | None = None,
    token_digest: str | None = None,
    max_bytes: int = wire.MAX_BYTES,
) -> FastAPI:
    """The application. `token_digest`: SHA-256 (hex) of the bearer token that every request must carry."""
    default = "predict" if "predict" in model.operations else next(iter(model.operations))
    names = {
        "name": (registered or {}).get("name"),
        "version": (registered or {}).get("version"),
        "digest": model.digest,
    }
    app = FastAPI(
        title=names["name"] or "dlde model",
        version=__version__,
        description=model.card.split("\n---\n", 1)[-1],
    )

    @app.get("/healthz", summary="Whether the service answers")
    async def healthz() -> dict[str, Any]:
        return {"status": "ok", "model": names}

    @app.get("/model", summary="The model's card, and what model.json holds")
    async def describe() -> dict[str, Any]:
        return {"model": names, "card": model.card, "document": model.document}

    @app.post("/predict", summary="Answer an operation", openapi_extra=_openapi(model.operations, default))
    async def predict(request: Request) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in ("application/json", *NPZ):
            raise HTTPException(
                415, f"content type {kind or 'none'!r}: send application/json, or .npz as {NPZ[0]}"
            )
        body = await _body(request, max_bytes)
        return await run_in_threadpool(_answer, kind, body, request.query_params.get("operation"))

    def _answer(kind: str, body: bytes, operation: str | None) -> Response:
        archive = kind in NPZ
        question = wire.read_npz(body, limit=max_bytes) if archive else wire.read_json(body)
        name = question.operation or operation or default
        if name not in model.operations:
            model.operation(name)  # raises, naming the nearest
        try:
            outputs, warnings = model.answer(name, question.inputs, question.coordinates, question.options)
        except InputError as error:
            raise InputError(
                error.message,
                mistakes=error.facts.get("mistakes"),
                expected=_expected(model.operations[name]),
            ) from None
        except (RuntimeError, ValueError, TypeError, ArithmeticError, MemoryError, LookupError) as error:
            logger.exception("%s failed", name)
            raise ServingError(f"the model failed: {type(error).__name__}") from error
        if archive:
            headers = {"x-dlde-warnings": json.dumps(warnings), "x-dlde-model": json.dumps(names)}
            return Response(wire.write_npz(outputs), media_type=NPZ[0], headers=headers)
        return JSONResponse({"outputs": wire.write_json(outputs), "warnings": warnings, "model": names})

    @app.exception_handler(DldeError)
    async def refused(request: Request, error: DldeError) -> JSONResponse:
        status = 413 if isinstance(error, wire.TooLargeError) else 500
        if status == 500 and isinstance(error, (InputError, NonFiniteError, NotConvergedError)):
            status = 422
        return _problem(status, error.message, error.facts)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        message = error.detail
        if error.status_code == 404:
            message = f"no route {request.url.path}; known: POST /predict, GET /model, /healthz, /docs"
        return _problem(error.status_code, message, {}, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return _problem(422, str(error), {})

    @app.middleware("http")
    async def guard(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        if token_digest is not None and request.url.path not in OPEN and not _allowed(request, token_digest):
            return _problem(
                401,
                "a bearer token is needed: Authorization: Bearer TOKEN",
                {},
                {"www-authenticate": "Bearer"},
            )
        response = await proceed(request)
        response.headers["x-content-type-options"] = "nosniff"
        return response

    return app


def digest_of_token(token: str) -> str:
    """What a replica knows of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def _allowed(request: Request, token_digest: str) -> bool:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(digest_of_token(token.strip()), token_digest)


async def _body(request: Request, limit: int) -> bytes:
    """The body, given up as soon as it is known to exceed the limit."""
    declared = request.headers.get("content-length", "")
    too_large = wire.TooLargeError(f"the body exceeds {limit} bytes; send fewer samples at once")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise too_large
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > limit:
            raise too_large
    return b"".join(parts)


def _problem(
    status: int, message: str, facts: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> JSONResponse:
    shown = {key: facts[key] for key in ("mistakes", "expected", "residual", "iterations") if facts.get(key)}
    return JSONResponse({"error": message, **shown}, status_code=status, headers=dict(headers or {}))


def _expected(operation: Operation) -> dict[str, Any]:
    """An operation's inputs in words."""
    return {
        name: {"shape": spec.describe(), "dtype": spec.dtype, "units": spec.units, "meaning": spec.long_name}
        for name, spec in operation.inputs.items()
    }


def _openapi(operations: Mapping[str, Operation], default: str) -> dict[str, Any]:
    """What the documentation page says of a request: the operations, their arrays, an example."""
    lines = [
        f"- `{name}`: {operation.summary} Takes "
        + ", ".join(
            [f"`{key}` {spec.describe()}" for key, spec in operation.inputs.items()]
            + [f"option `{key}` ({option.summary})" for key, option in operation.options.items()]
        )
        for name, operation in operations.items()
    ]
    schema = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "inputs": {"type": "object", "additionalProperties": {"type": "array"}},
            "coordinates": {"type": "object", "additionalProperties": {"type": "array"}},
            "options": {"type": "object", "additionalProperties": {"type": "number"}},
            "operation": {"type": "string", "enum": list(operations), "default": default},
        },
    }
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {
        "description": "\n".join(lines),
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": schema, "example": example(operations[default], default)},
                NPZ[0]: binary,
            },
        },
    }


def example(operation: Operation, name: str) -> dict[str, Any]:
    """A question that the operation answers: one sample of the same value everywhere."""
    inputs = {key: _filled(spec) for key, spec in operation.inputs.items()}
    options = {key: option.default for key, option in operation.options.items()}
    return {"inputs": inputs, **({"options": options} if options else {}), "operation": name}


def _filled(spec: ArraySpec) -> Any:
    """Nested lists of the fewest samples: inside the bounds where there are any, 0.1 otherwise."""
    sizes = [dim.size or max(dim.minimum, dim.axis.num_points if dim.axis else 1) for dim in spec.dims]
    filled: Any = _ramp(spec, sizes[-1]) if spec.increasing else _level(spec, sizes[-1])
    for size in reversed(sizes[:-1]):
        filled = [filled] * size
    return filled


def _ramp(spec: ArraySpec, size: int) -> list[float]:
    """Increasing numbers in the range that the model knows, up to its end."""
    low, high = (*spec.bounds, *spec.trained_range, (0.0, 1.0))[0]
    low = low if low is not None else (high or 1.0) - 1.0
    high = high if high is not None else low + 1.0
    return [low + (high - low) * (number + 1) / size for number in range(size)]


def _level(spec: ArraySpec, size: int) -> list[float]:
    """One number, or one for each entry of the last axis where their bounds differ."""
    whole = spec.dtype == "int64"
    values = [_inside(*ends, whole=whole) for ends in spec.bounds] or [0 if whole else 0.1]
    return values if len(values) == size else values[:1] * size


def _inside(low: float | None, high: float | None, *, whole: bool) -> float:
    """A number between the ends."""
    if whole:
        return math.ceil(low) if low is not None else math.floor(high) if high is not None else 0
    if low is not None and high is not None:
        return (low + high) / 2
    return max(0.1, low) if low is not None else min(0.1, high) if high is not None else 0.1
