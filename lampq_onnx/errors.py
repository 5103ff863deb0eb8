"""Errors a user can act on. Anything else that escapes is a bug and keeps its traceback."""

from __future__ import annotations


class LampqError(Exception):
    """What is wrong, where, and what to do, in one message; the command line exits with 1.

    Args:
        message: one sentence that names the file, layer or node and what is wrong with it.
        hint: what the user can do about it.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(LampqError):
    """The request itself cannot be right (an option out of range, a combination that is not offered)."""

    exit_code = 2


class ScoreError(LampqError):
    """Scores that do not show that the outputs changed."""


class GateError(LampqError):
    """The result was computed and is outside the bounds that were asked for."""
