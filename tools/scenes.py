"""Generate scenes of simple shapes with exact boxes, to train and measure detectors without photographs.

    python -m tools.scenes scenes/ --count 400 --seed 1

This writes scenes/images/*.png and scenes/annotations.json in COCO format. The same arguments and the same version of
NumPy give the same pixels. Pillow is needed only to write files.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

CLASSES = ("disc", "square", "triangle", "ring", "star", "cross")
SIZE = 128
"""Side of a scene in pixels."""

MOST_OBJECTS = 6
RADII = (8.0, 28.0)
"""Circumscribed radii of the shapes in pixels."""

OVERLAP = 0.2
"""Largest share of a box that another one may cover."""

CONTRAST = 60.0
"""Least difference to the background in one channel, of 255 levels."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scene:
    """One image and its objects.

    Attributes:
        image: uint8 (height, width, 3).
        boxes: float64 (n, 4), left, top, width and height in pixels of the whole shape, hidden parts included.
        classes: int64 (n,), positions in `CLASSES`.
    """

    image: npt.NDArray[np.uint8]
    boxes: Floats
    classes: npt.NDArray[np.int64]


def scene(seed: int, index: int, *, width: int = SIZE, height: int = SIZE) -> Scene:
    """Scene ``index`` of the series ``seed``: one to six shapes on a noisy gradient, later ones in front."""
    random = np.random.default_rng((seed, index))
    pixels = _background(random, width, height)
    boxes: list[Floats] = []
    classes: list[int] = []
    for _ in range(int(random.integers(1, MOST_OBJECTS + 1))):
        for _ in range(20):
            kind = int(random.integers(len(CLASSES)))
            radius = float(np.exp(random.uniform(*np.log(RADII))))
            outline = _outline(CLASSES[kind], radius, random.uniform(0, 2 * np.pi))
            low, high = _extent(CLASSES[kind], outline, radius)
            room = np.array([width, height]) - (high - low)
            corner = random.uniform(0, 1, 2) * room
            box = np.concatenate([corner, high - low])
            if (room > 0).all() and all(_shared(box, other) <= OVERLAP for other in boxes):
                _draw(pixels, CLASSES[kind], outline, radius, corner - low, random)
                boxes.append(box)
                classes.append(kind)
                break
    pixels += random.normal(0, random.uniform(2, 10), pixels.shape)
    return Scene(
        np.clip(np.rint(pixels), 0, 255).astype(np.uint8),
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array(classes, dtype=np.int64),
    )


def _background(random: np.random.Generator, width: int, height: int) -> Floats:
    """A gradient between four colours with smooth spots, float (height, width, 3)."""
    corners = random.uniform(30, 225, (2, 2, 3))
    down, across = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    top = corners[0, 0] * (1 - across) + corners[0, 1] * across
    bottom = corners[1, 0] * (1 - across) + corners[1, 1] * across
    spots = random.normal(0, 18, (height // 16 + 2, width // 16 + 2, 3))
    return np.asarray(top * (1 - down) + bottom * down + _smooth(spots, height, width))


def _smooth(grid: Floats, height: int, width: int) -> Floats:
    """Bilinear interpolation of a coarse grid (rows, columns, 3), one cell every 16 pixels."""
    y, x = np.arange(height) / 16, np.arange(width) / 16
    row, column = y.astype(int), x.astype(int)
    down, across = (y - row)[:, None, None], (x - column)[None, :, None]
    upper = grid[row][:, column] * (1 - across) + grid[row][:, column + 1] * across
    lower = grid[row + 1][:, column] * (1 - across) + grid[row + 1][:, column + 1] * across
    return np.asarray(upper * (1 - down) + lower * down)


def _outline(kind: str, radius: float, turn: float) -> Floats:
    """Corners (n, 2) around the origin; a disc and a ring have none."""
    if kind in ("disc", "ring"):
        return np.zeros((0, 2))
    if kind == "cross":
        arm = 0.34
        quarter = np.array([[arm, arm], [arm, 1], [-arm, 1]]) / np.hypot(arm, 1)
        turns = [np.array([[0, -1], [1, 0]])] * 3
        corners = [quarter]
        for matrix in turns:
            corners.append(corners[-1] @ matrix.T)
        points = np.concatenate(corners)
    else:
        count = {"square": 4, "triangle": 3, "star": 10}[kind]
        angles = 2 * np.pi * np.arange(count) / count
        reach = np.where(np.arange(count) % 2, 0.42, 1.0) if kind == "star" else np.ones(count)
        points = reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    cosine, sine = np.cos(turn), np.sin(turn)
    return np.asarray(radius * points @ np.array([[cosine, sine], [-sine, cosine]]))


def _extent(kind: str, outline: Floats, radius: float) -> tuple[Floats, Floats]:
    if kind in ("disc", "ring"):
        return np.full(2, -radius), np.full(2, radius)
    return outline.min(0), outline.max(0)


def _shared(box: Floats, other: Floats) -> float:
    """Compute the intersection divided by the smaller area."""
    low = np.maximum(box[:2], other[:2])
    high = np.minimum(box[:2] + box[2:], other[:2] + other[2:])
    return float(np.clip(high - low, 0, None).prod() / min(box[2:].prod(), other[2:].prod()))


def _draw(
    pixels: Floats, kind: str, outline: Floats, radius: float, centre: Floats, random: np.random.Generator
) -> None:
    """Blend one shape into the pixels, edges antialiased over one pixel."""
    height, width, _ = pixels.shape
    left, top = np.maximum(np.floor(centre - radius - 1), 0).astype(int)
    right, bottom = np.minimum(np.ceil(centre + radius + 1), [width, height]).astype(int)
    y, x = np.mgrid[top:bottom, left:right] + 0.5
    x, y = x - centre[0], y - centre[1]
    if kind == "disc":
        distance = np.hypot(x, y) - radius
    elif kind == "ring":
        distance = np.abs(np.hypot(x, y) - 0.775 * radius) - 0.225 * radius
    else:
        distance = _polygon_distance(x, y, outline)
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    part = pixels[top:bottom, left:right]
    behind = part.mean((0, 1))
    colour = random.uniform(0, 255, 3)
    while np.abs(colour - behind).max() < CONTRAST:
        colour = random.uniform(0, 255, 3)
    shade = random.normal(0, 12) * (x / radius)[..., None] + random.normal(0, 12) * (y / radius)[..., None]
    part += cover * (colour + shade - part)


def _polygon_distance(x: Floats, y: Floats, corners: Floats) -> Floats:
    """Signed distance to a polygon, negative inside (even-odd rule)."""
    nearest = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, 0), strict=True):
        ex, ey = bx - ax, by - ay
        along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - ax - along * ex, y - ay - along * ey))
        crosses = (ay > y) != (by > y)
        if ey != 0:
            inside ^= crosses & (x < ax + (y - ay) * ex / ey)
    return np.where(inside, -nearest, nearest)


def write_coco(folder: Path, seed: int, count: int, *, width: int = SIZE, height: int = SIZE) -> Path:
    """Write scenes as PNG files and one COCO annotation file; returns the latter's path.

    Category ids start at 1, as COCO's do.
    """
    from PIL import Image

    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for index in range(count):
        drawn = scene(seed, index, width=width, height=height)
        name = f"{seed}_{index:05d}.png"
        Image.fromarray(drawn.image).save(images / name)
        records.append({"id": index + 1, "file_name": name, "width": width, "height": height})
        for box, kind in zip(drawn.boxes, drawn.classes, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": int(kind) + 1,
                    "bbox": [round(float(value), 3) for value in box],
                    "area": round(float(box[2] * box[3]), 3),
                    "iscrowd": 0,
                }
            )
    path = folder / "annotations.json"
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    path.write_text(json.dumps({"images": records, "annotations": annotations, "categories": categories}) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description="Write generated scenes in COCO form.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1, help="seed of the series; the detector is trained on series 0")
    parser.add_argument("--width", type=int, default=SIZE)
    parser.add_argument("--height", type=int, default=SIZE)
    options = parser.parse_args()
    path = write_coco(options.folder, options.seed, options.count, width=options.width, height=options.height)
    print(f"wrote {options.count} scenes and {path}")


if __name__ == "__main__":
    main()
