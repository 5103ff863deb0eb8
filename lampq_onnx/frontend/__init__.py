"""PyTorch and timm: the only package that imports torch."""
