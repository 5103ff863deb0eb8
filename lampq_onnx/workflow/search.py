"""The long stages from a loaded model to widths and rounded weights; each result is cached when it is done."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from lampq_onnx.allocation import (
    AllocationOptions,
    FormSolution,
    Limits,
    Solution,
    UpdateResult,
    allocate,
    capacity_of,
    iterative_update,
    update_mixes,
)
from lampq_onnx.allocation.rungs import ladders_of
from lampq_onnx.artifacts import BitPlan, ChannelWidths, LatencyTable, LayerPlan, Sensitivities
from lampq_onnx.artifacts.granularity import GranularityTrial
from lampq_onnx.artifacts.plan import FIXED_BITS
from lampq_onnx.artifacts.task import TaskSpec
from lampq_onnx.config.options import AnalysisOptions, RoundingOptions, UpdateOptions
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.config.stages import EVERYTHING, Stages
from lampq_onnx.data import BatchedImages, CroppedImages
from lampq_onnx.disk.cache import ArrayCache
from lampq_onnx.frontend.rounding.plan import RoundedPlan
from lampq_onnx.frontend.session import Frontend
from lampq_onnx.frontend.shared.batching import SlicedImages
from lampq_onnx.frontend.shared.kept import NOT_KEPT, Kept
from lampq_onnx.frontend.shared.loaded import LoadedModel
from lampq_onnx.frontend.synthetic import structure_hash
from lampq_onnx.running.progress import Clock
from lampq_onnx.runtime.environment import describe_environment, target_here
from lampq_onnx.workflow.granularity import Rivals, is_open, rivals
from lampq_onnx.workflow.planning import limits_of, make_plan, simulate_plans, with_granularity
from lampq_onnx.workflow.provenance import Inputs, code_sha256, versions

KL_DIGITS = 4
"""Significant digits of a plan's simulated KL."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        sensitivities: what was measured.
        plan: the plan, with the ranges that rounding chose.
        solution: solution of the integer program.
        update: result of the iterative update; None: there was none.
        rounded: the rounded plan.
    """

    sensitivities: Sensitivities
    plan: BitPlan
    solution: Solution | FormSolution
    update: UpdateResult | None
    rounded: RoundedPlan


def inputs_of(loaded: LoadedModel, crops: CroppedImages | BatchedImages) -> Inputs:
    """Return what the result depends on beside the recipe; call it before the model is equalized."""
    return Inputs(
        weights_sha256=loaded.identity.weights_sha256,
        structure_sha256=structure_hash(loaded.module),
        preprocessing=crops.preprocessing.model_dump_json(),
        calibration_sha256=crops.sha256(),
        code_sha256=code_sha256(),
        versions=versions(),
    )


def kept_for(
    inputs: Inputs, task: TaskSpec, recipe: Recipe, cache: ArrayCache | None, clock: Clock, *, force: bool = False
) -> Kept:
    """Open the cached results of earlier runs on the same inputs, task, threads, device and processor."""
    place = f"{describe_environment('').cpu} {recipe.output.threads} {recipe.model.device}"
    facts = f"{inputs.model_dump_json()}\n{place}\n{task.model_dump_json()}"
    return Kept(cache, hashlib.sha256(facts.encode()).hexdigest(), fresh=force, progress=clock)


def measure(
    frontend: Frontend,
    crops: SlicedImages,
    analysis: AnalysisOptions,
    rounding: RoundingOptions,
    *,
    seed: int,
    clock: Clock,
    stages: Stages = EVERYTHING,
    kept: Kept = NOT_KEPT,
) -> Sensitivities:
    """Equalize the model, and measure its sensitivities with the rounding that will be used.

    Args:
        frontend: the loaded model; it is equalized.
        crops: calibration images.
        analysis: how sensitivities are measured.
        rounding: how weights will be rounded.
        seed: of sampled labels and gradients.
        clock: keeps the seconds of each stage.
        stages: what is measured.
        kept: results of earlier runs.

    Raises:
        LampqError: a layer cannot be measured.
    """
    if stages.equalization and analysis.equalize:
        frontend.equalize(crops, analysis, seed=seed, progress=clock, kept=kept)
    if stages.moments and rounding.method == "gptq":
        frontend.use_gptq(crops, widths=analysis.candidates)
    sensitivities = frontend.analyze(crops, analysis, seed=seed, stages=stages, progress=clock, kept=kept)
    return sensitivities.model_copy(update={"seconds": sensitivities.seconds or dict(clock.seconds)})


class Search:
    """The stages of one recipe.

    Args:
        frontend: the loaded model; it is equalized.
        crops: calibration images.
        recipe: its output section must hold the number of threads that are used.
        stages: what is measured.
        kept: results of earlier runs.
        clock: keeps the seconds of each stage.
    """

    def __init__(
        self, frontend: Frontend, crops: SlicedImages, recipe: Recipe, stages: Stages, kept: Kept, clock: Clock
    ) -> None:
        self._frontend = frontend
        self._crops = crops
        self._recipe = recipe
        self._stages = stages
        self._clock = clock
        self._limits = limits_of(recipe.allocation, recipe.budgets, bits_count=recipe.bits_count)
        self._target = target_here(recipe.output.target_name)
        latency = recipe.budgets.latency
        self._times = None if latency is None else LatencyTable.load(latency)
        form = f"{' '.join(self._target.grids)} {self._target.block} {self._target.output_ranges}"
        self._kept = kept.after(recipe.analysis, recipe.rounding, str(recipe.images.seed), form, stages.text)

    def run(self, *, last: bool = False) -> Found:
        """Run all stages of the search.

        Args:
            last: whether no other plan follows on the same front end, see `Frontend.round`.

        Raises:
            LampqError: a layer cannot be measured, or the budget cannot be met.
        """
        recipe, sensitivities = self._recipe, self.measure()
        if self._stages.simulated_plans:
            options = with_granularity(recipe.allocation, self._target, recipe.output.packing)
            sensitivities = simulated(self._frontend, self._crops, sensitivities, options, self._clock)
        return self.decide(sensitivities, last=last)

    def measure(self) -> Sensitivities:
        """Equalize the model and measure its sensitivities; see the function `measure`.

        Raises:
            LampqError: a layer cannot be measured.
        """
        recipe = self._recipe
        return measure(
            self._frontend,
            self._crops,
            recipe.analysis,
            recipe.rounding,
            seed=recipe.images.seed,
            clock=self._clock,
            stages=self._stages,
            kept=self._kept,
        )

    def decide(self, sensitivities: Sensitivities, *, last: bool = False) -> Found:
        """Allocate, update and round from sensitivities that were measured on this model before.

        Args:
            sensitivities: of this model.
            last: whether no other plan follows on the same front end, see `Frontend.round`.

        Raises:
            LampqError: the budget cannot be met.
        """
        plan, solution = self._choose(sensitivities)
        plan, update = self._update(plan, solution, sensitivities)
        rounded = self._round(plan, last=last)
        return Found(sensitivities, rounded.plan, solution, update, rounded)

    def baseline(self, found: Found, metric: str) -> RoundedPlan:
        """Return the allocation of another metric, rounded in the same way.

        It has one width for each layer, as published methods do, unless groups were asked for.
        """
        asked = self._recipe.allocation
        granularity = "layer" if asked.granularity == "auto" else asked.granularity
        options = asked.with_values(metric=metric, granularity=granularity)
        return self._round(self._allocate(found.sensitivities, options)[0])

    def reconstruction_errors(self, found: Found) -> dict[str, float]:
        """Measure the error of every budgeted layer's output on quantized inputs, see `LayerReport`."""
        with self._clock.stage("reconstruction errors"):
            return self._frontend.reconstruction_errors(found.rounded, self._crops, self._recipe.update)

    def _choose(self, sensitivities: Sensitivities) -> tuple[BitPlan, Solution | FormSolution]:
        """Allocate, and decide by images between one width for each layer and groups of channels, if that is open."""
        recipe = self._recipe
        options = with_granularity(recipe.allocation, self._target, recipe.output.packing)
        with self._clock.stage("allocation"):
            if not is_open(sensitivities, options, recipe.budgets):
                return self._allocate(sensitivities, recipe.allocation)
            found = rivals(partial(self._allocate, sensitivities), sensitivities, options, self._limits)
        if not isinstance(found, Rivals):
            return found
        layers, equal = found.layers[0], found.equal

        def make() -> GranularityTrial:
            with self._clock.stage("granularity"):
                losses, images = self._frontend.losses_of_plans((layers, equal), self._crops)
            # Few digits, so that the plan has the same bytes however many threads add up the sums.
            layer_kl, group_kl = (float(f"{loss:.{KL_DIGITS}g}") for loss in losses)
            return GranularityTrial(
                chosen="group" if group_kl < layer_kl else "layer",
                images=images,
                layer_kl=layer_kl,
                group_kl=group_kl,
                layer_bytes=layers.promised_bytes,
                group_bytes=equal.promised_bytes,
            )

        trial = self._kept.after(layers, equal).get("granularity", make)
        _log.info("granularity: %s", trial.text)
        plan, solution = found.groups if trial.chosen == "group" else found.layers
        return plan.model_copy(update={"granularity": trial}), solution

    def _allocate(
        self, sensitivities: Sensitivities, options: AllocationOptions
    ) -> tuple[BitPlan, Solution | FormSolution]:
        return make_plan(
            sensitivities,
            options,
            self._limits,
            self._target,
            packing=self._recipe.output.packing,
            table=self._times,
        )

    def _round(self, plan: BitPlan, *, last: bool = False) -> RoundedPlan:
        recipe = self._recipe
        return self._frontend.round(
            plan,
            self._crops,
            recipe.rounding,
            recipe.update,
            seed=recipe.images.seed,
            last=last,
            progress=self._clock,
            kept=self._kept,
        )

    def _update(
        self, plan: BitPlan, solution: Solution | FormSolution, sensitivities: Sensitivities
    ) -> tuple[BitPlan, UpdateResult | None]:
        recipe, options = self._recipe, self._recipe.update
        if not self._stages.update or options.rounds == 0 or getattr(solution, "only", False):
            return plan, None
        coupled = sensitivities if recipe.allocation.activation_bits == "same" else None
        counted = {name: layer for name, layer in plan.layers.items() if layer.quantized and not layer.fixed}
        candidates = recipe.allocation.candidates
        if self._limits.max_ms is not None:
            # Swaps among these widths stay on the kernel that was chosen.
            candidates = tuple(bits for bits in candidates if bits < FIXED_BITS)
            counted = {name: layer for name, layer in counted.items() if layer.weight_bits in candidates}
        if len(counted) < 2 or not _bits_stand_for(self._limits, plan):
            return plan, None
        if any(layer.channel_widths is not None for layer in counted.values()):
            return self._update_mixes(plan, sensitivities, counted, candidates)
        sizes = {name: layer.parameters or 0 for name, layer in counted.items()}
        capacity = capacity_of(recipe.allocation.bits, sum(sizes.values()))
        if not self._limits.only_bits:
            capacity = sum(sizes[name] * layer.weight_bits for name, layer in counted.items())

        def make() -> UpdateResult:
            with self._clock.stage("iterative update", options.rounds) as advance:
                return iterative_update(
                    {name: layer.weight_bits for name, layer in counted.items()},
                    sizes,
                    capacity,
                    candidates,
                    self._frontend.evaluator(plan, self._crops, options, coupled=coupled),
                    rounds=options.rounds,
                    patience=options.patience,
                    budget_rule=options.rule,
                    progress=advance,
                )

        result = self._kept.after(plan, recipe.allocation, options).get("iterative update", make)
        if coupled is None:
            return plan.with_weight_bits(result.bits), result
        ranges = {model_layer.name: model_layer.activation_ranges for model_layer in coupled.layers}
        return plan.with_coupled_bits(result.bits, ranges), result

    def _update_mixes(
        self,
        plan: BitPlan,
        sensitivities: Sensitivities,
        counted: Mapping[str, LayerPlan],
        candidates: tuple[int, ...],
    ) -> tuple[BitPlan, UpdateResult]:
        """Run the update on a plan whose layers have output channels of different widths."""
        recipe, options = self._recipe, self._recipe.update
        ladders, start = ladders_of(sensitivities, plan, counted, candidates, recipe.allocation)
        capacity = sum(ladders[name][rung].bits for name, rung in start.items())
        if self._limits.only_bits:
            total = sum(layer.parameters or 0 for layer in counted.values())
            capacity = max(capacity, capacity_of(recipe.allocation.bits, total))

        def make() -> UpdateResult:
            with self._clock.stage("iterative update", options.rounds) as advance:
                return update_mixes(
                    start, ladders, capacity, self._frontend.evaluator(plan, self._crops, options),
                    rounds=options.rounds, patience=options.patience, progress=advance,
                )  # fmt: skip

        result = self._kept.after(plan, recipe.allocation, options).get("iterative update", make)
        widths_of = {name: ladders[name][rung].widths for name, rung in result.bits.items()}
        plan = plan.with_weight_bits({name: own for name, own in widths_of.items() if isinstance(own, int)})
        mixes = {name: own for name, own in widths_of.items() if isinstance(own, ChannelWidths)}
        return plan.with_channel_widths(mixes), result


def simulated(
    frontend: Frontend, crops: SlicedImages, sensitivities: Sensitivities, options: AllocationOptions, clock: Clock
) -> Sensitivities:
    """Add simulated plans to the sensitivities, from which agreement is predicted."""
    with clock.stage("simulated plans"):
        plan, _ = allocate(
            sensitivities,
            AllocationOptions(bits=max(options.candidates), candidates=options.candidates, metric="kl"),
        )
        points = simulate_plans(sensitivities, options, frontend.evaluator(plan, crops, UpdateOptions()))
    return sensitivities.model_copy(update={"agreement": points})


def _bits_stand_for(limits: Limits, plan: BitPlan) -> bool:
    """Whether swaps that need no more weight bits stay within every budget.

    They may not if bit operations are limited, or bytes are and a storage does not hold every width as it is.
    """
    exact = all(layer.storage in (None, "exact") for layer in plan.layers.values())
    return limits.max_bops is None and (exact or limits.only_bits)
