"""dlde: a distributed pipeline for the meeting of deep learning and differential equations.

At a Python prompt this module offers what `dlde.api` holds, loaded at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlde.api import (
        Trained,
        evaluate,
        generate,
        load_model,
        load_pipeline,
        open_dataset,
        predict,
        register,
        reproduce,
        train,
        tune,
    )

__version__ = "0.1.0"

__all__ = [
    "Trained",
    "evaluate",
    "generate",
    "load_model",
    "load_pipeline",
    "open_dataset",
    "predict",
    "register",
    "reproduce",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    """torch, xarray and the rest take seconds to load: not before something of them is asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'dlde' has no attribute {name!r}")
    return getattr(importlib.import_module("dlde.api"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
