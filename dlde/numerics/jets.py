"""Jets: a value together with named partial derivatives up to order two, carried through arithmetic.

A derivative is named by the coordinates it is taken along: "x", "t", "xx", "xy" (letters in
alphabetical order, one letter for each coordinate). Sums and products follow Leibniz' rule, functions
the chain rule; all of it in plain tensors, so that autograd can differentiate the results again,
with respect to weights or to the points themselves. A fixed linear combination of derivatives (an
operator, such as u_t - nu u_xx or a Laplacian) has a name of three letters or more and travels as one
part, without the second derivatives that it consists of. One forward pass gives u, u_x, u_xx, u_t, ...;
nested calls of autograd would need one backward pass for each (and keep every graph).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dlde.errors import SpecError, nearest

Number = int | float | Tensor  # a tensor without derivatives counts as constant
_Function = Callable[[Tensor], Tensor]
Operators = Mapping[str, Mapping[str, float]]  # name -> {derivative: coefficient}
Pairs = tuple[tuple[Any, Any, float], ...]  # (i, j, c): second-order terms c d_i d_j


class Jet:
    """`value` with the derivatives `names`; one that is missing in `parts` is zero everywhere.

    All tensors have the same shape, or broadcast to it.
    """

    __slots__ = ("names", "operators", "parts", "value")

    def __init__(
        self,
        value: Tensor,
        parts: Mapping[str, Tensor],
        names: tuple[str, ...],
        operators: Operators | None = None,
    ) -> None:
        self.value = value
        self.parts = dict(parts)
        self.names = names
        self.operators: Operators = operators or {}

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

    def pairs(self, name: str) -> Pairs:
        """The second-order terms of a derivative or an operator: (i, j, c) for c d_i d_j."""
        if name in self.operators:
            return tuple((key[0], key[1], c) for key, c in self.operators[name].items() if len(key) == 2)
        return ((name[0], name[1], 1.0),) if len(name) == 2 else ()

    def _like(self, value: Tensor, parts: Mapping[str, Tensor]) -> Jet:
        return Jet(value, parts, self.names, self.operators)

    def map(self, function: _Function) -> Jet:
        """The same linear function of the value and of every derivative, such as the choice of a column."""
        return self._like(function(self.value), {key: function(p) for key, p in self.parts.items()})

    def constant(self, number: float) -> Jet:
        """That number in place of every value, with the same derivatives carried."""
        return self._like(torch.full_like(self.value, number), {})

    def compose(self, value: Tensor, first: _Function, second: _Function) -> Jet:
        """f(self) from f's value and its first and second derivative as functions of self's value."""
        parts = {}
        slope = first(self.value) if self.parts else value
        curvature: Tensor | None = None
        for name in self.names:
            part = self.parts.get(name)
            out = None if part is None else slope * part
            squares = [
                product if c == 1 else c * product
                for i, j, c in self.pairs(name)
                if i in self.parts and j in self.parts
                for product in [self.parts[i] * self.parts[j]]
            ]
            if squares:
                curvature = second(self.value) if curvature is None else curvature
                bend = curvature * sum(squares[1:], squares[0])
                out = bend if out is None else out + bend
            if out is not None:
                parts[name] = out
        return self._like(value, parts)

    def __neg__(self) -> Jet:
        return self.map(torch.neg)

    def __add__(self, other: Jet | Number) -> Jet:
        if not isinstance(other, Jet):
            return self._like(self.value + other, self.parts)
        parts = dict(self.parts)
        for name, part in other.parts.items():
            parts[name] = parts[name] + part if name in parts else part
        self._names(other)
        return self._like(self.value + other.value, parts)

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
            for i, j, c in self.pairs(name):
                if i in a and j in b:
                    terms.append(a[i] * b[j] * (2 * c if i == j else c))
                if i != j and j in a and i in b:
                    terms.append(a[j] * b[i] * c)
            if terms:
                parts[name] = sum(terms[1:], terms[0])
        return self._like(self.value * other.value, parts)

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
        if self.names != other.names or self.operators != other.operators:
            raise SpecError(
                f"jets with different derivatives, ({', '.join(self.names)}) and "
                f"({', '.join(other.names)}), cannot be combined",
                mistakes=[],
            )
        return self.names


def closed(derivatives: Iterable[str], operators: Operators | None = None) -> tuple[str, ...]:
    """The derivatives with all that they are computed from, in order of degree: ("xx",) -> ("x", "xx").

    Operators come last, and need the first derivatives of their second-order terms only. Raises
    SpecError for an order above two, a mixed derivative that is not alphabetical, an operator without
    terms or with a name under three letters.
    """
    operators = operators or {}
    wanted = tuple(derivatives)
    for name in (*wanted, *(term for terms in operators.values() for term in terms)):
        if not 1 <= len(name) <= 2 or "".join(sorted(name)) != name:
            raise SpecError(
                f"derivative {name!r}: expected one letter, or two in alphabetical order, such as 'x', 'xx' "
                "or 'tx'; write a higher order as a system of equations",
                mistakes=[name],
            )
    for name, terms in operators.items():
        if len(name) < 3 or not terms:
            raise SpecError(
                f"operator {name!r} with the terms {dict(terms)}: expected a name of three letters or more "
                "and at least one term, such as 'heat': {'t': 1, 'xx': -0.1}",
                mistakes=[name],
            )
    curved = {term for terms in operators.values() for term in terms if len(term) == 2}
    firsts = sorted({letter for name in (*wanted, *curved) for letter in name})
    return (*firsts, *sorted({name for name in wanted if len(name) == 2}), *operators)


def coordinates(
    points: Tensor, names: Sequence[str], derivatives: Iterable[str], operators: Operators | None = None
) -> Jet:
    """The points (points, coordinates) themselves as a jet: each coordinate has slope one along itself.

    `columns` splits it. Raises SpecError for derivatives along what is no coordinate.
    """
    operators = operators or {}
    carried = closed(derivatives, operators)
    along = [name for name in carried if name not in operators] + [k for o in operators.values() for k in o]
    unknown = sorted({letter for name in along for letter in name} - set(names))
    if unknown:
        raise SpecError(
            f"derivatives along {', '.join(map(repr, unknown))}, but the coordinates are "
            f"{', '.join(map(repr, names))}",
            mistakes=unknown,
        )
    unit = torch.eye(len(names), dtype=points.dtype, device=points.device)
    parts = {name: unit[names.index(name)].unsqueeze(0) for name in carried if len(name) == 1}
    for operator, terms in operators.items():
        slopes = [c * unit[names.index(name)] for name, c in terms.items() if len(name) == 1]
        if slopes:
            parts[operator] = sum(slopes[1:], slopes[0]).unsqueeze(0)
    return Jet(points, parts, carried, operators)


def columns(jet: Jet, names: Sequence[str]) -> dict[str, Jet]:
    """The entries of the last axis, by name."""

    def column(place: int) -> Jet:
        return jet.map(lambda part: part[..., place])

    return {name: column(place) for place, name in enumerate(names)}


def axes(
    points: Tensor, names: Sequence[str], derivatives: Iterable[str], operators: Operators | None = None
) -> dict[str, Jet]:
    """The coordinates of points (points, coordinates) one by one: x with x_x = 1 and nothing else."""
    operators = operators or {}
    carried = closed(derivatives, operators)
    one = torch.ones(1, dtype=points.dtype, device=points.device)
    result = {}
    for place, name in enumerate(names):
        parts = {name: one} if name in carried else {}
        parts |= {key: terms[name] * one for key, terms in operators.items() if name in terms}
        result[name] = Jet(points[:, place], parts, carried, operators)
    return result
