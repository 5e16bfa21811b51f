"""Decaying and forced two-dimensional turbulence on a periodic box; everything is dimensionless."""
