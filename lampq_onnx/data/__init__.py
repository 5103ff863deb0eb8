"""Read images from disk and turn them into model inputs."""

from lampq_onnx.data.batched import BatchedImages, batches_of
from lampq_onnx.data.batches import Batch, CroppedImages, CropView, iter_batches
from lampq_onnx.data.preprocessing import Interpolation, Preprocessing
from lampq_onnx.data.resizing import Resize
from lampq_onnx.data.sampling import choose
from lampq_onnx.data.source import ImageSource
from lampq_onnx.data.sources import open_source

__all__ = [
    "Batch",
    "BatchedImages",
    "CropView",
    "CroppedImages",
    "ImageSource",
    "Interpolation",
    "Preprocessing",
    "Resize",
    "batches_of",
    "choose",
    "iter_batches",
    "open_source",
]
