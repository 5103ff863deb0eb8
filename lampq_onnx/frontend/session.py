"""`Frontend`: one loaded model through all stages of the front end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from lampq_onnx.artifacts import BitPlan, Sensitivities
from lampq_onnx.artifacts.plan import FIXED_BITS
from lampq_onnx.config.options import AnalysisOptions, RoundingOptions, UpdateOptions
from lampq_onnx.config.stages import EVERYTHING, Stages
from lampq_onnx.data.pieces import in_pieces
from lampq_onnx.frontend.equalization.link import Link
from lampq_onnx.frontend.equalization.links import find_links
from lampq_onnx.frontend.equalized import equalize_channels
from lampq_onnx.frontend.measuring.analysis import Analysis, linear_layers
from lampq_onnx.frontend.measuring.calibration import input_elements
from lampq_onnx.frontend.measuring.evaluator import SimulationEvaluator
from lampq_onnx.frontend.measuring.hessians import input_moments
from lampq_onnx.frontend.measuring.samples import require_labels, split, unmeasured
from lampq_onnx.frontend.models.export import export_model
from lampq_onnx.frontend.models.refreshed import refreshed
from lampq_onnx.frontend.models.task_model import with_spread
from lampq_onnx.frontend.plan_scores import SCORE_IMAGES, plan_evaluator
from lampq_onnx.frontend.rounding.effort import EFFORTS
from lampq_onnx.frontend.rounding.plan import RoundedPlan, round_plan
from lampq_onnx.frontend.shared.batching import BATCH, Images, SlicedImages, answers_of, logits_of
from lampq_onnx.frontend.shared.kept import NOT_KEPT, Kept
from lampq_onnx.frontend.shared.loaded import LoadedModel
from lampq_onnx.frontend.shared.model_layers import Exported
from lampq_onnx.frontend.shared.products import use_products
from lampq_onnx.frontend.shared.threads import SUM_THREADS, torch_threads
from lampq_onnx.frontend.simulation.chain import BlockChain
from lampq_onnx.frontend.simulation.simulate import WeightRounder, simulated_parameters
from lampq_onnx.graph.keys import SKETCH_KEY, TASK_KEY, UNIT_KEY
from lampq_onnx.graph.parameters import Parameters
from lampq_onnx.quantization import INTEGER_GRIDS, Grid
from lampq_onnx.quantization.sketch import to_text, weight_sketch
from lampq_onnx.running.memory import give_back
from lampq_onnx.running.processes import ALONE, Group
from lampq_onnx.running.progress import NO_PROGRESS, ProgressSink


class Frontend:
    """A float model, its layers, and everything that is measured on them in PyTorch.

    Args:
        loaded: the model; equalization changes its weights but not its function.
        group: processes that share the images of statistics; everything else runs identically in each process.
        grids: grids that weights may have, see `Target.grids`.
        block: inputs that share a scale, see `Target.block`.
        products: measure the ranges of the layers' products, see `Target.output_ranges`.

    Attributes:
        exported: float graph and layers.
        chain: transformer blocks of the model.
        rounder: rounded weights by layer and bit-width, before a plan's own rounding.
        equalized: layer -> how its input channels were equalized.
        multiplied: layers with an added Mul on their input, which applies the equalization.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        group: Group = ALONE,
        *,
        grids: Collection[str] = INTEGER_GRIDS,
        block: int | None = None,
        products: bool = False,
    ) -> None:
        self.loaded = loaded
        self._group = group
        self._grids, self._block = tuple(grids), block
        self._products = products
        size = loaded.preprocessing.size
        device = next(loaded.module.parameters()).device
        self._blank = torch.zeros(1, loaded.preprocessing.channels, *size, device=device)
        exported = export_model(loaded)
        use_products(loaded.module)
        self._build(exported)
        give_back(cycles=True)  # the exporter's own graphs
        self._sketches = {layer.name: weight_sketch(layer.matrix()) for layer in self.exported.layers}
        self._annotate()
        self.equalized: dict[str, str] = {}
        self.multiplied: tuple[str, ...] = ()
        self._gptq = False

    @property
    def model(self) -> ir.Model:
        """The float ONNX graph."""
        return self.exported.model

    def measure_spread(self, images: SlicedImages) -> None:
        """Measure the spread of the outputs and record it in the graph, if the task measures errors in multiples of it.

        Raises:
            LampqError: an output is the same on all images.
        """
        self.loaded = with_spread(self.loaded, images.slice(0, SCORE_IMAGES))
        self.exported.model.metadata_props[TASK_KEY] = self.loaded.task.model_dump_json()

    def input_elements(self) -> dict[str, int]:
        """Numbers in each layer's input for one image."""
        return input_elements(self.loaded.module, self.exported.layers, self._blank)

    def links(self, images: torch.Tensor) -> tuple[Link, ...]:
        """Find places where input channels can be equalized, with trials on images float32 (n, c, h, w)."""
        return find_links(self.exported, self.loaded.module, self.chain, images)

    def require_measurable(self, options: AnalysisOptions, images: Images | None) -> None:
        """Refuse options that a later stage would refuse, before anything is measured.

        Args:
            options: what will be measured.
            images: calibration images; None if they are not open yet.

        Raises:
            UsageError: given labels are requested, but the task has no class labels.
            LampqError: given labels are requested, but the images have none.
        """
        require_labels(self.loaded, options.labels, images)

    def equalize(
        self,
        images: SlicedImages,
        options: AnalysisOptions,
        *,
        seed: int,
        progress: ProgressSink = NO_PROGRESS,
        kept: Kept = NOT_KEPT,
    ) -> None:
        """Scale and shift input channels where that lowers the expected loss, then export again.

        Images made from the model do not show how wide its channels are on real images, and a channel that is wider
        than it was equalized for is clipped. Nothing is changed for such images.

        Raises:
            LampqError: the function of the model changed.
        """
        if images.made:
            return
        chosen = equalize_channels(
            self.loaded, self.links, images, options, block=self._block, seed=seed, progress=progress, kept=kept
        )
        self.equalized = {u.name: s.name for s in chosen for u in s.equalization.link.readers}
        self.multiplied = tuple(s.equalization.link.name for s in chosen if s.equalization.link.kind == "multiply")
        if not chosen:
            return
        with progress.stage("export"):
            touched = [module for s in chosen for module in s.equalization.link.modules]
            self._build(refreshed(self.exported, self.loaded, touched))
            self._annotate()
            give_back(cycles=True)  # the graph and the weights from before

    def use_gptq(self, images: Images, *, widths: Sequence[int] = ()) -> None:
        """From now on, round the weights of Linear layers by GPTQ, with the inputs that ``images`` produce.

        Nothing is measured before the rounded weights are needed: the moments take more memory than the model.
        """
        layers = linear_layers(self.exported.layers)
        self.rounder = WeightRounder(
            self.exported.layers,
            measure=lambda: input_moments(self.loaded.module, layers, images, group=self._group),
            by_gptq=[layer.name for layer in layers],
            widths=widths,
            grids=self._grids,
            block=self._block,
        )
        self._gptq = True

    def forget_rounded(self) -> None:
        """Free the rounded weights of all candidates, which nothing needs once the last plan is chosen."""
        self.rounder = self._new_rounder(fitted=self.rounder)
        self._gptq = False
        give_back()

    def round(
        self,
        plan: BitPlan,
        images: SlicedImages,
        rounding: RoundingOptions,
        update: UpdateOptions,
        *,
        seed: int,
        last: bool = False,
        progress: ProgressSink = NO_PROGRESS,
        kept: Kept = NOT_KEPT,
    ) -> RoundedPlan:
        """Round weights and find input ranges for the plan's file.

        Args:
            plan: bit-widths and input ranges.
            images: calibration images.
            rounding: which techniques run.
            update: what a score measures, where all layers are rounded at once.
            seed: seed of everything random.
            last: whether no other plan follows; the rounded weights of all candidates are then freed as soon as nothing
                needs them.
            progress: told of each stage.
            kept: results of steps that an earlier run finished.
        """
        effort = EFFORTS[rounding.effort]
        kept = kept.after(plan, rounding, update, str(seed))

        def make() -> RoundedPlan:
            # What follows GPTQ trains integers; numbers of float8 have too little to gain.
            if rounding.method == "nearest" or effort.ladder is None or Grid.E4M3 in self._grids:
                with progress.stage("rounding"):
                    return self._round_at_once(plan, images, update)
            if last:
                self.forget_rounded()
            fit, held_out = split(images)
            return round_plan(
                self.loaded.module, self.exported.layers, self.chain, plan, self.rounder, fit, held_out, effort,
                seed=seed, training_threads=rounding.training_threads, progress=progress, finished=kept,
            )  # fmt: skip

        rounded = kept.get("rounding", make)
        kept.drop_parts()
        if last:
            self.forget_rounded()
        return rounded

    def _round_at_once(self, plan: BitPlan, images: SlicedImages, update: UpdateOptions) -> RoundedPlan:
        """Use GPTQ or nearest rounding for all layers, whichever keeps the outputs closer to float.

        The errors of layers are not a good judge: on models with massive activations GPTQ lowers them and ruins the
        model. At 8 bits everywhere GPTQ gains less than the inputs lose by far, and all weights are rounded to nearest.
        """
        bits = {name: layer.widths for name, layer in plan.layers.items() if layer.quantized and not layer.fixed}
        rounders = {"nearest": self._new_rounder(fitted=self.rounder)}
        fine = all(width == FIXED_BITS for width in bits.values())
        if self._gptq and not fine:
            rounders["gptq"] = self.rounder
        losses = {}
        if len(rounders) > 1:
            losses = {
                name: self.evaluator(plan, images, update, rounder=rounder).score(bits)
                for name, rounder in rounders.items()
            }
        best = rounders[min(losses, key=lambda name: losses[name], default="nearest")]
        names = [name for name, layer in plan.layers.items() if layer.quantized]
        return RoundedPlan(
            plan=plan,
            weights={name: best.quantized(name, plan.layers[name].widths) for name in names},
            methods={name: best.method(name) for name in names},
            losses=losses,
        )

    def analyze(
        self,
        images: SlicedImages,
        options: AnalysisOptions,
        *,
        seed: int,
        stages: Stages = EVERYTHING,
        progress: ProgressSink = NO_PROGRESS,
        kept: Kept = NOT_KEPT,
    ) -> Sensitivities:
        """Measure input ranges on calibration images, and of traces, rounding errors, alpha and costs what is needed.

        Raises:
            UsageError: given labels are requested, but the task has no class labels.
            LampqError: given labels are requested, but the images have none, or a layer cannot be measured.
        """
        analysis = Analysis(
            self.loaded, self.exported, self.chain, self.rounder, images, self._gptq, self._group, self._products
        )

        def make() -> Sensitivities:
            return analysis.run(options, stages, seed=seed, equalized=self.equalized, progress=progress, kept=kept)

        found = kept.get("sensitivities", make)
        kept.drop_parts()
        layers = (layer.model_copy(update={"sketch": self._sketches[layer.name]}) for layer in found.layers)
        return found.model_copy(update={"layers": tuple(layers)})

    def _build(self, exported: Exported) -> None:
        """Use an export of the module in its current state."""
        self.exported = exported
        self._scored: tuple[SlicedImages, torch.Tensor] | None = None
        self.rounder = self._new_rounder()
        self.chain = BlockChain(self.loaded.module, exported.layers, self._blank)

    def _new_rounder(self, fitted: WeightRounder | None = None) -> WeightRounder:
        """A rounder of the layers as they are now to nearest, on the target's grids; see `WeightRounder`."""
        return WeightRounder(self.exported.layers, grids=self._grids, block=self._block, fitted=fitted)

    def _reference(self, images: SlicedImages) -> torch.Tensor:
        """Outputs of the float model on the images of the score, computed once for the same images."""
        if self._scored is None or self._scored[0] is not images:
            self._scored = (images, logits_of(self.loaded.module, images.slice(0, SCORE_IMAGES)))
        return self._scored[1]

    def _annotate(self) -> None:
        """Record in the graph sketches of the layers' weights before equalization."""
        for node in self.exported.model.graph:
            name = node.metadata_props.get(UNIT_KEY)
            if name in self._sketches:
                node.metadata_props[SKETCH_KEY] = to_text(self._sketches[name])

    def evaluator(
        self,
        plan: BitPlan,
        images: SlicedImages,
        options: UpdateOptions,
        *,
        rounder: WeightRounder | None = None,
        coupled: Sensitivities | None = None,
        reference: torch.Tensor | None = None,
    ) -> SimulationEvaluator:
        """The evaluator for the iterative update, for assignments that differ from ``plan`` in the layers' bit-widths.

        Args:
            plan: input ranges and the bit-widths of layers outside the budget.
            images: images for the score; at most `SCORE_IMAGES` are used.
            options: what the score measures.
            rounder: rounded weights; None uses the front end's own.
            reference: outputs of the float model on the images of the score, if they are known.
            coupled: sensitivities with a range for every bit-width, if inputs have the bit-width of the weights.
        """
        if reference is None:
            reference = self._reference(images)
        return plan_evaluator(
            self.loaded.module, self.exported.layers, rounder or self.rounder, plan, images, options, reference, coupled
        )

    def losses_of_plans(self, plans: Sequence[BitPlan], images: SlicedImages) -> tuple[list[float], int]:
        """Mean KL to float of each plan, with weights before the plan's own rounding, and the number of images.

        Args:
            plans: plans of this model.
            images: calibration images, of which those are used that no cost of weights was measured on.
        """
        images = unmeasured(images)
        # The plan holds the figures: a sum in another order moves single inputs to the next level, which shows in them.
        with torch_threads(SUM_THREADS):
            reference = logits_of(self.loaded.module, images)
            losses = [
                self.evaluator(plan, images, UpdateOptions(), reference=reference).score(
                    {name: layer.widths for name, layer in plan.layers.items() if layer.quantized and not layer.fixed}
                )
                for plan in plans
            ]
        return losses, len(images)

    def reconstruction_errors(
        self, rounded: RoundedPlan, images: SlicedImages, options: UpdateOptions
    ) -> dict[str, float]:
        """Relative squared errors of the outputs of the layers with the weights of a rounded plan."""
        rounder = WeightRounder(self.exported.layers, given=rounded.weights)
        plan = rounded.plan
        nothing = torch.empty(0)  # errors of layers need no outputs of the model
        return self.evaluator(plan, images, options, rounder=rounder, reference=nothing).reconstruction_errors(
            {name: layer.widths for name, layer in plan.layers.items() if layer.quantized and not layer.fixed}
        )

    @contextmanager
    def simulation(
        self, parameters: Parameters
    ) -> Iterator[Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]]:
        """Images -> outputs of the quantized model in PyTorch, computed from the numbers in the file."""
        with simulated_parameters(self.exported.layers, parameters):
            yield lambda images: in_pieces(answers_of(self.loaded.module), images, BATCH)
