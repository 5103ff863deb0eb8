"""`python -m lampq_onnx` is the command line."""

from lampq_onnx.cli.main import run

run()
