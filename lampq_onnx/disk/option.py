"""What a field of a record says of itself where it is an option: its help, its name, and what depends on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

METHOD, MODEL, IMAGES, OUTPUT, BUDGETS = "Method", "Model", "Images", "Output", "Budgets"
OPEN = "What the paper leaves open (docs/method.md)"
"""Headings of the help texts."""


@dataclass(frozen=True)
class Option:
    """Stands in the metadata of a field.

    Attributes:
        help: one line for people.
        panel: heading it stands under.
        flag: its name on the command line, with underscores; None: the field's own.
        shapes_file: whether the bytes of model.onnx depend on it.
        example: a value that stands in recipes where there is no default; None: nobody needs one.
    """

    help: str
    panel: str = METHOD
    flag: str | None = None
    shapes_file: bool = True
    example: Any = None


@dataclass(frozen=True)
class SameAs:
    """Stands in the metadata of a field that has the value of another section's field.

    It is no option of its own: neither the command line nor a recipe has it.
    """

    section: str
    field: str
