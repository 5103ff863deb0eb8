"""How artifacts show themselves: one line in Python, a card and a table in notebooks, a table for pandas."""

from __future__ import annotations

import html
import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from lampq_onnx.errors import LampqError

Cell = str | int | float | bool | None

SHOWN = 60
"""Rows of a table in a notebook; more are counted in words."""

_STYLE = {
    "card": "display:inline-block;padding:6px 14px 6px 0;vertical-align:top",
    "what": "font-size:12px;opacity:.7",
    "value": "font-size:17px;font-weight:600",
    "number": "text-align:right",
}


class Shown(ABC):
    """Mixin of artifacts: a class gives its line, its figures and its rows, and is shown as text, card and table."""

    @abstractmethod
    def _line(self) -> str:
        """Say what it is and how it came out, in one line."""

    @abstractmethod
    def _card(self) -> Mapping[str, str]:
        """Return its main figures: name -> value as text."""

    @abstractmethod
    def _rows(self) -> Sequence[Mapping[str, Cell]]:
        """Return one row for each layer: column -> cell; all rows have the same columns."""

    def __repr__(self) -> str:
        """Return one line; `to_json` has everything."""
        return f"{type(self).__name__}({self._line()})"

    def __str__(self) -> str:
        """Return the one line of `repr`; pydantic's own text fills the screen."""
        return repr(self)

    def _repr_html_(self) -> str:
        """Return a card and a table, for notebooks."""
        cards = "".join(
            f'<div style="{_STYLE["card"]}"><div style="{_STYLE["what"]}">{html.escape(what)}</div>'
            f'<div style="{_STYLE["value"]}">{html.escape(value)}</div></div>'
            for what, value in self._card().items()
        )
        return f"<div><b>{html.escape(self._line())}</b><br>{cards}{_table(self._rows())}</div>"

    def to_pandas(self) -> Any:
        """Return a DataFrame of pandas with one row per layer.

        Raises:
            LampqError: pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError as error:
            raise LampqError("to_pandas needs the package pandas", hint="pip install pandas") from error
        rows = self._rows()
        return pandas.DataFrame(list(rows), columns=list(rows[0]) if rows else None)


def _table(rows: Sequence[Mapping[str, Cell]]) -> str:
    if not rows:
        return ""
    columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(map(_cell, (row[name] for name in columns)))}</tr>" for row in rows[:SHOWN])
    more = f"<p>{len(rows) - SHOWN} more; to_pandas() has all</p>" if len(rows) > SHOWN else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _cell(value: Cell) -> str:
    if value is None:
        return "<td></td>"
    if isinstance(value, bool | str):
        return f"<td>{html.escape(str(value))}</td>"
    return f'<td style="{_STYLE["number"]}">{f"{value:,}" if isinstance(value, int) else f"{value:.3g}"}</td>'
