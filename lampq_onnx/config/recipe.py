"""A recipe: all options of a run as one value, and its TOML form."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import tomli_w
from pydantic import model_validator

from lampq_onnx.artifacts.task import CLASSIFICATION, SEVERAL, Kind
from lampq_onnx.config.fields import Field, text_of
from lampq_onnx.config.sections import FIELDS, SECTIONS, Sections, Values
from lampq_onnx.config.values import merge, read_values, section
from lampq_onnx.errors import UsageError

COMMENT_WIDTH = 110
"""Characters of a line of comment in `template`."""


class Recipe(Sections):
    """All options of `quantize`; each attribute is a table of the TOML file.

    >>> recipe = Recipe.build({"model": {"name": "digits"}}, {"allocation": {"bits": 3}})
    >>> recipe.allocation.bits, recipe.analysis.weight_bits, recipe.output.packing
    (3.0, 3.0, 'auto')

    Attributes:
        model: which model, and where its weights are.
        images: calibration and validation images, and their preprocessing.
        allocation: how bits are given out.
        budgets: what the file must not exceed, beside average bits.
        analysis: how sensitivities are measured.
        rounding: how weights are rounded.
        update: the iterative update of the widths.
        output: the form of the file, and how it is checked.
    """

    @model_validator(mode="after")
    def _require_agreement(self) -> Self:
        for field in FIELDS:
            if field.same_as is not None:
                own = getattr(getattr(self, field.section), field.name)
                other = getattr(getattr(self, field.same_as.section), field.same_as.field)
                if own != other:
                    raise ValueError(
                        f"{field.section}.{field.name} is {own}, and {field.same_as.section}.{field.same_as.field}, "
                        f"which it has to equal, is {other}; Recipe.build sees to it"
                    )
        return self

    @classmethod
    def build(cls, *layers: Values) -> Self:
        """Make a recipe from the defaults, overridden by each layer in turn.

        Args:
            layers: section -> field -> value; later ones win.

        Raises:
            UsageError: an unknown key, a value that an option cannot have, or no model.
        """
        values = merge(*layers)
        if "name" not in values.get("model", {}):
            raise UsageError(
                "no model is named",
                hint="name it on the command line, or as `name` under [model] in the recipe; the embedded example is "
                "`digits`",
            )
        return cls.model_validate({name: section(name, values) for name in SECTIONS})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a TOML file.

        Args:
            path: the file.

        Raises:
            LampqError: unreadable, or not a recipe.
        """
        return cls.build(read_values(Path(path)))

    def with_output(self, **changes: object) -> Self:
        """The recipe with other values under [output].

        Args:
            changes: field -> value, not checked.
        """
        return self.model_copy(update={"output": self.output.model_copy(update=changes)})

    def with_task(self, task: Kind) -> Self:
        """The recipe with the task that was found, if its own is auto.

        What follows from labels is written down: who makes the file again may not have them.

        Args:
            task: what the outputs mean.
        """
        if self.model.task != "auto" or task in (CLASSIFICATION.kind, SEVERAL):
            return self
        return self.model_copy(update={"model": self.model.model_copy(update={"task": task})})

    def values(self) -> dict[str, dict[str, object]]:
        """Section -> field -> plain value; fields that are None or have to equal another one are left out."""
        dumped = {name: getattr(self, name).model_dump(mode="json", exclude_none=True) for name in SECTIONS}
        return {
            name: {
                field.name: _plain(getattr(getattr(self, name), field.name), dumped[name][field.name])
                for field in FIELDS
                if field.section == name
                and field.same_as is None
                and field.name in dumped[name]
                and not (name == "allocation" and field.name == "bits" and not self.bits_count)
            }
            for name in SECTIONS
        }

    @property
    def bits_count(self) -> bool:
        """Whether average bits are a budget: if they are given, or no other budget is."""
        return not self.budgets.given or "bits" in self.allocation.model_fields_set

    def to_toml(self, *, only: Sequence[Field] | None = None) -> str:
        """The recipe as TOML; `load` reads an equal one from it.

        Args:
            only: fields to write; None: all.
        """
        values = self.values()
        if only is not None:
            names = {(field.section, field.name) for field in only}
            values = {s: {k: v for k, v in own.items() if (s, k) in names} for s, own in values.items()}
        return tomli_w.dumps({name: own for name, own in values.items() if own})


def _plain(value: object, dumped: object) -> object:
    """A value for TOML: floats as they are, because JSON has no infinity; widths as text, which is shorter."""
    if isinstance(value, tuple) and value and all(isinstance(item, int) for item in value):
        return text_of(value)
    return value if isinstance(value, float) else dumped


def template(model: str, given: Values | None = None) -> str:
    """A recipe with every option, its default and what it does; options without a default are commented out.

    Args:
        model: the model that it names.
        given: values that are not the defaults.
    """
    recipe = Recipe.build({"model": {"name": model}}, given or {})
    values = recipe.values()
    lines = ["# Options of `lampq-onnx quantize --recipe FILE --output FOLDER`; the command line overrides them."]
    for name in SECTIONS:
        lines += ["", f"[{name}]"]
        for field in FIELDS:
            if field.section == name and field.same_as is None:
                value = values[name].get(field.name)
                lines += [f"# {line}" for line in textwrap.wrap(field.help, COMMENT_WIDTH, break_on_hyphens=False)]
                lines.append(_line(field, field.example, "# ") if value in (None, {}) else _line(field, value))
    return "\n".join(lines) + "\n"


def _line(field: Field, value: object, before: str = "") -> str:
    """A key and its value on one line, as TOML."""
    return f"{before}{field.name} = {_inline(value)}"


def _inline(value: object) -> str:
    """A value without line breaks, as TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_inline(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return tomli_w.dumps({"value": value}).removeprefix("value = ").rstrip()
