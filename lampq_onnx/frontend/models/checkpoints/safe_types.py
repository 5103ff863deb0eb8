"""Types that training tools leave in checkpoints beside the weights: arguments, metrics, paths, dates.

None of them is built. A stand-in takes the place of each, which drops what it was made of: a file can name these types,
and nothing of theirs runs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any


class Unread:
    """Stands for an object that is no weight."""

    def __new__(cls, *_args: object, **_kwargs: object) -> Unread:
        """Drop the arguments."""
        return super().__new__(cls)

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class AsDict:
    """Makes a plain table in the place of a kind of dict: it may hold weights."""

    def __new__(cls, *_args: object) -> Any:
        """An empty table, which gets the items."""
        # torch fills no other tables than dict and OrderedDict, and lets only the latter have attributes.
        return OrderedDict()


class AsList:
    """Makes a plain list in the place of a kind of list."""

    def __new__(cls, *_args: object) -> Any:
        """An empty list, which gets the items."""
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
"""Full names as pickles have them."""

AS_DICT = (
    "collections.defaultdict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
)
AS_LIST = ("collections.deque",)


def stand_ins() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What torch.serialization.safe_globals takes: a stand-in and the name that it stands for."""
    return [
        *((Unread, name) for name in UNREAD),
        *((AsDict, name) for name in AS_DICT),
        *((AsList, name) for name in AS_LIST),
    ]
