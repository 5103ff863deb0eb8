"""Solvers of integer programs that PuLP runs, in the order in which they are tried.

PuLP 3 brings CBC along. PuLP 4 brings no solver: there it is a CBC on the path, or HiGHS (the package highspy).
tools/bench/solvers.py compares them: both find the same optima in about the same time. CBC is
first because it comes with PuLP 3, and breaks ties as it always did.
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
    """CBC as bundled with PuLP 3, else one on the path.

    ``threads=0`` means without the thread pool, so that runs repeat. ``threads=1`` starts a pool of one
    worker, whose hand-over was seen to hang until the time limit in one run of about sixty.
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
    """HiGHS in this process.

    ``parallel`` is off so that runs repeat; the number of threads is left alone, because HiGHS has one pool for the
    whole process. Without its presolve it needs a third of the time here, and finds every optimum: with it, one of 960
    small problems, and six with a tighter tolerance, ended at a worse allocation that was called optimal.
    """
    if not _start_highs():
        return None
    return pulp.HiGHS(msg=False, timeLimit=seconds, gapRel=0.0, gapAbs=0.0, parallel="off", presolve="off")


@cache
def _start_highs() -> bool:
    """Whether HiGHS is there; its first line goes to standard error.

    HiGHS 1.16 says its version on standard output when it starts in a process, whatever it is told, and there it would
    be in the middle of what a command prints.
    """
    try:
        import highspy  # noqa: PLC0415  only where CBC is missing
    except ImportError:
        return False
    sys.stdout.flush()
    output = os.dup(_STDOUT)
    try:
        os.dup2(_STDERR, _STDOUT)
        highspy.Highs()  # type: ignore[no-untyped-call]
        libc = ctypes.cdll.ucrtbase if sys.platform == "win32" else ctypes.CDLL(None)
        libc.fflush(None)  # C keeps a line of its own where the output is no terminal
    finally:
        os.dup2(output, _STDOUT)
        os.close(output)
    return True


_STDOUT, _STDERR = 1, 2

SOLVERS: Mapping[str, Callable[[float], pulp.LpSolver | None]] = {"CBC": _cbc, "HiGHS": _highs}
"""Name -> what makes the solver for a time limit in seconds; None where it is not installed."""


def find_solver(seconds: float, names: Sequence[str] = tuple(SOLVERS)) -> tuple[str, pulp.LpSolver]:
    """The first solver that is installed, quiet and exact, and its name.

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
