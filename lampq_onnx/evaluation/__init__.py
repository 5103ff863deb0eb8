"""Compares a quantized file with its float file: accuracy, errors of layers, speed, and the gates on them."""
