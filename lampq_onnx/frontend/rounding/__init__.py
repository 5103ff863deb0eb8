"""Rounding of weights beyond the nearest level."""
