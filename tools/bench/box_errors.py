"""Find out whether a detector loses AP by its classes or by its boxes, and in which layers.

    python -m tools.bench.box_errors models/scenes

Groups of layers of a YOLOS are rounded to nearest. Then the classes of the rounded model are combined with the float
model's boxes, and the other way round.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from transformers import YolosForObjectDetection

from lampq_onnx.quantization import fit_weight_grid
from tools.detector.data import draw, normalized, to_tensors
from tools.detector.judge import average_precision
from tools.detector.loss import corners
from tools.scenes import Scene

SEED = 2
BATCH = 40
HEADS = ("class_labels_classifier", "bbox_predictor")
THRESHOLDS = np.arange(0.5, 0.96, 0.05)

app = typer.Typer(add_completion=False)
Answers = tuple[torch.Tensor, torch.Tensor]


@torch.no_grad()
def answers(model: YolosForObjectDetection, images: torch.Tensor) -> Answers:
    """Scores and boxes of all queries."""
    found = [model(normalized(part)) for part in images.split(BATCH)]
    return torch.cat([each.logits for each in found]), torch.cat([each.pred_boxes for each in found])


def precision(scores: torch.Tensor, boxes: torch.Tensor, scenes: list[Scene]) -> float:
    """AP over IoU 0.5 to 0.95, in points."""
    chances, kinds = scores.softmax(-1)[..., :-1].max(-1)
    found = (chances.numpy(), kinds.numpy(), torch.cat(corners(boxes), -1).numpy())
    return 100 * float(np.mean([average_precision(found, scenes, threshold) for threshold in THRESHOLDS]))


def round_layers(
    model: YolosForObjectDetection, own: dict[str, torch.Tensor], bits: Callable[[str], int | None]
) -> None:
    """Give every layer its width; None: float."""
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear):
            width = bits(name)
            weight = own[name]
            if width is not None:
                matrix = weight.numpy()
                weight = torch.from_numpy(fit_weight_grid(matrix, width).quantize(matrix).dequantize())
            layer.weight.data = weight


@app.command()
def main(
    model: Annotated[Path, typer.Argument(help="Folder of a YOLOS of transformers.")] = Path("models/scenes"),
    bits: Annotated[int, typer.Option(help="Width of the rounded layers.")] = 4,
    images: Annotated[int, typer.Option(help="Number of scenes.")] = 160,
) -> None:
    """Print the errors of boxes as a table."""
    if not (model / "config.json").is_file():
        sys.exit(f"there is no detector in {model}")
    network = YolosForObjectDetection.from_pretrained(model, dtype=torch.float32).eval()
    scenes = draw(SEED, images, 1)
    pixels, _ = to_tensors(scenes, torch.device("cpu"))
    own = {name: part.weight.data for name, part in network.named_modules() if isinstance(part, torch.nn.Linear)}
    scores, boxes = answers(network, pixels)
    print(f"{images} scenes; float AP {precision(scores, boxes, scenes):.1f}")
    print("| rounded | AP | its classes, float boxes | float classes, its boxes |\n|---|---|---|---|", flush=True)
    groups: dict[str, Callable[[str], int | None]] = {
        f"all layers to {bits} bits": lambda _: bits,
        f"all to {bits}, heads to 8": lambda name: 8 if name.startswith(HEADS) else bits,
        f"heads to {bits}": lambda name: bits if name.startswith(HEADS) else None,
    }
    for title, width in groups.items():
        round_layers(network, own, width)
        other, moved = answers(network, pixels)
        figures = (precision(other, moved, scenes), precision(other, boxes, scenes), precision(scores, moved, scenes))
        print(f"| {title} | " + " | ".join(f"{value:.1f}" for value in figures) + " |", flush=True)


if __name__ == "__main__":
    app()
