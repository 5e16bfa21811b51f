"""Elliptic equations on a rectangle with walls, batched."""
