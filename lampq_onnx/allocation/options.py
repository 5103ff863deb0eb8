"""What an allocation is told, as one value: the only home of its defaults and of what each option may be."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from lampq_onnx.allocation.metrics import METRICS, UNIFORM
from lampq_onnx.allocation.problem import MAX_BITS, MIN_BITS, check_candidates
from lampq_onnx.allocation.widths import INPUT_WIDTHS, parse_activation_candidates, parse_candidates
from lampq_onnx.artifacts import Sensitivities
from lampq_onnx.artifacts.plan import FIXED_BITS, FLOAT_BITS
from lampq_onnx.disk.option import BUDGETS, RESEARCH, Option
from lampq_onnx.disk.records import Record
from lampq_onnx.disk.wording import explain, joined, limits_of
from lampq_onnx.errors import LampqError, UsageError

ActivationWidth = int | Literal["mixed", "same"]
"""One width for all inputs; "mixed": each its own under a budget of its own; "same": that of the layer's weights."""

Granularity = Literal["auto", "layer", "group"]
"""What gets one width: a layer, a group of its output channels, or whichever the run was measured for."""

MAX_GAMMA = 1024
"""gamma^-8 times a Fisher trace stays a normal number."""

MOST_SECONDS = 1e6
"""Longer time limits are slips of the finger."""


def _known_metric(value: str) -> str:
    if value not in METRICS:
        raise ValueError(f"must be a metric ({', '.join(METRICS)}), not {value!r}")
    return value


def _weight_widths(value: object) -> object:
    return parse_candidates(value) if isinstance(value, str) else value


def _known_weight_widths(value: tuple[int, ...]) -> tuple[int, ...]:
    chosen = tuple(sorted(set(value)))
    check_candidates(chosen)
    return chosen


def _input_widths(value: object) -> object:
    return parse_activation_candidates(value) if isinstance(value, str) else value


def _known_input_widths(value: tuple[int, ...]) -> tuple[int, ...]:
    chosen = tuple(sorted(set(value)))
    if not chosen or not set(chosen) <= set(INPUT_WIDTHS):
        raise ValueError(f"must be widths of {', '.join(map(str, INPUT_WIDTHS))}, not {list(value)}")
    return chosen


def _width_or_word(value: object) -> object:
    if not isinstance(value, str) or value in ("mixed", "same"):
        return value
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"must be {_INPUTS}, not {value!r}") from None


def _known_input_width(value: int | str) -> int | str:
    if isinstance(value, int) and value not in INPUT_WIDTHS:
        raise ValueError(f"must be {_INPUTS}, not {value}")
    return value


def _known_fixed_width(value: int) -> int:
    if value not in (*range(MIN_BITS, MAX_BITS + 1), FLOAT_BITS):
        raise ValueError(f"must be from {MIN_BITS} to {MAX_BITS}, or {FLOAT_BITS} (float), not {value}")
    return value


_INPUTS = joined([*map(str, INPUT_WIDTHS), "mixed", "same"])

WeightWidths = Annotated[tuple[int, ...], BeforeValidator(_weight_widths), AfterValidator(_known_weight_widths)]
InputWidths = Annotated[tuple[int, ...], BeforeValidator(_input_widths), AfterValidator(_known_input_widths)]
Activation = Annotated[ActivationWidth, BeforeValidator(_width_or_word), AfterValidator(_known_input_width)]
FixedWidth = Annotated[int, AfterValidator(_known_fixed_width)]
MetricName = Annotated[str, AfterValidator(_known_metric)]


class AllocationOptions(Record):
    """How bits are given out.

    Attributes:
        bits: average weight bits over the layers that are not fixed, 1 to 8.
        candidates: weight widths to choose from, in bits, ascending.
        metric: a key of ``METRICS``; "lampq" is the paper's.
        gamma: factor by which one bit more reduces the cost. The power of uniform quantization noise falls by 4 per
            bit. gamma sets the spread of the widths: relaxed to real numbers, B_i = const + log_gamma(Omega_i / c_i).
        granularity: "layer" gives all weights of a layer one width, as in the paper. "group" gives each group of a
            layer's output channels its own, from the channels' shares in the cost of the layer. With "auto" both are
            possible where the shares were measured, the target unpacks weights when it loads a file, and inputs do not
            get the widths of the weights; a run that has the model compares the two on images, and `allocate` takes
            groups.
        fixed_bits: weight width of the layers outside the budget; 32: they stay in float.
        time_limit: seconds for the integer program.
        activation_bits: width of the inputs of the layers in the budget; if it is not given, `for_measured` takes the
            one that the ranges were measured for. The layers outside read 8 bits. "mixed" gives each its own width in
            the same integer program, under ``activation_budget``; the cost is that of the weights plus the measured one
            of the input. "same" is the LampQ paper's W/A: one width for the weights and the input of a layer, at the
            metric's cost, to which "kl" adds the measured cost of the input.
        activation_budget: average input bits for "mixed", each input counted as often as it has numbers.
        activation_candidates: input widths to choose from for "mixed", in bits, ascending.
        wide_price: nats of mean KL that 16-bit inputs must save for every whole model's worth of multiply-adds that get
            them, and for each of its answers (queries of a detector, steps of a sequence), whose KL adds up; infinite:
            never. Only where all inputs have 8 bits. Such a layer runs on the float kernel, about twice the time of an
            int8 layer. All inputs of a well-behaved ViT together lose 0.003 to 0.005 nats at 8 bits, so
            that none of its layers, a few percent of the multiply-adds each, comes near its share of the default. A
            layer that alone loses more than its share is worth the slower kernel.
    """

    bits: Annotated[
        float,
        Field(ge=MIN_BITS, le=MAX_BITS),
        Option("Average bits of a weight, 1 to 8, e.g. 4 or 3.5.", BUDGETS, level="basic"),
    ] = 4.0
    candidates: Annotated[WeightWidths, Option("Bit-widths that a layer's weights may get, e.g. 2-8 or 2,4,8.")] = (
        *(2, 3, 4, 5, 6, 7, 8),
    )
    metric: Annotated[
        MetricName,
        Option(
            "How the cost of a width is estimated: {metrics}. `lampq-onnx list metrics` explains them.", names="metrics"
        ),
    ] = "kl"
    gamma: Annotated[
        float,
        Field(gt=1, le=MAX_GAMMA),
        Option("Factor by which each extra bit reduces the error, in metrics that do not measure it.", RESEARCH),
    ] = 4.0
    granularity: Annotated[
        Granularity,
        Option(
            "What gets a bit-width of its own: layer, or group (a few output channels of a layer). auto: the one with "
            "less KL on calibration images at equal bytes; layer if the effort is fast, inputs have the width of the "
            "weights, the packing is not exact, or the target has scales for blocks or cannot unpack weights when it "
            "loads the file.",
        ),
    ] = "auto"
    fixed_bits: Annotated[FixedWidth, Option("Bit-width of layers outside the budget (patch embedding, head).")] = (
        FIXED_BITS
    )
    time_limit: Annotated[
        float,
        Field(gt=0, le=MOST_SECONDS),
        Option("Seconds that the integer program may take; then the best plan found is used.", RESEARCH),
    ] = 8.0
    activation_bits: Annotated[
        Activation,
        Option(
            "Bits of each layer's input: 2 to 8 or 16 for all layers; mixed: a width for each layer; same: the width "
            "of the layer's weights.",
            level="basic",
        ),
    ] = 8
    activation_budget: Annotated[
        float,
        Field(ge=INPUT_WIDTHS[0], le=INPUT_WIDTHS[-1]),
        Option("Average bits of the inputs, with --activation-bits mixed."),
    ] = 8.0
    activation_candidates: Annotated[
        InputWidths, Option("Bit-widths that inputs may get, with --activation-bits mixed, e.g. 4,6,8,16.")
    ] = (4, 6, 8, 16)
    wide_price: Annotated[
        float,
        Field(gt=0, allow_inf_nan=True),
        Option(
            "KL (nats) for each answer that 16-bit inputs must save, scaled to the whole model; inf: never.",
            RESEARCH,
        ),
    ] = 0.1

    @classmethod
    def of(cls, **values: object) -> Self:
        """Options from values that somebody typed; the others have their defaults.

        Args:
            values: option -> value.

        Raises:
            UsageError: an option cannot have its value, or there is none of this name.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            name = str(problem["loc"][0])
            own = [p for p in error.errors(include_url=False) if p["loc"][0] == name]
            known = cls.model_fields.get(name)
            raise UsageError(f"{name} {explain(own, '' if known is None else limits_of(known.metadata))}") from error

    def with_values(self, **values: object) -> Self:
        """The same options with other values for some of them.

        Args:
            values: option -> new value.

        Raises:
            UsageError: an option cannot have its value.
        """
        return self.of(**({name: getattr(self, name) for name in self.model_fields_set} | values))

    def for_measured(self, sensitivities: Sensitivities) -> Self:
        """The options, with the input width that ``sensitivities`` were measured for if none was given.

        Args:
            sensitivities: what was measured of every layer.

        Raises:
            UsageError: the sensitivities name a width that inputs cannot have.
        """
        if "activation_bits" in self.model_fields_set:
            return self
        if sensitivities.activation_bits not in INPUT_WIDTHS:
            raise UsageError(
                f"activation_bits must be {_INPUTS}; the sensitivities say {sensitivities.activation_bits}"
            )
        return self.with_values(activation_bits=sensitivities.activation_bits)

    def require_widths(self) -> None:
        """Refuse candidates that inputs cannot have where these get the widths of the weights.

        Raises:
            UsageError: naming the candidate.
        """
        if self.activation_bits == "same" and not set(self.candidates) <= set(INPUT_WIDTHS):
            smallest = self.candidates[0]
            raise UsageError(
                f"with activation_bits same the candidates are widths of inputs too, which cannot have {smallest} bit",
                hint=f"Leave {smallest} out of the candidates.",
            )

    def require_granularity(self) -> None:
        """Refuse groups of channels where inputs get the width of the layer's weights.

        Raises:
            UsageError: both were asked for.
        """
        if self.granularity == "group" and self.activation_bits == "same":
            raise UsageError(
                "with activation_bits same the input of a layer has the width of its weights, so it must be one width",
                hint="Use granularity layer, or give the inputs a width of their own, e.g. --activation-bits 8.",
            )

    def require_average_bits(self) -> None:
        """Refuse average weight bits below the smallest candidate.

        Raises:
            LampqError: naming both.
        """
        _require_average(self.bits, "bits", self.candidates)

    def require_average_input_bits(self) -> None:
        """Refuse average input bits below the smallest candidate, if inputs have widths of their own.

        Raises:
            LampqError: naming both.
        """
        if self.activation_bits == "mixed":
            _require_average(self.activation_budget, "activation bits", self.activation_candidates)

    @property
    def only_width(self) -> int | None:
        """The width that every layer in the budget gets whatever is measured; None: the measurements decide.

        There is one candidate, or the budget is that of the smallest or the largest, or the metric counts all weights
        alike and the budget is a candidate.
        """
        least, largest = self.candidates[0], self.candidates[-1]
        if self.bits >= largest:
            return largest
        if self.bits == least or (self.metric == UNIFORM and self.bits in self.candidates):
            return int(self.bits)
        return None

    @property
    def only_input_width(self) -> int | None:
        """The width that every input gets whatever is measured; None: the measurements decide.

        Where all inputs have 8 bits, the measurements may still show some that need 16, see `wide_price`.
        """
        if isinstance(self.activation_bits, int):
            return self.activation_bits
        if self.activation_bits == "same":
            return self.only_width
        least, largest = self.activation_candidates[0], self.activation_candidates[-1]
        if self.activation_budget >= largest:
            return largest
        return least if self.activation_budget == least else None

    @property
    def width_pairs(self) -> list[tuple[int, int]]:
        """All (weight, input) widths that an allocation may give out."""
        asked = self.activation_bits
        fixed = (self.fixed_bits, FLOAT_BITS if self.fixed_bits == FLOAT_BITS else FIXED_BITS)
        if asked == "same":
            return [*((b, b) for b in self.candidates), fixed]
        inputs = self.activation_candidates if asked == "mixed" else (int(asked),)
        return [*((w, a) for w in self.candidates for a in inputs), fixed]


DEFAULTS = AllocationOptions()
"""What holds where nothing is said."""


def _require_average(asked: float, what: str, candidates: tuple[int, ...]) -> None:
    if asked < candidates[0]:
        raise LampqError(
            f"an average of {asked:g} {what} cannot be met: the smallest candidate is {candidates[0]} bits",
            hint=f"ask for at least {candidates[0]}, or add smaller candidates",
        )
