"""Keeps what `torch.onnx.export` made of a model, and gives it again for the same model.

An export of the digits model takes most of the time of a small run, and many tests start such a run. A kept export is
used where everything that the exporter sees is the same: classes and attributes of all modules, weights, example and
options. Models with code of a test, or with hooks of a test, are exported each time.

The exporter also makes tables of all operators, anew for each model: those that it can translate, and those that it may
keep whole. That takes half of the time of a small model. The tables are the same each time, so that each is made once.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
import os
import re
from pathlib import Path
from typing import Any

EXPORTS_VARIABLE = "LAMPQ_TESTS_EXPORTS"
"""Where the tests of one run keep their exports, for the programs that they start; empty: those keep none."""

KEPT_CODE = ("timm.", "torch.nn.", "lampq_onnx.")
"""Where a class or hook must be defined, so that its name says what it does."""

HOOKS = re.compile(r"_\w*hooks\w*")
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def keep_exports(folder: Path) -> None:
    """Replace `torch.onnx.export` in this process; processes that share the folder share the exports."""
    import onnx
    import onnx_ir as ir
    import torch

    export = torch.onnx.export

    @functools.wraps(export)
    def kept(module: torch.nn.Module, args: tuple[Any, ...] = (), *rest: Any, **options: Any) -> Any:
        key = None if rest or not options.get("dynamo") else _key(module, args, options)
        if key is None:
            return export(module, args, *rest, **options)
        file = folder / f"{key}.onnx"
        if not file.exists():
            program = export(module, args, **options)
            own = file.with_suffix(f".{os.getpid()}")
            ir.save(program.model, own)
            own.replace(file)
        return torch.onnx.ONNXProgram(ir.from_proto(onnx.load(file)), None)

    _keep_tables()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[EXPORTS_VARIABLE] = str(folder)
    setattr(torch.onnx, "export", kept)  # noqa: B010 (its type is that of the function with all options)


def keep_no_exports() -> None:
    """Give this process PyTorch's exporter back."""
    import torch

    setattr(torch.onnx, "export", inspect.unwrap(torch.onnx.export))  # noqa: B010 (see `keep_exports`)


def _keep_tables() -> None:
    """Let the exporter start from a copy of its table of operators; translations that are added change the copy."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    made = inspect.unwrap(ONNXRegistry.from_torchlib.__func__)
    tables: dict[str, ONNXRegistry] = {}

    @functools.wraps(made)
    def copied(cls: type[ONNXRegistry], *args: Any, **options: Any) -> ONNXRegistry:
        opset = repr((args, options))
        if opset not in tables:
            tables[opset] = made(cls, *args, **options)
        own = copy.copy(tables[opset])
        own.functions = {target: list(translations) for target, translations in own.functions.items()}
        return own

    ONNXRegistry.from_torchlib = classmethod(copied)
    _keep_whole()


def _keep_whole() -> None:
    """Let the exporter look up once which operators it may keep whole, and again when a library adds operators."""
    import torch
    from torch._export import utils
    from torch.export import decomp_utils, exported_program

    found = inspect.unwrap(utils._collect_all_valid_cia_ops)
    table: set[Any] = set()
    made_at: tuple[int, ...] = ()

    def known() -> tuple[int, ...]:
        registered = torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd")
        return len(registered), *(len(getattr(getattr(torch.ops, name), "_dir", ())) for name in torch.ops._dir)

    @functools.wraps(found)
    def kept() -> set[Any]:
        nonlocal table, made_at
        if known() != made_at:
            table = found()
            made_at = known()  # looking names operators that were not named before
        return table

    for module in (utils, decomp_utils, exported_program):
        setattr(module, "_collect_all_valid_cia_ops", kept)  # noqa: B010 (its type is that of the function)


def _key(module: Any, args: tuple[Any, ...], options: dict[str, Any]) -> str | None:
    """Return a digest of all that the exporter sees; None if some of it has no name that stands for it."""
    digest = hashlib.sha256()

    def add(value: object) -> None:
        digest.update(ADDRESS.sub("", repr(value)).encode() + b"\0")

    for name, part in module.named_modules():
        kind = type(part)
        hooks = [hook for at, kept in vars(part).items() if HOOKS.fullmatch(at) and kept for hook in kept.values()]
        if any(not _named(one) for one in (kind, *hooks)):
            return None
        add((name, kind.__module__, kind.__qualname__, hooks))
        add(sorted((at, repr(value)) for at, value in vars(part).items() if at[:1] != "_"))
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        add((name, tensor.dtype, tuple(tensor.shape), tensor.device))
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    add([(tuple(value.shape), value.dtype) for value in args])
    add(sorted((at, repr(value)) for at, value in options.items()))
    return digest.hexdigest()


def _named(value: Any) -> bool:
    name = getattr(value, "__qualname__", "<")
    return str(getattr(value, "__module__", "")).startswith(KEPT_CODE) and "<" not in name
