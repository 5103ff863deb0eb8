"""What a pass left as it is, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lampq_onnx.artifacts.not_done import NotDone


@dataclass(frozen=True)
class Refused:
    """The answer of a rewrite that found its place in the graph and does not change it.

    Attributes:
        reason: completes the sentence "not done here, because ...".
    """

    reason: str


Outcome = bool | Refused
"""What a rewrite did at one place: True: changed it; False: it is no place for this rewrite."""


@dataclass(frozen=True)
class Refusal:
    """One place that a pass left as it is.

    Attributes:
        step: name of the pass.
        purpose: what the pass does, in words.
        where: layer, or node of the graph; empty: the whole graph.
        reason: completes the sentence "not done here, because ...".
    """

    step: str
    purpose: str
    where: str
    reason: str


def grouped(refusals: Iterable[Refusal]) -> tuple[NotDone, ...]:
    """Refusals of one pass for one reason joined, in the order of the passes and of the graph."""
    places: dict[tuple[str, str, str], dict[str, None]] = {}
    for refusal in refusals:
        found = places.setdefault((refusal.step, refusal.purpose, refusal.reason), {})
        if refusal.where:
            found[refusal.where] = None  # parts of a layer count once
    return tuple(
        NotDone(step=step, purpose=purpose, reason=reason, where=tuple(found))
        for (step, purpose, reason), found in places.items()
    )
