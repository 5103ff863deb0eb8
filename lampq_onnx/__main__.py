"""`python -m lampq_onnx` and the command `lampq-onnx`."""

import sys

from lampq_onnx.errors import INTERRUPTED


def main() -> None:
    """Run the command line; Ctrl-C while it is loaded ends without a traceback, too."""
    try:
        from lampq_onnx.cli.main import run  # noqa: PLC0415 -- Ctrl-C ends the import too
    except KeyboardInterrupt:
        print("error: interrupted before anything was done", file=sys.stderr)
        sys.exit(INTERRUPTED)
    run()


if __name__ == "__main__":
    main()
