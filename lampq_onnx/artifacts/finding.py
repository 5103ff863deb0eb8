"""What an examination of the environment or a model finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "failure"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what.
        status: failure: the job cannot give a right result.
        detail: what was found, with figures.
        advice: what to do; empty if nothing.
    """

    name: str
    status: Status
    detail: str
    advice: str = ""
