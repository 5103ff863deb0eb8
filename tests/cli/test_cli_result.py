"""The end of a run: on terminals of several widths, in pipes, as JSON, and without words."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lampq_onnx.cli.result import print_result, result_values
from lampq_onnx.cli.voice import Voice
from lampq_onnx.errors import UsageError
from lampq_onnx.evaluation.verdict import against_uniform
from tests.cli.conftest import invoke
from tests.html.reports import accuracy, report
from tests.kept_exports import EXPORTS_VARIABLE
from tests.prepared import PreparedPython
from tools.terminal import Terminal

FILE_NAMES = (
    "wrote float.onnx, sensitivity.json, plan.json, weights.safetensors, model.onnx, report.json, recipe.toml, "
    "report.html to out",
)
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, width: int, *, color: bool = True) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(width))
    if not color:
        monkeypatch.setenv("NO_COLOR", "1")


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_end_fits_the_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_a_terminal(monkeypatch, width)
    found = report(model="deit_tiny_patch16_224", notes=("a long note " * 30,) * 5)
    print_result(found, Path("out"), FILE_NAMES)
    out = ANSI.sub("", capsys.readouterr().out)
    lines = out.splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= 25
    own, uniform = (next(line for line in lines if line.startswith(name)) for name in ("this file", "uniform"))
    for row, wanted in (
        (own, ("1.00", "80.00 %", "1.00 ± 0.20", "2.00x")),
        (uniform, ("0.99", "70.00 %", "11.00 ± 0.20")),
    ):
        assert all(cell in row for cell in wanted), row
    words = " ".join(out.split())
    assert "Loses 1.00 ± 0.20 points of top-1 (80.00 %) (n = 500), 4.0x smaller (4.00 to 1.00 MB)" in words
    assert "Mixed bits keep 10.00 ± 0.28 points more than uniform 3.00 bits" in words
    assert "open out/report.html" in out
    assert "lampq-onnx package out" in out
    assert "3 more in the report" in out


def test_no_colour_on_request(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    on_a_terminal(monkeypatch, 80)
    print_result(report(), Path("out"))
    assert re.search(r"\x1b\[[0-9;]*3[0-9]m", capsys.readouterr().out)
    on_a_terminal(monkeypatch, 80, color=False)
    print_result(report(), Path("out"))
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", capsys.readouterr().out)


def test_in_a_pipe_no_line_is_broken(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    print_result(report(model="m"), Path("out"), FILE_NAMES)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert FILE_NAMES[0] in out.splitlines()
    assert "14.0 dB" in out  # columns that narrow terminals leave out
    assert "not shown" not in out


def test_a_failed_gate_gives_other_advice(capsys: pytest.CaptureFixture[str]) -> None:
    found = report()
    failed = found.model_copy(update={"limits": found.limits.model_copy(update={"max_drop": 0.5})})
    print_result(failed, Path("out"))
    out = capsys.readouterr().out
    assert "FAIL: top-1 drop" in out
    assert "package" not in out
    assert result_values(failed)["passed"] is False


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    Voice(as_json=True).print(lambda: result_values(report(), Path("out"), FILE_NAMES), lambda: None)
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is True
    assert found["accuracy"]["float"]["top1"] == pytest.approx(0.81)
    assert found["latency"]["speedup"] == 2.0
    assert found["baselines"]["uniform"]["quantized_bytes"] == 990_000
    assert found["against_uniform"]["gain"] == "score"
    assert found["folder"] == "out"


def test_verbose_and_quiet_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="--quiet exclude"):
        Voice(verbose=True, quiet=True)
    code, _, err = invoke("quantize", "digits", "--output", "nowhere", "-v", "--json")
    assert (code, "--verbose and --json" in err) == (2, True)


SHORT = ("--effort", "fast", "--threads", "1", "--rounding", "nearest", "--rounds", "0", "--no-equalize",
         "--calibration-size", "8", "--latency-runs", "1")  # fmt: skip


def test_digits_on_a_terminal(tmp_path: Path, prepared: PreparedPython, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EXPORTS_VARIABLE, "")  # a kept export is over before a stage is shown
    words = ("quantize", "digits", "--bits", "3", "--baseline", "uniform", "--baseline", "lampq", "--output", "out")
    terminal = Terminal(*words, *SHORT, columns=80, folder=tmp_path, python=prepared.command)
    text = terminal.finish()
    assert terminal.process.returncode == 0, text
    lines = text.rstrip().splitlines()
    assert len(lines) <= 25, text
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("digits: 34 layers")
    assert "open out/report.html" in text
    assert "left" in terminal.raw  # the bar said how long it takes
    assert "exporting the float model" in terminal.raw
    assert "exporting" not in text  # and is gone
    assert "Warning" not in terminal.raw
    # the same again, in a pipe: done already, and one object
    code, out, err = invoke(*words[:-1], tmp_path / "out", *SHORT, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["model"] == "digits"
    assert "done already" in found["said"][0]
    assert err == ""
    code, out, err = invoke(*words[:-1], tmp_path / "out", *SHORT, "-q")
    assert (code, err) == (0, "")
    assert "this file (kl)" in out
    code, out, _ = invoke(*words[:-1], tmp_path / "out", *SHORT, "-v")
    assert code == 0
    assert "blocks.7.mlp.fc2" in out
    assert "fidelity" in out


def test_without_a_model_the_example_is_offered(tmp_path: Path, prepared: PreparedPython) -> None:
    terminal = Terminal("quantize", columns=80, folder=tmp_path, python=prepared.command)
    terminal.read_until("lampq-example?")
    terminal.send("n\n")
    text = terminal.finish()
    assert terminal.process.returncode == 2
    assert "no model is named" in text
    assert "`digits`" in text
    assert list(tmp_path.iterdir()) == []


def test_init_asks_for_what_it_needs_and_its_recipe_is_whole(tmp_path: Path, prepared: PreparedPython) -> None:
    import tomllib

    terminal = Terminal("init", columns=80, folder=tmp_path, python=prepared.command)
    for question, answer in (("Model", "vit_tiny_patch16_224"), ("weights", "w.safetensors"), ("Calibration", ""),
                             ("Validation", "labelled/")):  # fmt: skip
        terminal.read_until(question)
        terminal.send(f"{answer}\n")
    text = terminal.finish()
    assert terminal.process.returncode == 0, text
    found = tomllib.loads((tmp_path / "recipe.toml").read_text())
    assert found["model"]["name"] == "vit_tiny_patch16_224"
    assert found["model"]["checkpoint"] == "w.safetensors"
    assert found["images"] == found["images"] | {"calibration": "synthetic", "validation": "labelled"}
    assert "quantize --recipe recipe.toml --output out" in text
    assert "before it runs" not in text


def test_the_offer_runs_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from lampq_onnx.cli.example import FOLDER, embedded_example

    assert embedded_example({}) == (
        "digits", FOLDER, {"allocation": {"bits": 2.0}, "output": {"baselines": ("uniform",)}},
    )  # fmt: skip
    kept = embedded_example({"allocation": {"bits": 3.0}})[2]
    assert kept["allocation"] == {"bits": 3.0}


def test_widths_of_channels_are_in_the_title_and_are_not_uniform_bits(capsys: pytest.CaptureFixture[str]) -> None:
    plain = report()
    mixed = [
        layer.model_copy(update={"weight_bits": 4, "channel_bits": {2: 8, 4: 8}})
        if layer.type in plain.bits.covers
        else layer
        for layer in plain.layers
    ]
    found = plain.model_copy(update={"layers": tuple(mixed), "baselines": {}})
    print_result(found, Path("out"), FILE_NAMES)
    assert "weights of 2 to " in capsys.readouterr().out
    assert "Every layer has" not in against_uniform(found).sentence
    same = [layer.model_copy(update={"weight_bits": 4, "channel_bits": None}) for layer in mixed]
    assert "Every layer has 4 bits" in against_uniform(found.model_copy(update={"layers": tuple(same)})).sentence


def test_what_is_said_of_a_worse_file() -> None:
    worse = report(accuracy=accuracy(0.3, 51.0))
    assert result_values(worse)["verdict"].startswith("Unusable: top-1 falls from 81.00 % to 30.00 %")
