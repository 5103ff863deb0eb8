"""The targets of arm64 under emulation, see `tools.bench.arm64`: never timed.

`LAMPQ_ARM64_ROOT` names a root folder of arm64 with Python, and `LAMPQ_ARM64_SITE` a folder with its packages.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from lampq_onnx.targets import TARGETS
from tools.bench import arm64
from tools.bench.targets.case import Case, Row, not_run
from tools.bench.targets.emulated import FORMS, kit_of, row_of


def rows(case: Case) -> Iterator[Row]:
    """A row for each target, pair of widths and CPU; none on such a CPU itself, which runs the files."""
    if platform.machine() in ("arm64", "aarch64"):
        return
    root, site = (os.environ.get(f"LAMPQ_ARM64_{name}") for name in ("ROOT", "SITE"))
    for target in (target for target in TARGETS.values() if target.name.endswith("arm64")):
        if root is None or site is None or shutil.which(arm64.QEMU) is None:
            why = f"this CPU is {platform.machine()}, and LAMPQ_ARM64_ROOT and LAMPQ_ARM64_SITE name nothing to emulate"
            yield not_run(target.runtime, target.name, why)
            continue
        for form in FORMS:
            with kit_of(case, target, *form) as kit:
                for cpu in arm64.CPUS:
                    found = arm64.row_of(cpu, kit, Path(root), Path(site), str(target.runner))
                    yield row_of(target, form, f"{cpu.name} ({cpu.words})", found)
