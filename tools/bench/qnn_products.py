"""What the quantized products of a file for QNN cost, which costs, GPTQ and the simulation do not see.

    python -m tools.bench.qnn_products out/model.onnx --float out/float.onnx --validation images/val

Prints agreement with the float file and KL of the file and of the same file without the QuantizeLinear and
DequantizeLinear behind its products, both in onnxruntime on this CPU.
"""

from __future__ import annotations

import argparse
import datetime
import tempfile
from pathlib import Path

import onnx_ir as ir
import onnxruntime as ort
from onnx_ir.passes.common import RemoveUnusedNodesPass

from lampq_onnx.data import choose, iter_batches, open_source
from lampq_onnx.graph.bias import result_of
from lampq_onnx.graph.keys import UNIT_KEY
from lampq_onnx.graph.metadata import read_metadata
from lampq_onnx.graph.model_file import load_model, save_model
from lampq_onnx.measures.accuracy import AccuracyMeter
from lampq_onnx.runtime import open_runner


def without_products(model: ir.Model) -> int:
    """Let the readers of quantized products read the products; return how many there are."""
    count = 0
    for node in list(model.graph):
        product, result = node.outputs[0], result_of(node)
        if UNIT_KEY in node.metadata_props and node.op_type == "MatMul" and result is not product:
            result.replace_all_uses_with(product)
            count += 1
    RemoveUnusedNodesPass()(model)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--float", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--images", type=int, default=650)
    options = parser.parse_args()
    facts = read_metadata(load_model(options.float), options.float)
    source = open_source(options.validation, num_classes=facts.num_classes, need_labels=True)
    with tempfile.TemporaryDirectory(prefix="lampq-") as room:
        plain, model = Path(room) / "plain.onnx", load_model(options.file)
        count = without_products(model)
        save_model(model, plain)
        labels = ("as written", f"without its {count} quantized products")
        runners = [open_runner(path, threads=1) for path in (options.file, plain)]
        reference, meters = open_runner(options.float, threads=1), [AccuracyMeter() for _ in runners]
        for batch in iter_batches(choose(source, min(options.images, len(source)), 0), facts.preprocessing, 10):
            assert batch.labels is not None
            wanted = reference(batch.images)
            for runner, meter in zip(runners, meters, strict=True):
                meter.add(wanted, runner(batch.images), batch.labels)
    print(f"{options.file.name}, onnxruntime {ort.__version__}, {datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}\n")
    print("| file | agreement with float | KL | SQNR, dB |\n|---|---|---|---|")
    for label, meter in zip(labels, meters, strict=True):
        found = meter.result()
        ratio = "" if found.logit_sqnr_db is None else f"{found.logit_sqnr_db:.1f}"
        print(f"| {label} | {100 * found.agreement:.1f} % (n = {found.samples}) | {found.kl:.4f} | {ratio} |")


if __name__ == "__main__":
    main()
