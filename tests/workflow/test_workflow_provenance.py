"""What a file says about how it was made covers all sources of the package."""

from __future__ import annotations

import hashlib
from pathlib import Path

import lampq_onnx
from lampq_onnx.workflow.provenance import code_sha256


def test_the_hash_of_the_code_is_over_every_module_of_the_package() -> None:
    package = Path(lampq_onnx.__file__).parent
    digest = hashlib.sha256()
    paths = sorted(package.rglob("*.py"))
    assert {"errors.py", "__init__.py"} <= {path.name for path in paths if path.parent == package}
    for path in paths:
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    assert code_sha256() == digest.hexdigest()
