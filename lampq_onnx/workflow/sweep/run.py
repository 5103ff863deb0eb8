"""Run a sweep: one analysis, then every budget with every metric; each point is kept when it is done."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from lampq_onnx.artifacts import BitPlan, Report, Sensitivities
from lampq_onnx.artifacts.report import Baseline
from lampq_onnx.artifacts.sweep import Sweep, SweepPoint
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.config.stages import Stages, stages_of
from lampq_onnx.converter import inspect_model
from lampq_onnx.data import BatchedImages, CroppedImages, ImageSource
from lampq_onnx.disk.cache import ArrayCache
from lampq_onnx.disk.files import (
    FLOAT_FILE,
    MODEL_FILE,
    PAGE_FILE,
    PLAN_FILE,
    REPORT_FILE,
    SENSITIVITY_FILE,
    WEIGHTS_FILE,
    exclusive,
    require_writable,
    staging,
)
from lampq_onnx.errors import UsageError
from lampq_onnx.evaluation.checks import FilePair, check_files
from lampq_onnx.evaluation.records import notes, now, rounding_record, with_layers
from lampq_onnx.frontend.session import Frontend
from lampq_onnx.frontend.shared.threads import torch_threads
from lampq_onnx.graph.model_file import file_bytes, load_model
from lampq_onnx.html import write_report
from lampq_onnx.html.sweep import write_sweep
from lampq_onnx.quantization.weights_file import save_weights
from lampq_onnx.running.progress import NO_PROGRESS, Clock, ProgressSink
from lampq_onnx.runtime.engine import engine_for
from lampq_onnx.runtime.environment import available_cores, describe_environment, target_here
from lampq_onnx.runtime.runtimes import require_runtime
from lampq_onnx.serving.derived import file_sha256
from lampq_onnx.targets import Target
from lampq_onnx.workflow.feasibility import require_space_for
from lampq_onnx.workflow.inputs import Given
from lampq_onnx.workflow.opened import opened_run
from lampq_onnx.workflow.output import QuantizedOutput
from lampq_onnx.workflow.provenance import shaping
from lampq_onnx.workflow.requests import check_options, recipe_for, recipe_limits, require_images
from lampq_onnx.workflow.search import Search, inputs_of, kept_for
from lampq_onnx.workflow.sweep.choice import Pick, pareto_front
from lampq_onnx.workflow.sweep.earlier import SWEEP_FILE, SWEEP_FILES, SWEEP_PAGE, SWEEP_TABLE, EarlierSweep, shape_text
from lampq_onnx.workflow.sweep.files import PICKED_FILES
from lampq_onnx.workflow.sweep.points import POINT_FILE, PointFolder, write_points_csv

_log = logging.getLogger(__name__)

POINTS = "points"


def sweep(
    recipe: Recipe,
    bits: Sequence[float],
    metrics: Sequence[str],
    folder: Path,
    *,
    pick: Pick | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = _log.info,
    progress: ProgressSink = NO_PROGRESS,
    cache: ArrayCache | None = None,
    given: Given | None = None,
) -> Sweep:
    """Quantize a model to every budget with every metric, and write sweep.json, sweep.csv and sweep.html.

    The points lie in ``folder``/points/<digest of all they depend on>/<metric>-<bits>; existing ones are not done
    again. As in `quantize`, the iterative update refines only the recipe's own metric.

    Args:
        recipe: everything but the budgets; its own budget is the smallest of them, for which the analysis is made.
        bits: budgets, ascending.
        metrics: metrics of the allocation.
        folder: where the files go.
        pick: also write the files of the point that it chooses, with a report; None: the files of an earlier pick of
            this sweep stay.
        overwrite: replace the sweep of another recipe, and files that no sweep wrote; what was made from its pick is
            removed or marked, see `derived`.
        say: is told what happens to an earlier pick.
        progress: is told about stages.
        cache: where results of finished steps are kept and found; None: nowhere.
        given: Python objects that stand for the model or the images.

    Raises:
        UsageError: a budget, metric or option is invalid, or ``folder`` holds another sweep or result.
        LampqError: a stage failed, or no point can be picked; finished points are kept.
    """
    if recipe.budgets.given:
        raise UsageError("a sweep varies average bits; other budgets are for quantize", hint="leave out [budgets]")
    for metric in metrics:
        for budget in bits:
            recipe.allocation.with_values(bits=budget, metric=metric).require_average_bits()
    target = target_here(recipe.output.target_name)
    recipe = recipe_for(recipe, target)
    check_options(recipe, target)
    require_runtime(engine_for(recipe.output.runtime, recipe.output.inference_precision, target.name))
    require_images(recipe, given)
    require_writable(folder)
    threads = recipe.output.threads or available_cores()
    recipe = recipe.with_output(target=target.name, threads=threads)
    clock = Clock(progress)
    earlier = EarlierSweep(folder, overwrite=overwrite, own=(*SWEEP_FILES, *PICKED_FILES))
    earlier.require_recipe(recipe, picks=pick is not None)
    with (
        torch_threads(threads),
        exclusive(folder),
        opened_run(recipe, clock, given) as opened,
    ):
        frontend, crops, validation = opened.measured()
        require_space_for(frontend.loaded, folder, baselines=len(bits) * len(metrics))
        stages = stages_of(recipe, target, metrics=metrics, bits=bits)
        run = SweepRun(recipe, stages, frontend, crops, validation, target, folder, clock, cache)
        earlier.require_inputs(run.inputs)
        points = tuple(run.point(metric, budget) for metric in metrics for budget in bits)
        chosen = None if pick is None else pick.choose(points)
        stays = chosen is None and run.lies_in(folder, earlier.picked)
        found = Sweep(
            model=frontend.loaded.identity.name,
            written=now(),
            float_bytes=file_bytes(run.float_file),
            points=points,
            front=tuple(point.name for point in pareto_front(points)),
            picked=chosen.name if chosen else earlier.picked if stays else None,
            request=pick.text if pick else earlier.request if stays else None,
            environment=describe_environment(target.name),
            recipe=shape_text(recipe),
            inputs=run.inputs.model_dump_json(),
        )
        with staging(folder, (*SWEEP_FILES, *(PICKED_FILES if chosen else ()))) as stage:
            if chosen is not None:
                run.write(chosen, stage)
            found.save(stage / SWEEP_FILE)
            write_points_csv(found.points, found.front, stage / SWEEP_TABLE)
            there = (*SWEEP_FILES, *(PICKED_FILES if found.picked else ()))
            held = (stage if chosen else folder) / REPORT_FILE
            write_sweep(found, stage / SWEEP_PAGE, there, Report.load(held) if found.picked else None)
        for line in earlier.retire(new_pick=chosen is not None, stays=stays):
            say(line)
    return found


class SweepRun:
    """The points of one sweep; the analysis runs when the first missing point is made."""

    def __init__(
        self,
        recipe: Recipe,
        stages: Stages,
        frontend: Frontend,
        crops: CroppedImages | BatchedImages,
        validation: ImageSource | BatchedImages,
        target: Target,
        folder: Path,
        clock: Clock,
        cache: ArrayCache | None,
    ) -> None:
        self._recipe = recipe
        self._stages = stages
        self._frontend = frontend
        self._crops = crops
        self._validation = validation
        self._target = target
        self._threads = recipe.output.threads or available_cores()
        self._clock = clock
        # Taken before anything is equalized: these describe the weights as they were loaded.
        self.inputs = inputs_of(frontend.loaded, crops)
        self._kept = kept_for(self.inputs, frontend.loaded.task, recipe, cache, clock)
        self._points = PointFolder(folder / POINTS / _digest(recipe, self.inputs.model_dump_json(), validation))
        self._job: QuantizedOutput | None = None
        self._sensitivities: Sensitivities | None = None
        self._plans: dict[str, str] = {}

    @property
    def float_file(self) -> Path:
        """The float.onnx that all points belong to."""
        return self._points.root / FLOAT_FILE

    def point(self, metric: str, bits: float) -> SweepPoint:
        """Return a finished point, or make a new one."""
        name = f"{metric}-{bits:g}"
        found = self._points.get(name)
        if found is None:
            found = self._points.put(name, lambda stage: self._make(metric, bits, stage))
        self._plans.setdefault(_layers_of(BitPlan.load(self._points.root / name / PLAN_FILE)), name)
        return found

    def lies_in(self, folder: Path, name: str | None) -> bool:
        """Whether the model.onnx in ``folder`` belongs to one of these points."""
        if name is None or self._points.get(name) is None:
            return False
        return file_sha256(folder / MODEL_FILE) == file_sha256(self._points.root / name / MODEL_FILE)

    def write(self, point: SweepPoint, stage: Path) -> None:
        """Write the files of a point, with a report like that of `quantize`."""
        own = self._points.root / point.name
        sources = [self.float_file, self._points.root / SENSITIVITY_FILE]
        sources += [own / name for name in (PLAN_FILE, WEIGHTS_FILE, MODEL_FILE)]
        # Weights beyond protobuf's limit lie beside their file.
        sources += [path.with_name(f"{path.name}.data") for path in sources if path.suffix == ".onnx"]
        for path in sources:
            if path.exists():
                shutil.copy2(path, stage / path.name)
        sensitivities = Sensitivities.load(stage / SENSITIVITY_FILE)
        report = self._report(point, sensitivities, stage)
        report.save(stage / REPORT_FILE)
        write_report(report, stage / PAGE_FILE, sensitivities, (*PICKED_FILES, *SWEEP_FILES))

    def _report(self, point: SweepPoint, sensitivities: Sensitivities, stage: Path) -> Report:
        plan = BitPlan.load(stage / PLAN_FILE)
        report = check_files(
            FilePair(
                model=sensitivities.model.name,
                reference=stage / FLOAT_FILE,
                quantized=stage / MODEL_FILE,
                layers=inspect_model(load_model(stage / MODEL_FILE)),
                plan=plan,
                images=self._validation,
                preprocessing=self._frontend.loaded.preprocessing,
                task=self._frontend.loaded.task,
            ),
            self._recipe.output,
            target=self._target.name,
            threads=self._threads,
            clock=self._clock,
            limits=recipe_limits(self._recipe),
        )
        others = {
            metric: other.measured
            for metric in self._recipe.output.baselines
            if metric != point.metric and (other := self._points.get(f"{metric}-{point.bits:g}")) is not None
        }
        return report.model_copy(
            update={
                "layers": with_layers(report.layers, sensitivities, point.rounding),
                "rounding": rounding_record(
                    self._recipe.rounding.effort, point.rounding, point.held_out_kl, point.kept
                ),
                "equalized": sensitivities.equalized,
                "baselines": others,
                "notes": (*report.notes, *notes(sensitivities, plan, ())),
            }
        )

    def _make(self, metric: str, bits: float, stage: Path) -> SweepPoint:
        job, sensitivities = self._ready()
        own = metric == self._recipe.allocation.metric
        rounds = self._recipe.update.rounds if own else 0
        # The analysis is that of the whole sweep, whatever the point's budget.
        recipe = self._recipe.model_copy(
            update={
                "allocation": self._recipe.allocation.model_copy(update={"metric": metric, "bits": bits}),
                "update": self._recipe.update.model_copy(update={"rounds": rounds}),
            }
        )
        found = Search(self._frontend, self._crops, recipe, self._stages, self._kept, self._clock).decide(sensitivities)
        twin = self._plans.get(_layers_of(found.plan))
        with self._clock.stage(f"{metric} {bits:g} bits"):
            measured = job.measure(found.rounded, stage / MODEL_FILE) if twin is None else self._taken_from(twin, stage)
        found.plan.save(stage / PLAN_FILE)
        save_weights(found.rounded.weights, stage / WEIGHTS_FILE)
        return SweepPoint(
            metric=metric,
            bits=bits,
            updated=rounds > 0,
            measured=measured,
            rounding=dict(found.rounded.methods),
            held_out_kl=dict(found.rounded.losses),
            kept=dict(found.rounded.kept),
            same_as=twin,
        )

    def _taken_from(self, name: str, stage: Path) -> Baseline:
        """Copy the file of a point with the same plan; return its figures."""
        for path in (self._points.root / name).glob(f"{MODEL_FILE}*"):
            shutil.copy2(path, stage / path.name)
        return SweepPoint.load(self._points.root / name / POINT_FILE).measured

    def _ready(self) -> tuple[QuantizedOutput, Sensitivities]:
        """Equalize and analyze the model, and write float.onnx."""
        if self._job is None or self._sensitivities is None:
            recipe = self._recipe
            self._sensitivities = Search(
                self._frontend, self._crops, recipe, self._stages, self._kept, self._clock
            ).measure()
            root = self._points.root
            self._sensitivities.save(root / SENSITIVITY_FILE)
            self._job = QuantizedOutput(
                self._frontend, self._crops, self._validation, recipe.output, self._target, self._threads, root,
                self._clock,
            )  # fmt: skip
        return self._job, self._sensitivities


def _layers_of(plan: BitPlan) -> str:
    """What of a plan decides the file, as text: the layers without the metric and the budget that chose them."""
    return json.dumps({name: layer.model_dump(mode="json") for name, layer in plan.layers.items()})


def _digest(recipe: Recipe, inputs: str, validation: ImageSource | BatchedImages) -> str:
    """Hash everything that all points depend on, including how they are measured."""
    output = recipe.output
    facts = {
        "recipe": shaping(recipe),
        "inputs": inputs,
        "validation": validation.sha256()
        if isinstance(validation, BatchedImages)
        else [validation.name(i) for i in range(len(validation))],
        "labels": None if validation.labels is None else validation.labels.tolist(),
        "targets": None if validation.targets is None else hashlib.sha256(validation.targets.tobytes()).hexdigest(),
        "threads": output.threads,
        "latency": [output.latency_threads, output.latency_batch, output.latency_runs],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
