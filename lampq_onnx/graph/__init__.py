"""ONNX graphs: find layers, change and match them, and read and write files with their metadata."""
