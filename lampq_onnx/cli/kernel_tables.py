"""Tables that `explain` prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lampq_onnx.cli.columns import Column, console, print_table, words
from lampq_onnx.cli.tables import print_not_done
from lampq_onnx.runtime.environment import describe_environment

if TYPE_CHECKING:
    from lampq_onnx.runtime.explain import Explanation

SMALL = 0.005
"""Operators that take less than this fraction of the time are listed together."""


def print_explanation(found: Explanation, path: Path) -> None:
    """Print the kernel and the time of each layer, then the time of each operator."""
    out = console()
    total = max(found.total_microseconds, 1e-9)
    columns = [
        words("layer"), Column("W/A"), words("kernel"), Column("us"), Column("convert", 2), Column("share", 1),
        words("why not integer"),
    ]  # fmt: skip
    rows = [
        (
            layer.name, f"{layer.bits_text}/{layer.activation_bits}", layer.kernel, f"{layer.microseconds:.0f}",
            f"{layer.conversion_microseconds:.0f}", f"{100 * layer.total / total:.1f} %", layer.reason,
        )
        for layer in found.layers
    ]  # fmt: skip
    print_table(out, columns, rows, f"{path.name}: linear layers")
    operators = [
        (operator, f"{time:.0f}", f"{100 * time / total:.1f} %")
        for operator, time in found.operators.items()
        if time >= SMALL * total
    ]
    small = sum(time for time in found.operators.values() if time < SMALL * total)
    operators += [("others", f"{small:.0f}", f"{100 * small / total:.1f} %"), ("all", f"{total:.0f}", "")]
    print_table(out, [words("operator"), Column("us"), Column("share")], operators, "all operators")
    integer = sum(layer.integer for layer in found.layers)
    out.print(
        f"{integer} of {len(found.layers)} linear layers are on integer kernels; batch {found.batch}, {found.threads} "
        f"thread(s), medians of {found.runs} profiled runs of {found.runtime} on {describe_environment('').cpu}",
        markup=False,
    )
    print_not_done(found.not_done)
