"""Classical numerics on batches (torch)."""
