"""A quantized file against its float file: accuracy, errors of layers, speed, and the gates on them."""
