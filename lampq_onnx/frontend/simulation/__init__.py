"""The model with some of its layers rounded, as the quantized file will compute."""
