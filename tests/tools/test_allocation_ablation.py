from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from lampq_onnx.artifacts import ActivationRange, LayerSensitivity, ModelIdentity, Sensitivities
from lampq_onnx.artifacts.report import Accuracy, TopK
from lampq_onnx.errors import LampqError, UsageError
from tools.bench import ablation, ablation_rows, ablation_table

UNITS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
SETTINGS = ablation.Settings(
    model=ablation.ModelOptions(name="tiny"),
    images=ablation.ImageOptions(),
    widths=(3.0,),
    rows=("uniform", "kl+update"),
    activation_bits=8,
    rounding=ablation.RoundingOptions(),
    update=ablation.UpdateOptions(),
    equalize=False,
    validation_size=None,
)


def sensitivities(blocks: int = 4) -> Sensitivities:
    """Layers whose nuclear norms differ by factors."""
    random = np.random.default_rng(0)
    layers = [
        LayerSensitivity(
            name=f"blocks.{block}.{name}",
            type=name.partition(".")[2],
            parameters=(size := int(random.integers(100, 400))),
            shape=(1, size),
            trace=1.0,
            nuclear_norm=float(np.exp(random.normal(0, 3))),
            weight_error={bits: 4.0**-bits for bits in ablation_rows.CANDIDATES},
            activation_range=ActivationRange(low=-1, high=1),
        )
        for block in range(blocks)
        for name in UNITS
    ]
    return Sensitivities(
        model=ModelIdentity(name="tiny", weights_sha256="", num_classes=4),
        layers=tuple(layers),
        alpha={},
        alpha_bits=2,
        alpha_measure="kl",
        activation_bits=8,
        labels="sampled",
        calibration_images=1,
        seed=0,
    )


def outcome(kl: float, size: int = 1000) -> ablation_table.Outcome:
    top = TopK(top1=0.5, top5=1.0)
    accuracy = Accuracy(
        **{"float": top}, samples=10, quantized=top, drop_points=0.0, standard_error_points=1.0, agreement=1.0,
        logit_sqnr_db=20.0, kl=kl,
    )  # fmt: skip
    return ablation_table.Outcome(accuracy=accuracy, bits=3.0, bytes=size, seconds=1.0)


def results(default: list[float], uniform: list[float]) -> ablation_table.Results:
    found = ablation_table.Results(None, SETTINGS.common(), range(len(uniform)))
    for row, losses in (("kl+update", default), ("uniform", uniform)):
        found[row, 3.0] = {seed: outcome(kl) for seed, kl in enumerate(losses)}
    return found


def table(found: ablation_table.Results) -> list[str]:
    return ablation_table.table(found, SETTINGS.rows, SETTINGS.widths)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_modules_share_a_width_within_the_budget() -> None:
    measured = sensitivities()
    widths = ablation_rows.module_wise(measured, 3.5)
    sizes = {layer.name: layer.parameters for layer in measured.layers}
    assert widths.keys() == sizes.keys()
    for block in range(4):
        for first, second in (UNITS[:2], UNITS[2:]):
            assert widths[f"blocks.{block}.{first}"] == widths[f"blocks.{block}.{second}"]
    assert len(set(widths.values())) > 1
    assert sum(sizes[name] * width for name, width in widths.items()) <= 3.5 * sum(sizes.values())


def test_the_comparison_is_paired_over_seeds() -> None:
    # The seeds differ by far more than the rows do.
    found = results(default=[0.1, 0.5, 0.9], uniform=[0.12, 0.521, 0.919])
    assert ablation_table.saved(found, "kl+update", 3.0) == pytest.approx([0.02, 0.021, 0.019])
    answer = table(found)
    assert any(re.search(r"0\.0200 ± 0\.0006, 3 of 3 seeds: more than", line) for line in answer)
    noisy = table(results(default=[0.1, 0.5, 0.9], uniform=[0.2, 0.45, 0.91]))
    assert any("2 of 3 seeds: not more than" in line for line in noisy)


def test_an_interrupted_run_compares_what_it_has() -> None:
    found = results(default=[0.1], uniform=[0.12, 0.521])
    lines = table(found)
    assert any("0.0200; one seed shows no spread" in line for line in lines)
    del found["kl+update", 3.0]
    assert len(cells(table(found)[3])) == len(cells(lines[0]))


def test_finished_runs_of_the_same_settings_are_kept(tmp_path: Path) -> None:
    file, key = tmp_path / "runs.jsonl", SETTINGS.common()
    for seed, kl in ((0, 0.1), (1, 0.2), (7, 0.3)):
        ablation_table.Results(file, key, (seed,)).add("uniform", 3.0, seed, outcome(kl))
    read = ablation_table.Results(file, key, (0, 1))
    assert read["uniform", 3.0] == {0: outcome(0.1), 1: outcome(0.2)}
    ablation.run(replace(SETTINGS, rows=("uniform",)), (0, 1), read)  # the model "tiny" cannot be loaded
    with pytest.raises(LampqError, match="tiny"):
        ablation.run(replace(SETTINGS, rows=("uniform",)), (0, 1, 2), read)
    assert not ablation_table.Results(file, replace(SETTINGS, equalize=True).common(), (0, 1))
    assert (
        replace(SETTINGS, rows=("kl",), widths=(3.0, 4.0)).common() == key != replace(SETTINGS, widths=(4.0,)).common()
    )


class Priced(ablation_rows.Measured):
    """Plans are their average bits, and a file of groups takes ``beside`` bytes more than one of layers."""

    beside = 40

    def plan(self, row: str, bits: float) -> Any:
        if row.startswith(ablation_rows.GROUP_BYTES):
            return super().plan(row, bits)
        return (ablation_rows.prefix_of(row), bits)

    def bytes(self, plan: Any, weights: Any = None) -> int:
        groups, bits = plan
        size = sum(layer.parameters for layer in sensitivities().layers)
        return int(bits * size / 8) + (self.beside if groups else 0)


def test_groups_get_the_bits_that_a_file_of_equal_bytes_holds() -> None:
    priced = Priced(None, None, {"kl": sensitivities()}, Path(), ablation.UpdateOptions(), 8)
    for row in ("group-bytes:kl", "group-bytes:kl+update"):
        found = priced.plan(row, 3.0)
        assert found[0] == ablation_rows.GROUP
        limit = priced.bytes(("", 3.0))
        assert (1 - 2 * ablation_rows.CLOSE) * limit - 1 <= priced.bytes(found) <= limit


def test_where_no_groups_fit_each_layer_has_one_width(capsys: pytest.CaptureFixture[str]) -> None:
    priced = Priced(None, None, {"kl": sensitivities()}, Path(), ablation.UpdateOptions(), 8)
    priced.beside = 10**6
    assert priced.plan("group-bytes:kl", 3.0) == ("", 3.0)
    assert "no groups fit" in capsys.readouterr().err


def test_groups_are_compared_with_the_same_row_of_layers() -> None:
    found = results(default=[0.1, 0.2, 0.3], uniform=[0.2, 0.3, 0.4])
    found["group:kl+update", 3.0] = {0: outcome(0.08, 1010), 1: outcome(0.16, 1010), 2: outcome(0.24, 1010)}
    line = ablation_table.of_layers(found, "group:kl+update", 3.0)
    assert "0.800 ± 0.000, lower in 3 of 3 seeds (more than 2 standard errors), bytes by those of layers 1.0100" in line
    found["group:kl+update", 3.0] = {0: outcome(0.05), 1: outcome(0.22), 2: outcome(0.31)}
    assert "lower in 1 of 3 seeds (not more than" in ablation_table.of_layers(found, "group:kl+update", 3.0)


def test_the_command_prints_a_row_for_each_method(tiny: list[str]) -> None:
    app = ablation.typer.Typer()
    app.command()(ablation.main)
    chosen = [
        "--methods=uniform,vt-ptq,kl+update,group:kl+update,group-bytes:kl",
        "--bits=3,4",
        "--rounds=1",
        "--seeds=0",
    ]
    done = CliRunner().invoke(app, [*tiny, *chosen, "--validation-size=16", "--no-equalize"], catch_exceptions=False)
    assert done.exit_code == 0
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    heads, *rows = map(cells, lines)
    names = ("uniform", "vt-ptq", "kl+update", "kl+update", "kl")
    assert [row[0] for row in rows] == [ablation_rows.TITLES[name] for name in names]
    assert [row[1] for row in rows] == ["layer", "layer", "layer", "group", "group, equal bytes"]
    for row in rows:
        assert len(row) == len(heads) == 2 * (len(ablation_table.COLUMNS) + 3) + 3
        assert all(math.isfinite(float(part)) for cell in row[2:] for part in cell.split(" ± "))
        # Chosen plans are chosen on few images: on 16 others, both budgets may be within chance of each other.
        slack = 1.0 if row[0] == ablation_rows.TITLES["uniform"] else 1.1
        assert float(row[heads.index("KL, 4 bits")]) <= slack * float(row[heads.index("KL, 3 bits")])
        assert float(row[heads.index("kB of the file, 4 bits")]) > 10
        # In so small a file the nodes that unpack groups take fewer bytes than those of layers.
        assert float(row[heads.index("average bits, 3 bits")]) <= (8 if "bytes" in row[1] else 3)
    assert "n = 16" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods=uniform,vt-ptq+update"], "methods"),
        (["--activation-bits=mixed"], "mixed"),
        (["--seeds=0,x"], "seeds"),
        (["--bits=9"], "from 1 to 8"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_loaded(arguments: list[str], message: str) -> None:
    app = ablation.typer.Typer()
    app.command()(ablation.main)
    with pytest.raises(UsageError, match=message):
        CliRunner().invoke(app, ["digits", *arguments], catch_exceptions=False)
