"""A result of checking the environment or a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "failure"]


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: what was checked.
        status: the verdict; with a failure, the command cannot give a right result.
        detail: what was found, with figures.
        advice: what to do; empty if nothing.
    """

    name: str
    status: Status
    detail: str
    advice: str = ""
