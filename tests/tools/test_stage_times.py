"""`tools/bench/stage_times.py`: what is kept of a run, and the table that is made of it."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from tools.bench.stage_times import MEGABYTE, Run, Sampler, passes, resident, show


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


def test_the_table_has_exponents_ratios_and_the_worst_prediction(capsys: pytest.CaptureFixture[str]) -> None:
    small = Run(
        "Ti, 64", "set", 10, 64, {"costs": 2.0, "validation": 5.0}, {"costs": 900.0, "validation": 950.0},
        {"costs": 100.0}, passes=0.5, predicted={"costs": 1.0}, predicted_mb=800.0,
    )  # fmt: skip
    large = Run("B, 64", "set", 1000, 64, {"costs": 20.0, "ranges": 3.0}, {"costs": 1900.0, "ranges": 1.0}, passes=4.0)
    show([small, large])
    lines = {line.split(" | ")[0].strip("| "): line for line in capsys.readouterr().out.splitlines()}
    assert lines["costs"] == "| costs | 2.0 / 900 / 100 | 20.0 / 1900 | 0.50 |"  # 10 times as long for 100 times
    assert lines["ranges"] == "| ranges |  | 3.0 / 1 |  |"
    assert lines["**front end**"] == "| **front end** | 2.0 / 900 / 100 | 23.0 / 1900 | 0.53 |"
    assert lines["front end / pass"] == "| front end / pass | 4.0 | 5.8 | |"
    assert lines["predicted / taken, furthest off"] == "| predicted / taken, furthest off | costs 0.50 |  | |"


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
