"""Build files with TensorRT-RTX, and print in which precision each product runs by the engine's own report.

    python -m tools.bench.tensorrt out/model.onnx

Needs `pip install lampq-onnx[tensorrt]`, and no GPU: an engine is built, but cannot be run here. So this shows that a
file is taken, and which products are integer ones. It says nothing about speed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lampq_onnx.errors import LampqError
from lampq_onnx.runtime.tensorrt_rtx import build_engine

PACKAGE = "tensorrt-rtx-cu13-bindings"


def row_of(path: Path, *, batch: int) -> dict[str, Any]:
    """Build a file; why it is refused, or the kinds of layers and the precision of each product."""
    try:
        engine = build_engine(path, batch=batch)
    except LampqError as error:
        return {"file": str(path), "runtime": version(), "refused": error.message}
    kinds = Counter(layer.kind for layer in engine.layers)
    return {
        "file": str(path),
        "runtime": version(),
        "refused": "",
        "bytes": engine.bytes,
        "layers": kinds,
        "products": engine.products,
        "written": Counter(kind for layer in engine.layers for kind in layer.outputs),
    }


def version() -> str:
    """Name and version of the builder."""
    return f"{PACKAGE} {importlib.metadata.version(PACKAGE)}"


def print_row(row: dict[str, Any], *, each: bool) -> None:
    """Print a row in words."""
    print(row["file"])
    if row["refused"]:
        print(f"  refused: {row['refused']}")
        return
    print(f"  engine of {row['bytes'] / 1e6:.1f} MB; {', '.join(f'{n} {kind}' for kind, n in row['layers'].items())}")
    print(f"  written by layers: {', '.join(f'{n} {kind}' for kind, n in row['written'].items())}")
    counts = Counter(row["products"].values())
    print(f"  products: {', '.join(f'{n} {precision}' for precision, n in counts.most_common())}")
    for name, precision in row["products"].items():
        if each or precision != counts.most_common(1)[0][0]:
            print(f"    {name}: {precision}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--batch", type=int, default=8, help="largest number of images (default 8)")
    parser.add_argument("--each", action="store_true", help="name all products, not only those that differ")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    asked = parser.parse_args(arguments)
    rows = [row_of(path, batch=asked.batch) for path in asked.files]
    if asked.json:
        print(json.dumps(rows))
        return
    print(version())
    for row in rows:
        print_row(row, each=asked.each)


if __name__ == "__main__":
    main()
