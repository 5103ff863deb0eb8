"""Results of many budgets and metrics tried on one analysis."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lampq_onnx.artifacts.report import Accuracy, Baseline, Environment
from lampq_onnx.disk.records import Artifact


class SweepPoint(Artifact):
    """Result of one budget with one metric."""

    format: Literal["lampq-onnx/sweep-point"] = "lampq-onnx/sweep-point"
    version: Literal[1] = 1
    metric: str = Field(description="metric that gave the costs")
    bits: float = Field(description="requested average weight bits")
    updated: bool = Field(description="whether the iterative update refined the widths")
    measured: Baseline = Field(description="accuracy, size and latency of its file")
    rounding: dict[str, str] = Field(description="layer -> technique that was kept")
    held_out_kl: dict[str, float] = Field(default_factory=dict, description="see RoundingRecord")
    kept: dict[str, bool] = Field(default_factory=dict, description="see RoundingRecord")
    same_as: str | None = Field(
        default=None, description="an earlier point with the same plan, whose file and figures this one has; null: none"
    )

    @property
    def name(self) -> str:
        """Name of the point's folder."""
        return f"{self.metric}-{self.bits:g}"

    @property
    def accuracy(self) -> Accuracy:
        """Accuracy compared with the float file."""
        return self.measured.accuracy

    @property
    def megabytes(self) -> float:
        """Size of the file in 10^6 bytes."""
        return self.measured.quantized_bytes / 1e6

    @property
    def speedup(self) -> float | None:
        """Median of float time divided by quantized time, from alternating runs."""
        return self.measured.latency.speedup if self.measured.latency else None


class Sweep(Artifact):
    """All results of a sweep: the content of sweep.json."""

    format: Literal["lampq-onnx/sweep"] = "lampq-onnx/sweep"
    version: Literal[1] = 1
    model: str = Field(description="name of the model")
    written: str | None = Field(default=None, description="date and time (UTC, ISO 8601); null in older files")
    float_bytes: int = Field(description="bytes of the float file")
    points: tuple[SweepPoint, ...] = Field(description="all budgets under all metrics")
    front: tuple[str, ...] = Field(description="Pareto-optimal points in size and KL, smallest first")
    picked: str | None = Field(default=None, description="the point whose files lie beside sweep.json")
    request: str | None = Field(default=None, description="the request that it was picked for")
    environment: Environment = Field(description="machine and versions")
    recipe: str | None = Field(default=None, description="the recipe as TOML, without the budgets that were tried")
    inputs: str | None = Field(default=None, description="everything else that the files depend on, as JSON")
