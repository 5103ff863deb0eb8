"""What is said after Ctrl-C."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

PLAIN = "interrupted; no file is half written, and what was there before is as it was"
KEPT = "interrupted; finished stages are kept, and the same command goes on from there"


class _Said:
    """The message of the run; click's own exit after Ctrl-C carries none."""

    message = PLAIN


def expect_interrupt() -> None:
    """Begin a command of which nothing is kept."""
    _Said.message = PLAIN


@contextmanager
def kept_after_interrupt() -> Iterator[None]:
    """Say after Ctrl-C inside the block that finished stages are kept."""
    try:
        yield
    except KeyboardInterrupt:
        _Said.message = KEPT
        raise


def interrupt_message() -> str:
    """Return what to say now."""
    return _Said.message
