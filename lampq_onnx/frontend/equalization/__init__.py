"""Equalization: per-channel scales and shifts that move between layers without changing the function."""
