"""Run small models of each family of Vision Transformers through all stages at W8A8 and W4A8, one row for each.

    python tools/bench/families.py                       # all rows
    python tools/bench/families.py --only swin pvt_v2    # some
    python tools/bench/families.py --json families.json  # also writes the figures to a file
    python tools/bench/families.py --merge a.json b.json # prints the rows of earlier runs, in the table's order
    python tools/bench/families.py --page docs/families.md --workers 2   # also puts the tables in the documentation

Models of timm and transformers are made smaller. Their weights are random, of a fixed seed, and rounded to nearest. The
table shows what is recognized, and that the file computes what was simulated. It does not show accuracy. Every row runs
in a process of its own, and with several workers on a core of its own. If it fails, the row gives the reason, and the
exit code is 1. Families that the tool is known to refuse are not failures.
"""

from __future__ import annotations

import argparse
import os
import queue
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib.metadata import version
from pathlib import Path

from pydantic import TypeAdapter

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lampq_onnx.runtime.environment import available_cores, describe_environment
from tools.bench.family import Family
from tools.bench.family_models import FAMILIES
from tools.bench.family_page import heading, line, total, write_page
from tools.bench.family_rows import CALIBRATION_IMAGES, Row, measure_family, unexpected

LIMIT_SECONDS = 600
"""Of one row."""

ROWS = TypeAdapter(list[Row])


def in_process(family: Family, options: argparse.Namespace, core: int | None = None) -> Row:
    """Make the row in a process of its own; if that gives none, the row says how the process ended.

    Args:
        core: the only one that the process may use; None: any.
    """
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="lampq-") as room:
        file = Path(room, "row.json")
        command = [
            *(sys.executable, __file__, "--row", family.name, "--json", str(file)),
            *("--seed", str(options.seed), "--threads", str(options.threads), "--runs", str(options.runs)),
            *(() if core is None else ("--core", str(core))),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
            if file.is_file():
                return Row.model_validate_json(file.read_text(encoding="utf-8"))
            last = (done.stderr.strip().splitlines() or ["nothing on stderr"])[-1]
            reason = f"its process ended with {done.returncode}: {last}"
        except subprocess.TimeoutExpired:
            reason = f"it took more than {LIMIT_SECONDS} s"
    return Row(
        family=family.name, model=family.model, arguments={}, status="failed", reason=reason,
        seconds=time.perf_counter() - start,
    )  # fmt: skip


def chosen(names: Sequence[str]) -> list[Family]:
    """Families by name; all without names.

    Raises:
        SystemExit: an unknown name.
    """
    known = {family.name: family for family in FAMILIES}
    for name in names:
        if name not in known:
            raise SystemExit(f"unknown family {name}; known: {', '.join(known)}")
    return [known[name] for name in names] or list(FAMILIES)


def conditions(options: argparse.Namespace) -> str:
    """The machine and the versions of a run."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "torch", "timm", "transformers"))
    cpu = describe_environment("none").cpu
    at_once = f"{options.threads} thread(s), latency with 1, {options.workers} row(s) at a time"
    return f"{cpu}, {at_once}; {versions}; {date.today()}"


def rows_of(families: Sequence[Family], options: argparse.Namespace, where: str) -> Iterator[Row]:
    """Make rows in several processes; each has a core of its own where the system can say so."""
    cores: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    pinned = options.workers > 1 and hasattr(os, "sched_setaffinity")
    known: list[int | None] = [*sorted(os.sched_getaffinity(0))] if pinned else [None]
    for index in range(options.workers):
        cores.put(known[index % len(known)])

    def make(family: Family) -> Row:
        core = cores.get()
        try:
            return in_process(family, options, core).model_copy(update={"where": where})
        finally:
            cores.put(core)

    yield from ThreadPoolExecutor(options.workers).map(make, families)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table of families."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="families to try; default: all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and images")
    parser.add_argument(
        "--threads", type=int, default=available_cores(), help="number of threads, except in the timed runs"
    )
    parser.add_argument("--workers", type=int, default=1, help="number of rows that are made at the same time")
    parser.add_argument("--merge", type=Path, nargs="+", metavar="FILE", help="print rows that --json wrote, make none")
    parser.add_argument("--runs", type=int, default=20, help="number of timed rounds")
    parser.add_argument("--page", type=Path, metavar="FILE", help="put the tables in this page; needs all rows")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.row is not None:
        (family,) = chosen([options.row])
        if options.core is not None:
            os.sched_setaffinity(0, {options.core})
        row = measure_family(family, seed=options.seed, threads=options.threads, runs=options.runs)
        row = row.model_copy(update={"cpu_seconds": sum(os.times()[:4])})
        options.json.write_text(row.model_dump_json(), encoding="utf-8")
        return 0
    families, where = chosen(options.only), conditions(options)
    if options.merge:
        kept = [row for file in options.merge for row in ROWS.validate_json(file.read_bytes())]
        made: Iterator[Row] = iter(sorted(kept, key=lambda row: [each.name for each in FAMILIES].index(row.family)))
    else:
        print(f"Random weights (seed {options.seed}), {CALIBRATION_IMAGES} calibration images of noise; {where}\n")
        made = rows_of(families, options, where)
    print(heading(), flush=True)
    known = {family.name: family for family in FAMILIES}
    rows, wrong = [], []
    for row in made:
        rows.append(row)
        problem = unexpected(row, known[row.family])
        if problem:
            wrong.append(f"{row.family}: {problem}")
        print(line(row), flush=True)
        if options.json is not None:
            # Every time, so that a run that is ended keeps its rows.
            options.json.write_bytes(ROWS.dump_json(rows, indent=1))
    print(f"\n{total(rows)}")
    if options.page is not None:
        write_page(options.page, rows)
    for problem in wrong:
        print(f"error: {problem}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
