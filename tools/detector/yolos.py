"""Build the small YOLOS, and the parts that help it to learn from scratch.

Queries alone learn slowly from scratch. Three things, which the finished model does not contain, speed this up: queries
start at the points of a grid, the last blocks before the end are supervised as well, and every patch has to name the
object in which it is. The other detectors here (`detr`, `rt_detr`) learn with the same help.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from transformers import YolosConfig, YolosForObjectDetection

from tools.detector.learner import PATCH, Answer, Learner
from tools.scenes import CLASSES, SIZE

QUERY_GRID = 5
SUPERVISED_BLOCKS = (4, 6)
"""Blocks whose outputs are supervised besides the last one's."""


class YolosLearner(Learner):
    """YOLOS, and what only the training needs."""

    background = True

    def __init__(self, config: YolosConfig) -> None:
        super().__init__(config.hidden_size)
        self.network = YolosForObjectDetection(config)
        self.queries = config.num_detection_tokens
        self._seen: dict[int, torch.Tensor] = {}
        for index in SUPERVISED_BLOCKS:
            if index < config.num_hidden_layers:
                self.network.vit.encoder.layer[index - 1].register_forward_hook(self._keep(index))
        place_tokens(self.network)

    def _keep(self, index: int) -> Callable[[nn.Module, object, torch.Tensor], None]:
        def hook(_: nn.Module, __: object, output: torch.Tensor) -> None:
            self._seen[index] = output

        return hook

    def forward(self, images: torch.Tensor) -> tuple[list[Answer], torch.Tensor]:
        """See `Learner`."""
        self._seen.clear()
        last = self.network.vit(images).last_hidden_state
        earlier = [self.network.vit.layernorm(value) for value in self._seen.values()]
        answers = []
        for tokens in (last, *earlier):
            queries = tokens[:, -self.queries :]
            boxes = self.network.bbox_predictor(queries).float().sigmoid()
            answers.append((self.network.class_labels_classifier(queries).float(), boxes))
        return answers, self.patch_head(last[:, 1 : -self.queries]).float()


def yolos(hidden: int, depth: int) -> YolosLearner:
    """A YOLOS for the scenes with 25 queries."""
    config = YolosConfig(
        hidden_size=hidden,
        num_hidden_layers=depth,
        num_attention_heads=3,
        intermediate_size=4 * hidden,
        image_size=[SIZE, SIZE],
        patch_size=PATCH,
        num_detection_tokens=QUERY_GRID**2,
        use_mid_position_embeddings=False,
        layer_norm_eps=1e-6,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: i for i, name in enumerate(CLASSES)},
    )
    return YolosLearner(config)


@torch.no_grad()
def place_tokens(model: YolosForObjectDetection) -> None:
    """Positions of patches and queries from sines and cosines of the same plane."""
    embeddings = model.vit.embeddings
    width = model.config.hidden_size
    side = SIZE // PATCH
    position = embeddings.position_embeddings
    position.zero_()
    position[0, 1 : 1 + side * side] = 0.5 * sine_positions(side, width)
    position[0, 1 + side * side :] = 0.5 * sine_positions(QUERY_GRID, width)
    nn.init.normal_(embeddings.detection_tokens, std=0.02)


def sine_positions(side: int, width: int) -> torch.Tensor:
    """(side * side, width) of the centres of a grid of cells over the unit square."""
    centres = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    frequencies = math.pi * torch.logspace(0, 1.2, width // 4, base=10)
    phases = [axis.reshape(-1, 1) * frequencies for axis in (x, y)]
    return torch.cat([f(phase) for phase in phases for f in (torch.sin, torch.cos)], 1)
