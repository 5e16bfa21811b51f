"""Nouns: small, frozen, typed specifications that are validated before anything is started.

A noun is a pydantic model. Mistakes of a whole file are reported at once (`SpecError`), each with
its dotted place, what was given and what is allowed; an unknown key names the nearest known one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_core.core_schema import ErrorType

from dlde.errors import SpecError, nearest

_STANDARD_ERRORS = frozenset(get_args(ErrorType))


class Spec(BaseModel):
    """Base of all nouns: frozen, strict (no silent conversion), no unknown keys, no NaN or Inf."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _name_nearest_key(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(cls._over_defaults(value))
        except ValidationError as error:
            known = sorted(cls.model_fields)
            raise ValidationError.from_exception_data(
                cls.__name__, [_explain(line, known) for line in error.errors()]
            ) from None

    @classmethod
    def _over_defaults(cls, value: Any) -> Any:
        """Fields of a nested noun that are not given are those of this noun's default for it.

        `descent: {steps: 10}` keeps the rate that the method's author chose. Another `kind` than the
        default's starts from that kind's own defaults.
        """
        if not isinstance(value, Mapping):
            return value
        merged = dict(value)
        for name, field in cls.model_fields.items():
            given = merged.get(name)
            if isinstance(field.default, Spec) and isinstance(given, Mapping):
                default = field.default.model_dump()
                if given.get("kind", default.get("kind")) == default.get("kind"):
                    merged[name] = {**default, **given}
        return merged

    @classmethod
    def parse(cls, raw: Any, *, source: str) -> Self:
        """Validate plain data (as read from YAML or JSON); `source` names it in the message.

        Raises SpecError with every mistake.
        """
        try:
            return cls.model_validate(_tuples(raw))
        except ValidationError as error:
            mistakes = [_line(line) for line in error.errors()]
            count = f"{len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''}"
            raise SpecError(
                "\n  ".join([f"{source}: {count}", *mistakes]), source=source, mistakes=mistakes
            ) from None

    def dump(self) -> dict[str, Any]:
        """Plain data, enough to build this noun again with `parse`."""
        return self.model_dump(mode="json")


def digest_of(plain: Any) -> str:
    """SHA-256 (hex) of plain data, in a canonical JSON form."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping from a file. Raises SpecError where it is not one."""
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{path.name}: not valid YAML: {error}", source=path.name, mistakes=[]) from None
    if not isinstance(raw, dict):
        raise SpecError(f"{path.name}: expected a mapping, got {raw!r}", source=path.name, mistakes=[])
    return raw


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """`["a.b=1", "c=[1, 2]"]` as a mapping from dotted path to value (values are YAML)."""
    overrides: dict[str, Any] = {}
    for text in assignments:
        path, separator, value = text.partition("=")
        if not separator or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", path.strip()):
            raise SpecError(f"--set {text}: expected path.to.field=value", source="--set", mistakes=[text])
        try:
            overrides[path.strip()] = yaml.load(value, Loader=_Loader)  # noqa: S506
        except yaml.YAMLError as error:
            raise SpecError(f"--set {text}: {error}", source="--set", mistakes=[text]) from None
    return overrides


def override(raw: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data with dotted paths replaced; a new `name` replaces the whole mapping it stands in.

    The input is left as it was. Names go first: `method.name` and `method.width` may come in any order.
    """
    result: dict[str, Any] = _copy(raw)
    for path in sorted(overrides, key=lambda path: (path.split(".")[-1] != "name", path.count("."))):
        *parents, leaf = path.split(".")
        place = result
        for step, parent in enumerate(parents):
            child = place.get(parent)
            if child is None:
                child = place[parent] = {}
            elif not isinstance(child, dict):
                if leaf == "name" and step == len(parents) - 1:
                    child = place[parent] = {}
                else:
                    raise SpecError(
                        f"--set {path}: {'.'.join(parents[: step + 1])} is {child!r}, "
                        "which has no fields to set",
                        source="--set",
                        mistakes=[path],
                    )
            place = child
        value = _copy(overrides[path])
        if leaf == "name" and parents and place.get("name") != value:
            place.clear()
        place[leaf] = value
    return result


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice and reads 1e-3 as a number (YAML 1.1 does not)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _explain(line: Any, known: list[str]) -> InitErrorDetails:
    """The same error line again, an unknown key of this very model with its nearest known key."""
    kind, context = line["type"], line.get("ctx", {})
    error: Any = kind
    if kind == "extra_forbidden" and len(line["loc"]) == 1:
        error = PydanticCustomError(
            "unknown_key", "unknown key; {hint}", {"hint": nearest(str(line["loc"][0]), known)}
        )
    elif kind == "value_error":
        error = PydanticCustomError(
            "value_error", "{reason}", {"reason": str(context.get("error", line["msg"]))}
        )
    elif kind not in _STANDARD_ERRORS:
        error = PydanticCustomError(kind, "{reason}", {"reason": line["msg"]})
    return InitErrorDetails(type=error, loc=line["loc"], input=line["input"], ctx=context)


def _line(line: Any) -> str:
    place = "".join(f"{part}." for part in line["loc"])[:-1]
    message: str = line["msg"].removeprefix("Value error, ")
    if place:  # else it is about all fields together
        message = f"{place}: {message[0].lower()}{message[1:]}"
    if line["type"] == "missing" or isinstance(line["input"], dict):
        return message
    return f"{message}, got {line['input']!r}"


def _tuples(raw: Any) -> Any:
    if isinstance(raw, Mapping):
        return {key: _tuples(value) for key, value in raw.items()}
    if isinstance(raw, (list, tuple)):
        return tuple(_tuples(value) for value in raw)
    return raw


def _copy(raw: Any) -> Any:
    if isinstance(raw, Mapping):
        return {key: _copy(value) for key, value in raw.items()}
    if isinstance(raw, (list, tuple)):
        return [_copy(value) for value in raw]
    return raw
