from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lampq_onnx.allocation import Problem
from lampq_onnx.artifacts import ActivationRange, LayerSensitivity, ModelIdentity, Sensitivities


@pytest.fixture
def make_problem() -> Callable[..., Problem]:
    def make(costs, sizes, candidates, budget) -> Problem:
        costs = np.asarray(costs, dtype=float)
        names = tuple(f"layer{i}" for i in range(len(costs)))
        return Problem(names, np.asarray(sizes), tuple(candidates), costs, budget)

    return make


@pytest.fixture
def make_sensitivities() -> Callable[..., Sensitivities]:
    """Four types by blocks of a ViT of the given width, with log-normal traces, plus a fixed head."""

    def make(blocks: int = 3, width: int = 64, seed: int = 0, head: bool = True, **changes) -> Sensitivities:
        rng = np.random.default_rng(seed)
        shapes = {
            "qkv": (3 * width, width),
            "proj": (width, width),
            "fc1": (4 * width, width),
            "fc2": (width, 4 * width),
        }
        layers = [
            LayerSensitivity(
                name=f"blocks.{block}.{kind}",
                type=kind,
                parameters=shape[0] * shape[1],
                shape=shape,
                trace=float(10.0 ** rng.uniform(-3, 1)),
                nuclear_norm=float(rng.uniform(10, 100)),
                weight_error={bits: float(rng.uniform(1, 2) * 4.0**-bits) for bits in range(2, 9)},
                weight_cost={bits: float(rng.uniform(0.5, 1) * 4.0**-bits) for bits in range(2, 9)},
                activation_range=ActivationRange(low=-1.0, high=2.0),
            )
            for block in range(blocks)
            for kind, shape in shapes.items()
        ]
        if head:
            layers.append(
                layers[0].model_copy(
                    update={
                        "name": "head",
                        "type": "head",
                        "shape": (10, width),
                        "parameters": 10 * width,
                        "fixed": True,
                    }
                )
            )
        values = {
            "model": ModelIdentity(name="toy", weights_sha256="0" * 64, num_classes=10),
            "layers": tuple(layers),
            "alpha": {"qkv": 2.0, "proj": 1.0, "fc1": 3.0, "fc2": 0.5},
            "alpha_bits": 2,
            "alpha_measure": "kl",
            "activation_bits": 8,
            "labels": "sampled",
            "calibration_images": 32,
            "seed": 0,
        }
        return Sensitivities(**(values | changes))

    return make
