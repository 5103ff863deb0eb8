"""Whether something is kept after Ctrl-C."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class _State:
    """State of the command that runs; click's own exit after Ctrl-C carries none."""

    kept = False


def expect_interrupt() -> None:
    """Begin a command, of which nothing is kept yet."""
    _State.kept = False


@contextmanager
def kept_after_interrupt() -> Iterator[None]:
    """Remember that finished stages are kept if Ctrl-C ends the block."""
    try:
        yield
    except KeyboardInterrupt:
        _State.kept = True
        raise


def is_kept() -> bool:
    """Whether Ctrl-C came while finished stages were kept."""
    return _State.kept
