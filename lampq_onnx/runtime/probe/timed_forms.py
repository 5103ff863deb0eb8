"""The forms of a layer that can differ in time on a target, each with one representative pair of widths."""

from __future__ import annotations

from dataclasses import dataclass

from lampq_onnx.artifacts.plan import FIXED_BITS, FLOAT_BITS, WIDE_ACTIVATION_BITS
from lampq_onnx.errors import UsageError
from lampq_onnx.targets import Packing, Target

_LOW = tuple(range(1, FIXED_BITS))
_NARROW = tuple(range(2, FIXED_BITS))


@dataclass(frozen=True)
class TimedForm:
    """Widths and storages that take the same time.

    Attributes:
        weights: weight widths that the form stands for.
        activations: input widths that the form stands for.
        storages: storages that the form stands for; empty for float.
        measured: the pair of widths and the storage that are timed; None: the float layer.
    """

    weights: tuple[int, ...]
    activations: tuple[int, ...]
    storages: tuple[Packing, ...]
    measured: tuple[int, int, Packing] | None

    @property
    def name(self) -> str:
        """Short name, unique for a target."""
        if self.measured is None:
            return "float"
        weight, activation, storage = self.measured
        return f"W{weight}A{activation}-{storage}"


FLOAT_FORM = TimedForm((FLOAT_BITS,), (FLOAT_BITS,), (), None)


def timed_forms(target: Target) -> tuple[TimedForm, ...]:
    """List the forms to measure: float first, then the form that most layers take.

    Runtimes fold the unpacking of weights when the session is created, so one width below 8 bits stands for all.
    That storages take the same time is measured, for narrow weights with 8-bit inputs.

    Raises:
        UsageError: no runtime that is known here runs the target's files.
    """
    if not target.timed:
        raise UsageError(
            f"{target.name} cannot be timed here: probe runs files in onnxruntime or OpenVINO on this CPU",
            hint="probe for --target auto or openvino, and set no --max-latency for this target",
        )
    eight, every = (FIXED_BITS,), target.packings
    narrow = [TimedForm(_LOW, eight, (storage,), (4, FIXED_BITS, storage)) for storage in every]
    forms = (
        FLOAT_FORM,
        *narrow,
        TimedForm(eight, eight, every, (FIXED_BITS, FIXED_BITS, "container")),
        TimedForm(_LOW, _NARROW, every, (4, 6, target.packing)),
        TimedForm(eight, _NARROW, every, (FIXED_BITS, 6, "container")),
        TimedForm((*_LOW, FIXED_BITS), (WIDE_ACTIVATION_BITS,), every, (4, WIDE_ACTIVATION_BITS, target.packing)),
        TimedForm((*_LOW, FIXED_BITS), (FLOAT_BITS,), every, (4, FLOAT_BITS, target.packing)),
    )
    return tuple(form for form in forms if form.measured is None or target.kernel(*form.measured[:2]) is not None)
