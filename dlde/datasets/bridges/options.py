"""What the command line says about foreign files: names, dimensions, coordinates, units and splits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dlde.datasets.bridges.formats import READERS
from dlde.errors import SpecError, UnknownNameError, nearest

DEFAULT_SPLITS = ("train=0.8,test=0.2",)


@dataclass(frozen=True)
class Options:
    """What the command line says about files that do not say it themselves."""

    rename: Mapping[str, str]  # field -> array of the file
    dims: Mapping[str, tuple[str, ...]]  # field -> its dimensions, in the file's order
    coordinates: Mapping[str, str]  # axis -> ARRAY[:BOUNDARY] or START:STOP[:BOUNDARY]
    units: Mapping[str, str]  # field or axis -> units
    splits: tuple[str, ...] = ()
    format: str | None = None
    shuffle: int | None = None

    @classmethod
    def parse(
        cls,
        *,
        rename: Sequence[str] = (),
        dims: Sequence[str] = (),
        coordinates: Sequence[str] = (),
        units: Sequence[str] = (),
        splits: Sequence[str] = (),
        format: str | None = None,
        shuffle: int | None = None,
    ) -> Options:
        """From texts like "u=y". Raises SpecError for one that is not."""
        if format is not None and format not in READERS:
            raise UnknownNameError(f"no format {format!r}; {nearest(format, READERS)}", name=format)
        return cls(
            _pairs("--map", rename, "NEW=OLD, such as u=y"),
            {
                name: tuple(part.strip() for part in text.split(","))
                for name, text in _pairs("--dims", dims, "FIELD=sample,…, such as u=sample,time,x").items()
            },
            _pairs("--coordinate", coordinates, "AXIS=ARRAY[:BOUNDARY] or AXIS=START:STOP[:BOUNDARY]"),
            _pairs("--units", units, "NAME=UNITS, such as u=m/s"),
            tuple(splits),
            format,
            shuffle,
        )

    def arguments(self, names: Mapping[str, str]) -> list[str]:
        """The command line again, with files called as in `names`."""
        given = [("--map", f"{new}={old}") for new, old in self.rename.items()]
        given += [("--dims", f"{name}={','.join(dims)}") for name, dims in self.dims.items()]
        given += [("--coordinate", f"{axis}={text}") for axis, text in self.coordinates.items()]
        given += [("--units", f"{name}={units}") for name, units in self.units.items()]
        for text in self.splits:
            split, _, value = text.partition("=")
            given.append(("--split", f"{split}={names.get(value, value)}"))
        given += [("--format", self.format)] if self.format else []
        given += [("--shuffle", str(self.shuffle))] if self.shuffle is not None else []
        return [part for pair in given for part in pair]


def _pairs(option: str, texts: Sequence[str], form: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, separator, value = (part.strip() for part in text.partition("="))
        if not (separator and name and value) or name in found:
            twice = f"{name} is given twice" if name in found else f"expected {form}"
            raise SpecError(f"{option} {text}: {twice}", source=option, mistakes=[text])
        found[name] = value
    return found


def default_splits(count: int) -> tuple[str, ...]:
    """Four fifths to train on and the rest to test; all to train on where that is none."""
    return DEFAULT_SPLITS if count > 2 else (f"train={count}",)


def files_of_splits(texts: Sequence[str]) -> dict[str, list[Path]]:
    """Split -> its files, where the splits name files. Raises SpecError where only some do."""
    found: dict[str, list[Path]] = {}
    for text in texts:
        split, separator, value = text.partition("=")
        if not (separator and split and value):
            raise _wrong_split(text)
        if re.fullmatch(r"[\w=.,\s]*", value) and _is_number(value.split(",")[0]):
            continue
        found.setdefault(split.strip(), []).append(Path(value))
    if found and len(texts) != sum(map(len, found.values())):
        raise SpecError(
            "--split: some name files and others numbers; give a file for each, or a number for each",
            source="--split",
            mistakes=list(texts),
        )
    return found


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*", text) is not None


def _wrong_split(text: str) -> SpecError:
    return SpecError(
        f"--split {text}: expected fractions (train=0.8,test=0.2), counts (train=800,test=200) or files "
        "(train=FILE)",
        source="--split",
        mistakes=[text],
    )


def divide(texts: Sequence[str], count: int) -> dict[str, tuple[int, int]]:
    """Split -> first and last-but-one of its samples, one split after the other."""
    wanted: dict[str, str] = {}
    for text in ",".join(texts).split(","):
        split, separator, value = (part.strip() for part in text.partition("="))
        if not (separator and split and _is_number(value)) or split in wanted:
            raise _wrong_split(text)
        wanted[split] = value
    fractions = ["." in value for value in wanted.values()]
    numbers = [float(value) for value in wanted.values()]
    if any(fractions) and not all(fractions):
        raise _wrong_split(",".join(texts))
    if all(fractions):
        if abs(sum(numbers) - 1) > 1e-9:
            raise SpecError(
                f"--split {','.join(texts)}: fractions sum to {sum(numbers):g}, expected 1",
                source="--split",
                mistakes=list(texts),
            )
        bounds = [round(float(edge) * count) for edge in np.cumsum(numbers)]
    else:
        bounds = [int(edge) for edge in np.cumsum(numbers)]
        if bounds[-1] > count:
            raise SpecError(
                f"--split {','.join(texts)}: asks for {bounds[-1]} samples, but there are {count}",
                source="--split",
                mistakes=list(texts),
            )
    divided = dict(zip(wanted, zip([0, *bounds[:-1]], bounds, strict=True), strict=True))
    empty = [split for split, (start, stop) in divided.items() if start == stop]
    if empty:
        raise SpecError(
            f"--split {','.join(texts)}: {empty[0]} would have none of the {count} samples",
            source="--split",
            mistakes=list(texts),
        )
    return divided
