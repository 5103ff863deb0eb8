"""What the processor is called and what it has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cpuinfo
import pytest

from lampq_onnx.runtime import environment

ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n\nprocessor\t: 1\nFeatures\t: fp\n"
X86 = (
    "model name\t: A  CPU: 2 GHz\nflags\t\t: fpu avx2 avx512_vnni\nbugs\t\t:\n\nmodel name\t: another\nflags\t\t: fpu\n"
)


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    environment._cpu.cache_clear()
    yield
    environment._cpu.cache_clear()  # of another machine


def test_linux_and_py_cpuinfo_agree() -> None:
    told, asked = environment._from_linux(), environment._from_cpuinfo()
    if told is None:
        pytest.skip("this system does not say brand and flags in /proc/cpuinfo")
    assert told[0] == asked[0]
    kernels = set(environment.KERNEL_FLAGS)
    assert told[1] & kernels == asked[1] & kernels


def test_the_first_core_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(X86)
    monkeypatch.setattr(environment, "LINUX", file)
    monkeypatch.setattr(cpuinfo, "get_cpu_info", lambda: pytest.fail("it takes a second"))
    assert environment.cpu_name() == "A CPU: 2 GHz"
    assert environment.cpu_flags() == ("avx2", "avx512_vnni")


@pytest.mark.parametrize("told", [ARM, "", None])
def test_what_linux_does_not_say_is_asked(told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cpuinfo"
    if told is not None:
        file.write_text(told)
    monkeypatch.setattr(environment, "LINUX", file)
    monkeypatch.setattr(cpuinfo, "get_cpu_info", lambda: {"brand_raw": "Cortex", "flags": ["asimddp", "fp"]})
    assert environment.cpu_name() == "Cortex"
    assert environment.cpu_flags() == ("asimddp",)
