"""Tables that `explain` prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from lampq_onnx.cli.tables import console, print_not_done
from lampq_onnx.runtime.environment import describe_environment

if TYPE_CHECKING:
    from lampq_onnx.runtime.explain import Explanation

SMALL = 0.005
"""Operators that take less than this fraction of the time are listed together."""


def print_explanation(found: Explanation, path: Path) -> None:
    """Print the kernel and the time of each layer, then the time of each operator."""
    out = console()
    total = max(found.total_microseconds, 1e-9)
    table = Table(title=f"{path.name}: linear layers", title_justify="left")
    table.add_column("layer", no_wrap=True)
    table.add_column("W/A", justify="right", no_wrap=True)
    table.add_column("kernel", no_wrap=True)
    for column in ("us", "convert", "share"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("why not integer")
    for layer in found.layers:
        table.add_row(
            escape(layer.name),
            f"{layer.weight_bits}/{layer.activation_bits}",
            layer.kernel,
            f"{layer.microseconds:.0f}",
            f"{layer.conversion_microseconds:.0f}",
            f"{100 * layer.total / total:.1f} %",
            layer.reason,
        )
    out.print(table)
    table = Table(title="all operators", title_justify="left")
    table.add_column("operator")
    for column in ("us", "share"):
        table.add_column(column, justify="right")
    small = 0.0
    for operator, time in found.operators.items():
        if time < SMALL * total:
            small += time
        else:
            table.add_row(operator, f"{time:.0f}", f"{100 * time / total:.1f} %")
    table.add_row("others", f"{small:.0f}", f"{100 * small / total:.1f} %")
    table.add_row("all", f"{total:.0f}", "")
    out.print(table)
    integer = sum(layer.integer for layer in found.layers)
    out.print(
        f"{integer} of {len(found.layers)} linear layers are on integer kernels; batch {found.batch}, {found.threads} "
        f"thread(s), medians of {found.runs} profiled runs of {found.runtime} on {describe_environment('').cpu}",
        markup=False,
    )
    print_not_done(found.not_done)
