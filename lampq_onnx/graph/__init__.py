"""ONNX graphs: find layers, change and match them, and read and write files and their metadata."""
