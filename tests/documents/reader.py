"""A reader who copies the blocks of a page, one after the other, into an empty folder."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.documents.blocks import Block, page_blocks
from tests.prepared import PreparedPython, environment

STANDS_FOR = {
    "deit_tiny_patch16_224": "test_vit",  # timm's smallest Vision Transformer: 0.4 M parameters
    "4MB": "0.6MB",  # of a model that is 15 times smaller
}
"""What the reader puts in the place of the pages' own model, in every block."""

QUICK = {
    "quantize": "--effort fast --latency-runs 2 --threads 1",
    "analyze": "--effort fast --threads 1",
    "probe": "--rounds 5",
    "validate": "--latency-runs 2",
}
"""Options that the reader adds to a command to save time."""

QUICK_CALL = ("bits=3)", "bits=3, effort='fast', latency_runs=2, threads=1)")
"""The same in Python."""

CLASSES = {"amber": (220, 160, 30), "green": (40, 180, 60), "navy": (20, 40, 140), "plum": (150, 40, 150)}
"""Classes of the reader's images, and their mean red, green and blue."""


@dataclass(frozen=True)
class Reader:
    """Runs blocks in one folder.

    Attributes:
        folder: where files are written.
        tools: a folder with the command `lampq-onnx`, first in PATH.
        python: runs the commands and the blocks of Python.
    """

    folder: Path
    tools: Path
    python: PreparedPython

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

    def bring_model_and_images(self) -> None:
        """What the pages take for granted: a checkpoint, calibration images, validation images with labels."""
        done = subprocess.run(
            [*self.python.command, "-c", "from tests.documents.own_model import write; write()"],
            cwd=self.folder, env=_environment(self.tools), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def follow(self, name: str) -> list[Block]:
        """Do what every block of a page says; gives those that are marked as not run.

        Raises:
            AssertionError: a block fails, or it is not clear what to do with it.
        """
        left = []
        for block in page_blocks(name):
            if block.skipped:
                left.append(block)
            else:
                self.do(block)
        return left

    def do(self, block: Block) -> None:
        """Run a block of commands or of Python, or save one that stands for a file.

        Raises:
            AssertionError: see `follow`.
        """
        text = block.text
        for shown, own in STANDS_FOR.items():
            text = text.replace(shown, own)
        if block.file:
            (self.folder / block.file).write_text(text + "\n", encoding="utf-8")
            return
        runs = {
            "sh": ["bash", "-e", "-u", "-o", "pipefail", "-c", text],
            "python": [*self.python.command, "-c", text.replace(*QUICK_CALL)],
        }
        assert block.language in runs, f"{block} is neither run nor saved, nor marked as not run"
        done = subprocess.run(
            runs[block.language],
            cwd=self.folder,
            env=_environment(self.tools),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"


def _environment(tools: Path) -> dict[str, str]:
    return environment() | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
