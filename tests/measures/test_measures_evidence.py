"""When a loss counts as lower."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lampq_onnx.measures.evidence import clearly_lower, perhaps_lower


def test_lower_by_hand() -> None:
    losses, others = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.5, 5.0])
    # differences -1, -.5, -2: mean -7/6, deviation sqrt(7/12), error of the mean sqrt(7/36) = .441
    assert clearly_lower(losses, others)  # 1.167 > 2 * .441
    # relative to the sums -1/3, -1/9, -1/4: mean -.2315, deviation .1123, error of the mean .0648: 3.57 of them
    relative = np.array([-1 / 3, -1 / 9, -1 / 4])
    most = float(-relative.mean() / (relative.std(ddof=1) / math.sqrt(3)))
    assert most == pytest.approx(3.57, abs=0.01)
    assert clearly_lower(losses, others, evidence=most - 1e-6)
    assert not clearly_lower(losses, others, evidence=most + 1e-6)
    assert not clearly_lower(others, losses)
    assert not clearly_lower(losses, losses)
    assert clearly_lower(losses - 1e-3, losses)  # the same for every image: no scatter at all


def test_a_single_image_is_taken_at_its_word() -> None:
    assert clearly_lower(np.array([1.0]), np.array([1.001]))
    assert not clearly_lower(np.array([1.0]), np.array([1.0]))
    assert not clearly_lower(np.array([1.001]), np.array([1.0]))


def test_noise_is_no_evidence() -> None:
    generator = np.random.default_rng(0)
    pairs = generator.random((2, 1000, 32))
    share = sum(clearly_lower(a, b) for a, b in zip(*pairs, strict=True)) / 1000
    assert share < 0.05  # 2.3 % lie beyond two errors on one side
    assert sum(bool(a.mean() < b.mean()) for a, b in zip(*pairs, strict=True)) > 400
    shared = generator.random(32) * 10  # hard and easy images are in both
    assert clearly_lower(shared + 0.1 * pairs[0, 0], shared + 0.1 * pairs[1, 0] + 0.1)


def test_a_broken_loss_is_never_lower() -> None:
    bad = np.array([float("nan"), 0.0, 0.0])
    assert not clearly_lower(bad, np.ones(3))
    assert not clearly_lower(np.ones(3), bad)


def test_one_huge_image_does_not_hide_the_others() -> None:
    others = np.array([1000.0, 1.0, 2.0, 1.5, 0.5, 1.2])
    assert clearly_lower(others / 50, others)
    assert not clearly_lower(others * np.array([0.99, 1.1, 0.9, 1.1, 0.9, 1.0]), others)


def test_a_part_that_leaves_no_chance() -> None:
    others = np.array([1.0, 2.0, 1.5, 3.0, 1.0, 2.0, 1.5, 3.0])
    assert perhaps_lower(others * 0.9, others, 16)
    assert not perhaps_lower(others * 1.1, others, 16)
    assert not perhaps_lower(others, others, 16)
    assert perhaps_lower(others[:7] * 1.1, others[:7], 16)  # too few to say
    assert not perhaps_lower(others[:7] * 1.1, others[:7], 7)
    assert not perhaps_lower(np.full(8, np.nan), others, 16)
    # relative differences alone may show it
    assert perhaps_lower(np.array([0.1, 0.1, 0.1, 3.0]), np.array([1.0, 1.0, 1.0, 0.1]), 16)


def test_the_chance_is_that_of_pairs_like_these() -> None:
    """By simulation: parts at the limit become clearly lower in one of ten cases."""
    generator = np.random.default_rng(0)
    count, part = 64, 16
    pattern = generator.standard_normal(part)
    pattern = (pattern - pattern.mean()) / pattern.std(ddof=1)
    base = np.full(count, 1e6)  # relative differences are the same as these, then

    def chance(score: float) -> float:
        mean = score / math.sqrt(part)
        first = mean + pattern
        rest = mean + generator.standard_normal((2000, count - part))
        return float(np.mean([clearly_lower(base + np.concatenate([first, own]), base) for own in rest]))

    scores = np.linspace(-1.5, 0.0, 61)
    kept = [s for s in scores if perhaps_lower(base[:part] + s / math.sqrt(part) + pattern, base[:part], count)]
    assert chance(max(kept)) == pytest.approx(0.1, abs=0.04)
