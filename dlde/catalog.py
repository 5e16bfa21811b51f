"""Names of problems and methods, each with the place of its class; imported only when used.

A package of a user's own adds names by the entry points `dlde.problems` and `dlde.methods`.
The table holds text alone, so that this module imports nothing of what it names.
"""

from __future__ import annotations

import importlib
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Literal

from dlde.errors import UnknownNameError, nearest

Kind = Literal["problem", "method"]

PROBLEMS = {
    "advection": "dlde.problems.advection:Advection",
    "allen-cahn": "dlde.problems.allen_cahn:AllenCahn",
    "allen-cahn-hd": "dlde.problems.allen_cahn_hd:AllenCahnHD",
    "black-scholes-default": "dlde.problems.black_scholes_default:BlackScholesDefault",
    "black-scholes-lending": "dlde.problems.black_scholes_lending:BlackScholesLending",
    "block-model": "dlde.problems.block_model:BlockModel",
    "burgers": "dlde.problems.burgers:Burgers",
    "burgers-hd": "dlde.problems.burgers_hd:BurgersHD",
    "controlled-burgers": "dlde.problems.controlled_burgers:ControlledBurgers",
    "convection-diffusion": "dlde.problems.convection_diffusion:ConvectionDiffusion",
    "convection-layer": "dlde.problems.convection_layer:ConvectionLayer",
    "cubic-oscillator": "dlde.problems.cubic_oscillator:CubicOscillator",
    "damped-oscillator": "dlde.problems.damped_oscillator:DampedOscillator",
    "darcy": "dlde.problems.darcy:Darcy",
    "double-well": "dlde.problems.double_well:DoubleWell",
    "duffing": "dlde.problems.duffing:Duffing",
    "fitzhugh-nagumo": "dlde.problems.fitzhugh_nagumo:FitzHughNagumo",
    "fitzhugh-nagumo-field": "dlde.problems.fitzhugh_nagumo_field:FitzHughNagumoField",
    "geometric-brownian": "dlde.problems.geometric_brownian:GeometricBrownian",
    "graph-heat": "dlde.problems.graph_heat:GraphHeat",
    "gray-scott": "dlde.problems.gray_scott:GrayScott",
    "heat": "dlde.problems.heat:Heat",
    "hjb-lq": "dlde.problems.hjb_lq:HJBLQ",
    "korteweg-de-vries": "dlde.problems.korteweg_de_vries:KortewegDeVries",
    "kuramoto-sivashinsky": "dlde.problems.kuramoto_sivashinsky:KuramotoSivashinsky",
    "linear-system": "dlde.problems.linear_system:LinearSystem",
    "lorenz63": "dlde.problems.lorenz63:Lorenz63",
    "lotka-volterra": "dlde.problems.lotka_volterra:LotkaVolterra",
    "multiplicative-noise": "dlde.problems.multiplicative_noise:MultiplicativeNoise",
    "navier-stokes": "dlde.problems.navier_stokes:NavierStokes",
    "nonlinear-schroedinger": "dlde.problems.nonlinear_schroedinger:NonlinearSchroedinger",
    "ornstein-uhlenbeck": "dlde.problems.ornstein_uhlenbeck:OrnsteinUhlenbeck",
    "pendulum": "dlde.problems.pendulum:Pendulum",
    "poisson": "dlde.problems.poisson:Poisson",
    "quadratic-gradient": "dlde.problems.quadratic_gradient:QuadraticGradient",
    "reaction-diffusion-hd": "dlde.problems.reaction_diffusion_hd:ReactionDiffusionHD",
    "recorded": "dlde.problems.recorded:Recorded",
    "shallow-water": "dlde.problems.shallow_water:ShallowWater",
}
METHODS = {
    "adversarial-sampling": "dlde.methods.adversarial_sampling:AdversarialSampling",
    "bsde-actor-critic": "dlde.methods.bsde_actor_critic:BSDEActorCritic",
    "ddpg": "dlde.methods.ddpg:DDPG",
    "deep-bsde": "dlde.methods.deep_bsde:DeepBSDE",
    "fcn": "dlde.methods.fcn:FCN",
    "fno": "dlde.methods.fno:FNO",
    "gru": "dlde.methods.gru:GRU",
    "instantaneous-control": "dlde.methods.instantaneous_control:InstantaneousControl",
    "linear-path": "dlde.methods.linear_path:LinearPath",
    "pinn": "dlde.methods.pinn:PINN",
    "proportional-control": "dlde.methods.proportional_control:ProportionalControl",
    "randomized-signature": "dlde.methods.randomized_signature:RandomizedSignature",
    "truncated-signature": "dlde.methods.truncated_signature:TruncatedSignature",
}


@cache
def places(kind: Kind) -> dict[str, str]:
    """Name -> "module:Class" of every problem or method, the installed packages' included."""
    own = {"problem": PROBLEMS, "method": METHODS}[kind]
    installed = {entry.name: entry.value for entry in entry_points(group=f"dlde.{kind}s")}
    return {**installed, **own}


def find(kind: Kind, name: str) -> type[Any]:
    """The class of that name. Raises UnknownNameError with the nearest names."""
    known = places(kind)
    if not isinstance(name, str) or name not in known:
        raise UnknownNameError(f"unknown {kind} {name!r}; {nearest(str(name), known)}", name=name)
    module, _, attribute = known[name].partition(":")
    found: type[Any] = getattr(importlib.import_module(module), attribute)
    return found


def name_of(kind: Kind, cls: type[Any]) -> str:
    """The catalog's name of a class. Raises UnknownNameError for a class that it does not hold."""
    place = f"{cls.__module__}:{cls.__qualname__}"
    for name, known in places(kind).items():
        if known == place:
            return name
    raise UnknownNameError(
        f"{place} is not in the catalog; a package of your own adds it by the entry point 'dlde.{kind}s'",
        name=place,
    )


def read(kind: Kind, value: Any) -> Any:
    """A noun from `{"name": ..., field: ...}` or a bare name; a ready object passes through.

    Used as a pydantic validator: mistakes in the fields keep their place in the file.
    """
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, dict):
        return value
    fields = dict(value)
    if "name" not in fields:
        raise ValueError(f"needs 'name'; known: {', '.join(sorted(places(kind)))}")
    try:
        cls = find(kind, fields.pop("name"))
    except UnknownNameError as error:
        raise ValueError(error.message) from None
    return cls.model_validate(fields)


def write(kind: Kind, noun: Any) -> dict[str, Any]:
    """The plain form of a noun that `read` takes."""
    return {"name": name_of(kind, type(noun)), **noun.model_dump(mode="json")}
