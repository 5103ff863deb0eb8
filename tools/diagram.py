"""Draw the stages of a run with the files between them, as SVG for the documentation.

python tools/diagram.py             # writes docs/images/stages.svg
"""

from __future__ import annotations

import html
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from lampq_onnx.disk import files  # noqa: E402

TARGET = REPOSITORY / "docs/images/stages.svg"

WIDTH, ROW, TOP = 760, 74, 44
STAGE_X, STAGE_WIDTH = 250, 220
INPUT_X, OUTPUT_X, FILE_WIDTH = 10, 540, 210
BOX = 54

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1b1b1a; }
.small { font-size: 11.5px; fill: #63625e; } .name { font-weight: 600; }
.stage { fill: #cde2fb; stroke: #256abf; } .file { fill: #f4f3f0; stroke: #8a8984; }
path { stroke: #63625e; fill: none; } marker path { fill: #63625e; stroke: none; }
@media (prefers-color-scheme: dark) {
  text { fill: #f2f1ee; } .small { fill: #b0afa9; }
  .stage { fill: #143f76; stroke: #4f93e3; } .file { fill: #252523; stroke: #85847f; }
  path { stroke: #b0afa9; } marker path { fill: #b0afa9; stroke: none; }
}
"""


@dataclass(frozen=True)
class Stage:
    """One stage in the diagram.

    Attributes:
        command: the command that runs it alone.
        does: what it does, in words.
        reads: what it takes beside the result of the stage before.
        writes: the files that it leaves.
    """

    command: str
    does: str
    reads: str
    writes: str


FIRST = f"{files.FLOAT_FILE}, {files.SENSITIVITY_FILE}"

STAGES = (
    Stage("analyze", "export, measure sensitivities", "model, calibration images", FIRST),
    Stage("probe", "time layers on this machine", files.FLOAT_FILE, "latency.json"),
    Stage("allocate", "choose the bits of each layer", "budgets: bits, MB, ms", files.PLAN_FILE),
    Stage("quantize", "round the weights", "model, calibration images", files.WEIGHTS_FILE),
    Stage("convert", "write standard ONNX", files.FLOAT_FILE, files.MODEL_FILE),
    Stage("validate", "compare, check kernels, time", "validation images", f"{files.REPORT_FILE}, {files.PAGE_FILE}"),
    Stage("package", "write for a device or server", files.MODEL_FILE, "ort/, triton/, ..."),
)  # fmt: skip


def diagram() -> str:
    """Return the diagram as SVG."""
    height = TOP + ROW * len(STAGES)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{html.escape(words())}">',
        f"<style>{STYLE}</style>",
        '<defs><marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z"/></marker></defs>',
        *(
            f'<text class="small" x="{x}" y="24">{title}</text>'
            for x, title in ((INPUT_X, "takes"), (STAGE_X, "stage, and its command"), (OUTPUT_X, "leaves"))
        ),
    ]
    for number, stage in enumerate(STAGES):
        y = TOP + ROW * number
        middle = y + BOX // 2
        parts += [
            _box(INPUT_X, y, FILE_WIDTH, "file"),
            _text(INPUT_X + 10, middle + 5, stage.reads),
            _box(STAGE_X, y, STAGE_WIDTH, "stage"),
            _text(STAGE_X + 10, middle - 4, stage.command, "name"),
            _text(STAGE_X + 10, middle + 14, stage.does, "small"),
            _box(OUTPUT_X, y, FILE_WIDTH, "file"),
            _text(OUTPUT_X + 10, middle + 5, stage.writes),
            _arrow(INPUT_X + FILE_WIDTH, middle, STAGE_X, middle),
            _arrow(STAGE_X + STAGE_WIDTH, middle, OUTPUT_X, middle),
        ]
        if number:
            x = STAGE_X + STAGE_WIDTH // 2
            parts.append(_arrow(x, y - ROW + BOX, x, y))
    return "\n".join([*parts, "</svg>"]) + "\n"


def words() -> str:
    """Return the same as text, for those who cannot see it."""
    return "; ".join(f"{s.command} ({s.does}) takes {s.reads} and leaves {s.writes}" for s in STAGES)


def _box(x: int, y: int, width: int, kind: str) -> str:
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{BOX}" rx="6"/>'


def _text(x: int, y: int, text: str, kind: str = "") -> str:
    return f'<text{f" class={chr(34)}{kind}{chr(34)}" if kind else ""} x="{x}" y="{y}">{html.escape(text)}</text>'


def _arrow(x: int, y: int, to_x: int, to_y: int) -> str:
    return f'<path d="M{x} {y} L{to_x} {to_y}" marker-end="url(#end)"/>'


if __name__ == "__main__":
    TARGET.write_text(diagram(), encoding="utf-8")
    print(f"wrote {TARGET.relative_to(REPOSITORY)}")
