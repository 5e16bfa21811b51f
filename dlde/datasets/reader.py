"""Chunks of a stored array, read straight into the rows of a buffer."""
