"""A reader who copies the blocks of a page, one after the other, into a folder."""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import lampq_onnx
from tests.documents.blocks import Block, page_blocks
from tests.prepared import FEWER_BLOCKS, FEWER_DIGITS, PreparedPython, environment

STANDS_FOR = {
    "deit_tiny_patch16_224": "test_vit",  # timm's smallest Vision Transformer, here with 0.2 M parameters
    "4MB": "0.35MB",  # of a model that is 28 times smaller
    "size=(224, 224)": "size=(160, 160)",
    "num_classes=10": "num_classes=1000",
    "2.5..8": "4,5",  # budgets of a sweep
}
"""What the reader puts in the place of the pages' own model, in every block."""

_RUN = "--effort fast --rounding nearest --rounds 0 --no-equalize --calibration-size 8 --latency-runs 2 --threads 1"
QUICK = {
    "quantize": _RUN,
    "sweep": f"{_RUN} --metrics kl",
    "analyze": "--effort fast --no-equalize --calibration-size 8 --threads 1",
    "allocate": "--time-limit 1",
    "probe": "--rounds 5",
    "validate": "--latency-runs 2",
    "bench": "--rounds 2",
}
"""Options that the reader adds to a command to save time."""

QUICK_CALLS = {
    "quantize": {
        "effort": "fast", "rounding": "nearest", "rounds": 0, "equalize": False, "calibration_size": 8,
        "latency_runs": 2, "threads": 1,
    },
    "validate": {"latency_runs": 2},
}  # fmt: skip
QUICK_CALLS["sweep"] = QUICK_CALLS["quantize"]
"""The same for functions in Python."""

CLASSES = {"amber": (220, 160, 30), "green": (40, 180, 60), "navy": (20, 40, 140), "plum": (150, 40, 150)}
"""Classes of the reader's images, and their mean red, green and blue."""

TEST_IMAGES = 40
"""Of the embedded model's 500, in a reader's programs."""

BLOCKS = 2
"""Of the 6 of the model that stands for the pages' own."""

BEFORE_PYTHON = "import lampq_onnx; from tests.documents.reader import save_time; save_time()\n"


@dataclass(frozen=True)
class Reader:
    """Runs blocks in one folder.

    Attributes:
        folder: where files are written.
        tools: a folder with the command `lampq-onnx`, first in PATH.
        python: runs the commands and the blocks of Python.
        given: lines of Python that stand before each block of Python.
    """

    folder: Path
    tools: Path
    python: PreparedPython
    given: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path, python: PreparedPython) -> Reader:
        """A reader with an installed command line, who works in an empty folder below ``folder``."""
        tools, empty = folder / "bin", folder / "empty"
        tools.mkdir()
        empty.mkdir()
        program = f'{shlex.join([*python.command, "-m", "lampq_onnx"])} "$@"'
        cases = "".join(f"  {name}) exec {program} {QUICK[name]} ;;\n" for name in QUICK)
        command = tools / "lampq-onnx"
        command.write_text(f'#!/bin/sh\ncase "$1" in\n{cases}esac\nexec {program}\n')
        command.chmod(0o755)
        return cls(empty, tools, python)

    def follow(self, name: str, *, dry: bool = False) -> list[Block]:
        """Do what every block of a page says; gives those that are marked as not run.

        Args:
            name: path of the page from the root of the checkout.
            dry: add --dry-run to `quantize`, which does all that a run does before its first measurement.

        Raises:
            AssertionError: a block fails, or it is not clear what to do with it.
        """
        left = []
        for block in page_blocks(name):
            if block.skipped:
                left.append(block)
            else:
                self.do(block, dry=dry)
        return left

    def do(self, block: Block, *, dry: bool = False) -> None:
        """Run a block of commands or of Python, or save one that stands for a file.

        Raises:
            AssertionError: see `follow`.
        """
        if block.language == SHOWN:
            return
        text = block.text
        for shown, own in STANDS_FOR.items():
            text = text.replace(shown, own)
        if dry:
            text = text.replace("lampq-onnx quantize ", "lampq-onnx quantize --dry-run ")
        if block.file:
            (self.folder / block.file).write_text(text + "\n", encoding="utf-8")
            return
        before = BEFORE_PYTHON + "".join(f"{line}\n" for line in self.given)
        runs = {
            "sh": ["bash", "-e", "-u", "-o", "pipefail", "-c", text],
            "python": [*self.python.command, "-c", before + text],
        }
        assert block.language in runs, f"{block} is neither run nor saved, nor marked as not run"
        done = subprocess.run(
            runs[block.language],
            cwd=self.folder,
            env=reader_environment(self.tools),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"


SHOWN = "text"
"""Language of blocks that show what a command prints."""


def save_time() -> None:
    """Give the functions of the package other defaults, in this process."""
    for name, options in QUICK_CALLS.items():
        function = getattr(lampq_onnx, name)

        @functools.wraps(function)
        def quick(*args: object, _function=function, _options=options, **own: object) -> object:  # type: ignore[no-untyped-def]
            return _function(*args, **{**_options, **own})

        setattr(lampq_onnx, name, quick)


def reader_environment(tools: Path) -> dict[str, str]:
    """The environment of a reader's programs."""
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    return environment() | {"PATH": path, FEWER_DIGITS: str(TEST_IMAGES), FEWER_BLOCKS: str(BLOCKS)}
