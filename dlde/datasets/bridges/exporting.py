"""From a store to foreign files, one for each split; all appear, or none."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from dlde.datasets.bridges import pdebench, plain, the_well
from dlde.datasets.dataset import Dataset
from dlde.errors import InputError, UnknownNameError, nearest
from dlde.files import unwritable_named

Write = Callable[[Dataset, str, Path], None]
WRITERS: dict[str, tuple[Write, str]] = {
    "npz": (plain.write_npz, "{split}.npz"),
    "netcdf": (plain.write_netcdf, "{split}.nc"),
    "the-well": (the_well.write, "{split}/{name}.hdf5"),  # its readers take a folder per split
    "pdebench": (pdebench.write, "{split}.hdf5"),
}


def export(dataset: Dataset, format: str, folder: Path | str, splits: Sequence[str] = ()) -> dict[str, Path]:
    """Write splits (all by default) below `folder`; returns split -> file.

    Raises UnknownNameError, GridError for what the format has no place for, InputError where a file is
    there already, DamagedDataError where the store is not what was committed.
    """
    if format not in WRITERS:
        raise UnknownNameError(f"no format {format!r}; {nearest(format, WRITERS)}", name=format)
    write, pattern = WRITERS[format]
    for split in splits:
        dataset.num_blocks(split)  # refuses an unknown one
    targets = {
        split: Path(folder) / pattern.format(split=split, name=dataset.info.recipe)
        for split in splits or dataset.info.samples
    }
    there = [str(path) for path in targets.values() if path.exists()]
    if there:
        raise InputError(f"{', '.join(there)} exists already; remove it, or choose another --output")
    partial = {split: path.with_name(f".{uuid.uuid4().hex}{path.suffix}") for split, path in targets.items()}
    folders = [parent for path in targets.values() for parent in (path.parent, *path.parent.parents)]
    new = [parent for parent in dict.fromkeys(folders) if not parent.exists()]
    try:
        with unwritable_named(Path(folder)):
            for split, path in partial.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                write(dataset, split, path)
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        for split, path in targets.items():
            os.replace(partial[split], path)
    except BaseException:
        for path in partial.values():
            path.unlink(missing_ok=True)
        for parent in sorted(new, key=lambda parent: -len(parent.parts)):
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        raise
    return targets
