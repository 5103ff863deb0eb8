"""What a field of a record says of itself if it is an option: its help text, its names, and who is shown it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

MODEL, IMAGES, BUDGETS, METHOD, OUTPUT = "Model", "Images", "Budgets", "Method", "Output"
RESEARCH = "Advanced (research)"
PANELS = (MODEL, IMAGES, BUDGETS, METHOD, OUTPUT, RESEARCH)
"""Headings of the help texts, in their order."""

Level = Literal["basic", "all"]
"""Which help shows an option: `--help` and `--help-all`, or only the latter."""


@dataclass(frozen=True)
class Option:
    """What a user reads of a field, and where. It stands in the metadata of the field.

    Attributes:
        help: what the option does, with its unit and an example where that helps. A mark such as ``{metrics}`` stands
            for the names of that table (`config.names.TABLES`).
        panel: heading of the help text that it stands under.
        flag: its name on the command line, with underscores; None: the name of the field.
        level: which help shows it. Options are accepted on the command line at either level.
        names: table of the names that it takes, for shell completion; None: the words of the field's type.
        shapes_file: whether the bytes of model.onnx depend on it.
        example: a value that stands in recipes where there is no default; None: nobody needs one.
    """

    help: str
    panel: str = METHOD
    flag: str | None = None
    level: Level = "all"
    names: str | None = None
    shapes_file: bool = True
    example: Any = None


@dataclass(frozen=True)
class SameAs:
    """Marks a field whose value is always that of a field in another section.

    Neither the command line nor a recipe has an option for it.
    """

    section: str
    field: str
