"""Lists what a front end is going to measure, before it measures anything."""

from __future__ import annotations

from lampq_onnx.frontend.equalized import TRIAL_IMAGES
from lampq_onnx.frontend.models.trial import noise
from lampq_onnx.frontend.session import Frontend
from lampq_onnx.frontend.shared.batching import SlicedImages, device_of, tensors
from lampq_onnx.graph.recognition import Recognition, RecognizedLayer, float_operators


def recognized(frontend: Frontend, images: SlicedImages | None, *, equalize: bool) -> Recognition:
    """Collect the layers, the places of equalization, and what stays in float.

    Args:
        frontend: the loaded model.
        images: calibration images; None uses random noise instead.
        equalize: whether the run would equalize.
    """
    loaded = frontend.loaded
    links = None
    if equalize:
        if images is None:
            sample = noise(loaded.preprocessing, loaded.module, TRIAL_IMAGES)
        else:
            sample = next(tensors(images, device_of(loaded.module), batch_size=TRIAL_IMAGES))[0]
        links = len(frontend.links(sample))
    source = loaded.source
    return Recognition(
        model=loaded.identity.name,
        preprocessing=loaded.preprocessing.describe(),
        layers=tuple(RecognizedLayer(u.name, u.type, u.matrix().shape, u.fixed) for u in frontend.exported.layers),
        skipped=frontend.exported.skipped,
        elsewhere=float_operators(frontend.model),
        blocks=len(frontend.chain),
        changes={} if source is None else source.changes,
        not_done=() if source is None else source.not_done,
        parity=None if source is None else source.parity,
        task=loaded.task.kind,
        why=loaded.task.reason,
        outputs={part.outputs[0]: part.kind for part in loaded.task.parts},
        links=links,
    )
