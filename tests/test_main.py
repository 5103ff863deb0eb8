"""The entry of the command line."""

from __future__ import annotations

import sys

import pytest

from lampq_onnx.__main__ import main


class Interrupted:
    """A finder of modules that is stopped by Ctrl-C."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "lampq_onnx.cli.main":
            raise KeyboardInterrupt


def test_ctrl_c_during_the_import_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "lampq_onnx.cli.main", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 130
    assert capsys.readouterr().err == "error: interrupted before anything was done\n"
