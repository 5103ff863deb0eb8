"""What `list` shows and what the shell completes: the tables of the options, formats and models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path

from lampq_onnx.config.inputs import DIGITS
from lampq_onnx.config.names import TABLES, Names
from lampq_onnx.config.readers import DEVICES

MODEL_SUFFIX = ".onnx"
MODELS = "models"
"""The list of `list` that no option's table holds: it is long, and loads timm."""

Completion = list[tuple[str, str]]
"""(word, what it is), as Typer takes them."""


def formats() -> Names:
    """Formats that `package` writes."""
    from lampq_onnx.serving.table import FORMATS

    return {name: form.summary for name, form in FORMATS.items()}


ALL_TABLES: Mapping[str, Callable[[], Names]] = {**TABLES, "formats": formats}
"""What can be listed, the names of models apart -> its names."""


def completion_of(names: Callable[[], Names]) -> Callable[[str], Completion]:
    """A function that gives the shell the names which start with what was typed; see `ALL_TABLES`."""

    def complete(incomplete: str) -> Completion:
        return starting(incomplete, names())

    return complete


def several_of(names: Callable[[], Names]) -> Callable[[str], Completion]:
    """The same for names with commas between: the last one is completed."""

    def complete(incomplete: str) -> Completion:
        before, comma, last = incomplete.rpartition(",")
        return [(f"{before}{comma}{word}", said) for word, said in starting(last, names())]

    return complete


def complete_device(incomplete: str) -> Completion:
    """Torch devices for the shell."""
    return starting(incomplete, dict.fromkeys(DEVICES, ""))


def complete_key(incomplete: str) -> Completion:
    """Keys of recipes for `--set` in the shell, and the values of those that take names."""
    from lampq_onnx.config.sections import FIELDS

    own = {f"{field.section}.{field.name}": field for field in FIELDS if field.same_as is None}
    key, sign, value = incomplete.partition("=")
    if not sign:
        return starting(incomplete, {f"{name}=": field.help for name, field in own.items()})
    return [(f"{key}={word}", said) for word, said in starting(value, own[key].choices if key in own else {})]


def complete_model(incomplete: str) -> Completion:
    """Models for the shell: the embedded one, ONNX files, and the names of timm once something is typed."""
    found = starting(incomplete, {DIGITS: "the embedded model"}) + _files(incomplete)
    if incomplete and "/" not in incomplete:
        found += starting(incomplete, dict.fromkeys(model_names(), ""))
    return found


def model_names() -> list[str]:
    """Names of timm's models, sorted. timm is loaded once for each of its versions; then the cache has them."""
    import numpy as np

    from lampq_onnx.disk.cache import ArrayCache

    cache = ArrayCache.of_user()
    key = f"timm-names-{metadata.version('timm')}"
    kept = cache.get(key)
    if kept is not None:
        return kept["names"].tobytes().decode().split("\n")
    from lampq_onnx.frontend.models.construction import timm_names

    names = timm_names()
    cache.put(key, {"names": np.frombuffer("\n".join(names).encode(), dtype=np.uint8)})
    return names


def starting(incomplete: str, names: Names) -> Completion:
    """The names that start with what was typed, each with its line."""
    return [(name, said) for name, said in names.items() if name.startswith(incomplete)]


def _files(incomplete: str) -> Completion:
    folder = Path(incomplete if incomplete.endswith("/") else incomplete.rpartition("/")[0] or ".")
    before = incomplete[: incomplete.rfind("/") + 1]
    return [
        (f"{before}{path.name}", "") for path in _models_in(folder) if f"{before}{path.name}".startswith(incomplete)
    ]


def _models_in(folder: Path) -> Iterable[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == MODEL_SUFFIX)
    except OSError:
        return []  # completion of a path that is not there: there is nothing to say
