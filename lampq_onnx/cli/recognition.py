"""Tables of `quantize --dry-run`: what would be quantized."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.markup import escape

from lampq_onnx.cli.columns import Column, console, print_table, words
from lampq_onnx.cli.tables import print_not_done
from lampq_onnx.graph.recognition import REASONS, Recognition


def print_recognition(found: Recognition) -> None:
    """Print a row for each layer, then what stays in float and why."""
    out = console()
    columns = [words("layer"), words("type"), Column("outputs x inputs", 1), Column("weights"), words("", 2)]
    rows = [
        (
            layer.name, layer.type, f"{layer.shape[0]} x {layer.shape[1]}", f"{layer.parameters:,}",
            "outside the budget" if layer.fixed else "",
        )
        for layer in found.layers
    ]  # fmt: skip
    print_table(out, columns, rows, f"{found.model}: layers that are quantized")
    kinds = Counter(layer.type for layer in found.layers)
    out.print(f"{', '.join(f'{count} {kind}' for kind, count in kinds.items())}; {found.blocks} block(s)")
    for name, reason in found.skipped.items():
        out.print(f"[yellow]stays in float:[/] {escape(name)}: {escape(reason)}")
    for what, count in found.elsewhere.items():
        out.print(f"[yellow]stays in float:[/] {count} {what}: {REASONS[what]}")
    for what, count in found.changes.items():
        out.print(f"graph rewritten: {count} {what}")
    print_not_done(found.not_done)
    if found.parity is not None:
        out.print(f"PyTorch and onnxruntime differ by {found.parity:.1e} (relative)")
    if found.links is not None:
        out.print(f"{found.links} place(s) where input channels can be equalized")
    out.print(f"task: {found.task}{f' ({found.why})' if found.why else ''}")
    for name, task in found.outputs.items():
        out.print(f"output {escape(name)}: {task}")
    out.print(f"images: {found.preprocessing}", markup=False)
    _print_stages(out, found)
    out.print("nothing was written")


def _print_stages(out: Console, found: Recognition) -> None:
    """Print what the run would do, and about how long it would take."""
    if not found.stages:
        return
    rows = [(stage.name, f"{stage.seconds:.1f}") for stage in found.stages]
    rows.append(("all", f"{sum(stage.seconds for stage in found.stages):.0f}"))
    print_table(
        out,
        [words("stage"), Column("about, s")],
        rows,
        "stages of the run; those that check the file, if validation images are named",
    )
    if found.peak_bytes is not None:
        out.print(f"memory: about {found.peak_bytes / 1e9:.1f} GB")
