"""Errors that a user can act on. Any other exception is a bug and keeps its traceback."""

from __future__ import annotations

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


ALLOCATORS = ("DefaultCPUAllocator", "Failed to allocate memory", "bad_alloc")
"""In what PyTorch and onnxruntime say where the memory of the processor does not suffice; they have no type for it."""


def first_line(error: BaseException, most: int = 300) -> str:
    """First line of what a foreign exception says, with the next one if it ends in a colon; or else its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 1 + lines[0].endswith(":")])[:most]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice: Python's, that of a GPU, or PyTorch's or onnxruntime's on the processor."""
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or any(words in str(error) for words in ALLOCATORS)


class LampqError(Exception):
    """An error that says what is wrong, where, and what to do, in one message; the command line exits with 1.

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
    """The request itself is invalid: an option out of range, or options that exclude each other; exit code 2."""

    exit_code = 2


class ScoreError(LampqError):
    """The scores cannot show whether the outputs changed."""


class GateError(LampqError):
    """The result was computed, but is outside the requested bounds."""
