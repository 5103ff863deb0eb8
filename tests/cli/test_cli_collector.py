"""Python's search for garbage, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

CYCLE = """
import gc, weakref
from lampq_onnx.cli import collector

class Node: pass

def cycle():
    node = Node()
    node.itself = node
    return weakref.ref(node)
"""


def said(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", CYCLE + program], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_new_garbage_is_found_after_the_imports() -> None:
    program = """
usual = gc.get_threshold()
collector.expect_imports()
print(gc.get_threshold()[0] - usual[0])
old = cycle()
collector.settle()
new = cycle()
gc.collect()
print(gc.get_threshold() == usual, new() is None, old() is None, gc.get_freeze_count() > 1000)
"""
    assert said(program) == ["1000000", "True", "True", "False", "True"]


def test_a_process_of_others_is_left_alone() -> None:
    assert said("collector.settle(); print(gc.get_freeze_count(), gc.get_threshold()[0] < 10_000)") == ["0", "True"]


@pytest.mark.parametrize(("words", "code"), [("list runtimes", 0), ("list nothing", 2)])
def test_the_command_line_ends_with_its_code(words: str, code: int) -> None:
    program = f"import sys; from lampq_onnx.__main__ import main; sys.argv[1:] = {words.split()}; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stdout if code == 0 else done.stderr
