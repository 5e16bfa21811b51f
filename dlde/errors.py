"""Errors a user can meet. Every one survives pickling, because workers send them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar


class DldeError(Exception):
    """Base of all errors of dlde. Keyword arguments are kept as attributes (`error.facts`)."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts

    def __getattr__(self, name: str) -> Any:
        facts = self.__dict__.get("facts", {})
        if name in facts:
            return facts[name]
        raise AttributeError(name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.facts)


def _rebuild(cls: type[DldeError], message: str, facts: dict[str, Any]) -> DldeError:
    return cls(message, **facts)


class InputError(DldeError):
    """What the user gave cannot be used; nothing was started."""

    exit_code = 2


class SpecError(InputError):
    """A recipe, pipeline or override is wrong; `mistakes` lists all of them."""


class UnknownNameError(InputError):
    """No such recipe, method, problem, pipeline, model or run."""


class GridError(InputError):
    """A grid, shape or resolution does not fit."""


class StoreMismatchError(InputError):
    """The store at the target path belongs to another recipe (`expected`, `found`)."""


class RunningError(InputError):
    """Another process works on the same run, dataset or search."""


class PortInUseError(InputError):
    """The port to listen on is taken."""


class DataError(DldeError):
    """A dataset is missing, incomplete or cannot be written."""


class DamagedDataError(DataError):
    """Stored values differ from what was written (`damage`: part name -> sample numbers)."""


class StorageFullError(DataError):
    """No space is left where results are written."""


class UnwritableError(DataError):
    """Results may not be written where they should go (`reason`: what the system said)."""


class WorkerLostError(DataError):
    """A worker process or its node died while it made data; what was committed is kept."""


class CertificateError(DataError):
    """A dataset's solver does not meet the problem's thresholds (`findings`)."""


class NonFiniteError(DldeError):
    """A solution or a loss is not finite; facts name where."""


class NotConvergedError(DldeError):
    """An iteration did not reach its tolerance; facts hold `residual` and `iterations`."""


class TrainingError(DldeError):
    """A training cannot start, go on or be resumed."""


class StoppedError(DldeError):
    """A training was asked to end, and has saved its state (`step`); the same command goes on from there."""

    exit_code = 143  # as of a process that SIGTERM ended


class RegistryError(DldeError):
    """The registry, or a model in it, cannot be used."""


class IntegrityError(RegistryError):
    """A registered model's files are not those that were registered (`expected`, `found`)."""


class ServingError(DldeError):
    """The service did not start or did not answer."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a message: the known names that look most like `name`, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    return f"known: {', '.join(known)}" if known else "none is known"
