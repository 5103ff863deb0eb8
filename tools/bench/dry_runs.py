"""Compare the dry run of every family with the run up to its first measurement: the same layers, the same refusals.

    python -m tools.bench.dry_runs                # all families, a few minutes
    python -m tools.bench.dry_runs swin levit
    python -m tools.bench.dry_runs --recognized davit      # the dry run alone: what is recognized

Prints a row for each family, and exits with 1 if one differs.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lampq_onnx.config.recipe import Recipe
from lampq_onnx.errors import LampqError
from lampq_onnx.running.progress import NO_PROGRESS, Clock
from lampq_onnx.workflow.opened import opened_run
from lampq_onnx.workflow.quantize import recognize
from tools.bench.family import Family
from tools.bench.family_models import FAMILIES

Found = tuple[list[tuple[object, ...]], dict[str, str]] | str
"""Layers (name, type, shape, fixed) and the reasons of those left in float; or a refusal."""


def recipe_of(family: Family, room: Path) -> Recipe:
    """A recipe for the family with random weights and a few random images."""
    images = room / "images.npz"
    if not images.is_file():
        pixels = np.random.default_rng(0).integers(0, 256, (4, 256, 256, 3), dtype=np.uint8)
        # Other tasks of transformers would take these for numbers or maps.
        known = not family.config or "ImageClassification" in family.model
        np.savez(images, images=pixels, **({"labels": np.arange(4)} if known else {}))
    own = family.recipe(room, family.build(0))
    places = {"calibration": images, "validation": images, "calibration_size": 2}
    return own.model_copy(
        update={
            "images": own.images.model_copy(update=places),
            "analysis": own.analysis.model_copy(update={"effort": "fast"}),
            "output": own.output.model_copy(update={"threads": 1}),
        }
    )


def rehearsed(recipe: Recipe) -> Found:
    """What the dry run says."""
    try:
        said = recognize(recipe)
    except LampqError as error:
        return str(error)
    return [(layer.name, layer.type, tuple(layer.shape), layer.fixed) for layer in said.layers], dict(said.skipped)


def run(recipe: Recipe) -> Found:
    """What the run is about to measure."""
    try:
        with opened_run(recipe, Clock(NO_PROGRESS)) as opened:
            exported = opened.frontend.exported
            layers = [(u.name, u.type, tuple(u.matrix().shape), u.fixed) for u in exported.layers]
            return layers, dict(exported.skipped)
    except LampqError as error:
        return str(error)


def row_of(family: Family, room: Path) -> str:
    """Row of a family that is only recognized: model, layers, their share of the weights, what stays in float."""
    arguments = ", ".join(f"{key}={value}" for key, value in family.arguments.items())
    everything = sum(value.numel() for value in family.build(0).parameters())
    try:
        said = recognize(recipe_of(family, room))
    except LampqError as error:
        cells = ["**refused**: " + "; ".join(str(error).splitlines()), "", ""]
    else:
        kinds = Counter(layer.type for layer in said.layers)
        cells = [
            ", ".join(f"{count} {kind}" for kind, count in kinds.items()),
            f"{100 * sum(layer.parameters for layer in said.layers) / everything:.0f} %",
            "; ".join(f"{count}: {reason}" for reason, count in Counter(said.skipped.values()).items()),
        ]
    return f"| {' | '.join((family.name, f'{family.model} ({arguments})', *cells))} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table of recognized layers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help="names of families; none: all")
    parser.add_argument("--recognized", action="store_true", help="the dry run alone, and what it recognizes")
    options = parser.parse_args(arguments)
    chosen = [family for family in FAMILIES if not options.families or family.name in options.families]
    different = 0
    columns = ("family", "model", "layers", "share", "stays in float")
    if not options.recognized:
        columns = ("family", "layers", "dry run and run")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)
    for family in chosen:
        with tempfile.TemporaryDirectory(prefix="lampq-") as room:
            if options.recognized:
                print(row_of(family, Path(room)), flush=True)
                continue
            recipe = recipe_of(family, Path(room))
            first, second = rehearsed(recipe), run(recipe)
        different += first != second
        shown = "refused: " + first.splitlines()[0] if isinstance(first, str) else str(len(first[0]))
        print(f"| {family.name} | {shown} | {'the same' if first == second else '**different**'} |", flush=True)
    return int(different > 0)


if __name__ == "__main__":
    raise SystemExit(main())
