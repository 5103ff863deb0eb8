"""Build the small Conditional DETR: a convolutional backbone, an encoder, and a decoder whose queries read its output.

A plain DETR adds positions to queries and keys alone, so its values do not know where they are, and it needs hundreds
of epochs from scratch. Here each query has a point of reference, from which its box is predicted. The points start as
a grid, and the cross-attention with equal matrices for the positions of queries and keys, so that a query looks around
its own place.
"""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import nn
from transformers import ConditionalDetrConfig, ConditionalDetrForObjectDetection, ResNetConfig

from tools.detector.batch_norms import thaw
from tools.detector.learner import Answer, Learner
from tools.detector.starts import keep_sizes
from tools.scenes import CLASSES

QUERY_GRID = 5
HEADS = 4

SHARPNESS = 2.0
"""Gain of the matrices of positions in the cross-attention: at 1, queries look almost everywhere alike."""

USUAL_SIZE, OBJECT_CHANCE = 0.25, 0.05
"""What queries answer before they have learned anything: side of a box, and chance of each class."""


class ConditionalDetrLearner(Learner):
    """Conditional DETR, and what only the training needs."""

    background = False

    def __init__(self, config: ConditionalDetrConfig) -> None:
        super().__init__(config.d_model)
        self.network = ConditionalDetrForObjectDetection(config)
        thaw(self.network)
        keep_sizes(self.network)
        place_queries(self.network)
        self._seen: list[torch.Tensor] = []
        for layer in self.network.model.decoder.layers:
            layer.register_forward_hook(self._keep)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Set the mode; the encoder's layers stay in evaluation mode, as `RTDetrLearner.train` says."""
        super().train(mode)
        self.network.model.encoder.eval()
        return self

    def _keep(self, _: nn.Module, __: object, output: object) -> None:
        self._seen.append(output[0] if isinstance(output, tuple) else output)  # type: ignore[arg-type]

    def forward(self, images: torch.Tensor) -> tuple[list[Answer], torch.Tensor]:
        """See `Learner`."""
        self._seen.clear()
        found = self.network.model(images)
        # Nothing is kept: a graph that is recorded later must not meet this one.
        seen, self._seen = self._seen, []
        answers = []
        for tokens in reversed(seen):
            queries = self.network.model.decoder.layernorm(tokens)
            place = torch.logit(found.reference_points.transpose(0, 1).float(), 1e-5)
            raw = self.network.bbox_predictor(queries).float()
            boxes = torch.cat([raw[..., :2] + place, raw[..., 2:]], -1).sigmoid()
            answers.append((self.network.class_labels_classifier(queries).float(), boxes))
        return answers, self.patch_head(found.encoder_last_hidden_state).float()


def conditional_detr(hidden: int, depth: int) -> ConditionalDetrLearner:
    """A Conditional DETR for the scenes with 25 queries: ``depth`` layers in the encoder and in the decoder."""
    backbone = ResNetConfig(
        embedding_size=24,
        hidden_sizes=[32, 96],
        depths=[1, 2],
        layer_type="basic",
        downsample_in_first_stage=False,
        out_features=["stage2"],
    )
    config = ConditionalDetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=hidden,
        encoder_layers=depth,
        decoder_layers=depth,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=3 * hidden,
        decoder_ffn_dim=3 * hidden,
        num_queries=QUERY_GRID**2,
        dropout=0.0,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: i for i, name in enumerate(CLASSES)},
    )
    return ConditionalDetrLearner(config)


@torch.no_grad()
def place_queries(model: ConditionalDetrForObjectDetection) -> None:
    """Points of reference on a grid, cross-attention that looks around them, and what is answered at first."""
    decoder = model.model.decoder
    centres = (torch.arange(QUERY_GRID) + 0.5) / QUERY_GRID
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    queries = model.model.query_position_embeddings.weight
    nn.init.normal_(queries)
    queries[:, :2] = torch.stack([x.flatten(), y.flatten()], 1).logit()
    # The head of the points passes on the first two numbers: what is positive, minus what is positive of its negative.
    first, last = decoder.ref_point_head.layers
    for layer in (first, last):
        nn.init.zeros_(layer.bias)
    first.weight[:4] = 0
    last.weight.zero_()
    for axis in range(2):
        first.weight[2 * axis, axis], first.weight[2 * axis + 1, axis] = 1, -1
        last.weight[axis, 2 * axis], last.weight[axis, 2 * axis + 1] = 1, -1
    for layer in decoder.layers:
        layer.encoder_attn.k_pos_proj.weight.mul_(SHARPNESS)
        layer.encoder_attn.q_pos_sine_proj.weight.copy_(layer.encoder_attn.k_pos_proj.weight)
    # What later layers multiply the encoding of the points by.
    nn.init.zeros_(decoder.query_scale.layers[-1].weight)
    nn.init.ones_(decoder.query_scale.layers[-1].bias)
    # The first layer's queries are zero, and so is its self-attention: what its LayerNorm divides by must not be zero.
    nn.init.normal_(decoder.layers[0].self_attn.o_proj.bias)
    nn.init.constant_(model.class_labels_classifier.bias, math.log(OBJECT_CHANCE / (1 - OBJECT_CHANCE)))
    head = model.bbox_predictor.layers[-1]
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    head.bias[2:] = math.log(USUAL_SIZE / (1 - USUAL_SIZE))
