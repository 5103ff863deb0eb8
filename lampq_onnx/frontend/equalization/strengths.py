"""How far to equalize each input: the strength of the smallest expected loss.

With r_j the half range of channel j, strength a divides the channel by r_j^a (SmoothQuant, Xiao et al., ICML 2023, has
the same exponent) and, where a > 0 and constants can move, centers it first (RepQ-ViT, Li et al., ICCV 2023).
Strength 1 makes all channels equally wide, which is best for the input and worst for the weights: their columns take
up what the channels give away. Which one pays depends on the layer and on both widths, so it is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from lampq_onnx.frontend.equalization.fold import Equalization
from lampq_onnx.frontend.equalization.link import Link
from lampq_onnx.frontend.measuring.calibration import visit_inputs
from lampq_onnx.frontend.measuring.fisher import visit_gradients
from lampq_onnx.frontend.shared.batching import Images, device_of, unlabelled
from lampq_onnx.frontend.shared.tokens import as_tokens, grads_as_tokens
from lampq_onnx.frontend.shared.units import Unit
from lampq_onnx.frontend.simulation.losses import clearly_lower
from lampq_onnx.frontend.simulation.simulate import fake_quantize
from lampq_onnx.quantization import ActivationQuantizer, fit_weight_grid

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)

OUTLIERS = (1.5, 3.0)
"""Multiples of the median range that wider channels are brought down to, where nothing else is touched: where a few
channels are huge, every power takes too little from those or too much from the weights of all others."""

MULTIPLY_GAIN = 2.0
"""A Mul of its own costs time at every run, so it has to cut the expected loss of its layer by this factor."""

LEAST_GAIN = 1.1
"""Factor by which any equalization has to cut it: nearest rounding stands for the file's, so less proves nothing."""

RANGE_SHRINKS = {8: (1.0,), 6: (1.0, 0.7), 4: (1.0, 0.7, 0.5, 0.35)}
"""Parts of the min-max interval that are tried for inputs of at least that many bits; narrow inputs are clipped."""

CONSTANT = 1e-6
"""Channels whose range is below this share of the widest one are left as they are: there is nothing to divide by."""


@dataclass(frozen=True)
class Strength:
    """What was chosen for one link.

    Attributes:
        strength: exponent of the ranges; 1 for outliers, 0 where nothing is changed.
        gain: expected loss without equalization over that with it.
        name: for people.
    """

    equalization: Equalization
    strength: float
    gain: float
    name: str


PlainStrength = tuple[str, torch.Tensor, torch.Tensor, float, float, str]
"""Link, scale, shift, strength, gain and name."""


def plain(strengths: Sequence[Strength]) -> list[PlainStrength]:
    """Without the modules that links hold."""
    return [
        (s.equalization.link.name, s.equalization.scale, s.equalization.shift, s.strength, s.gain, s.name)
        for s in strengths
    ]


def of_links(values: Sequence[PlainStrength], links: Sequence[Link]) -> list[Strength]:
    """The opposite of `plain`."""
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
    weights: Mapping[str, torch.Tensor]


def choose_strengths(
    model: torch.nn.Module,
    links: Sequence[Link],
    fit: Images,
    held_out: Images,
    *,
    weight_bits: int,
    activation_bits: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> list[Strength]:
    """The best strength of every link.

    The expected loss of an option is sum g^2 d^2 over the change d of the layer's output, with g the loss gradient of a
    sampled label: the diagonal of the Fisher information. The whole quadratic form E[(g . d)^2] also sees errors that
    add up over tokens, but on tens of images its scatter chose worse.

    Args:
        fit: images for the channels' ranges.
        held_out: images that the options are compared on.
        weight_bits: expected width, rounded to nearest here.
        activation_bits: width of the inputs; 16 and more leave them in float.
        seed: of the sampled labels.
        progress: called with the number of ``held_out`` images done.
    """
    units = [unit for link in links for unit in link.readers]
    lows, highs = channel_ranges(model, units, fit)
    options = {link: _options(link, lows[link.name], highs[link.name], weight_bits, activation_bits) for link in links}
    by_unit = {unit.name: link for link in links for unit in link.readers}
    # One number an image: a choice has to be better by more than the images' scatter.
    errors: dict[Link, list[torch.Tensor]] = {link: [] for link in links}

    def measure(samples: int, unit: Unit, inputs: torch.Tensor, grads: torch.Tensor) -> None:
        link = by_unit[unit.name]
        with torch.no_grad():
            gradient = grads_as_tokens(unit.module, grads)
            weight = unit.module.weight
            values = as_tokens(unit.module, inputs)
            exact = values @ weight.T
            found = values.new_zeros(len(options[link]), len(options[link][0].quantizers), samples, dtype=torch.float64)
            for row, option in enumerate(options[link]):
                scaled = (values - option.shift).div_(option.scale)
                # What the shift takes from the input comes back with the bias, exactly.
                constant = weight @ option.shift
                for column, quantizer in enumerate(option.quantizers):
                    read = fake_quantize(scaled, quantizer) if activation_bits <= 8 else scaled
                    change = (read @ option.weights[unit.name].T).add_(constant).sub_(exact).mul_(gradient)
                    found[row, column] = change.square_().reshape(samples, -1).sum(1, dtype=torch.float64)
            errors[link].append(found.cpu())

    visit_gradients(model, units, unlabelled(held_out, device_of(model)), measure, seed=seed, progress=progress)
    return [_best(link, options[link], _by_image(link, errors[link])) for link in links]


def channel_ranges(
    model: torch.nn.Module, units: Sequence[Unit], images: Images
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Smallest and largest value of every input channel, float32 (channels,) by unit."""
    lows: dict[str, torch.Tensor] = {}
    highs: dict[str, torch.Tensor] = {}

    def widen(unit: Unit, values: torch.Tensor) -> None:
        flat = values.reshape(-1, values.shape[-1]).float()
        low, high = flat.amin(0), flat.amax(0)
        lows[unit.name] = torch.minimum(lows.get(unit.name, low), low)
        highs[unit.name] = torch.maximum(highs.get(unit.name, high), high)

    visit_inputs(model, units, images, widen)
    return lows, highs


def equalizing(link: Link, low: torch.Tensor, high: torch.Tensor, strength: float) -> Equalization:
    """Scale and shift of a strength; the scales have a geometric mean of 1."""
    shift, radius, moving = _centered(link, low, high)
    if strength == 0 or not bool(moving.any()):
        return Equalization(link, torch.ones_like(low), torch.zeros_like(low))
    scale = torch.where(moving, radius, torch.ones_like(radius)).double() ** strength
    scale = scale / scale[moving].log().mean().exp()
    return Equalization(link, torch.where(moving, scale, torch.ones_like(scale)).float(), shift)


def without_outliers(link: Link, low: torch.Tensor, high: torch.Tensor, threshold: float) -> Equalization:
    """Only the channels wider than ``threshold`` times the median are scaled, down to that."""
    shift, radius, moving = _centered(link, low, high)
    if not bool(moving.any()):
        return Equalization(link, torch.ones_like(low), torch.zeros_like(low))
    scale = (radius / (threshold * radius[moving].median())).clamp_min(1.0)
    return Equalization(link, scale, shift)


def _centered(link: Link, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Shift, half range around it, and which channels move at all."""
    shift = (low + high) / 2 if link.shift else torch.zeros_like(low)
    radius = torch.maximum((high - shift).abs(), (low - shift).abs())
    return shift, radius, radius > CONSTANT * radius.max()


def _options(
    link: Link, low: torch.Tensor, high: torch.Tensor, weight_bits: int, activation_bits: int
) -> list[_Option]:
    found = []
    shrinks = next((parts for least, parts in RANGE_SHRINKS.items() if activation_bits >= least), RANGE_SHRINKS[4])
    variants = [(f"power {a:g}", a, equalizing(link, low, high, a)) for a in STRENGTHS]
    variants += [(f"outliers {t:g}", 1.0, without_outliers(link, low, high, t)) for t in OUTLIERS]
    for name, strength, moved in variants:
        start = float(((low - moved.shift) / moved.scale).min())
        stop = float(((high - moved.shift) / moved.scale).max())
        weights = {}
        for unit in link.readers:
            matrix = (unit.module.weight * moved.scale).float().cpu().numpy()
            rounded = fit_weight_grid(matrix, weight_bits).quantize(matrix).dequantize()
            weights[unit.name] = torch.from_numpy(rounded).to(unit.module.weight)
        quantizers = tuple(
            ActivationQuantizer.from_range(part * start, part * stop, activation_bits) for part in shrinks
        )
        found.append(_Option(name, strength, moved.scale, moved.shift, quantizers, weights))
    return found


def _by_image(link: Link, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Errors (strengths, quantizers, images), summed over the readers of the link."""
    readers = len(link.readers)
    batches = [torch.stack(list(parts[i : i + readers])).sum(0) for i in range(0, len(parts), readers)]
    return torch.cat(batches, 2)


def _best(link: Link, options: Sequence[_Option], errors: torch.Tensor) -> Strength:
    """The strength of the least error, if it is clearly less than that of leaving the channels alone."""
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
