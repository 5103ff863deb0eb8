"""Budgets and metrics tried on one analysis."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lampq_onnx.artifacts.report import Accuracy, Baseline, Environment
from lampq_onnx.disk.records import Artifact


class SweepPoint(Artifact):
    """One budget under one metric."""

    format: Literal["lampq-onnx/sweep-point"] = "lampq-onnx/sweep-point"
    version: Literal[1] = 1
    metric: str
    bits: float = Field(description="average weight bits asked for")
    updated: bool = Field(description="whether the iterative update refined the widths")
    measured: Baseline
    rounding: dict[str, str] = Field(description="layer -> technique that was kept")
    held_out_kl: dict[str, float] = Field(default_factory=dict, description="see RoundingRecord")
    kept: dict[str, bool] = Field(default_factory=dict, description="see RoundingRecord")

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.metric}-{self.bits:g}"

    @property
    def accuracy(self) -> Accuracy:
        """Against the float file."""
        return self.measured.accuracy

    @property
    def megabytes(self) -> float:
        """Size of the file in 10^6 bytes."""
        return self.measured.quantized_bytes / 1e6

    @property
    def speedup(self) -> float | None:
        """Median ratio of float time and quantized time in turns."""
        return self.measured.latency.speedup if self.measured.latency else None


class Sweep(Artifact):
    """What a sweep found: sweep.json."""

    format: Literal["lampq-onnx/sweep"] = "lampq-onnx/sweep"
    version: Literal[1] = 1
    model: str
    float_bytes: int
    points: tuple[SweepPoint, ...]
    front: tuple[str, ...] = Field(description="points that no other one beats in size and KL both, smallest first")
    picked: str | None = Field(default=None, description="the point whose files lie beside this one")
    request: str | None = Field(default=None, description="what it was picked by")
    environment: Environment
    recipe: str | None = Field(default=None, description="as TOML, without the budgets that were tried")
    inputs: str | None = Field(default=None, description="what else decided the files, as JSON")
