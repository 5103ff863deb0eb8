"""Completion in the shell: the script that is installed, and the words that it offers."""

from __future__ import annotations

from pathlib import Path

import pytest

from lampq_onnx.allocation.metrics import METRICS
from lampq_onnx.artifacts.task import TASKS
from lampq_onnx.cli import names
from lampq_onnx.cli.main import COMMANDS, program
from lampq_onnx.targets import BY_CPU, TARGETS
from tests.cli.conftest import invoke

MODELS = ["deit_base_patch16_224", "deit_tiny_patch16_224", "vit_tiny_patch16_224"]


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """What bash is offered for the last word of a command line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(names, "model_names", lambda: MODELS)

    def offered(line: str) -> list[str]:
        words = line.split(" ")
        monkeypatch.setenv("_LAMPQ_ONNX_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        code, out, err = invoke()
        assert code == 0, err
        return out.split()

    return offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_a_script_for_each_shell(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")  # read when the command line is made
    program.cache_clear()
    code, out, err = invoke("--show-completion", shell)
    program.cache_clear()
    assert code == 0, err
    assert "lampq-onnx" in out
    assert f"_LAMPQ_ONNX_COMPLETE{'' if shell == 'powershell' else '='}" in out


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("quantize --target ", [*BY_CPU, *TARGETS]),
        ("quantize --target onnxruntime-x", ["onnxruntime-x86-avx2", "onnxruntime-x86-vnni"]),
        ("quantize --metric ", list(METRICS)),
        ("quantize --baseline f", ["fisher"]),
        ("quantize --effort b", ["balanced", "best"]),
        ("quantize --task ", ["auto", *TASKS]),
        ("quantize --packing n", ["native"]),
        ("quantize --device cu", ["cuda"]),
        ("quantize --update-rule ", ["strict", "count"]),
        ("package out --format ", ["ort", "triton", "openvino-ir", "transformers-js"]),
        ("sweep digits --metrics kl,f", ["kl,fisher"]),
        ("list ta", ["targets", "tasks"]),
        ("quantize --set allocation.me", ["allocation.metric="]),
        ("quantize --set output.packing=n", ["output.packing=native"]),
        ("quantize --set update.ru", ["update.rule="]),
        ("qu", ["quantize"]),
        ("quantize --help-", ["--help-all"]),
    ],
)
def test_values_and_names(line: str, wanted: list[str], offered) -> None:
    assert offered(f"lampq-onnx {line}") == wanted


def test_every_command_is_offered(offered) -> None:
    assert offered("lampq-onnx ") == [name for group in COMMANDS.values() for name in group]


def test_models_are_names_and_files(offered, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("own.onnx", "own.txt", "mine/inner.onnx"):
        (tmp_path / name).touch()
    assert offered("lampq-onnx quantize ") == ["digits", "own.onnx"]
    assert offered("lampq-onnx quantize d") == ["digits", *MODELS[:2]]
    assert offered("lampq-onnx sweep vit") == MODELS[2:]
    assert offered("lampq-onnx analyze mine/") == ["mine/inner.onnx"]
    assert offered("lampq-onnx doctor none/") == []


def test_timm_is_not_asked_before_something_is_typed(offered, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> list[str]:
        raise AssertionError("asked")

    monkeypatch.setattr(names, "model_names", refuse)
    assert offered("lampq-onnx quantize ") == ["digits"]
