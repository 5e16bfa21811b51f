"""Checkpoints of one phase of a run: committed by rename, bounded, read without pickle code.

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

from dlde.errors import TrainingError
from dlde.files import write_atomically

KEPT = 2


def save(
    folder: Path, step: int, content: dict[str, Any], *, kept: int = KEPT, most_bytes: int | None = None
) -> None:
    """Commit the state after `step` steps; then remove all but the newest `kept`.

    Of older ones only as many stay as fit into `most_bytes` beside the new one. Raises TrainingError,
    with nothing written, where the new one alone does not fit, StorageFullError where the disk is full;
    the checkpoints before it stay whole in both cases.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    body = buffer.getbuffer()
    if most_bytes is not None and len(body) > most_bytes:
        raise TrainingError(
            f"a checkpoint takes {len(body)} bytes, but training.checkpoint_bytes allows {most_bytes} for "
            f"all of them; allow at least {len(body)}"
        )
    write_atomically(folder / f"step-{step:09d}.pt", hashlib.sha256(body).digest() + body)
    room = None if most_bytes is None else most_bytes
    for number, path in enumerate(reversed(_paths(folder))):
        size = path.stat().st_size
        room = None if room is None else room - size
        if number and (number >= kept or (room is not None and room < 0)):
            path.unlink(missing_ok=True)


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
