"""What one model costs: operations, weights and the time of a pass, from which the time of a run is estimated."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """What one model costs.

    Attributes:
        image: seconds of one image in a pass forward, on the device that measures.
        host: the same on the processor, where the runtime checks the file.
        product: floating point operations of the layers for one image.
        solve: operations to round all layers by GPTQ at one width, factorizations included.
        weights: number of weights of the layers.
        columns: inputs of the layers in the budget, all together; GPTQ rounds them one after the other.
        parameters: bytes of the float model.
        activations: bytes of the inputs and outputs of all layers, for one image.
        blocks: number of blocks.
        layers: number of layers in the budget.
        gpu: whether the device is a GPU, whose short operations take longer to start than to compute.
    """

    image: float
    host: float
    product: float
    solve: float
    weights: float
    columns: float
    parameters: float
    activations: float
    blocks: int
    layers: int
    gpu: bool = False

    def seconds(self, operations: float) -> float:
        """Return the time of matrix products with this many operations, at the speed of a pass."""
        return operations * self.image / self.product


DEIT_TINY = Load(
    image=0.015,
    host=0.015,
    product=2.5e9,
    solve=1.3e10,
    weights=5.5e6,
    columns=16e3,
    parameters=2.3e7,
    activations=3e7,
    blocks=12,
    layers=48,
)
"""A DeiT-Ti on two cores: stands for a model that is not loaded yet."""
