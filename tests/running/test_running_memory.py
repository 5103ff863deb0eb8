"""Freed memory: kept between passes, and given back between stages."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lampq_onnx.running import memory

SIZE = 48 * 2**20

FAULTS = f"""
import ctypes, resource, sys
from lampq_onnx.running.memory import give_back, keep_freed

own = ctypes.CDLL(None)
own.malloc.restype = ctypes.c_void_p
own.free.argtypes = [ctypes.c_void_p]
own.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    place = own.malloc({SIZE})
    own.memset(place, 1, {SIZE})
    own.free(place)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep":
    keep_freed()
first, second = faults(), faults()
give_back()
print(first, second, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="settings of the C library of Linux")
@pytest.mark.parametrize("kept", [False, True])
def test_pages_of_a_freed_block_are_kept_until_they_are_given_back(kept: bool) -> None:
    """Page faults of writing a block: each page costs one when the system hands it out."""
    words = [sys.executable, "-c", FAULTS, "keep" if kept else "plain"]
    found = subprocess.run(words, capture_output=True, text=True, check=True)
    first, second, third = map(int, found.stdout.split())
    few = max(first, third) // 10
    assert min(first, third) > few
    assert (second < few) is kept


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        (2**27, [(-3, 2**27), (-1, 2**29)]),
        (2**25, [(-3, 2**27), (-3, 2**25), (-1, 2**29)]),
        (0, [(-3, 2**27), (-3, 2**25)]),
    ],
)
def test_the_second_threshold_is_set_only_if_the_first_was_taken(
    taken: int, expected: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int]] = []

    def mallopt(parameter: int, value: int) -> int:
        calls.append((parameter, value))
        return int(parameter != memory.MMAP_THRESHOLD or value <= taken)

    monkeypatch.setattr(memory, "_function", lambda _: mallopt)
    memory.keep_freed()
    assert calls == expected
