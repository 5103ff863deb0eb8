"""Solvers of integer programs that PuLP runs, in the order in which they are tried.

PuLP 3 includes CBC. PuLP 4 includes no solver and needs a CBC on the path, or HiGHS (the package highspy).
tools/bench/solvers.py compares them: both find the same optima in about the same time. CBC is
first because it comes with PuLP 3; among equal optima it then picks the same one as before.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import pulp

from lampq_onnx.errors import LampqError

HINT = "install one: pip install highspy"


def _cbc(seconds: float) -> pulp.LpSolver | None:
    """Make CBC: the one bundled with PuLP 3, else one on the path.

    ``threads=0`` turns the thread pool off, so that runs are repeatable. ``threads=1`` starts a pool of one worker,
    whose hand-over was seen to hang until the time limit in one of about sixty runs.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for name in ("PULP_CBC_CMD", "COIN_CMD"):
            kind = getattr(pulp, name, None)
            if kind is None:
                continue
            solver = kind(msg=False, threads=0, timeLimit=seconds, gapRel=0.0, gapAbs=0.0)
            if solver.available():
                return solver
    return None


def _highs(seconds: float) -> pulp.LpSolver | None:
    """Make HiGHS, which runs in this process.

    ``parallel`` is off so that runs are repeatable. The number of threads is not set, because HiGHS has one pool for
    the whole process. Without its presolve HiGHS needs a third of the time here and finds every optimum. With presolve,
    one of 960 small problems (six with a tighter tolerance) ended at a worse allocation that was called optimal.
    """
    if not _start_highs():
        return None
    return pulp.HiGHS(msg=False, timeLimit=seconds, gapRel=0.0, gapAbs=0.0, parallel="off", presolve="off")


@cache
def _start_highs() -> bool:
    """Whether HiGHS is installed; its banner goes to standard error.

    HiGHS 1.16 prints its version to standard output when it starts in a process, whatever its options say. There it
    would be in the middle of what a command prints.
    """
    try:
        import highspy  # noqa: PLC0415  only if CBC is missing
    except ImportError:
        return False
    sys.stdout.flush()
    output = os.dup(_STDOUT)
    try:
        os.dup2(_STDERR, _STDOUT)
        highspy.Highs()  # type: ignore[no-untyped-call]
        libc = ctypes.cdll.ucrtbase if sys.platform == "win32" else ctypes.CDLL(None)
        libc.fflush(None)  # C buffers its output if that is not a terminal
    finally:
        os.dup2(output, _STDOUT)
        os.close(output)
    return True


_STDOUT, _STDERR = 1, 2

SOLVERS: Mapping[str, Callable[[float], pulp.LpSolver | None]] = {"CBC": _cbc, "HiGHS": _highs}
"""Name -> function that makes the solver for a time limit in seconds, or returns None if it is not installed."""


def find_solver(seconds: float, names: Sequence[str] = tuple(SOLVERS)) -> tuple[str, pulp.LpSolver]:
    """Return the first installed solver and its name; it prints nothing and has no tolerance for the gap.

    Args:
        seconds: time limit; at least a tenth of a second is given.
        names: solvers in the order in which they are tried.

    Raises:
        LampqError: none is installed.
    """
    limit = max(0.1, seconds) if math.isfinite(seconds) else seconds
    for name in names:
        solver = SOLVERS[name](limit)
        if solver is not None:
            return name, solver
    raise LampqError(f"no solver for integer programs is installed ({' or '.join(names)})", hint=HINT)
