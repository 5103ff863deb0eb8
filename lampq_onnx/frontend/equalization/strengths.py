"""Chooses how strongly to equalize each input, by the smallest expected loss.

With r_j the half range of channel j, strength a divides the channel by r_j^a (SmoothQuant, Xiao et al., ICML 2023, uses
the same exponent). If a > 0 and constants can move, the channel is centered first (RepQ-ViT, Li et al., ICCV 2023).
Strength 1 makes all channels equally wide. That is best for the input and worst for the weights, because their columns
absorb the difference. Which strength pays off depends on the layer and on both bit-widths, so it is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lampq_onnx.frontend.equalization.fold import Equalization
from lampq_onnx.frontend.equalization.link import Link
from lampq_onnx.frontend.equalization.predicted import Moved, predicted_errors
from lampq_onnx.frontend.measuring.calibration import WHOLE_RANGE_BITS
from lampq_onnx.frontend.measuring.fisher import visit_gradients
from lampq_onnx.frontend.measuring.visits import visit_inputs
from lampq_onnx.frontend.shared.batching import Images, SlicedImages, device_of, unlabelled
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.shared.products import linear
from lampq_onnx.frontend.shared.tokens import as_tokens, grads_as_tokens
from lampq_onnx.frontend.simulation.grids import fit_weight_grids
from lampq_onnx.frontend.simulation.levels import dequantized, nearest
from lampq_onnx.frontend.simulation.losses import clearly_lower
from lampq_onnx.frontend.simulation.simulate import fake_quantize
from lampq_onnx.quantization import ActivationQuantizer, QuantizedWeight

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)

OUTLIERS = (1.5, 3.0)
"""Multiples of the median range that wider channels are reduced to; all other channels stay as they are.

If a few channels are huge, every power takes too little from them or too much from the weights of all others.
"""

MULTIPLY_GAIN = 2.0
"""Factor by which a separate Mul must reduce the layer's expected loss, because it costs time at every run."""

LEAST_GAIN = 1.1
"""Factor by which any equalization must reduce the expected loss.

Nearest rounding stands in for the file's own rounding here, so a smaller gain proves nothing.
"""

RANGE_SHRINKS = {8: (1.0,), 6: (1.0, 0.7), 4: (1.0, 0.7, 0.5, 0.35)}
"""Least input bits -> parts of the min-max interval that are tried; narrow inputs are clipped."""

CLOSED_BITS = 7
"""Least weight bits for which the closed form decides: below, single rows matter, and clipping does."""


def closed_form_decides(weight_bits: float, activation_bits: int) -> bool:
    """Whether a closed form chooses the option; if not, options are compared by rounding the weights with them."""
    return activation_bits >= WHOLE_RANGE_BITS and round(weight_bits) >= CLOSED_BITS


SCREENED = 2
"""Options that are compared with no equalization, out of seven, after the closed form has sorted them."""

SCREEN_IMAGES = 8
"""Images for sorting."""

CONSTANT = 1e-6
"""Channels with a range below this share of the widest one stay as they are: they are nearly constant."""


@dataclass(frozen=True)
class Strength:
    """The equalization chosen for one link.

    Attributes:
        equalization: scale and shift; all ones and zeros if nothing changes.
        strength: exponent of the ranges; 1 for outliers, 0 if nothing changes.
        gain: expected loss without equalization divided by the loss with it.
        name: description of the choice for reports.
    """

    equalization: Equalization
    strength: float
    gain: float
    name: str


PlainStrength = tuple[str, torch.Tensor, torch.Tensor, float, float, str]
"""Link name, scale, shift, strength, gain and name."""


def plain(strengths: Sequence[Strength]) -> list[PlainStrength]:
    """The same choices as plain values, without the modules that links hold."""
    return [
        (s.equalization.link.name, s.equalization.scale, s.equalization.shift, s.strength, s.gain, s.name)
        for s in strengths
    ]


def of_links(values: Sequence[PlainStrength], links: Sequence[Link]) -> list[Strength]:
    """Choices from plain values; the inverse of `plain`."""
    by_name = {link.name: link for link in links}
    return [
        Strength(Equalization(by_name[link], scale, shift), strength, gain, name)
        for link, scale, shift, strength, gain, name in values
    ]


@dataclass(frozen=True)
class _Option:
    name: str
    strength: float
    scale: torch.Tensor
    shift: torch.Tensor
    quantizers: tuple[ActivationQuantizer, ...]

    def moved(self, activation_bits: int) -> Moved:
        """The option as the closed form takes it."""
        step = self.quantizers[0].scale if activation_bits <= WHOLE_RANGE_BITS else 0.0
        return Moved(self.scale, self.shift, step)


def choose_strengths(
    model: torch.nn.Module,
    links: Sequence[Link],
    fit: Images,
    held_out: SlicedImages,
    *,
    weight_bits: int,
    activation_bits: int,
    seed: int,
    block: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Strength]:
    """Choose the strength with the smallest expected loss for every link.

    The expected loss of an option is sum g^2 d^2 over the change d of the layer's output, with g the loss gradient of a
    sampled label: the diagonal of the Fisher information. The full quadratic form E[(g . d)^2] also captures errors
    that add up over tokens, but on tens of images its variance led to worse choices.

    If inputs have at least 8 bits, the loss is predicted in closed form first (see `predicted`). From `CLOSED_BITS`
    weight bits on, the prediction decides. Below, it picks the options that are compared by rounding them.

    Args:
        model: the float model.
        links: places where input channels can be scaled; there may be none.
        fit: images that give the channel ranges.
        held_out: images on which the options are compared.
        weight_bits: expected bit-width; weights are rounded to nearest here.
        activation_bits: bit-width of the inputs; more than 8 bits are treated as float.
        seed: seed of the sampled labels.
        block: inputs that share a scale, see `Target.block`.
        progress: called with the number of ``held_out`` images done.
    """
    if not links:
        return []
    layers = [layer for link in links for layer in link.readers]
    lows, highs = channel_ranges(model, layers, fit)
    options = {link: _options(link, lows[link.name], highs[link.name], activation_bits) for link in links}
    if activation_bits >= WHOLE_RANGE_BITS:
        closed = closed_form_decides(weight_bits, activation_bits)
        moved = {link: [option.moved(activation_bits) for option in own] for link, own in options.items()}
        predicted = predicted_errors(
            model, moved, held_out if closed else held_out.slice(0, SCREEN_IMAGES), weight_bits=weight_bits, seed=seed,
            block=block, progress=progress if closed else None,
        )  # fmt: skip
        if closed:
            return [_best(link, options[link], predicted[link][:, None]) for link in links]
        options = {link: _screened(options[link], predicted[link]) for link in links}
    # As codes: the weights of all options in float would take several times the memory of the model.
    rounded = {link: [_rounded(link, option, weight_bits, block) for option in options[link]] for link in links}
    by_layer = {layer.name: link for link in links for layer in link.readers}
    # One number per image: a choice must win by more than the variation between images.
    errors: dict[Link, list[torch.Tensor]] = {link: [] for link in links}

    def measure(samples: int, layer: ModelLayer, inputs: torch.Tensor, grads: torch.Tensor) -> None:
        link = by_layer[layer.name]
        with torch.no_grad():
            gradient = grads_as_tokens(layer.module, grads)
            weight = layer.module.weight
            values = as_tokens(layer.module, inputs)
            exact = linear(values, weight)
            found = values.new_zeros(len(options[link]), len(options[link][0].quantizers), samples, dtype=torch.float64)
            for row, option in enumerate(options[link]):
                scaled = (values - option.shift).div_(option.scale)
                changed = dequantized(rounded[link][row][layer.name], weight)
                # The bias adds back exactly what the shift subtracts from the input.
                constant = weight @ option.shift
                for column, quantizer in enumerate(option.quantizers):
                    read = fake_quantize(scaled, quantizer) if activation_bits <= 8 else scaled
                    change = linear(read, changed).add_(constant).sub_(exact).mul_(gradient)
                    found[row, column] = torch.linalg.vector_norm(change.reshape(samples, -1), dim=1).double().square()
            errors[link].append(found.cpu())

    visit_gradients(model, layers, unlabelled(held_out, device_of(model)), measure, seed=seed, progress=progress)
    return [_best(link, options[link], _by_image(link, errors[link])) for link in links]


def channel_ranges(
    model: torch.nn.Module, layers: Sequence[ModelLayer], images: Images
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Smallest and largest value of every input channel: layer name -> float32 (channels,)."""
    lows: dict[str, torch.Tensor] = {}
    highs: dict[str, torch.Tensor] = {}

    def widen(layer: ModelLayer, values: torch.Tensor) -> None:
        flat = values.reshape(-1, values.shape[-1]).float()
        low, high = flat.amin(0), flat.amax(0)
        lows[layer.name] = torch.minimum(lows.get(layer.name, low), low)
        highs[layer.name] = torch.maximum(highs.get(layer.name, high), high)

    visit_inputs(model, layers, images, widen)
    return lows, highs


def equalizing(link: Link, low: torch.Tensor, high: torch.Tensor, strength: float) -> Equalization:
    """Scale and shift for a strength; the scales have a geometric mean of 1."""
    shift, radius, moving = _centered(link, low, high)
    if strength == 0 or not bool(moving.any()):
        return Equalization(link, torch.ones_like(low), torch.zeros_like(low))
    scale = torch.where(moving, radius, torch.ones_like(radius)).double() ** strength
    scale = scale / scale[moving].log().mean().exp()
    return Equalization(link, torch.where(moving, scale, torch.ones_like(scale)).float(), shift)


def without_outliers(link: Link, low: torch.Tensor, high: torch.Tensor, threshold: float) -> Equalization:
    """Scale only the channels wider than ``threshold`` times the median range, down to that range."""
    shift, radius, moving = _centered(link, low, high)
    if not bool(moving.any()):
        return Equalization(link, torch.ones_like(low), torch.zeros_like(low))
    scale = (radius / (threshold * radius[moving].median())).clamp_min(1.0)
    return Equalization(link, scale, shift)


def _centered(link: Link, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Shift, half range around the shift, and which channels are not constant; (channels,) each."""
    shift = (low + high) / 2 if link.shift else torch.zeros_like(low)
    radius = torch.maximum((high - shift).abs(), (low - shift).abs())
    return shift, radius, radius > CONSTANT * radius.max()


def _options(link: Link, low: torch.Tensor, high: torch.Tensor, activation_bits: int) -> list[_Option]:
    found = []
    shrinks = next((parts for least, parts in RANGE_SHRINKS.items() if activation_bits >= least), RANGE_SHRINKS[4])
    variants = [(f"power {a:g}", a, equalizing(link, low, high, a)) for a in STRENGTHS]
    variants += [(f"outliers {t:g}", 1.0, without_outliers(link, low, high, t)) for t in OUTLIERS]
    for name, strength, moved in variants:
        start = float(((low - moved.shift) / moved.scale).min())
        stop = float(((high - moved.shift) / moved.scale).max())
        quantizers = tuple(
            ActivationQuantizer.from_range(part * start, part * stop, activation_bits) for part in shrinks
        )
        found.append(_Option(name, strength, moved.scale, moved.shift, quantizers))
    return found


def _screened(options: Sequence[_Option], predicted: torch.Tensor) -> list[_Option]:
    """No equalization, and the options with the least predicted loss."""
    order = torch.argsort(predicted.sum(1), stable=True).tolist()
    kept = {0, *[index for index in order if index][:SCREENED]}
    return [option for index, option in enumerate(options) if index in kept]


def _rounded(link: Link, option: _Option, bits: int, block: int | None) -> dict[str, QuantizedWeight]:
    """Weights of the readers after an option, rounded to nearest."""
    found = {}
    for layer in link.readers:
        matrix = (layer.module.weight * option.scale).float()
        grid = fit_weight_grids(matrix, (bits,), block=block)[0]
        found[layer.name] = nearest(grid, matrix)
    return found


def _by_image(link: Link, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Errors (strengths, quantizers, images), summed over the readers of the link."""
    readers = len(link.readers)
    batches = [torch.stack(list(parts[i : i + readers])).sum(0) for i in range(0, len(parts), readers)]
    return torch.cat(batches, 2)


def _best(link: Link, options: Sequence[_Option], errors: torch.Tensor) -> Strength:
    """The strength with the smallest error, if it is clearly smaller than the error without equalization."""
    totals = errors.sum(2)
    columns = totals.argmin(1)
    best = int(totals.amin(1).argmin())
    least = errors[best, columns[best]]
    untouched = errors[0, columns[0]]
    gain = float(untouched.sum() / least.sum().clamp_min(torch.finfo(torch.float64).tiny))
    needed = MULTIPLY_GAIN if link.kind == "multiply" else LEAST_GAIN
    if best and (gain < needed or not clearly_lower(least, untouched)):
        best, gain = 0, 1.0
    option = options[best]
    return Strength(Equalization(link, option.scale, option.shift), option.strength, gain, option.name)
