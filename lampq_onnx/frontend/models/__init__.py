"""Models: where they come from, their images and task, and their export to ONNX."""
