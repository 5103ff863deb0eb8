"""The tables of a recipe, each a class of options, and their fields."""

from __future__ import annotations

from collections.abc import Mapping

from lampq_onnx.allocation.options import AllocationOptions
from lampq_onnx.config.fields import Field, fields_of
from lampq_onnx.config.inputs import ImageOptions, ModelOptions
from lampq_onnx.config.options import AnalysisOptions, BudgetOptions, RoundingOptions, UpdateOptions
from lampq_onnx.config.output import OutputOptions
from lampq_onnx.disk.records import Record

Values = Mapping[str, Mapping[str, object]]
"""Section -> field -> value, not yet checked."""


class Sections(Record):
    """All options of `quantize`, by table; `Recipe` says what each holds."""

    model: ModelOptions
    images: ImageOptions = ImageOptions()
    allocation: AllocationOptions = AllocationOptions()
    budgets: BudgetOptions = BudgetOptions()
    analysis: AnalysisOptions = AnalysisOptions()
    rounding: RoundingOptions = RoundingOptions()
    update: UpdateOptions = UpdateOptions()
    output: OutputOptions = OutputOptions()


SECTIONS: dict[str, type[Record]] = {
    name: info.annotation for name, info in Sections.model_fields.items() if isinstance(info.annotation, type)
}
"""The tables that a recipe may have, and the options of each."""

FIELDS: tuple[Field, ...] = tuple(fields_of(SECTIONS))
