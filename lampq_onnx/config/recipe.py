"""A recipe: all options of a run as one value, and its TOML form."""

from __future__ import annotations

import difflib
import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self, TypeVar

import tomli_w
from pydantic import ValidationError, model_validator

from lampq_onnx.allocation.options import AllocationOptions
from lampq_onnx.artifacts.task import CLASSIFICATION, SEVERAL, Kind
from lampq_onnx.config.doors import check_all, checked
from lampq_onnx.config.fields import Field, fields_of, text_of
from lampq_onnx.config.options import (
    AnalysisOptions,
    BudgetOptions,
    ImageOptions,
    ModelOptions,
    OutputOptions,
    RoundingOptions,
    UpdateOptions,
)
from lampq_onnx.disk.files import read_text
from lampq_onnx.disk.records import Record
from lampq_onnx.errors import LampqError, UsageError

SIZE_LIMIT, LINE_LIMIT = 2**20, 4096
"""Bytes of a recipe, characters of a line."""

COMMENT_WIDTH = 110
"""Characters of a line of comment in `template`."""

Options = TypeVar("Options", bound=Record)

Values = Mapping[str, Mapping[str, object]]
"""Section -> field -> value, not yet checked."""


class Recipe(Record):
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

    model: ModelOptions
    images: ImageOptions = ImageOptions()
    allocation: AllocationOptions = AllocationOptions()
    budgets: BudgetOptions = BudgetOptions()
    analysis: AnalysisOptions = AnalysisOptions()
    rounding: RoundingOptions = RoundingOptions()
    update: UpdateOptions = UpdateOptions()
    output: OutputOptions = OutputOptions()

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


SECTIONS: dict[str, type[Record]] = {
    name: info.annotation for name, info in Recipe.model_fields.items() if isinstance(info.annotation, type)
}
"""Tables of a recipe."""

FIELDS: tuple[Field, ...] = tuple(fields_of(SECTIONS))


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


def section(name: str, values: Values) -> Record:
    """Options of one section; a field that has to equal another one gets its value.

    Raises:
        UsageError: a value that an option cannot have, or an unknown key.
    """
    own = dict(values.get(name, {}))
    for field in FIELDS:
        if field.section == name and field.same_as is not None:
            if field.name in own:
                raise UsageError(
                    f"{name}.{field.name} cannot be set: it is always {field.same_as.section}.{field.same_as.field}"
                )
            own[field.name] = getattr(section(field.same_as.section, values), field.same_as.field)
    for field in FIELDS:
        if field.section == name and field.name in own and field.same_as is None:
            _require_no_truth_value(name, field, own[field.name])
            checked(SECTIONS[name], field, own[field.name], f"{field.dashed} ({field.name} in [{name}])")
    try:
        return SECTIONS[name].model_validate(own)
    except ValidationError as error:
        raise _explained(name, error) from error


def _require_no_truth_value(section_name: str, field: Field, value: object) -> None:
    """Refuse true and false where a number is meant: Python counts them as 1 and 0."""
    values = value if isinstance(value, list | tuple) else (value,)
    if SECTIONS[section_name].model_fields[field.name].annotation is bool:
        return
    wrong = next((item for item in values if isinstance(item, bool)), None)
    if wrong is not None:
        raise UsageError(
            f"{field.dashed} ({field.name} in [{section_name}]): must not be {str(wrong).lower()}",
            hint="write a number, or leave the option out",
        )


def options_of(kind: type[Options], values: Values) -> Options:
    """The options of one section, by their class; see `section`.

    Args:
        kind: class of the options, e.g. `OutputOptions`.
        values: section -> field -> value.

    Raises:
        UsageError: a value that an option cannot have, or an unknown key.
    """
    (name,) = (name for name, own in SECTIONS.items() if own is kind)
    found = section(name, values)
    assert isinstance(found, kind)
    return found


def merge(*layers: Values) -> dict[str, dict[str, object]]:
    """Join layers of values; the later one wins, key by key, also in tables within a section (model_args)."""
    merged: dict[str, dict[str, object]] = {}
    for layer in layers:
        for name, values in layer.items():
            own = merged.setdefault(name, {})
            for key, value in values.items():
                before = own.get(key)
                own[key] = {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value
    return merged


def read_values(path: Path) -> dict[str, dict[str, object]]:
    """Read a recipe file; see `Values`.

    Raises:
        LampqError: unreadable or not TOML.
        UsageError: unknown tables or keys.
    """
    return parse_values(read_text(path, "the recipe", limit=SIZE_LIMIT), str(path))


def parse_values(text: str, where: str) -> dict[str, dict[str, object]]:
    """Read the text of a recipe; ``where`` names it in messages.

    Raises:
        LampqError: not TOML.
        UsageError: unknown tables or keys.
    """
    longest = max(map(len, text.splitlines()), default=0)
    if longest > LINE_LIMIT:
        # The reader's time grows with the square of a dotted key's length.
        raise LampqError(f"{where} has a line of {longest} characters, and {LINE_LIMIT} is the limit")
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError, as are too long integers
        raise LampqError(f"{where} is not valid TOML: {error}") from error
    for name, values in data.items():
        if name not in SECTIONS:
            raise _unknown(f"{where}: unknown {'table' if isinstance(values, dict) else 'key'} {name!r}", name, ())
        if not isinstance(values, dict):
            raise UsageError(f"{where}: {name} is a table, [{name}], not a value")
        for key in values:
            if not any(f.section == name and f.name == key and f.same_as is None for f in FIELDS):
                raise _unknown(f"{where}: unknown key {key!r} in [{name}]", key, (name,))
    check_all(SECTIONS, FIELDS, data, lambda field: f"{where}: {field.name} in [{field.section}]")
    return data


def by_flag(flag: str) -> Field:
    """Find an option by its name on the command line, with underscores, or by its field if only one has that name.

    Raises:
        UsageError: there is none.
    """
    own = [field for field in FIELDS if field.same_as is None]
    found = [f for f in own if f.flag == flag] or [f for f in own if f.name == flag]
    if len(found) != 1:
        near = difflib.get_close_matches(flag, [f.flag for f in own], n=1)
        raise UsageError(f"unknown option {flag!r}", hint=f"did you mean {near[0]}?" if near else "")
    return found[0]


def by_name(options: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """Sort options into sections by their names, see `by_flag`; None stands for not given.

    Raises:
        UsageError: an unknown name, one option under two names, or a value that the option cannot have.
    """
    values: dict[str, dict[str, object]] = {}
    for flag, value in options.items():
        field = by_flag(flag)
        if value is not None:
            taken = checked(SECTIONS[field.section], field, value, flag)
            own = values.setdefault(field.section, {})
            if field.name in own:
                raise UsageError(f"{flag} is given twice, under two names", hint=f"give {field.flag} alone")
            own[field.name] = taken
    return values


def nearest(word: str, inside: tuple[str, ...]) -> Field | str | None:
    """The option or table whose name is nearest to a word, those of the tables ``inside`` first; None: none is near."""
    own = [field for field in FIELDS if field.same_as is None]
    here: dict[str, Field | str] = {field.name: field for field in own if field.section in inside}
    everywhere: dict[str, Field | str] = {
        **{name: name for name in SECTIONS},
        **{f.name: f for f in own},
        **{f.flag: f for f in own},
    }
    for known in (here, everywhere):
        near = difflib.get_close_matches(word, known, n=1)
        if near:
            return known[near[0]]
    return None


def _unknown(message: str, word: str, inside: tuple[str, ...]) -> UsageError:
    """The error for an unknown key, which names the nearest one."""
    near = nearest(word, inside)
    if near is not None:
        place = f"[{near}]" if isinstance(near, str) else near.name
        if not isinstance(near, str) and near.section not in inside:
            place = f"{near.name} in [{near.section}]"
        return UsageError(message, hint=f"did you mean {place}?")
    keys = ", ".join(f.name for f in FIELDS if f.section in inside and f.same_as is None) or ", ".join(SECTIONS)
    return UsageError(message, hint=f"known here: {keys}")


def _explained(name: str, error: ValidationError) -> UsageError:
    """The error of a section whose values were checked one by one: an unknown key, or a missing one."""
    problem = error.errors(include_url=False)[0]
    key = str(problem["loc"][0]) if problem["loc"] else ""
    if problem["type"] == "missing":
        return UsageError(f"{key} in [{name}] is missing")
    return _unknown(f"unknown option {key!r} of {name}", key, (name,))
