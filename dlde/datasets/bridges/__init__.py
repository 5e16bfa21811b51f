"""Other formats: a foreign file becomes a store like any other, and a store a foreign file."""
