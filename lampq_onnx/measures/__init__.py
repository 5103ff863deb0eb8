"""How far two sets of answers are apart, and whether a difference is more than chance. NumPy only."""
