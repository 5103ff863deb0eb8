"""Formats for servers and devices, made from a folder that `quantize` wrote."""
