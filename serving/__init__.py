"""A model to enhanced photos."""
