"""Values to start the training with."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def keep_sizes(model: nn.Module) -> None:
    """Draw weights that keep the size of their inputs, in place.

    transformers' are meant to be replaced by trained ones. They are so small that no image reaches RT-DETR's queries,
    whose batch norms have scales around 0, and that DETR's queries look everywhere alike. Matrices that start as zero
    stay so: RT-DETR's heads of boxes, and where deformable attention looks.
    """
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.ones_(part.weight)
        elif isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        elif isinstance(part, nn.Linear) and bool(part.weight.any()):
            nn.init.xavier_uniform_(part.weight)
