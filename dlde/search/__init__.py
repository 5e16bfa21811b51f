"""Hyperparameter search: `dlde tune`."""
