"""Checkpoints of one phase of a run: committed by rename, the last two kept, read without pickle code.

A checkpoint is `step-<number>.pt` in the phase's folder, with the SHA-256 of its bytes beside the
content: a damaged one is passed over for the one before it.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch

from dlde.files import write_atomically

KEPT = 2


def save(folder: Path, step: int, content: dict[str, Any]) -> None:
    """Commit the state after `step` steps; then remove all but the last `KEPT`."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    body = buffer.getvalue()
    write_atomically(folder / f"step-{step:09d}.pt", hashlib.sha256(body).digest() + body)
    for old in _paths(folder)[:-KEPT]:
        old.unlink(missing_ok=True)


def latest(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, or None where there is none."""
    for path in reversed(_paths(folder)):
        data = path.read_bytes()
        digest, body = data[:32], data[32:]
        if hashlib.sha256(body).digest() != digest:
            continue
        try:
            content: dict[str, Any] = torch.load(io.BytesIO(body), map_location=device, weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError):
            continue
        return content
    return None


def _paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt")) if folder.is_dir() else []
