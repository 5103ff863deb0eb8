"""`validate`: a quantized file against its float file. Needs PyTorch only where several processes share the images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from lampq_onnx.artifacts import Report
from lampq_onnx.artifacts.gates import GateLimits
from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.config.output import OutputOptions
from lampq_onnx.converter import inspect_model
from lampq_onnx.converter.embedded import embedded_plan
from lampq_onnx.data import BatchedImages, ImageSource, Preprocessing
from lampq_onnx.data.python_datasets import is_dataset, open_dataset
from lampq_onnx.errors import LampqError
from lampq_onnx.evaluation.checks import FilePair, check_files, require_scores, share_accuracy
from lampq_onnx.evaluation.comparable import ModelFile, require_comparable
from lampq_onnx.evaluation.tasks.meters import open_validation
from lampq_onnx.frontend.models.digits import are_digits, digits_source
from lampq_onnx.graph.keys import TARGET_KEY
from lampq_onnx.graph.metadata import FileFacts, read_metadata
from lampq_onnx.graph.model_file import load_model
from lampq_onnx.running.memory import give_back
from lampq_onnx.running.processes import ALONE, Group, started_by_torchrun
from lampq_onnx.running.progress import NO_PROGRESS, Clock, ProgressSink
from lampq_onnx.runtime.engine import engine_for
from lampq_onnx.runtime.environment import own_cores
from lampq_onnx.runtime.runtimes import require_runtime

NO_LIMITS = GateLimits()


def validate(
    model_path: Path,
    reference_path: Path,
    images: ImageOptions,
    options: OutputOptions,
    limits: GateLimits = NO_LIMITS,
    *,
    given: Iterable[object] | None = None,
    progress: ProgressSink = NO_PROGRESS,
) -> Report | None:
    """Check a quantized file against its float file; torch is not needed.

    Processes started by torchrun share the images; that needs torch. The first process also measures what is not a sum
    over images, and returns the report; the others return None.

    Args:
        model_path: the quantized file.
        reference_path: the float file that it was made from.
        images: the validation images.
        options: threads, and how latency is measured.
        limits: gates; the report stores them, and `gates_of` applies them.
        given: a data set or batches of Python, which replace the images.
        progress: is told about stages.

    Raises:
        LampqError: a file cannot be read, or the images do not fit it.
    """
    if images.validation is None and given is None:
        raise LampqError("no validation images", hint="give labelled images with --validation")
    model, reference = load_model(model_path), load_model(reference_path)
    require_comparable(ModelFile(model, model_path), ModelFile(reference, reference_path))
    facts = read_metadata(reference, reference_path)
    preprocessing = facts.preprocessing.override(mean=images.mean, std=images.std, crop_pct=images.crop)
    threads = options.threads or own_cores()
    target = model.metadata_props.get(TARGET_KEY, "unknown")
    engine = engine_for(options.runtime, options.inference_precision, target)
    require_runtime(engine)
    with _images(images.validation, given, facts, preprocessing) as source, _group() as group:
        files = FilePair(
            model=facts.name,
            reference=reference_path,
            quantized=model_path,
            layers=inspect_model(model),
            plan=embedded_plan(model, model_path),
            images=source,
            preprocessing=preprocessing,
            task=facts.task,
        )
        del model, reference  # the checks read the files, and hold no graph with its weights beside the sessions
        give_back()
        require_scores(files, threads)
        give_back()
        if group.rank:
            share_accuracy(files, threads, group, NO_PROGRESS, engine=engine)
            return None
        return check_files(
            files,
            options,
            target=target,
            threads=threads,
            clock=Clock(progress),
            limits=limits,
            group=group,
        )


@contextmanager
def _images(
    place: Path | None, given: Iterable[object] | None, facts: FileFacts, preprocessing: Preprocessing
) -> Iterator[ImageSource | BatchedImages]:
    """Open the validation images: a place on the disk, or what Python code gave."""
    if given is not None and not is_dataset(given):
        with BatchedImages(given, preprocessing, name="validation images") as opened:
            if opened.labels is None and facts.task.kind == "classification":
                raise LampqError("the validation images have no labels", hint="give pairs of images and labels")
            yield opened
    elif is_dataset(given):
        yield open_validation(open_dataset(given), facts.task, facts.num_classes)
    elif are_digits(place):
        yield digits_source("test")
    else:
        assert place is not None
        yield open_validation(place, facts.task, facts.num_classes)


def _group() -> AbstractContextManager[Group]:
    """Return the processes of this run, on CPUs; torch is loaded only if there are several."""
    if not started_by_torchrun():
        return nullcontext(ALONE)
    from lampq_onnx.frontend.shared.distributed import process_group

    return process_group("cpu")
