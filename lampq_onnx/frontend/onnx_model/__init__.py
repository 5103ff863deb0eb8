"""A PyTorch module built from an ONNX graph, so that a model known only by its file has gradients."""
