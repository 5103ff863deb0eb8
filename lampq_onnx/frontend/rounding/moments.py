"""Second moments of one layer's inputs in the quantized model, and mean outputs of the float model."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.shared.products import own_gram
from lampq_onnx.frontend.shared.threads import SUM_THREADS, torch_threads
from lampq_onnx.frontend.shared.tokens import as_tokens, grads_as_tokens
from lampq_onnx.frontend.simulation.chain import BlockChain, States
from lampq_onnx.frontend.simulation.simulate import fake_quantize
from lampq_onnx.quantization import ActivationQuantizer


@dataclass(frozen=True)
class LayerMoments:
    """Statistics of one layer for the ladder.

    Attributes:
        hessian: float32 (d_in, d_in), E[x x^T / |x|^2] of the layer's inputs in the quantized model.
        input_mean: float32 (d_in,), E[x] of the same inputs.
        output_mean: float32 (d_out,), E[y] in the float model.
    """

    hessian: torch.Tensor
    input_mean: torch.Tensor
    output_mean: torch.Tensor


def float_output_means(chain: BlockChain, states: States) -> tuple[dict[str, torch.Tensor], States]:
    """Mean output of every layer of one block, float32 (d_out,), and the inputs of the next block.

    Of a module that runs more than once in a pass, the first call inside the block counts, as in `layer_moments`.

    Args:
        chain: the blocks; the model must be in float.
        states: inputs of the block; those of the last block are returned as they are.
    """
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}
    block = chain.blocks[states.start]
    ahead: set[str] = set()

    def begin(*_: object) -> None:
        ahead.update(layer.name for layer in block.layers)

    def hook(layer: ModelLayer) -> torch.utils.hooks.RemovableHandle:
        def visit(_: torch.nn.Module, __: object, output: torch.Tensor) -> None:
            if layer.name not in ahead:
                return
            ahead.remove(layer.name)
            tokens = grads_as_tokens(layer.module, output).flatten(0, 1).float()
            total = tokens.sum(0, dtype=torch.float64)
            sums[layer.name] = sums[layer.name] + total if layer.name in sums else total
            counts[layer.name] = counts.get(layer.name, 0) + len(tokens)

        return layer.module.register_forward_hook(visit)

    handles = [block.module.register_forward_pre_hook(begin), *(hook(layer) for layer in block.layers)]
    try:
        if states.start + 1 < len(chain):
            states = chain.advance(states)
        else:
            chain.run_block(states)
    finally:
        for handle in handles:
            handle.remove()
    return {name: (value / counts[name]).float() for name, value in sums.items()}, states


def layer_moments(
    chain: BlockChain,
    states: States,
    layer: ModelLayer,
    output_mean: torch.Tensor,
    quantizer: ActivationQuantizer | None,
) -> LayerMoments:
    """Moments of one layer's inputs after ``quantizer``, with the model in its current state.

    Passes end where the layer gets its first input, which is that of the layer in the file.
    """
    size = int(layer.module.weight[0].numel())
    device = layer.module.weight.device
    hessian = torch.zeros(size, size, device=device)
    mean = torch.zeros(size, dtype=torch.float64, device=device)
    count = 0

    def visit(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal count
        values = inputs[0] if quantizer is None else fake_quantize(inputs[0], quantizer)
        tokens = as_tokens(layer.module, values).flatten(0, 1).float()
        mean.add_(tokens.sum(0, dtype=torch.float64))
        count += len(tokens)
        tokens = tokens / tokens.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        with torch_threads(SUM_THREADS):
            hessian.add_(own_gram(tokens))

    handle = layer.module.register_forward_pre_hook(visit)
    try:
        chain.run_block(states, until=layer.module)
    finally:
        handle.remove()
    return LayerMoments(hessian / max(count, 1), (mean / max(count, 1)).float(), output_mean)
