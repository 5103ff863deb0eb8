"""Every block of every other page runs; those that are left out say why, with a reason that is known here."""

from __future__ import annotations

import shutil

import lampq_onnx
from lampq_onnx.artifacts import Report
from tests.documents.blocks import PAGES, page_blocks
from tests.documents.reader import SHOWN, Reader

FIRST = (
    "README.md", "docs/how-to/own-model.md", "docs/how-to/stages.md", "docs/runtime/budgets.md", "docs/tutorial.md",
)  # fmt: skip
"""Run by test_first_pages.py."""

REASONS = {
    "installs the package",
    "takes minutes",
    "takes hours",
    "needs a GPU",
    "needs several GPUs",
    "needs Docker",
    "needs a model of the hub",
    "needs the package datasets",
    "a job of GitHub",
    "a job of GitLab",
}
"""Why blocks are not run here."""


def test_what_is_left_out_says_why() -> None:
    found = set()
    for page in PAGES:
        for block in page_blocks(page):
            if block.skipped:
                found.add(block.skipped)
            assert block.language, f"{block}: say what it is: sh, python, text ..."
            assert block.language != SHOWN or "lampq-onnx " not in block.text, f"{block} holds a command"
    assert found == REASONS


Files = dict[str, str]

PREPARED: dict[str, tuple[tuple[str, ...], Files]] = {
    "docs/how-to/recipes.md": ((), {}),
    "docs/how-to/compare.md": ((), {}),
    "docs/how-to/report.md": ((), {"out/report.json": "gate.json"}),
    "docs/how-to/edge.md": (("out",), {}),
    "docs/how-to/server.md": ((), {}),
    "docs/how-to/checkpoint.md": ((), {}),
    "docs/index.md": ((), {}),
    "docs/how-to/ci-gate.md": ((), {"out/model.onnx": "model.onnx", "out/float.onnx": "float.onnx"}),
    "docs/peers.md": ((), {"out/model.onnx": "ours.onnx", "model.onnx": "theirs.onnx"}),
    "docs/runtime/explain.md": ((), {}),
    "docs/runtime/packages.md": ((), {}),
    "docs/runtime/web.md": ((), {}),
    "docs/onnx-in.md": (("out",), {"float.onnx": "model.onnx", "model.onnx": "other_export.onnx"}),
    "docs/runtime/index.md": (("out",), {}),
    "docs/how-to/gpu-servers.md": ((), {}),
    "docs/how-to/doctor.md": ((), {}),
    "docs/how-to/sweep.md": ((), {}),
    "docs/how-to/python.md": (("out", "sweep"), {}),
}
"""Pages in the order in which they are read in one folder: what is removed before, and which files are copied."""

DRY = ("docs/how-to/edge.md", "docs/how-to/server.md", "docs/how-to/checkpoint.md")
"""Pages whose runs differ from others in a target, in what is timed, or in the place of the weights."""

TAKES = {
    "docs/how-to/python.md": [
        "from tests.documents.own_model import own_module",
        "module, train_loader, test_loader = own_module()",
    ],
}
"""Names that the Python of a page takes for granted."""


def test_every_page_with_blocks_is_read() -> None:
    left = {page for page in PAGES if any(not b.skipped and b.language != SHOWN for b in page_blocks(page))}
    assert left == {*FIRST, *PREPARED}


def test_the_blocks_run_in_order(reader: Reader) -> None:
    for page, (removed, copied) in PREPARED.items():
        for name in removed:
            shutil.rmtree(reader.folder / name)
        for source, target in copied.items():
            shutil.copyfile(reader.folder / source, reader.folder / target)
        reader.given[:] = TAKES.get(page, [])
        reader.follow(page, dry=page in DRY)
    assert (reader.folder / "weights.pth").is_file()
    example = reader.folder / "digits-int"
    assert Report.load(example / "report.json").bits.weight_average <= 3
    checked = lampq_onnx.validate(example / "edited.onnx", validation=example / "test.npz", threads=1, latency_runs=2)
    # The edited file computes what its own integers and scales say, also in the layer whose width was changed.
    assert checked is not None
    assert checked.fidelity.layer_max < 1e-3
