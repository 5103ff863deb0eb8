"""Build the small RT-DETR: convolutions at three scales, one layer of attention, and queries that the scores choose."""

from __future__ import annotations

from typing import Self

import torch
from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig
from transformers.models.rt_detr.modeling_rt_detr import RTDetrAIFILayer

from tools.detector.learner import Answer, Learner
from tools.detector.starts import keep_sizes
from tools.scenes import CLASSES

QUERIES = 25
HEADS = 6


class RTDetrLearner(Learner):
    """RT-DETR, and what only the training needs."""

    background = False

    def __init__(self, config: RTDetrConfig) -> None:
        super().__init__(config.encoder_hidden_dim)
        self.network = RTDetrForObjectDetection(config)
        keep_sizes(self.network)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Set the mode; attention stays in evaluation mode, where nothing waits for the device to look for infinity."""
        super().train(mode)
        for part in self.network.modules():
            if isinstance(part, RTDetrAIFILayer):
                part.eval()
        return self

    def forward(self, images: torch.Tensor) -> tuple[list[Answer], torch.Tensor]:
        """See `Learner`; the last of the answers are those that the queries are chosen by."""
        found = self.network.model(images)
        logits, boxes = found.intermediate_logits, found.intermediate_reference_points
        answers = [(logits[:, i].float(), boxes[:, i].float()) for i in reversed(range(logits.shape[1]))]
        answers.append((found.enc_topk_logits.float(), found.enc_topk_bboxes.float()))
        finest = found.encoder_last_hidden_state[0]
        return answers, self.patch_head(finest.flatten(2).transpose(1, 2)).float()


def rt_detr(hidden: int, depth: int) -> RTDetrLearner:
    """An RT-DETR for the scenes with 25 queries and ``depth`` layers in the decoder."""
    backbone = RTDetrResNetConfig(
        embedding_size=24,
        hidden_sizes=[24, 48, 96, 144],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = RTDetrConfig(
        backbone_config=backbone,
        freeze_backbone_batch_norms=False,
        encoder_hidden_dim=hidden,
        encoder_in_channels=[48, 96, 144],
        encoder_ffn_dim=3 * hidden,
        encoder_attention_heads=HEADS,
        d_model=hidden,
        decoder_in_channels=[hidden] * 3,
        decoder_ffn_dim=3 * hidden,
        decoder_layers=depth,
        decoder_attention_heads=HEADS,
        num_queries=QUERIES,
        hidden_expansion=0.5,
        num_denoising=0,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: i for i, name in enumerate(CLASSES)},
    )
    return RTDetrLearner(config)
