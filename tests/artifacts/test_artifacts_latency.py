"""Latency tables: do they belong to the model at hand?"""

from __future__ import annotations

import numpy as np
import pytest

from lampq_onnx.artifacts.latency import LatencyTable, ProbedLayer
from lampq_onnx.errors import LampqError
from tools.bench.budgets import made_up_layer, made_up_table


def test_table_of_another_model_with_the_same_names() -> None:
    rng = np.random.default_rng(0)
    layers = [
        made_up_layer("embed", "patch_embed", (64, 192), 3 * 32 * 32, rng),
        made_up_layer("qkv", "qkv", (192, 64), 17 * 64, rng),
    ]
    table = made_up_table(layers)

    def probed(embed: str, qkv: str) -> LatencyTable:
        return table.model_copy(
            update={"layers": (ProbedLayer(name="embed", shape=embed), ProbedLayer(name="qkv", shape=qkv))}
        )

    own = "Conv 3x32x32 by 64x3x8x8 bias stride 8", "MatMul 17x64 by 64x192 bias"
    probed(*own).require_layers(layers)
    wider = "MatMul 17x128 by 128x384 bias"
    with pytest.raises(LampqError, match="was made for another model: its layer qkv is MatMul 17x128 by 128x384 bias"):
        probed(own[0], wider).require_layers(layers)
    larger = "Conv 3x64x64 by 64x3x8x8 bias stride 8"
    with pytest.raises(LampqError, match=r"its layer embed is Conv 3x64x64 .* from 3072 numbers"):
        probed(larger, own[1]).require_layers(layers)
