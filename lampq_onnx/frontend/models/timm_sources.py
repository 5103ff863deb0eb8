"""timm models outside its list of names: folders written by timm's save_for_hf, and names on the hub."""

from __future__ import annotations

import json
from pathlib import Path

import timm
from timm.models import parse_model_name

from lampq_onnx.errors import LampqError, UsageError

LOCAL, HUB = "local-dir", "hf-hub"
CONFIG = "config.json"


def is_timm_folder(name: str) -> bool:
    """Whether a folder holds a config.json of timm: it names one architecture, while transformers' names classes."""
    try:
        said = json.loads((Path(name) / CONFIG).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(said, dict) and isinstance(said.get("architecture"), str) and "architectures" not in said


def timm_source(name: str) -> str | None:
    """A name with a source in timm's notation, or None if it is a plain name."""
    if name.partition(":")[0].lower().replace("_", "-") in (LOCAL, HUB):
        return name
    return f"{LOCAL}:{name}" if is_timm_folder(name) else None


def require_source(name: str, *, pretrained: bool) -> bool:
    """Check a name with a source.

    Returns:
        Whether the weights are on this machine.

    Raises:
        UsageError: the model is on the hub, and downloading was not allowed.
        LampqError: the folder does not exist, or does not name a model of timm.
    """
    source, place = parse_model_name(name)
    if source == HUB:
        if not pretrained:
            raise UsageError(
                f"{name} is a name on the hub", hint="add --pretrained to download it, or give a folder that holds it"
            )
        return False
    folder = Path(place)
    if not (folder / CONFIG).is_file():
        raise LampqError(f"{folder} holds no {CONFIG}", hint="give the folder that timm's save_for_hf wrote")
    if not is_timm_folder(place):
        raise LampqError(
            f"the {CONFIG} in {folder} is not one of timm: it names no architecture",
            hint=f"leave out {LOCAL}: if transformers wrote it",
        )
    architecture = json.loads((folder / CONFIG).read_text())["architecture"]
    if not timm.is_model(architecture):
        raise LampqError(
            f"{folder} holds a {architecture}, which timm {timm.__version__} does not know",
            hint="install the version of timm that it was saved with",
        )
    return True
