"""Chooses between roundings of one layer by their losses on held-out images, on no more images than that takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from lampq_onnx.frontend.simulation.losses import clearly_lower, perhaps_lower
from lampq_onnx.quantization import QuantizedWeight


class Entrant:
    """A rounding of a layer, and its losses on the images so far.

    Args:
        name: technique.
        weight: what it gives.
        latent: float32 (outputs, inputs), real weights whose nearest rounding is ``weight``, or None.
        losses: starts a measurement of the model in its current state: losses of the images, batch by batch.

    Attributes:
        seen: losses of the images so far, (n,).
    """

    def __init__(
        self,
        name: str,
        weight: QuantizedWeight,
        latent: torch.Tensor | None,
        losses: Callable[[], Iterator[torch.Tensor]],
    ) -> None:
        self.name, self.weight, self.latent = name, weight, latent
        self._rest = losses()
        self.seen = torch.empty(0)

    def measure(self, count: int, use: Callable[[QuantizedWeight], None]) -> None:
        """Measure batches until the losses of ``count`` images are known.

        Args:
            count: number of images.
            use: puts a weight into the model, which may hold that of another entrant.
        """
        if len(self.seen) >= count:
            return
        use(self.weight)
        while len(self.seen) < count:
            found = next(self._rest)
            self.seen = torch.cat([self.seen.to(found), found])


def wins(challenger: Entrant, best: Entrant, sizes: list[int], use: Callable[[QuantizedWeight], None]) -> bool:
    """Whether the losses of a challenger are clearly lower; both are measured until that is decided.

    Args:
        challenger: a rounding.
        best: the rounding that it would replace.
        sizes: number of images in each batch.
        use: puts a weight into the model.
    """
    count, total = 0, sum(sizes)
    for size in sizes:
        count += size
        challenger.measure(count, use)
        best.measure(count, use)
        if not perhaps_lower(challenger.seen[:count], best.seen[:count], total):
            return False
    return clearly_lower(challenger.seen, best.seen)
