"""Rows of the table of families: figures of small models, refusals, and processes that fail."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from tests.prepared import PreparedPython
from tools.bench import families
from tools.bench.family import Family, randomize
from tools.bench.family_models import FAMILIES
from tools.bench.family_page import COLUMNS, END, START, write_page
from tools.bench.family_rows import Row, measure_family, unexpected

TINY = Family(
    "tiny", "vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "embed_dim": 32, "num_heads": 2, "depth": 1}
)


@pytest.fixture(scope="module")
def row() -> Row:
    """What is measured of a small ViT."""
    return measure_family(TINY, seed=0, threads=1, runs=1)


def test_a_row_of_a_small_vit(row: Row) -> None:
    assert (row.status, row.problems, unexpected(row, TINY)) == ("done", (), "")
    assert row.layers == {"patch_embed": 1, "qkv": 1, "proj": 1, "fc1": 1, "fc2": 1, "head": 1}
    assert row.skipped == {}
    assert 0 < row.parity < 1e-5
    assert 0.001 < row.widths[8].error < row.widths[4].error
    assert row.widths[4].size < row.widths[8].size < 0.5
    cells = families.line(row).split(" | ")
    assert len(cells) == len(COLUMNS)
    assert cells[2] == "classification"
    assert cells[3] == "1 patch_embed, 1 qkv, 1 proj, 1 fc1, 1 fc2, 1 head"


def test_random_weights_are_those_of_the_seed_and_outputs_depend_on_the_image() -> None:
    first, again, other = (TINY.build(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_norms_that_start_at_random_let_the_signal_through() -> None:
    norm = torch.nn.BatchNorm2d(64).eval()
    torch.nn.init.normal_(norm.weight, std=0.02)
    module = torch.nn.ModuleDict({"norm": norm, "empty": torch.nn.ParameterList([torch.empty(1, 0, 4)])})
    randomize(module, 0)
    assert 1.2 < float(norm.weight.detach().mean()) < 1.4


def test_a_refusal_is_a_failure_only_where_it_is_not_expected() -> None:
    resnet = Family("resnet", "resnet10t")
    row = measure_family(resnet, seed=0, threads=1, runs=1)
    assert row.status == "refused"
    assert "no attention layers were recognized" in row.reason
    assert unexpected(row, resnet).startswith("refused: ")
    expected = Family("resnet", "resnet10t", refused="no attention layers")
    assert unexpected(row, expected) == ""
    done = Row(family="resnet", model="resnet10t", arguments={}, status="done")
    assert "where a refusal was expected" in unexpected(done, expected)


def test_a_process_that_fails_is_a_row_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, prepared: PreparedPython
) -> None:
    monkeypatch.setattr("sys.executable", prepared.program)
    monkeypatch.setattr(families, "FAMILIES", (Family("nothing", "no_such_model"),))
    assert families.main(["--json", str(tmp_path / "rows.json"), "--threads", "1"]) == 1
    (row,) = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))
    assert row["status"] == "failed"
    assert "its process ended with 1" in row["reason"]
    assert "| nothing | no_such_model | **failed**: " in capsys.readouterr().out


def test_a_process_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "LIMIT_SECONDS", 0.01)
    row = families.in_process(FAMILIES[0], argparse.Namespace(seed=0, threads=1, runs=1))
    assert (row.status, row.reason) == ("failed", "it took more than 0.01 s")


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(SystemExit, match="unknown family swim; known: vit, "):
        families.chosen(["swim"])


def test_a_row_of_a_small_hybrid() -> None:
    hybrid = Family(
        "hybrid", "tiny_vit_5m_224",
        {"embed_dims": (8, 16, 32, 32), "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 2)}, size=(64, 64),
    )  # fmt: skip
    row = measure_family(hybrid, seed=0, threads=1, runs=1)
    assert (row.status, row.problems, unexpected(row, hybrid)) == ("done", (), "")
    inputs = row.skipped["only the input, of a pointwise convolution"]
    assert {"stages.0.blocks.0.conv1.conv", "stages.0.blocks.0.conv3.conv"} <= set(inputs)
    assert row.widths[4].size < row.widths[8].size < 0.8


def test_the_page_gets_all_rows_and_keeps_its_words(row: Row, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "".join(f"before {part}\n{START.format(part)}old\n{END}after {part}\n" for part in ("timm", "transformers"))
    )
    rows = [
        row.model_copy(update={"family": family.name, "where": "there" if number else "here", "cpu_seconds": 6.0})
        for number, family in enumerate(FAMILIES)
    ]
    with pytest.raises(ValueError, match=f"missing: {FAMILIES[-1].name}$"):
        write_page(page, rows[:-1])
    write_page(page, rows)
    text = page.read_text()
    assert "old" not in text
    assert [text.count(word) for word in ("before timm\n", "after timm\n", "before transformers\n")] == [1, 1, 1]
    table = [row.split(" | ")[0].removeprefix("| ") for row in text.splitlines() if row.startswith("| ")]
    assert [name for name in table if name != COLUMNS[0]] == [family.name for family in FAMILIES]
    assert f"{FAMILIES[0].name}: here." in text
    timm = sum(not family.config for family in FAMILIES)
    assert f"{timm} rows, {timm / 10:.0f} minutes of processor time: {timm / 20:.0f} minutes on two cores." in text
    page.write_text("nothing")
    with pytest.raises(ValueError, match="has no lines <!-- rows of timm -->"):
        write_page(page, rows)
