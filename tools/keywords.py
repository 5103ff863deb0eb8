"""The keyword arguments of the Python API as typed dictionaries, made from the options' fields.

    python tools/keywords.py  # writes lampq_onnx/config/keywords.py

A test compares the file with the fields. Run this after a change of the classes that
`lampq_onnx.config.sections` names.
"""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from lampq_onnx.config.fields import Field
from lampq_onnx.config.sections import FIELDS, SECTIONS

TARGET = Path(__file__).resolve().parents[1] / "lampq_onnx" / "config" / "keywords.py"

NAMED = ("model", "calibration", "validation", "bits", "latency", "baseline")
"""Options that functions name in their signatures, since they take Python objects or mean something else in some."""

FUNCTIONS: dict[str, tuple[str, ...]] = {
    "quantize": tuple(SECTIONS),
    "sweep": tuple(name for name in SECTIONS if name != "budgets"),
    "analyze": (
        *("model", "images", "analysis"),
        *(".rounding", ".candidates", ".granularity", ".activation_bits", ".activation_candidates", ".threads"),
    ),
    "allocate": ("allocation", "budgets", ".packing"),
    "convert": (
        *(".packing", ".target", ".batch", ".attention", ".threads", ".calibration_size", ".seed"),
        *(".input_size", ".mean", ".std", ".crop"),
    ),
    "validate": (
        ".mean",
        ".std",
        ".crop",
        ".threads",
        ".latency_threads",
        ".latency_batch",
        ".latency_runs",
        ".runtime",
        ".inference_precision",
    ),
    "doctor": ("model", ".input_size", ".mean", ".std", ".crop"),
}
"""Function of the API -> whole sections, and single options with a dot in front."""

HEAD = '''"""Keyword arguments of the Python API, by function.

This file is made from the fields of the classes in `lampq_onnx.config.sections` by tools/keywords.py: change those,
which also say what each option does. Options that a function names in its own signature are left out. None stands for
"not given".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, TypedDict
'''


def own_name(field: Field) -> str:
    """The name of an option in Python: that of the command line, but a table is given whole and not entry by entry."""
    return field.name if isinstance(field.default, dict) else field.flag


def chosen(section: str) -> Iterator[Field]:
    """The options of a section that functions take as further keywords."""
    for field in FIELDS:
        if field.section == section and field.same_as is None and own_name(field) not in NAMED:
            yield field


def single(name: str) -> Field:
    """The option of a name."""
    (field,) = (field for section in SECTIONS for field in chosen(section) if own_name(field) == name)
    return field


def type_text(hint: Any) -> str:
    """What Python code may give for an annotation of the options.

    Raises:
        TypeError: an annotation that no rule here knows.
    """
    return " | ".join(dict.fromkeys(_members(hint)))


def _members(hint: Any) -> Iterator[str]:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        yield from _members(inner[0])
    elif origin in (types.UnionType, Union):
        for member in inner:
            yield from _members(member)
    elif origin is Literal:
        yield f"Literal[{', '.join(map(_quoted, inner))}]"
    elif origin is tuple and inner[0] in (int, float):
        yield from ("str", f"Sequence[{inner[0].__name__}]")  # widths and numbers are also read from text
    elif origin is tuple and inner[0] is str:
        yield "Sequence[str]"
    elif origin is dict:
        yield "Mapping[str, object]"
    elif hint is Path:
        yield from ("str", "Path")
    elif hint is type(None):
        yield "None"
    elif hint in (bool, int, float, str):
        yield hint.__name__
    else:
        raise TypeError(f"no rule for {hint}")


def _quoted(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def line_of(field: Field) -> str:
    """The option as a key of a typed dictionary."""
    return f"    {own_name(field)}: {type_text(field_type(field) | None)}\n"


def field_type(field: Field) -> Any:
    """The annotation of an option, without what checks it."""
    return SECTIONS[field.section].model_fields[field.name].annotation


def source() -> str:
    """The whole module, not yet formatted."""
    parts = [HEAD]
    for section, model in SECTIONS.items():
        lines = [line_of(field) for field in chosen(section)]
        summary = (model.__doc__ or "").strip().splitlines()[0]
        head = f"class _{section.title()}(TypedDict, total=False):\n"
        parts.append(f'{head}    """{summary}"""\n\n' + "".join(lines))
    for function, names in FUNCTIONS.items():
        bases = [f"_{name.title()}" for name in names if not name.startswith(".")] or ["TypedDict"]
        lines = [line_of(single(name[1:])) for name in names if name.startswith(".")]
        head = f"class {function.title()}Keywords({', '.join(bases)}, total=False):\n"
        parts.append(f'{head}    """Further keyword arguments of `lampq_onnx.{function}`."""\n\n' + "".join(lines))
    taken = (f'    "{function}": {function.title()}Keywords.__optional_keys__,\n' for function in FUNCTIONS)
    parts.append(
        "TAKEN: Final = {\n" + "".join(taken) + '}\n"""Function -> names of its further keyword arguments."""\n'
    )
    return "\n\n".join(parts)


def main() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(TARGET), "-"],
        input=source(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    TARGET.write_text(done.stdout, encoding="utf-8")


if __name__ == "__main__":
    main()
