"""Simulation datasets: recipe, generation, store, reading."""
