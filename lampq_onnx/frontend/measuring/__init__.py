"""Sensitivities: gradients, costs and input ranges, measured on the float model."""
