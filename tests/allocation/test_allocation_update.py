from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from lampq_onnx.allocation import RATIO, degradation, gain, iterative_update
from lampq_onnx.errors import LampqError, UsageError

ALL = tuple(range(2, 9))


class Weighted:
    """Known answer: error_i = weight_i / prod of the ratios up to B_i, score = sum of the errors."""

    def __init__(self, weights: dict[str, float]) -> None:
        self.weights = weights
        self.scored: list[dict[str, int]] = []

    def reconstruction_errors(self, bits: dict[str, int]) -> dict[str, float]:
        return {u: w / math.prod(RATIO[b] for b in range(2, bits[u] + 1)) for u, w in self.weights.items()}

    def losses(self, bits: dict[str, int], best: object = None) -> list[float]:
        self.scored.append(dict(bits))
        return [sum(self.reconstruction_errors(bits).values())]


class Scripted:
    """Given errors whatever the widths, and losses in the order of the calls: of one image, or of several."""

    def __init__(self, errors: dict[str, float], scores: Sequence[float | list[float]]) -> None:
        self.errors = errors
        self.scores = iter(scores)
        self.scored: list[dict[str, int]] = []
        self.measured = 0

    def reconstruction_errors(self, bits: dict[str, int]) -> dict[str, float]:
        self.measured += 1
        return self.errors

    def losses(self, bits: dict[str, int], best: object = None) -> list[float]:
        self.scored.append(dict(bits))
        found = next(self.scores)
        return found if isinstance(found, list) else [found]


def ones(bits: dict[str, int]) -> dict[str, int]:
    return dict.fromkeys(bits, 1)


def test_ratios_against_explicit_numbers():
    assert gain(0.5, 3, 4) == pytest.approx(0.5 * (1 - 1 / 4.70))
    assert gain(1.0, 1, 2) == pytest.approx(1 - 1 / 82.74)
    assert gain(1.0, 2, 4) == pytest.approx(1 - 1 / (6.59 * 4.70))
    assert degradation(0.5, 3, 2) == pytest.approx(0.5 * 5.59)
    assert degradation(1.0, 2, 1) == pytest.approx(81.74)
    assert degradation(1.0, 8, 4) == pytest.approx(4.29 * 4.13 * 4.12 * 4.03 - 1)


def test_swaps_until_the_known_optimum():
    bits = {"a": 4, "b": 4, "c": 4}
    evaluator = Weighted({"a": 1000.0, "b": 10.0, "c": 1.0})
    result = iterative_update(bits, ones(bits), 12, ALL, evaluator, rounds=20)
    best = min(
        (evaluator.losses({"a": a, "b": b, "c": c})[0] for a in ALL for b in ALL for c in ALL if a + b + c <= 12),
    )
    assert result.score_after == pytest.approx(best)
    assert result.bits["a"] > result.bits["b"] >= result.bits["c"]
    assert result.score_after < result.score_before
    first = result.history[0]
    assert (first.raised, first.lowered, first.kept) == ("a", "c", True)
    assert [r.score for r in result.history if r.kept][-1] == result.score_after


def test_raise_of_largest_gain_and_lowering_of_smallest_degradation():
    bits = {"a": 4, "b": 4, "c": 3, "d": 4}
    evaluator = Scripted({"a": 0.30, "b": 0.20, "c": 0.15, "d": 0.25}, [1.0, 2.0])
    # Degradations: b 0.2 * 3.70 = 0.74 is below c 0.15 * 5.59 = 0.84, though c has the smaller error.
    result = iterative_update(bits, ones(bits), 15, ALL, evaluator)
    assert [(r.raised, r.lowered, r.kept) for r in result.history] == [("a", "b", False)]


def test_one_layer_is_never_both_raised_and_lowered():
    bits = {"a": 8, "b": 2, "c": 8}
    evaluator = Scripted({"a": 0.5, "b": 1e-6, "c": 0.9}, [1.0, 0.5])
    result = iterative_update(bits, ones(bits), 18, ALL, evaluator, rounds=1)
    assert result.bits == {"a": 7, "b": 3, "c": 8}


@pytest.mark.parametrize("score", [1.0, 1.5, math.nan])
def test_a_swap_without_improvement_is_undone(score):
    bits = {"a": 4, "b": 4}
    evaluator = Scripted({"a": 1.0, "b": 0.1}, [1.0, score])
    result = iterative_update(bits, ones(bits), 8, ALL, evaluator)
    assert result.bits == bits
    assert (result.score_before, result.score_after) == (1.0, 1.0)
    assert [r.kept for r in result.history] == [False]
    assert evaluator.measured == 1


def test_patience_tries_other_swaps_and_each_once():
    bits = {"a": 4, "b": 4, "c": 4}
    evaluator = Scripted({"a": 1.0, "b": 0.5, "c": 0.1}, [1.0] + [2.0] * 20)
    result = iterative_update(bits, ones(bits), 12, ALL, evaluator, rounds=20, patience=20)
    pairs = [(r.raised, r.lowered) for r in result.history]
    assert pairs[0] == ("a", "c")
    assert pairs[1] == ("b", "c")  # the best balance of what is left
    assert len(pairs) == len(set(pairs)) == 6  # all ordered pairs, then nothing is left to try
    assert result.bits == bits
    assert evaluator.measured == 1


def test_patience_is_counted_from_the_last_kept_swap():
    bits = {"a": 4, "b": 4, "c": 4}
    evaluator = Scripted({"a": 1.0, "b": 0.5, "c": 0.1}, [1.0, 2.0, 0.9, 2.0, 2.0, 0.1])
    result = iterative_update(bits, ones(bits), 12, ALL, evaluator, rounds=20, patience=2)
    assert [r.kept for r in result.history] == [False, True, False, False]
    assert len(evaluator.scored) == len({tuple(b.values()) for b in evaluator.scored})


def test_rounds_limit_the_scores():
    bits = {"a": 5, "b": 5}
    evaluator = Weighted({"a": 1e6, "b": 1.0})
    assert len(iterative_update(bits, ones(bits), 10, ALL, evaluator, rounds=2).history) == 2
    untouched = iterative_update(bits, ones(bits), 10, ALL, evaluator, rounds=0)
    assert (untouched.bits, untouched.history) == (bits, ())


def test_strict_budget_is_never_broken():
    rng = np.random.default_rng(0)
    for _ in range(50):
        names = [f"u{i}" for i in range(6)]
        sizes = {name: int(rng.integers(1, 50)) for name in names}
        bits = {name: int(rng.integers(2, 9)) for name in names}
        capacity = sum(sizes[n] * bits[n] for n in names) + int(rng.integers(0, 30))
        evaluator = Weighted({name: float(10 ** rng.uniform(-2, 2)) for name in names})
        iterative_update(bits, sizes, capacity, ALL, evaluator, rounds=12, patience=4)
        assert all(sum(sizes[n] * b[n] for n in names) <= capacity for b in evaluator.scored)
        assert all(set(b.values()) <= set(ALL) for b in evaluator.scored)


def test_strict_lowers_a_layer_that_pays_for_the_raise():
    bits, sizes = {"big": 4, "small": 4, "other": 4}, {"big": 4, "small": 1, "other": 4}
    errors = {"big": 1.0, "small": 0.01, "other": 0.5}
    strict = iterative_update(bits, sizes, 36, ALL, Scripted(errors, [1.0, 0.5]), rounds=1)
    assert strict.bits == {"big": 5, "small": 4, "other": 3}
    roomy = iterative_update(bits, sizes, 39, ALL, Scripted(errors, [1.0, 0.5]), rounds=1)
    assert roomy.bits == {"big": 5, "small": 3, "other": 4}


def test_count_rule_swaps_equal_bits_whatever_the_sizes():
    bits, sizes = {"big": 4, "small": 4, "other": 4}, {"big": 4, "small": 1, "other": 4}
    evaluator = Scripted({"big": 1.0, "small": 0.01, "other": 0.5}, [1.0, 0.5])
    result = iterative_update(bits, sizes, 36, ALL, evaluator, rounds=1, budget_rule="count")
    assert result.bits == {"big": 5, "small": 3, "other": 4}
    assert sum(result.bits.values()) == sum(bits.values())
    assert sum(sizes[n] * b for n, b in result.bits.items()) > 36


def test_steps_follow_the_candidates():
    bits = {"a": 4, "b": 8, "c": 4}
    errors = {"a": 1.0, "b": 1e-9, "c": 0.5}
    strict = iterative_update(bits, ones(bits), 16, (2, 4, 8), Scripted(errors, [1.0, 0.5]), rounds=1)
    assert strict.bits == {"a": 8, "b": 4, "c": 4}
    # Up by 2 bits can only be paid with 2 bits: c from 4 to 2 has the step that b from 8 to 4 has not.
    edited = {"a": 6, "b": 8, "c": 4}
    count = iterative_update(
        edited, ones(bits), 0, (2, 4, 8), Scripted(errors, [1.0, 0.5]), rounds=1, budget_rule="count"
    )
    assert count.bits == {"a": 8, "b": 8, "c": 2}


def test_stops_where_no_swap_is_possible():
    bits = {"a": 2, "b": 2}
    evaluator = Scripted({"a": 1.0, "b": 0.5}, [1.0])
    assert iterative_update(bits, ones(bits), 4, ALL, evaluator).history == ()
    alone = iterative_update({"a": 4}, {"a": 1}, 4, ALL, Scripted({"a": 1.0}, [1.0]))
    assert alone.history == ()


def test_one_bit_only_where_it_is_a_candidate():
    bits = {"a": 2, "b": 2}
    evaluator = Scripted({"a": 1.0, "b": 1e-6}, [1.0, 0.5, 0.6])
    assert iterative_update(bits, ones(bits), 4, (1, *ALL), evaluator).bits == {"a": 3, "b": 1}


def test_unusable_input_is_named():
    bits = {"a": 4, "b": 4}
    good = Weighted({"a": 1.0, "b": 1.0})
    with pytest.raises(LampqError, match="take 8 bits of a budget of 7"):
        iterative_update(bits, ones(bits), 7, ALL, good)
    with pytest.raises(LampqError, match="layer b has a width but no size"):
        iterative_update(bits, {"a": 1}, 8, ALL, good)
    with pytest.raises(LampqError, match="layer b has 32 bits"):
        iterative_update({"a": 4, "b": 32}, ones(bits), 99, ALL, good)
    with pytest.raises(LampqError, match="measured for layer b"):
        iterative_update(bits, ones(bits), 8, ALL, Scripted({"a": 1.0}, [1.0]))
    with pytest.raises(LampqError, match="reconstruction error of layer b is nan"):
        iterative_update(bits, ones(bits), 8, ALL, Scripted({"a": 1.0, "b": math.nan}, [1.0]))
    with pytest.raises(LampqError, match="score of the quantized model is inf"):
        iterative_update(bits, ones(bits), 8, ALL, Scripted({"a": 1.0, "b": 1.0}, [math.inf]))
    with pytest.raises(UsageError, match="patience"):
        iterative_update(bits, ones(bits), 8, ALL, good, patience=0)
    with pytest.raises(UsageError, match="budget rule"):
        iterative_update(bits, ones(bits), 8, ALL, good, budget_rule="loose")


def test_a_swap_that_the_images_scatter_may_explain_is_undone() -> None:
    """The mean falls by a tenth both times; only the second time on every image."""
    before = [1.0, 2.0, 3.0, 4.0]
    for after, kept in ([0.2, 2.9, 2.1, 3.8], False), ([0.9, 1.8, 2.7, 3.6], True):
        evaluator = Scripted({"a": 1.0, "b": 0.1}, [before, after])
        result = iterative_update({"a": 4, "b": 4}, {"a": 1, "b": 1}, 8, ALL, evaluator, rounds=1)
        assert [swap.kept for swap in result.history] == [kept]
        assert result.score_before == pytest.approx(2.5)
        assert result.history[0].score == pytest.approx(2.25)
        assert result.score_after == pytest.approx(2.25 if kept else 2.5)


def test_a_swap_that_is_given_up_early_has_the_score_of_the_images_that_decided():
    bits = {"a": 4, "b": 4}
    evaluator = Scripted({"a": 1.0, "b": 0.1}, [[1.0, 3.0, 2.0, 2.0], [1.5, 3.5]])
    result = iterative_update(bits, ones(bits), 8, ALL, evaluator)
    assert [(swap.kept, swap.score) for swap in result.history] == [(False, 2.5)]
    assert result.bits == bits
    assert result.score_after == result.score_before == 2.0


def test_fewer_images_never_suffice_to_keep_a_swap():
    bits = {"a": 4, "b": 4}
    evaluator = Scripted({"a": 1.0, "b": 0.1}, [[1.0, 3.0, 2.0, 2.0], [0.5, 1.5]])
    assert not iterative_update(bits, ones(bits), 8, ALL, evaluator).history[0].kept
