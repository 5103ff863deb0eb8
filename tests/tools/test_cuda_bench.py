from __future__ import annotations

import json
from pathlib import Path

import pytest

from lampq_onnx.artifacts.report import Accuracy, Baseline, TopK
from lampq_onnx.artifacts.sweep import SweepPoint
from tools.bench import cuda

TOP = TopK(top1=0.5, top5=1.0)
MEASURED = Accuracy(
    **{"float": TOP}, samples=10, quantized=TOP, drop_points=0.5, standard_error_points=1.0, agreement=0.9,
    logit_sqnr_db=20.0, kl=0.01,
)  # fmt: skip


def test_files_of_a_sweep_are_compared_in_the_order_of_their_bits(tmp_path: Path) -> None:
    (tmp_path / "files.json").write_text(json.dumps({"files": {cuda.FLOAT: "a", cuda.HALF: "b", "ours": "c"}}))
    for metric, bits in (("uniform", 4.0), ("kl", 4.0), ("kl", 3.0)):
        point = SweepPoint(
            metric=metric, bits=bits, updated=False, rounding={},
            measured=Baseline(weight_average=bits, accuracy=MEASURED, quantized_bytes=1),
        )  # fmt: skip
        folder = tmp_path / "gpu/points/digest" / point.name
        folder.mkdir(parents=True)
        point.save(folder / "point.json")
    options = cuda.read_options(["agree", str(tmp_path), "--only", "float", "--sweep", str(tmp_path / "gpu")])
    found = cuda.files_of(options)
    assert list(found) == [
        "float32", "float16", "gpu, kl, 3 bits", "gpu, kl, 4 bits", "gpu, uniform, 4 bits",
    ]  # fmt: skip
    assert found["gpu, kl, 3 bits"] == tmp_path / "gpu/points/digest/kl-3/model.onnx"
    empty = cuda.read_options(["agree", str(tmp_path), "--sweep", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="no finished point"):
        cuda.files_of(empty)
