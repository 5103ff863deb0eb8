"""What a comparison of whole layers with groups of output channels found."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lampq_onnx.disk.records import Record


class GranularityTrial(Record):
    """Two plans of one budget, simulated on the same images: what `--granularity auto` was decided by."""

    chosen: Literal["layer", "group"] = Field(description="what has widths of its own in the plan")
    images: int = Field(gt=0, description="calibration images that both were simulated on")
    layer_kl: float = Field(description="mean KL to float of a plan with one width for each layer, in nats")
    group_kl: float = Field(description="that of a plan with widths for groups of output channels")
    layer_bytes: int | None = Field(default=None, description="promised bytes of the file of the first plan")
    group_bytes: int | None = Field(default=None, description="those of the second, which are at most as many")

    @property
    def text(self) -> str:
        """What was chosen, and both figures, in one line."""
        sizes = "" if self.layer_bytes is None else f" at {self.layer_bytes / 1e6:.3f} MB"
        return (
            f"{'groups of channels' if self.chosen == 'group' else 'one width for each layer'}: KL of groups "
            f"{self.group_kl:.3g}, of layers {self.layer_kl:.3g}{sizes} ({self.images} images, simulated)"
        )
