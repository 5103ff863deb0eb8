from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lampq_onnx.errors import LampqError
from lampq_onnx.importer.class_names import read_class_names


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"id2label": {"1": "dog", "0": "cat", "2": "owl"}}, ("cat", "dog", "owl")),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}}, ()),
        ({"id2label": {"0": "cat", "1": "dog"}}, ()),
        ({"id2label": {"0": "cat", "2": "dog", "3": "owl"}}, ()),
        ({"id2label": {"a": "cat", "1": "dog", "2": "owl"}}, ()),
        ({"id2label": ["cat", "dog", "owl"]}, ()),
        ([1], ()),
    ],
)
def test_names_of_the_configuration(config: Any, names: tuple[str, ...], tmp_path: Path) -> None:
    assert read_class_names(tmp_path, 3) == ()
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_class_names(tmp_path, 3) == names


def test_a_damaged_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(LampqError, match=r"config\.json is damaged") as caught:
        read_class_names(tmp_path, 3)
    assert caught.value.hint
