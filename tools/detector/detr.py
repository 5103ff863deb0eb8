"""Build the small DETR: a convolutional backbone, an encoder, and a decoder whose queries read its output.

DETR needs hundreds of epochs from scratch, mainly because its queries do not know where they look. Here they start at
the points of a grid, in the encoding of the encoder's positions, and the cross-attention starts with equal matrices for
queries and keys, so that a query looks around its own place.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import nn
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

from tools.detector.batch_norms import thaw
from tools.detector.learner import Answer, Learner
from tools.detector.starts import keep_sizes
from tools.scenes import CLASSES

QUERY_GRID = 5
HEADS = 4


class DetrLearner(Learner):
    """DETR, and what only the training needs."""

    background = True

    def __init__(self, config: DetrConfig) -> None:
        super().__init__(config.d_model)
        self.network = DetrForObjectDetection(config)
        thaw(self.network)
        keep_sizes(self.network)
        self._seen: list[torch.Tensor] = []
        for layer in self.network.model.decoder.layers:
            layer.register_forward_hook(self._keep)
        place_queries(self.network)
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
        answers = []
        for tokens in reversed(self._seen):
            queries = self.network.model.decoder.layernorm(tokens)
            boxes = self.network.bbox_predictor(queries).float().sigmoid()
            answers.append((self.network.class_labels_classifier(queries).float(), boxes))
        return answers, self.patch_head(found.encoder_last_hidden_state).float()


def detr(hidden: int, depth: int) -> DetrLearner:
    """A DETR for the scenes with 25 queries: ``depth`` layers in the encoder and in the decoder."""
    backbone = ResNetConfig(
        embedding_size=24,
        hidden_sizes=[32, 96],
        depths=[1, 2],
        layer_type="basic",
        downsample_in_first_stage=False,
        out_features=["stage2"],
    )
    config = DetrConfig(
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
    return DetrLearner(config)


@torch.no_grad()
def place_queries(model: DetrForObjectDetection) -> None:
    """Positions of the queries in the encoding of the patches, and cross-attention that looks around them."""
    width = model.config.d_model
    mask = torch.ones(1, QUERY_GRID, QUERY_GRID, dtype=torch.bool)
    shape = torch.Size((1, width, QUERY_GRID, QUERY_GRID))
    position = model.model.position_embedding(shape=shape, device=mask.device, dtype=torch.float32, mask=mask)
    places = position.flatten(2)[0].T if position.ndim == 4 else position[0]
    model.model.query_position_embeddings.weight.copy_(places)
    for layer in model.model.decoder.layers:
        layer.encoder_attn.q_proj.weight.copy_(layer.encoder_attn.k_proj.weight)
    # The first layer's queries are zero, and so is its self-attention: what its LayerNorm divides by must not be zero.
    nn.init.normal_(model.model.decoder.layers[0].self_attn.o_proj.bias)
