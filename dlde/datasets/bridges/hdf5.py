"""HDF5 files of others, opened only where they hold nothing but their own plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dlde.errors import InputError
from dlde.problem import Axis, Variable

# gzip, shuffle, fletcher32, szip, nbit, scale-offset, lzf: what HDF5 and h5py bring along. Any other filter
# is a plug-in, code that is loaded to read the data.
FILTERS = {1, 2, 3, 4, 5, 6, 32000}


def opened(path: Path, files: ExitStack) -> h5py.File:
    """The file, checked link by link. Raises InputError."""
    try:
        file = files.enter_context(h5py.File(path, "r"))
    except OSError as error:
        raise InputError(f"{path.name} is no HDF5 file that can be read: {error}") from None
    check(path, file)
    return file


def check(path: Path, file: h5py.File) -> None:
    """Refuse links out of the file, arrays kept elsewhere, and filters that are plug-ins."""
    links: dict[str, Any] = {}
    file.visititems_links(lambda name, link: links.update({name: link}))  # it may not raise
    for name, link in links.items():
        if isinstance(link, h5py.ExternalLink):
            raise InputError(
                f"{path.name}: {name!r} is a link to another file, {link.filename!r}; files are imported "
                "only where they hold their own data: copy them into one (h5repack, or h5py's File.copy with "
                "expand_external=True)"
            )
    lost = [
        f"{name!r} -> {link.path!r}"
        for name, link in links.items()
        if isinstance(link, h5py.SoftLink) and link.path not in file
    ]
    if lost:
        raise InputError(f"{path.name}: links lead nowhere within the file: {', '.join(lost)}; remove them")
    for name, dataset in datasets(file).items():
        if dataset.is_virtual or dataset.external:
            raise InputError(
                f"{path.name}: {name!r} keeps its values in other files; copy them into this one (h5repack)"
            )
        plist = dataset.id.get_create_plist()
        used = {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}
        if used - FILTERS:
            raise InputError(
                f"{path.name}: {name!r} is compressed by HDF5 filter {min(used - FILTERS)}, a plug-in, which "
                "would be code that is run to read it; write the file again with gzip or without compression"
            )


def datasets(group: Any) -> dict[str, Any]:
    """All datasets below a group, by path; links within the file are not followed."""
    found: dict[str, Any] = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item

    group.visititems(take)
    return found


def contents(file: h5py.File, most: int = 12) -> str:
    """What is in a file of no known kind, for a message."""
    lines = [f"{name} {dataset.dtype}{list(dataset.shape)}" for name, dataset in datasets(file).items()]
    shown = "; ".join(lines[:most]) + ("; …" if len(lines) > most else "")
    return shown or "no datasets at all"


def note(array: Any, item: Variable | Axis) -> None:
    """Write beside an array what its format has no place for; other readers pass over it."""
    array.attrs["units"] = item.units
    if isinstance(item, Variable):
        array.attrs["long_name"] = item.long_name
    else:
        array.attrs.update({"boundary": item.boundary, "stop": item.stop})


def noted(array: Any, name: str) -> str | None:
    """A text that `note` or another has written there; None where there is none."""
    value = array.attrs.get(name)
    return text(value) if isinstance(value, str | bytes) else None


def stops(arrays: Mapping[str, Any]) -> dict[str, float]:
    """The ends of axes that `note` has written, by axis."""
    written = {name: array.attrs.get("stop") for name, array in arrays.items()}
    return {name: float(stop) for name, stop in written.items() if isinstance(stop, float | np.floating)}


def units(arrays: Mapping[str, Any]) -> dict[str, str]:
    """The units of coordinates, where they are written."""
    return {name: found for name, array in arrays.items() if (found := noted(array, "units")) is not None}


def text(value: Any) -> str:
    """An attribute as text, however it was written."""
    return value.decode() if isinstance(value, bytes) else str(value)


def names(value: Any) -> list[str]:
    """An attribute that is a list of names."""
    return [text(one) for one in np.atleast_1d(np.asarray(value)).tolist()] if np.size(value) else []
