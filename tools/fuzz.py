"""Fuzz the readers of plans, recipes and ONNX files for a limited time, guided by code coverage.

    python tools/fuzz.py plan --seconds 60
    python tools/fuzz.py recipe --seconds 60
    python tools/fuzz.py onnx --seconds 60

This needs atheris (pip install atheris). The run ends if an input makes a reader raise anything but LampqError, or take
more than five seconds. That input is written to --findings; add it to the cases of tests/trust.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

try:
    import atheris
except ImportError:
    sys.exit("atheris is not installed: pip install atheris (Linux, CPython)")

with atheris.instrument_imports(include=["lampq_onnx", "tomllib", "onnx_ir"]):
    from lampq_onnx.artifacts import BitPlan
    from lampq_onnx.config.recipe import Recipe
    from lampq_onnx.converter import inspect_model
    from lampq_onnx.errors import LampqError
    from lampq_onnx.graph.model_file import load_model

from tests.trust.case import make_good

READERS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "plan": (BitPlan.load, "plan.json", "plan.json"),
    "recipe": (Recipe.load, "recipe.toml", "recipe.toml"),
    "onnx": (lambda path: inspect_model(load_model(path)), "model.onnx", "model.onnx"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--findings", type=Path, default=Path(tempfile.gettempdir()) / "lampq-findings")
    options = parser.parse_args()
    read, name, good = READERS[options.reader]
    room = Path(tempfile.mkdtemp(prefix="lampq-fuzz-"))
    corpus, work = room / "corpus", room / "work"
    corpus.mkdir()
    work.mkdir()
    options.findings.mkdir(parents=True, exist_ok=True)
    files = make_good(room)
    recipe = Recipe.build({"model": {"name": "digits"}}, {"images": {"mean": (0.5, 0.25)}}).to_toml()
    (room / "recipe.toml").write_text(recipe)
    (corpus / "good").write_bytes((room / good).read_bytes())
    (corpus / "float").write_bytes(files.float.read_bytes() if options.reader == "onnx" else b"{}")
    path = work / name

    def once(data: bytes) -> None:
        path.write_bytes(data)
        try:
            read(path)
        except LampqError as error:
            if not error.message.strip():
                raise AssertionError("an error without a message") from error

    words = [
        sys.argv[0],
        str(corpus),
        f"-max_total_time={options.seconds}",
        f"-seed={options.seed}",
        "-timeout=5",
        "-rss_limit_mb=4096",
        "-max_len=65536",
        "-print_final_stats=1",
        f"-artifact_prefix={options.findings}/{options.reader}-",
    ]
    atheris.Setup(words, once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
