from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from lampq_onnx.artifacts import ActivationRange, LayerSensitivity, ModelIdentity, Sensitivities
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.quantization.sketch import weight_sketch
from tools.bench import onnx_in


def invoke(*arguments: str) -> Result:
    app = onnx_in.typer.Typer()
    app.command()(onnx_in.main)
    return CliRunner().invoke(app, arguments)


def sensitivities(name: str, **layers: tuple[str, int]) -> Sensitivities:
    """Layers of a type each, with weights from a seed."""
    found = tuple(
        LayerSensitivity(
            name=layer, type=kind, parameters=12, shape=(4, 3), trace=1.0, nuclear_norm=1.0, weight_error={2: 1.0},
            activation_range=ActivationRange(low=-1, high=1),
            sketch=weight_sketch(np.random.default_rng(seed).normal(size=(4, 3)).astype(np.float32)),
        )
        for layer, (kind, seed) in layers.items()
    )  # fmt: skip
    return Sensitivities(
        model=ModelIdentity(name=name, weights_sha256="0" * 64, num_classes=4), layers=found, alpha={"qkv": 1.0},
        alpha_bits=2, alpha_measure="kl", activation_bits=8, labels="sampled", calibration_images=8, seed=0,
    )  # fmt: skip


def test_layers_are_matched_by_weights_and_type() -> None:
    ours = sensitivities("ours", a=("qkv", 1), b=("proj", 2))
    theirs = sensitivities("theirs", x=("proj", 2), y=("qkv", 1))
    assert onnx_in.matched(ours, theirs) == {"a": "y", "b": "x"}
    with pytest.raises(LampqError, match=r"the layer b \(proj\) has a counterpart of type fc1 in theirs"):
        onnx_in.matched(ours, sensitivities("theirs", x=("fc1", 2), y=("qkv", 1)))
    with pytest.raises(LampqError, match=r"the layer b \(proj\) has no counterpart in theirs"):
        onnx_in.matched(ours, sensitivities("theirs", x=("proj", 3), y=("qkv", 1)))
    with pytest.raises(LampqError, match="the layer z of theirs has no counterpart"):
        onnx_in.matched(ours, sensitivities("theirs", x=("proj", 2), y=("qkv", 1), z=("fc1", 4)))


def test_ranks_are_compared() -> None:
    assert onnx_in.rank_correlation([1.0, 5.0, 3.0], [10.0, 1e6, 11.0]) == pytest.approx(1)
    assert onnx_in.rank_correlation([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1)
    # 1 - 6 * (1 + 1) / (4 * 15)
    assert onnx_in.rank_correlation([1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 3.0, 4.0]) == pytest.approx(0.8)


def test_labelled_images_are_needed(tiny: list[str]) -> None:
    done = invoke(*(word for word in tiny if "validation" not in word))
    assert isinstance(done.exception, UsageError)


def test_a_file_gives_what_its_model_gives(tiny: list[str]) -> None:
    done = invoke(*tiny, "--effort=fast", "--exports=TorchScript", "--limit=12", "--threads=1")
    assert done.exit_code == 0, done.exception
    rows = [
        dict(zip(onnx_in.COLUMNS, (cell.strip() for cell in line.strip("|").split("|")), strict=True))
        for line in done.stdout.splitlines()
        if line.startswith("| ")
    ][1:]
    assert [row["from"] for row in rows] == ["PyTorch", "TorchScript, opset 17"]
    own = rows[1]
    assert float(own["traces"]) > 0.98
    assert own["labels"] == "8 of 8"
    assert own["bits"] == "0 of 10"
    assert float(own["import"]) < 1e-4
    assert "n = 12, 8 calibration images" in done.stdout
