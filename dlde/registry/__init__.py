"""Model packages, and the registry that keeps them."""
