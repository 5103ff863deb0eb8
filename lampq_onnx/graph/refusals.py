"""Places that a pass left unchanged, and the reasons."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lampq_onnx.artifacts.not_done import NotDone


@dataclass(frozen=True)
class Refused:
    """Returned by a rewrite that found its place in the graph but does not change it.

    Attributes:
        reason: completes the sentence "not done here, because ...".
    """

    reason: str


Outcome = bool | Refused
"""Result of a rewrite at one place. True: it changed the place; False: the rewrite does not apply there."""


@dataclass(frozen=True)
class Refusal:
    """One place that a pass left unchanged.

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
    """Join the refusals of one pass with the same reason, in the order of the passes and of the graph."""
    places: dict[tuple[str, str, str], dict[str, None]] = {}
    for refusal in refusals:
        found = places.setdefault((refusal.step, refusal.purpose, refusal.reason), {})
        if refusal.where:
            found[refusal.where] = None  # parts of a layer count once
    return tuple(
        NotDone(step=step, purpose=purpose, reason=reason, where=tuple(found))
        for (step, purpose, reason), found in places.items()
    )
