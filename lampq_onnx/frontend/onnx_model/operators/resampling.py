"""ONNX operators that read an image between its pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from lampq_onnx.errors import LampqError

_RESIZE = {
    ("nearest", "asymmetric", "floor"): ("nearest", None),
    ("nearest", "half_pixel", "round_prefer_ceil"): ("nearest-exact", None),
    ("linear", "half_pixel"): ("bilinear", False),
    ("linear", "pytorch_half_pixel"): ("bilinear", False),
    ("linear", "align_corners"): ("bilinear", True),
    ("cubic", "half_pixel"): ("bicubic", False),
    ("cubic", "pytorch_half_pixel"): ("bicubic", False),
    ("cubic", "align_corners"): ("bicubic", True),
}
"""(mode, coordinates, rounding of nearest) -> torch's mode and align_corners.

torch's nearest-exact takes the upper of two neighbours that are as near, ONNX's default the lower one.
"""

_ROUNDING: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round_prefer_floor": lambda at: torch.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: torch.floor(at + 0.5),
}
_COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")


def _resize(
    x: torch.Tensor,
    roi: torch.Tensor | None = None,  # noqa: ARG001  for tf_crop_and_resize, which is not supported
    scales: torch.Tensor | None = None,
    sizes: torch.Tensor | None = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,  # noqa: ARG001  for tf_crop_and_resize
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> torch.Tensor:
    key = (mode, coordinate_transformation_mode, *([nearest_mode] if mode == "nearest" else []))
    known = key in _RESIZE or (mode in ("linear", "nearest") and coordinate_transformation_mode in _COORDINATES)
    plain = not antialias and not exclude_outside and keep_aspect_ratio_policy == "stretch"
    if not known or not plain or abs(cubic_coeff_a + 0.75) > 1e-6:
        raise LampqError(f"Resize as {', '.join(map(str, key))} is not supported")
    chosen = [a % x.dim() for a in axes] if axes is not None else list(range(x.dim()))
    if sizes is not None and sizes.numel():
        wanted = dict(zip(chosen, [int(s) for s in sizes.tolist()], strict=True))
        factors = {a: size / x.shape[a] for a, size in wanted.items()}
    elif scales is not None:
        factors = dict(zip(chosen, scales.tolist(), strict=True))
        wanted = {a: int(x.shape[a] * s) for a, s in factors.items()}
    else:
        raise LampqError("Resize has neither sizes nor scales")
    changed = {a: size for a, size in wanted.items() if size != x.shape[a]}
    if coordinate_transformation_mode == "pytorch_half_pixel" and mode != "nearest":
        for axis in [a for a, size in changed.items() if size == 1]:
            x = x.narrow(axis, 0, 1)  # the first value; torch would average those in the middle
            del changed[axis]
    even = all(size == x.shape[a] * factors[a] for a, size in changed.items())
    if x.dim() == 4 and not {0, 1} & set(changed) and key in _RESIZE and (even or "align_corners" in key):
        target = [wanted.get(2, x.shape[2]), wanted.get(3, x.shape[3])]
        kind, align = _RESIZE[key]
        return functional.interpolate(x, size=target, mode=kind, align_corners=align)
    if mode == "cubic":
        raise LampqError("Resize by cubic polynomials is supported for images and for whole sizes only")
    for axis, size in changed.items():
        at = _positions(coordinate_transformation_mode, x.shape[axis], size, factors[axis]).to(x.device)
        x = _along(x, axis, at, _ROUNDING[nearest_mode] if mode == "nearest" else None)
    return x


def _positions(coordinates: str, before: int, after: int, factor: float) -> torch.Tensor:
    """Where the new places of one axis lie among the old ones."""
    places = torch.arange(after, dtype=torch.float32)
    if coordinates == "align_corners":
        at = places * (before - 1) / max(after - 1, 1)
    elif coordinates == "asymmetric":
        at = places / factor
    elif coordinates == "pytorch_half_pixel" and after == 1:
        at = torch.zeros(1)
    else:
        at = (places + 0.5) / factor - 0.5
    return at.clamp(0, before - 1)


def _along(
    x: torch.Tensor, axis: int, at: torch.Tensor, rounding: Callable[[torch.Tensor], torch.Tensor] | None
) -> torch.Tensor:
    """Values of an axis at places, from the nearest one by ``rounding``, or on the line between both neighbours."""
    if rounding is not None:
        return x.index_select(axis, rounding(at).long().clamp(0, x.shape[axis] - 1))
    low = at.floor().long()
    share = (at - low).reshape(-1, *[1] * (x.dim() - 1 - axis))
    high = (low + 1).clamp(max=x.shape[axis] - 1)
    return x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share


_SAMPLING = {
    "linear": "bilinear",
    "bilinear": "bilinear",
    "nearest": "nearest",
    "cubic": "bicubic",
    "bicubic": "bicubic",
}
"""Mode of GridSample, by its names in opset 16 and in opset 20 -> torch's name."""


def _grid_sample(
    x: torch.Tensor,
    grid: torch.Tensor,
    *,
    align_corners: int = 0,
    mode: str = "linear",
    padding_mode: str = "zeros",
) -> torch.Tensor:
    if x.ndim != 4:
        raise LampqError(f"GridSample of a tensor with {x.ndim} dimensions is not supported, only of images")
    sampled: torch.Tensor = functional.grid_sample(
        x, grid, mode=_SAMPLING[mode], padding_mode=padding_mode, align_corners=bool(align_corners)
    )
    return sampled


RESAMPLING: Mapping[str, Any] = {"GridSample": _grid_sample, "Resize": _resize}
