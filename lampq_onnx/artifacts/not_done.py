"""A graph change that the importer or the converter did not make."""

from __future__ import annotations

from pydantic import Field

from lampq_onnx.disk.records import Record

NAMED = 6
"""Number of places named in one line; further ones are counted."""


class NotDone(Record):
    """Places that one pass left unchanged for one reason."""

    step: str = Field(description="name of the pass")
    purpose: str = Field(description="what the pass would do")
    reason: str = Field(description='completes "not done here, because ..."')
    where: tuple[str, ...] = Field(description="layers, or nodes of the graph; empty: the whole graph")

    def sentence(self) -> str:
        """Return one line: what was not done, why, how often and where."""
        more = len(self.where) - NAMED
        places = ", ".join(self.where[:NAMED]) + (f" and {more} more" if more > 0 else "")
        at = f" ({len(self.where)}: {places})" if self.where else ""
        return f"{self.purpose} ({self.step}): not done here, because {self.reason}{at}"
