"""A Bernoulli distribution from one logit."""

from __future__ import annotations

from lampq_onnx.frontend.likelihoods.multi_label import MultiLabelLikelihood


class BinaryLikelihood(MultiLabelLikelihood):
    """Yes or no for an image, logits (n, 1): the case of one class that an image has or has not."""
