"""The simulation's answers, computed before the files are opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from lampq_onnx.data import Batch
from lampq_onnx.errors import LampqError
from lampq_onnx.evaluation import checks
from lampq_onnx.evaluation.measure import FIDELITY_IMAGES
from lampq_onnx.evaluation.simulated import HELD_BYTES, Answers, answers_before
from lampq_onnx.running.processes import ALONE
from lampq_onnx.running.progress import NO_PROGRESS, Clock
from lampq_onnx.runtime.engine import ONNXRUNTIME


def batches(count: int, size: int) -> list[Batch]:
    images = np.arange(count, dtype=np.float32).reshape(count, 1, 1, 1)
    return [Batch(images[s : s + size], None, s) for s in range(0, count, size)]


def doubled(images: np.ndarray) -> np.ndarray:
    return 2 * images.reshape(-1, 1)


@pytest.mark.parametrize(("count", "size"), [(10, 4), (600, 100), (FIDELITY_IMAGES, 8)])
def test_answers_are_those_of_the_simulation_in_any_batches(count: int, size: int) -> None:
    told: list[int] = []
    found = answers_before(doubled, batches(count, size), told.append)
    assert found is not None
    compared = [batch for batch in batches(count, size) if batch.start < FIDELITY_IMAGES]
    assert told == [batch.start + len(batch.images) for batch in compared]
    given = []
    for start in range(0, told[-1], 7):  # sessions may take batches of another size
        images = np.arange(start, min(start + 7, told[-1]), dtype=np.float32).reshape(-1, 1, 1, 1)
        given.append(found(images))
        np.testing.assert_array_equal(given[-1], doubled(images))
    # processes that share the images ask for those of some batches
    np.testing.assert_array_equal(found(compared[-1].images), doubled(compared[-1].images))
    with pytest.raises(LampqError, match="not the same when they are read again"):
        found(np.full((1, 1, 1, 1), 0.5, np.float32))


def test_large_answers_are_not_held() -> None:
    calls: list[int] = []

    def simulation(images: np.ndarray) -> np.ndarray:
        calls.append(len(images))
        return np.zeros((len(images), 1000), np.float32)

    most = 1000 * 4 * FIDELITY_IMAGES
    assert answers_before(simulation, batches(20, 4), lambda _: None, most=most - 1) is None
    assert calls == [4]
    assert answers_before(simulation, batches(20, 4), lambda _: None, most=most) is not None
    assert 50_000 * 4 * FIDELITY_IMAGES < HELD_BYTES < 150 * 128 * 128 * 4 * FIDELITY_IMAGES


@pytest.mark.parametrize("held", [True, False])
def test_the_simulation_is_gone_before_files_are_opened_if_its_answers_are_held(
    held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    @contextmanager
    def simulation() -> Iterator[object]:
        events.append("weights")
        yield doubled
        events.append("freed")

    def opened(*_: object, simulation: object, **__: object) -> str:
        events.append("files")
        assert isinstance(simulation, Answers) == held
        return "figures"

    class Files:
        images = [0] * 10
        preprocessing = type("Preprocessing", (), {"size": (1, 1)})

    monkeypatch.setattr(checks, "share_accuracy", opened)
    monkeypatch.setattr(checks, "batches_of", lambda *_: iter(batches(10, 4)))
    monkeypatch.setattr(answers_before, "__kwdefaults__", {"most": HELD_BYTES * held})
    clock = Clock(NO_PROGRESS)
    found = checks._accuracy(
        Files, 1, clock, simulation(), group=ALONE, changes=None, engine=ONNXRUNTIME  # type: ignore[arg-type]
    )  # fmt: skip
    assert found == "figures"
    assert events == (["weights", "freed", "files"] if held else ["weights", "files", "freed"])
    assert list(clock.seconds) == ["simulation"]
