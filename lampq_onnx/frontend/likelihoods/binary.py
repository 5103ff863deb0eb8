"""Binary classification: a Bernoulli distribution from one logit."""

from __future__ import annotations

from lampq_onnx.frontend.likelihoods.multi_label import MultiLabelLikelihood


class BinaryLikelihood(MultiLabelLikelihood):
    """Yes or no per image, logits (n, 1): multi-label classification with a single class."""
