"""Where a quantized file's error and time go: the parts of a report that its HTML page draws."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lampq_onnx.disk.records import Record


class OutputError(Record):
    """Error of one inner tensor, measured with everything before it quantized as well."""

    name: str = Field(description="layer or block")
    kind: Literal["layer", "block"] = Field(description="what the tensor is the output of")
    sqnr_db: float | None = Field(description="10 log10(|y|^2 / |y - y_q|^2); null when the error is zero")


class OutputErrors(Record):
    """Errors along the model, in the order of the graph."""

    samples: int = Field(description="number of images")
    outputs: tuple[OutputError, ...] = Field(description="one entry for each layer and block")
    missing: tuple[str, ...] = Field(default=(), description="layers whose output has no common name in the two files")


class OperatorTime(Record):
    """Time of the kernels of one operator type, after the runtime's optimizations."""

    operator: str = Field(description="type of the operator")
    float_ms: float = Field(description="milliseconds per run, all nodes of this type; 0: the file has none")
    quantized_ms: float = Field(description="milliseconds per run in the quantized file")
    float_nodes: int = Field(description="number of such nodes in the float file")
    quantized_nodes: int = Field(description="number of such nodes in the quantized file")


class OperatorTimes(Record):
    """The runtime's profile of both files: medians over alternating runs."""

    threads: int = Field(description="threads of onnxruntime")
    batch: int = Field(description="images in a batch")
    runs: int = Field(description="number of runs")
    operators: tuple[OperatorTime, ...] = Field(description="slowest first")


class ClassChange(Record):
    """Answers for the images of one label."""

    label: int = Field(description="class index")
    samples: int = Field(description="number of images with this label")
    float_right: int = Field(description="images that the float file gets right")
    quantized_right: int = Field(description="images that the quantized file gets right")


class ChangedImage(Record):
    """One image that the two files answer differently."""

    image: str = Field(description="name in the image source")
    label: int = Field(description="its class index")
    float_answer: int = Field(description="class index that the float file answers")
    quantized_answer: int = Field(description="class index that the quantized file answers")
    float_probability: float = Field(description="probability that the float file gives its own answer")
    quantized_probability: float = Field(description="probability that the quantized file gives its own answer")
    thumbnail: str | None = Field(default=None, description="JPEG of the cropped image, base64")


class AnswerChanges(Record):
    """Images that the two files answer differently."""

    lost: int = Field(description="images that only the float file gets right")
    won: int = Field(description="images that only the quantized file gets right")
    other: int = Field(description="images with two different wrong answers")
    classes: tuple[ClassChange, ...] = Field(description="classes that have images, by label")
    images: tuple[ChangedImage, ...] = Field(
        description="a selection: lost ones first, most certain first, then other and won"
    )
    names: dict[int, str] = Field(default_factory=dict, description="class index -> its name, if it is known")

    def name(self, label: int) -> str:
        """Name of a class; its index if the name is not known.

        Args:
            label: index of the class.
        """
        return self.names.get(label, str(label))


class Details(Record):
    """Details that explain the figures of a report."""

    errors: OutputErrors | None = Field(default=None, description="errors along the model; null: not measured")
    operators: OperatorTimes | None = Field(default=None, description="times by operator; null: not measured")
    changes: AnswerChanges | None = Field(description="null for tasks without one label per image")
