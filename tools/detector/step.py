"""One step of training: the gradients of a batch, on a GPU as one recorded graph."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from tools.detector.data import Targets, normalized
from tools.detector.learner import Learner
from tools.detector.loss import loss_of

WARM_UPS = 3
"""Steps before the recording, in which libraries choose their kernels and the model fills its caches."""


class FilledItems(TorchFunctionMode):
    """Sets single items on the device: what comes from the host cannot be recorded."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Fill the item if a number is written to a place that numbers name."""
        if func is torch.Tensor.__setitem__ and isinstance(args[2], int | float):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if all(isinstance(each, int) for each in index):
                return args[0][args[1]].fill_(args[2])
        return func(*args, **(kwargs or {}))


class Gradients:
    """Computes the loss of a batch, and leaves its gradients in the parameters.

    A small model has thousands of short kernels, and Python starts them more slowly than the GPU runs them. So on a GPU
    the first call records them as a CUDA graph, and each call runs the graph. All batches must have the same size then.

    Args:
        half: compute products and convolutions in bfloat16.
        recorded: record a graph.
    """

    def __init__(self, model: Learner, *, half: bool, recorded: bool) -> None:
        self._model, self._half, self._recorded = model, half, recorded
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, images: torch.Tensor, targets: Targets) -> torch.Tensor:
        """Return the loss of uint8 images; the next call may overwrite it."""
        if not self._recorded:
            return self._compute(images, targets)
        if self._graph is None:
            self._record(images, targets)
        else:
            self._images.copy_(images)
            self._targets.boxes.copy_(targets.boxes)
            self._targets.classes.copy_(targets.classes)
        assert self._graph is not None
        self._graph.replay()
        return self._loss

    def _compute(self, images: torch.Tensor, targets: Targets) -> torch.Tensor:
        self._model.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._half, cache_enabled=not self._recorded):
            loss = loss_of(self._model, normalized(images), targets)
        loss.backward()
        return loss.detach()

    def _record(self, images: torch.Tensor, targets: Targets) -> None:
        self._images = images.clone()
        self._targets = Targets(targets.boxes.clone(), targets.classes.clone())
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), FilledItems():
            for _ in range(WARM_UPS):
                self._compute(self._images, self._targets)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph), FilledItems():
            # Gradients start as None, so a run of the graph sets them and does not add.
            self._loss = self._compute(self._images, self._targets)
