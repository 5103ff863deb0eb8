"""Weights as training tools write them: reading the file, finding the model's tensors in it, loading them."""
