"""Try a constant prefix of keys and values in every attention, as RegCache does for sinks.

    python tools/experiments/prefix.py deit_tiny_patch16_224 harder.safetensors calibration/ validation/

For every block, the token whose input is longest on each calibration image gives a key and a value; their mean over the
images is put in front of the keys and values of that block. What attention took to the sink token can go to the prefix.
Printed: the KL of the float model with the prefix, and the KL of 8/8 and 4/8 and 4/4 bits with and without it, all to
the unchanged float model; rounding to GPTQ or nearest as with effort fast, without equalization. --copies puts the
prefix in several times, which gives it more of the attention.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from lampq_onnx import allocation
from lampq_onnx.config.inputs import ImageOptions, ModelOptions
from lampq_onnx.config.options import AnalysisOptions, RoundingOptions, UpdateOptions
from lampq_onnx.config.stages import Stages
from lampq_onnx.data import CroppedImages, choose, open_source
from lampq_onnx.frontend.likelihoods import likelihood_of
from lampq_onnx.frontend.opening import load_model
from lampq_onnx.frontend.session import Frontend
from lampq_onnx.frontend.shared.batching import logits_of, tensors

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def add_prefix(model: torch.nn.Module, images: CroppedImages, first: int, copies: int) -> None:
    """Give the attention of every block from ``first`` on a key and a value of its longest token."""
    for index, block in enumerate(model.blocks):
        if index < first:
            continue
        attention, seen = block.attn, []

        def keep(_, inputs, output, seen=seen, attention=attention):
            x = inputs[0]
            at = x.norm(dim=-1).argmax(1)
            seen.append(output[torch.arange(len(x)), at])

        handle = attention.qkv.register_forward_hook(keep)
        for batch, _ in tensors(images, torch.device("cpu")):
            with torch.no_grad():
                model(batch)
        handle.remove()
        heads = attention.num_heads
        _, key, value = torch.cat(seen).mean(0).reshape(3, heads, -1)
        patch(attention, key, value, copies)


def patch(attention: torch.nn.Module, key: torch.Tensor, value: torch.Tensor, copies: int) -> None:
    def forward(x, *_, **__):
        n, t, c = x.shape
        q, k, v = attention.qkv(x).reshape(n, t, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        k = torch.cat([key[None, :, None].expand(n, -1, copies, -1), k], 2)
        v = torch.cat([value[None, :, None].expand(n, -1, copies, -1), v], 2)
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return attention.proj(out.transpose(1, 2).reshape(n, t, c))

    attention.forward = forward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("validation", type=Path)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--validation-size", type=int, default=200)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--copies", default="0,1")
    parser.add_argument("--settings", default="8/8,4/8,4/4")
    asked = parser.parse_args()
    options = ModelOptions(name=asked.model, checkpoint=asked.checkpoint)
    for copies in map(int, asked.copies.split(",")):
        loaded = load_model(options, ImageOptions())
        with CroppedImages(
            choose(open_source(asked.calibration, num_classes=None, need_labels=False), asked.images, 0),
            loaded.preprocessing,
        ) as crops, CroppedImages(
            choose(open_source(asked.validation, num_classes=None, need_labels=False), asked.validation_size, 0),
            loaded.preprocessing,
        ) as tested:
            run(asked, loaded, crops, tested, copies)


def run(asked, loaded, crops: CroppedImages, tested: CroppedImages, copies: int) -> None:
    reference = logits_of(loaded.module, tested)
    if copies:
        add_prefix(loaded.module, crops, asked.first, copies)
    distance = likelihood_of(loaded.module).distance
    floats = float(distance(logits_of(loaded.module, tested), reference).mean())
    print(f"{asked.checkpoint.stem}, {copies} copies of the prefix: float KL {floats:.5f}", flush=True)
    frontend = Frontend(loaded)
    frontend.use_gptq(crops, widths=(4, 8))
    for setting in asked.settings.split(","):
        bits, width = map(int, setting.split("/"))
        analysis = AnalysisOptions(activation_bits=width, weight_bits=bits, effort="fast", candidates=(bits,))
        stages = Stages(measurements=frozenset(), input_costs="none", shares=False)
        known = frontend.analyze(crops, analysis, seed=0, stages=stages)
        plan, _ = allocation.allocate(
            known, allocation.AllocationOptions(bits=bits, candidates=(bits,), activation_bits=width)
        )
        rounded = frontend.round(plan, crops, RoundingOptions(effort="fast"), UpdateOptions(), seed=0)
        print(f"  {setting}: KL {loss(frontend, rounded, tested, reference):.4f}", flush=True)


def loss(frontend: Frontend, rounded, tested: CroppedImages, reference: torch.Tensor) -> float:
    from lampq_onnx.frontend.rounding.plan import plan_inputs
    from lampq_onnx.frontend.simulation.live import live_model

    module = frontend.loaded.module
    with live_model(module, frontend.exported.layers) as live:
        for name, weight in rounded.weights.items():
            live.set_weight(name, weight)
        for name, quantizer in plan_inputs(rounded.plan).items():
            live.set_input(name, quantizer)
        outputs = logits_of(module, tested)
    return float(likelihood_of(module).distance(outputs, reference).mean())


if __name__ == "__main__":
    main()
