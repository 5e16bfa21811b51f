"""The Gray-Scott model of an autocatalytic reaction; everything is dimensionless."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from dlde.problems.drawn import Positive, PositiveOrListed, bounds, parameter
from dlde.problems.reaction_diffusion import Blobs, Domain, Noise, ReactionDiffusion, Uniform


class GrayScott(ReactionDiffusion):
    """Gray-Scott: u_t = D_u Lap u - u v^2 + feed (1 - u), v_t = D_v Lap v + u v^2 - (feed + kill) v.

    Spots, stripes and waves by feed and kill: Pearson, Science 261 (1993), whose D_u = 2 D_v = 2e-5 on a
    square of 2.5 is, in lengths of 1 / 100, about that of the default: D_u = 0.2097 on a square of 64.
    `feed` and `kill` may be lists, {one_of: [...]}, from which an instance draws one pair.
    Periodic, in one dimension or two; see `ReactionDiffusion` for the solver.
    """

    version: ClassVar[str] = "1"
    state: ClassVar[dict[str, str]] = {"u": "concentration of the substrate", "v": "of the catalyst"}
    rates: ClassVar[tuple[str, ...]] = ("feed", "kill")

    feed: PositiveOrListed = 0.03
    kill: PositiveOrListed = 0.057
    diffusivity_u: Positive = 0.2097
    diffusivity_v: Positive = 0.1049
    domain: Domain = ((0.0, 64.0), (0.0, 64.0))
    initial_condition: Annotated[Blobs | Noise | Uniform, Field(discriminator="kind")] = Blobs()

    def diffusivities(self, instances: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return (
            parameter(self, "diffusivity_u", instances),
            parameter(self, "diffusivity_v", instances),
        )

    def reaction(self, a: Tensor, b: Tensor, p: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        eaten = (b * b).mul_(a)
        return p["feed"] * (1 - a) - eaten, eaten - (p["feed"] + p["kill"]) * b

    def fastest_rate(self) -> float:
        """That of u where v is 1, more than the patterns reach."""
        return 1 + bounds(self.feed)[1]
