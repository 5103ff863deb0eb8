from __future__ import annotations

import pytest
import torch

from lampq_onnx.cli.main import _explain
from lampq_onnx.errors import first_line, is_out_of_memory


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("\n no such key \n and more"), "no such key"),
        (ValueError("the configuration is wrong:\n    two layers, three types\n  and more"),
         "the configuration is wrong: two layers, three types"),
        (ValueError("only a colon:"), "only a colon:"),
        (KeyError(), "KeyError"),
        (ValueError("x" * 1000), "x" * 300),
    ],
)  # fmt: skip
def test_the_first_line_says_what_is_wrong(error: Exception, said: str) -> None:
    assert first_line(error) == said


def test_memory_of_the_processor_is_told_from_other_runtime_errors(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("no memory"))
    assert is_out_of_memory(RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc"))
    assert is_out_of_memory(RuntimeError("bfc_arena.cc: Failed to allocate memory for requested buffer of size 9"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert _explain(caught.value) == 1
    assert "out of memory" in capsys.readouterr().err
