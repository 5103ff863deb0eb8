"""Comparisons of roundings stop as soon as they are decided, and decide as comparisons on all images do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from lampq_onnx.frontend.rounding.contest import Entrant, wins
from lampq_onnx.frontend.simulation.losses import clearly_lower
from lampq_onnx.quantization import Grid, QuantizedWeight

SIZES = [8, 8, 8, 8]


class Model:
    """Gives the losses of the weight that was put into it last."""

    def __init__(self) -> None:
        self.passes: list[tuple[str, int]] = []
        self._held: QuantizedWeight | None = None

    def use(self, weight: QuantizedWeight) -> None:
        self._held = weight

    def entrant(self, name: str, losses: Sequence[float]) -> Entrant:
        weight = QuantizedWeight(np.zeros((1, 1), np.uint8), np.ones(1, np.float32), 4, Grid.MID_TREAD)

        def measured() -> Iterator[torch.Tensor]:
            for place, part in enumerate(torch.tensor(losses).split(SIZES[0])):
                assert self._held is weight  # not that of the other entrant
                self.passes.append((name, place))
                yield part

        return Entrant(name, weight, None, measured)


def test_a_challenger_without_a_chance_costs_one_batch_of_each() -> None:
    model = Model()
    best, other = model.entrant("best", [1.0] * 32), model.entrant("other", [1.1, 1.2, 1.1, 1.3] * 2 + [0.1] * 24)
    assert not wins(other, best, SIZES, model.use)
    assert model.passes == [("other", 0), ("best", 0)]
    assert len(best.seen) == len(other.seen) == 8


def test_a_winner_is_measured_on_all_images_and_nothing_twice() -> None:
    model = Model()
    best = model.entrant("best", [1.0, 2.0, 3.0, 4.0] * 8)
    worse, better = model.entrant("worse", [5.0] * 32), model.entrant("better", [0.9, 1.8, 2.5, 3.9] * 8)
    assert not wins(worse, best, SIZES, model.use)
    assert wins(better, best, SIZES, model.use)
    assert len(better.seen) == 32
    assert sorted(model.passes) == sorted(
        [("worse", 0), *((name, place) for name in ("best", "better") for place in range(4))]
    )


def test_lower_in_proportion_is_measured_on_though_one_image_weighs_more() -> None:
    model = Model()
    best = model.entrant("best", [1.0, 1.0, 1.0, 1.0] * 8)
    other = model.entrant("other", [0.1, 0.1, 0.1, 5.0] * 2 + [0.5] * 24)
    wins(other, best, SIZES, model.use)
    assert len(other.seen) > 8


def test_decisions_are_nearly_always_those_of_all_images() -> None:
    random = np.random.default_rng(0)
    lost = spared = winners = 0
    for _ in range(300):
        base = random.gamma(2, 1, 32)
        changed = base * (1 + random.normal(random.choice([-0.1, 0.0, 0.1]), 0.1, 32))
        model = Model()
        best, other = model.entrant("best", base.tolist()), model.entrant("other", changed.tolist())
        decided = wins(other, best, SIZES, model.use)
        whole = clearly_lower(torch.tensor(changed), torch.tensor(base))
        assert whole or not decided
        winners, lost, spared = winners + whole, lost + (whole and not decided), spared + 32 - len(other.seen)
    assert winners > 90
    assert lost <= 0.1 * winners
    assert spared > 300 * 32 / 3
