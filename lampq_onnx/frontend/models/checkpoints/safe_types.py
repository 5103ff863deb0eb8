"""Types that training tools store in checkpoints beside the weights: arguments, metrics, paths, dates.

None of these objects is built. A stand-in replaces each of them and discards its arguments: a file may name these
types, but none of their code runs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any


class Unread:
    """Stands in for an object that is not a weight."""

    def __new__(cls, *_args: object, **_kwargs: object) -> Unread:
        """Create the stand-in and discard the arguments."""
        return super().__new__(cls)

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class AsDict:
    """Builds a plain dict in place of a dict subclass, which may hold weights."""

    def __new__(cls, *_args: object) -> Any:
        """Return an empty dict, which torch then fills."""
        # torch only fills dict and OrderedDict, and only OrderedDict may have attributes.
        return OrderedDict()


class AsList:
    """Builds a plain list in place of another list type."""

    def __new__(cls, *_args: object) -> Any:
        """Return an empty list, which torch then fills."""
        return []


_PATHS = ("Path", "PurePath", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
_NUMPY_SCALARS = (
    *("bool", "bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128", "str_", "bytes_"),
)

UNREAD = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    *(f"builtins.{name}" for name in ("bool", "int", "float", "str", "bytes", "list", "dict", "tuple", "object")),
    *(f"builtins.{name}" for name in ("frozenset", "slice", "range")),
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in _PATHS),
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    "uuid.UUID",
    "decimal.Decimal",
    "fractions.Fraction",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.{name}" for name in _NUMPY_SCALARS),
    *(f"numpy.dtypes.{name}DType" for name in ("Bool", "Int32", "Int64", "Float16", "Float32", "Float64")),
    *(f"numpy.random._pickle.__{name}_ctor" for name in ("generator", "bit_generator", "randomstate")),
    "numpy.random._pcg64.PCG64",
    "numpy.random._mt19937.MT19937",
    "numpy.random.bit_generator.SeedSequence",
    "numpy.random.bit_generator.__pyx_unpickle_SeedSequence",
    "torch.torch_version.TorchVersion",
)
"""Full names of the types, as pickles store them."""

AS_DICT = (
    "collections.defaultdict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
)
AS_LIST = ("collections.deque",)


def stand_ins() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Pairs of a stand-in and the name it stands in for, as torch.serialization.safe_globals takes them."""
    return [
        *((Unread, name) for name in UNREAD),
        *((AsDict, name) for name in AS_DICT),
        *((AsList, name) for name in AS_LIST),
    ]
