"""Words of the pages, explained on hover and in a list at the end."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """A word that a page explains.

    Attributes:
        word: as the pages write it.
        text: what it means, in a sentence or two.
    """

    word: str
    text: str


WORDS = {
    "drop": Word(
        "drop", "How many points of the score the quantized file loses. The number after ± is one standard error."
    ),
    "agreement": Word(
        "agreement", "Share of the images to which both files give the same first answer, right or wrong."
    ),
    "kl": Word(
        "KL",
        "Kullback-Leibler divergence from the float model's probabilities to those of the quantized file, in nats, "
        "averaged over the images. 0: no difference; below 0.01 answers hardly change.",
    ),
    "sqnr": Word(
        "SQNR",
        "Signal to quantization noise ratio: size of the float values over size of the error, in decibels. 6 dB more "
        "halve the error.",
    ),
    "bits": Word("bits", "Width of the integers that stand for weights or inputs: b bits give 2^b levels."),
    "speed": Word(
        "speed", "Time of the float file over time of this file, both timed in turns: 2x takes half the time."
    ),
    "trace": Word(
        "trace", "Fisher trace of a layer: how much the model's answers move if its outputs change a little."
    ),
    "omega": Word("omega", "The trace times a factor for the kind of layer, which makes kinds comparable."),
    "error": Word("error", "Squared error of a layer's output over the squared output, on quantized inputs."),
    "pareto": Word("Pareto-optimal", "No other point is both smaller and closer to float."),
    "uniform": Word("uniform", "The same number of bits for every layer in the budget."),
    "gate": Word("gate", "A limit that a figure has to keep; a missed one fails the file."),
}
"""Name -> word."""


@dataclass(frozen=True)
class Head:
    """Heading of a column.

    Attributes:
        name: what it says.
        number: whether its cells are numbers.
        term: key of `WORDS` that explains it.
        code: whether its cells are names of layers or files.
    """

    name: str
    number: bool = False
    term: str = ""
    code: bool = False


@dataclass(frozen=True)
class Line:
    """One row of a table.

    Attributes:
        cells: a text for each column.
        own: whether it is the row of the page's own file.
    """

    cells: tuple[str, ...]
    own: bool = False
