"""Outcomes of the ablation: finished runs on disk, and the table made of them.

python -m tools.bench.ablation_table runs-*.jsonl
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from lampq_onnx.artifacts.report import Accuracy
from lampq_onnx.measures.evidence import error_of_mean
from tools.bench.ablation_rows import DEFAULT, PREFIXES, UNIFORM, layers_of, prefix_of, title

SIGNIFICANT = 2.0  # standard errors that a mean difference has to exceed

COLUMNS: tuple[tuple[str, int, Callable[[Accuracy], float]], ...] = (
    ("drop", 2, lambda a: a.drop_points),
    ("agreement %", 1, lambda a: 100 * a.agreement),
    ("SQNR dB", 1, lambda a: np.inf if a.logit_sqnr_db is None else a.logit_sqnr_db),
    ("KL", 4, lambda a: a.kl),
)


class Outcome(BaseModel, frozen=True):
    accuracy: Accuracy
    bits: float | None  # the plan's average
    bytes: int  # of the whole file
    seconds: float  # of allocation, update and rounding


class SavedRun(BaseModel, frozen=True):
    """The run as one line of the results file."""

    settings: str
    row: str
    width: float
    seed: int
    outcome: Outcome


class Results(defaultdict[tuple[str, float], dict[int, Outcome]]):
    """Outcomes by row and width, then by seed; also stored in a file of JSON lines, if one is given."""

    def __init__(self, file: Path | None, settings: str, seeds: Sequence[int]) -> None:
        super().__init__(dict)
        self._file, self._settings = file, settings
        lines = file.read_text(encoding="utf-8").splitlines() if file is not None and file.exists() else []
        for run in map(SavedRun.model_validate_json, lines):
            if run.settings == settings and run.seed in seeds:
                self[run.row, run.width][run.seed] = run.outcome

    def add(self, row: str, width: float, seed: int, outcome: Outcome) -> None:
        self[row, width][seed] = outcome
        if self._file is not None:
            run = SavedRun(settings=self._settings, row=row, width=width, seed=seed, outcome=outcome)
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write(run.model_dump_json(by_alias=True) + "\n")


def spread(values: Sequence[float], digits: int) -> str:
    """Mean, and its standard error if there are several values."""
    if len(values) < 2:
        return "".join(f"{value:.{digits}f}" for value in values)
    return f"{np.mean(values):.{digits}f} ± {error_of_mean(np.array(values)):.{digits}f}"


def saved(results: Results, row: str, bits: float) -> list[float]:
    """KL of uniform bits minus KL of the row, for every seed that has both."""
    uniform = results[UNIFORM, bits]
    return [uniform[seed].accuracy.kl - o.accuracy.kl for seed, o in results[row, bits].items() if seed in uniform]


def table(results: Results, rows: Sequence[str], widths: Sequence[float]) -> list[str]:
    """Markdown: rows, what the default saves, and notes; differences of KL to uniform bits are paired over seeds."""
    names = (*(name for name, *_ in COLUMNS), "KL below uniform", "average bits", "kB of the file")
    heads = [f"{name}, {bits:g} bits" for bits in widths for name in names]
    lines = [f"| allocation | granularity | {' | '.join(heads)} | seconds |", "|---" * (len(heads) + 3) + "|"]
    for row in rows:
        cells, seconds = [], []
        for bits in widths:
            own = list(results[row, bits].values())
            cells += [spread([read(o.accuracy) for o in own], digits) for _, digits, read in COLUMNS]
            cells += [spread(saved(results, row, bits), 4), spread([o.bits or np.nan for o in own], 2)]
            cells.append(spread([o.bytes / 1e3 for o in own], 1))
            seconds += [o.seconds for o in own]
        lines.append(f"| {title(row)} | {PREFIXES[prefix_of(row)]} | {' | '.join(cells)} | {spread(seconds, 1)} |")
    if DEFAULT in rows and UNIFORM in rows:
        lines += ["", *(verdict(saved(results, DEFAULT, bits), bits) for bits in widths)]
    pairs = [row for row in rows if prefix_of(row) and layers_of(row) in rows]
    lines += ["", *(of_layers(results, row, bits) for row in pairs for bits in widths)] if pairs else []
    accuracies = [outcome.accuracy for found in results.values() for outcome in found.values()]
    error = max(accuracy.standard_error_points for accuracy in accuracies)
    lines += ["", f"n = {accuracies[0].samples}, which leaves a drop a standard error of up to {error:.2f} points."]
    return [*lines, "± is the standard error over seeds; seconds are those of allocation, update and rounding."]


def of_layers(results: Results, row: str, bits: float) -> str:
    """KL and bytes of groups as a part of those of whole layers, over the seeds that have both."""
    whole = results[layers_of(row), bits]
    pairs = [(o, whole[seed]) for seed, o in results[row, bits].items() if seed in whole]
    ratios = [own.accuracy.kl / other.accuracy.kl for own, other in pairs]
    better = sum(ratio < 1 for ratio in ratios)
    if len(ratios) < 2:
        beyond = "one seed shows no spread"
    else:
        clear = 1 - np.mean(ratios) > SIGNIFICANT * error_of_mean(np.array(ratios))
        beyond = f"{'more' if clear else 'not more'} than {SIGNIFICANT:g} standard errors"
    return (
        f"{bits:g} bits, {title(row)}, {PREFIXES[prefix_of(row)]}: KL by that of layers {spread(ratios, 3)}, "
        f"lower in {better} of {len(ratios)} seeds ({beyond}), "
        f"bytes by those of layers {spread([own.bytes / other.bytes for own, other in pairs], 4)}"
    )


def verdict(differences: Sequence[float], bits: float) -> str:
    """Whether the default beats uniform bits by more than the seeds' spread."""
    count, said = len(differences), f"{bits:g} bits: the default's KL is below uniform's by {spread(differences, 4)}"
    if count < 2:
        return f"{said}; one seed shows no spread"
    beyond = "more" if np.mean(differences) > SIGNIFICANT * error_of_mean(np.array(differences)) else "not more"
    return f"{said}, {sum(d > 0 for d in differences)} of {count} seeds: {beyond} than {SIGNIFICANT:g} standard errors"


def main() -> None:
    """Print the table of finished runs, of all processes that wrote to these files."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("results", type=Path, nargs="+", help="files of tools/bench/ablation.py --results")
    options = parser.parse_args()
    runs = [SavedRun.model_validate_json(line) for file in options.results for line in file.read_text().splitlines()]
    if len({run.settings for run in runs}) != 1:
        raise SystemExit("these files hold no runs, or runs of different settings")
    found = Results(None, runs[0].settings, ())
    for run in runs:
        found.add(run.row, run.width, run.seed, run.outcome)
    rows, widths = dict.fromkeys(run.row for run in runs), sorted({run.width for run in runs})
    print(f"seeds {', '.join(map(str, sorted({run.seed for run in runs})))}\n")
    print("\n".join(table(found, list(rows), widths)))


if __name__ == "__main__":
    main()
