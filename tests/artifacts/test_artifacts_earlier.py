"""Files of earlier versions."""

from __future__ import annotations

import json

import pytest

from lampq_onnx.artifacts import Sensitivities
from lampq_onnx.errors import LampqError
from tests.html.reports import sensitivities


def test_sensitivities_of_earlier_versions_are_read(tmp_path):
    """They call the layers by another word."""
    own = sensitivities()
    values = json.loads(own.to_json())
    earlier = "units"
    values[earlier] = values.pop("layers")
    path = tmp_path / "sensitivity.json"
    path.write_text(json.dumps(values))
    assert Sensitivities.load(path) == own
    path.write_text(json.dumps({**values, "layers": values[earlier]}))
    with pytest.raises(LampqError, match="is not known"):
        Sensitivities.load(path)
