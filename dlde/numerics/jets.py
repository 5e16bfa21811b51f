"""Jets: a value together with named partial derivatives up to order two, carried through arithmetic.

A derivative is named by the coordinates it is taken along: "x", "t", "xx", "xy" (letters in
alphabetical order, one letter for each coordinate). Sums and products follow Leibniz' rule, functions
the chain rule; all of it in plain tensors, so that autograd can differentiate the results again,
with respect to weights or to the points themselves. One forward pass gives u, u_x, u_xx, u_t, ...;
nested calls of autograd would need one backward pass for each (and keep every graph).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from dlde.errors import SpecError, nearest

Number = int | float | Tensor  # a tensor without derivatives counts as constant
_Function = Callable[[Tensor], Tensor]


class Jet:
    """`value` with the derivatives `names`; one that is missing in `parts` is zero everywhere.

    All tensors have the same shape, or broadcast to it.
    """

    __slots__ = ("names", "parts", "value")

    def __init__(self, value: Tensor, parts: Mapping[str, Tensor], names: tuple[str, ...]) -> None:
        self.value = value
        self.parts = dict(parts)
        self.names = names

    def __repr__(self) -> str:
        return f"Jet({tuple(self.value.shape)}, derivatives {', '.join(self.names) or 'none'})"

    def __getitem__(self, name: str) -> Tensor:
        """The derivative of that name, in the value's shape. Raises SpecError for one not carried."""
        if name not in self.names:
            raise SpecError(
                f"the derivative {name!r} is not carried; {nearest(name, self.names)}. Name it in the "
                "problem's `derivatives` (letters of a mixed one in alphabetical order)",
                mistakes=[name],
            )
        part = self.parts.get(name)
        return torch.zeros_like(self.value) if part is None else part.expand_as(self.value)

    def map(self, function: _Function) -> Jet:
        """The same linear function of the value and of every derivative, such as the choice of a column."""
        return Jet(function(self.value), {key: function(p) for key, p in self.parts.items()}, self.names)

    def constant(self, number: float) -> Jet:
        """That number in place of every value, with the same derivatives carried."""
        return Jet(torch.full_like(self.value, number), {}, self.names)

    def compose(self, value: Tensor, first: _Function, second: _Function) -> Jet:
        """f(self) from f's value and its first and second derivative as functions of self's value."""
        parts = {}
        slope = first(self.value) if self.parts else value
        curvature: Tensor | None = None
        for name in self.names:
            part = self.parts.get(name)
            out = None if part is None else slope * part
            if len(name) == 2 and name[0] in self.parts and name[1] in self.parts:
                curvature = second(self.value) if curvature is None else curvature
                bend = curvature * (self.parts[name[0]] * self.parts[name[1]])
                out = bend if out is None else out + bend
            if out is not None:
                parts[name] = out
        return Jet(value, parts, self.names)

    def __neg__(self) -> Jet:
        return self.map(torch.neg)

    def __add__(self, other: Jet | Number) -> Jet:
        if not isinstance(other, Jet):
            return Jet(self.value + other, self.parts, self.names)
        parts = dict(self.parts)
        for name, part in other.parts.items():
            parts[name] = parts[name] + part if name in parts else part
        return Jet(self.value + other.value, parts, self._names(other))

    def __sub__(self, other: Jet | Number) -> Jet:
        return self + (-other)

    def __mul__(self, other: Jet | Number) -> Jet:
        if not isinstance(other, Jet):
            return self.map(lambda part: part * other)
        names = self._names(other)
        a, b = self.parts, other.parts
        parts = {}
        for name in names:
            terms = []
            if name in a:
                terms.append(a[name] * other.value)
            if name in b:
                terms.append(self.value * b[name])
            if len(name) == 2:
                i, j = name[0], name[1]
                if i in a and j in b:
                    terms.append(a[i] * b[j] * (2 if i == j else 1))
                if i != j and j in a and i in b:
                    terms.append(a[j] * b[i])
            if terms:
                parts[name] = sum(terms[1:], terms[0])
        return Jet(self.value * other.value, parts, names)

    def __truediv__(self, other: Jet | Number) -> Jet:
        return self * (other.reciprocal() if isinstance(other, Jet) else 1 / other)

    def __radd__(self, other: Number) -> Jet:
        return self + other

    def __rsub__(self, other: Number) -> Jet:
        return -self + other

    def __rmul__(self, other: Number) -> Jet:
        return self * other

    def __rtruediv__(self, other: Number) -> Jet:
        return self.reciprocal() * other

    def __pow__(self, exponent: int | float) -> Jet:
        n = exponent
        if n == 2:
            return self * self
        return self.compose(
            self.value**n,
            lambda v: n * v ** (n - 1),
            lambda v: n * (n - 1) * (v ** (n - 2) if n != 1 else torch.zeros_like(v)),
        )

    def reciprocal(self) -> Jet:
        """1 / self."""
        inverse = 1 / self.value
        return self.compose(inverse, lambda v: -(inverse**2), lambda v: 2 * inverse**3)

    def exp(self) -> Jet:
        """e to the self."""
        y = self.value.exp()
        return self.compose(y, lambda v: y, lambda v: y)

    def log(self) -> Jet:
        """The natural logarithm."""
        return self.compose(self.value.log(), lambda v: 1 / v, lambda v: -1 / v**2)

    def sqrt(self) -> Jet:
        """The square root."""
        y = self.value.sqrt()
        return self.compose(y, lambda v: 0.5 / y, lambda v: -0.25 / (y * v))

    def sin(self) -> Jet:
        """The sine."""
        y = self.value.sin()
        return self.compose(y, torch.cos, lambda v: -y)

    def cos(self) -> Jet:
        """The cosine."""
        y = self.value.cos()
        return self.compose(y, lambda v: -v.sin(), lambda v: -y)

    def tanh(self) -> Jet:
        """The hyperbolic tangent."""
        y = self.value.tanh()
        return self.compose(y, lambda v: 1 - y**2, lambda v: -2 * y * (1 - y**2))

    def sigmoid(self) -> Jet:
        """1 / (1 + exp(-self))."""
        y = self.value.sigmoid()
        return self.compose(y, lambda v: y * (1 - y), lambda v: y * (1 - y) * (1 - 2 * y))

    def _names(self, other: Jet) -> tuple[str, ...]:
        if self.names != other.names:
            raise SpecError(
                f"jets with different derivatives, ({', '.join(self.names)}) and "
                f"({', '.join(other.names)}), cannot be combined",
                mistakes=[],
            )
        return self.names


def closed(derivatives: Iterable[str]) -> tuple[str, ...]:
    """The derivatives with all that they are computed from, in order of degree: ("xx",) -> ("x", "xx").

    Raises SpecError for an order above two, and for a mixed one that is not alphabetical.
    """
    wanted = tuple(derivatives)
    for name in wanted:
        if not 1 <= len(name) <= 2 or "".join(sorted(name)) != name:
            raise SpecError(
                f"derivative {name!r}: expected one letter, or two in alphabetical order, such as 'x', 'xx' "
                "or 'tx'; write a higher order as a system of equations",
                mistakes=[name],
            )
    firsts = sorted({letter for name in wanted for letter in name})
    return (*firsts, *sorted({name for name in wanted if len(name) == 2}))


def coordinates(points: Tensor, names: Sequence[str], derivatives: Iterable[str]) -> Jet:
    """The points (points, coordinates) themselves as a jet: each coordinate has slope one along itself.

    `columns` splits it. Raises SpecError for derivatives along what is no coordinate.
    """
    carried = closed(derivatives)
    unknown = sorted({letter for name in carried for letter in name} - set(names))
    if unknown:
        raise SpecError(
            f"derivatives along {', '.join(map(repr, unknown))}, but the coordinates are "
            f"{', '.join(map(repr, names))}",
            mistakes=unknown,
        )
    unit = torch.eye(len(names), dtype=points.dtype, device=points.device)
    parts = {name: unit[names.index(name)].unsqueeze(0) for name in carried if len(name) == 1}
    return Jet(points, parts, carried)


def columns(jet: Jet, names: Sequence[str]) -> dict[str, Jet]:
    """The entries of the last axis, by name."""

    def column(place: int) -> Jet:
        return jet.map(lambda part: part[..., place])

    return {name: column(place) for place, name in enumerate(names)}


def axes(points: Tensor, names: Sequence[str], derivatives: Iterable[str]) -> dict[str, Jet]:
    """The coordinates of points (points, coordinates) one by one: x with x_x = 1 and nothing else."""
    carried = closed(derivatives)
    one = torch.ones(1, dtype=points.dtype, device=points.device)
    return {
        name: Jet(points[:, place], {name: one} if name in carried else {}, carried)
        for place, name in enumerate(names)
    }
