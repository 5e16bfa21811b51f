"""Conjugate gradients with geometric multigrid, batched."""
