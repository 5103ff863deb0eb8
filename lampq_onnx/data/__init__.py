"""Images from disk to model inputs."""

from lampq_onnx.data.batches import Batch, CroppedImages, CropView, iter_batches
from lampq_onnx.data.preprocessing import Interpolation, Preprocessing
from lampq_onnx.data.sampling import choose
from lampq_onnx.data.source import ImageSource
from lampq_onnx.data.sources import open_source

__all__ = [
    "Batch",
    "CropView",
    "CroppedImages",
    "ImageSource",
    "Interpolation",
    "Preprocessing",
    "choose",
    "iter_batches",
    "open_source",
]
