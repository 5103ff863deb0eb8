"""`tools/bench/scale.py stages`: what is kept of a run, the tables that are made of it, and what is measured again."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tools.bench import stage_times
from tools.bench.stage_run import MEGABYTE, Sampler, clock_of, passes, resident
from tools.bench.stage_table import Run, show
from tools.bench.stage_times import known_run, lines_of, read


def test_seconds_and_memory_of_stages_are_kept_also_inside_each_other() -> None:
    sampler = Sampler()
    with sampler.stage("outer"):
        with sampler.stage("inner"):
            held = np.ones(40 * MEGABYTE // 8)
            time.sleep(0.05)
        del held
        with sampler.stage("inner"):
            pass
    assert sampler.seconds["outer"] >= sampler.seconds["inner"] >= 0.05
    assert sampler.peaks["outer"] >= sampler.peaks["inner"] > resident() - 40


def tables(printed: str) -> list[dict[str, str]]:
    """Lines of each printed table by their first cell."""
    return [{line.split(" | ")[0].strip("| "): line for line in one.splitlines()} for one in printed.split("\n\n")]


def test_the_table_has_exponents_ratios_and_the_worst_prediction(capsys: pytest.CaptureFixture[str]) -> None:
    small = Run(
        "Ti, 64", "set", 10, 64, {"costs": 2.0, "validation": 5.0}, {"costs": 900.0, "validation": 950.0},
        {"costs": 100.0}, passes=0.5, predicted={"costs": 1.0}, predicted_mb=800.0,
    )  # fmt: skip
    large = Run("B, 64", "set", 1000, 64, {"costs": 20.0, "ranges": 3.0}, {"costs": 1900.0, "ranges": 1.0}, passes=4.0)
    show([small, large])
    times, forecast = tables(capsys.readouterr().out)
    assert times["costs"] == "| costs | 2.0 / 900 / 100 | 20.0 / 1900 | 0.50 |"  # 10 times as long for 100 times
    assert times["ranges"] == "| ranges |  | 3.0 / 1 |  |"
    assert times["**front end**"] == "| **front end** | 2.0 / 900 / 100 | 23.0 / 1900 | 0.53 |"
    assert times["front end / pass"] == "| front end / pass | 4.0 | 5.8 |  |"
    assert forecast["all, s"] == "| all, s | 1.0 / 7.0 |  |"
    assert forecast["all"] == "| all | **0.14** |  |"
    assert forecast["memory, MB"] == "| memory, MB | 800 / 950 |  |"
    assert forecast["furthest off"] == "| furthest off | costs 0.50 |  |"


def test_a_run_that_did_not_end_says_so_and_has_no_exponent(capsys: pytest.CaptureFixture[str]) -> None:
    small = Run("Ti, 16", "set", 10, 16, seconds={"costs": 2.0}, peaks={"costs": 900.0}, predicted={"costs": 4.0})
    large = replace(small, label="L, 16", parameters=1000, seconds={"costs": 50.0}, stopped="over 60 s, in: rounding")
    show([small, large])
    times, forecast = tables(capsys.readouterr().out)
    assert times["costs"] == "| costs | 2.0 / 900 | 50.0 / 900 | 0.70 |"
    assert forecast["costs"] == "| costs | 2.00 | 0.08 |"
    assert times["**front end**"] == "| **front end** | 2.0 / 900 | over 50.0 / 900 |  |"
    assert times["did not end"] == "| did not end |  | over 60 s, in: rounding |  |"
    assert forecast["all, s"] == "| all, s | 4.0 / 2.0 | 4.0 / over 50.0 |"
    assert forecast["all"] == "| all | **2.00** |  |"


def test_runs_that_are_known_are_not_measured_again() -> None:
    wanted = Run("Ti, 16", "set", 0, 0, machine="cpu", code="a")
    done = replace(wanted, parameters=10, images=16)
    stopped = replace(done, stopped="over 60 s, in: costs", limit=60.0)
    assert known_run([stopped, done], wanted, 60.0) is done
    assert known_run([stopped], wanted, 60.0) is stopped
    assert known_run([stopped], wanted, 61.0) is None
    assert known_run([replace(done, stopped="exit code 1, in: costs")], wanted, 60.0) is None
    for other in ({"label": "S, 16"}, {"setting": "other"}, {"machine": "other"}, {"code": "b"}):
        assert known_run([replace(done, **other)], wanted, 60.0) is None


def test_a_stopped_program_goes_on_with_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def run_one(shape: str, count: int, options: argparse.Namespace) -> Run:
        asked.append(shape)
        if shape == "S" and len(asked) == 2:
            raise KeyboardInterrupt
        name, set_to = stage_times.label(shape, count), stage_times.setting(options)
        return Run(
            name, set_to, len(asked), count, {"costs": 3.0}, {"costs": 1.0},
            machine=stage_times.machine("cpu"), code=stage_times.code_sha256(),
        )  # fmt: skip

    monkeypatch.setattr(stage_times, "run_one", run_one)
    words = ["--shapes", "Ti,S", "--counts", "16", "--record", str(tmp_path / "runs.jsonl")]
    with pytest.raises(KeyboardInterrupt):
        stage_times.main(words)
    stage_times.main(words)
    assert asked == ["Ti", "S", "S"]
    assert "| costs | 3.0 / 1 | 3.0 / 1 | 0.00 |" in capsys.readouterr().out
    assert [run.label for run in read(tmp_path / "runs.jsonl")] == ["Ti, 16", "S, 16"]
    stage_times.main(["--show", str(tmp_path / "runs.jsonl"), str(tmp_path / "missing")])
    assert "| all | 3.0 / 1 | 3.0 / 1 |" in capsys.readouterr().out


def test_a_program_over_the_limit_is_ended_and_its_last_line_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = json.dumps(asdict(Run("Ti, 16", "set", 10, 16, stage="costs")))
    (tmp_path / "slow.py").write_text(
        f"import time\nprint({line!r}, flush=True)\nprint('x', flush=True)\ntime.sleep(60)"
    )
    (tmp_path / "fails.py").write_text("raise SystemExit(3)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    start = time.perf_counter()
    assert lines_of(["slow"], 5.0) == (line + "\n", None)
    assert time.perf_counter() - start < 40
    assert lines_of(["fails"], 60.0) == ("", 3)
    (tmp_path / "quiet.py").write_text("import os, time\nos.close(1)\ntime.sleep(60)")
    assert lines_of(["quiet"], 2.0) == ("", None)


def test_a_dry_run_over_the_limit_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def nothing(words: list[str], limit: float) -> tuple[str, None]:
        asked.append(words[1])
        return "", None

    monkeypatch.setattr(stage_times, "lines_of", nothing)
    words = ["--shapes", "Ti", "--counts", "16,32", "--limit", "60", "--record", str(tmp_path / "runs.jsonl")]
    for _ in range(2):  # the second time they are known
        stage_times.main(words)
    assert asked == ["predict", "predict"]
    assert [run.stopped for run in read(tmp_path / "runs.jsonl")] == ["over 60 s, in: dry run"] * 2
    assert "| did not end | over 60 s, in: dry run | over 60 s, in: dry run |" in capsys.readouterr().out


def test_processor_time_is_divided_by_the_threads() -> None:
    clock = clock_of(argparse.Namespace(clock="cpu", threads=4))
    first, start = time.process_time(), clock()
    while time.process_time() - first < 0.2:
        sum(range(1000))
    assert clock() - start == pytest.approx(0.05, abs=0.02)


def test_a_pass_forward_and_backward_is_timed_over_all_images() -> None:
    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch_embed = torch.nn.Module()
            self.patch_embed.proj = torch.nn.Conv2d(1, 4, 2)
            self.patch_embed.img_size = (4, 4)
            self.seen: list[int] = []

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.seen.append(len(images))
            found: torch.Tensor = self.patch_embed.proj(images)
            return found

    module = Tiny()
    assert passes(module, 40) > 0
    assert module.seen == [32, 32, 32]  # one that is not counted, then 40 images
    assert all(parameter.grad is not None for parameter in module.parameters())
