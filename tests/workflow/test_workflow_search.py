"""What the search allocates, with the stages themselves left out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lampq_onnx.allocation import AllocationOptions
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.config.stages import stages_of
from lampq_onnx.frontend.shared.kept import NOT_KEPT
from lampq_onnx.running.progress import NO_PROGRESS, Clock
from lampq_onnx.runtime.environment import target_here
from lampq_onnx.workflow import search


@pytest.mark.parametrize(("asked", "expected"), [(None, "layer"), ("layer", "layer"), ("group", "group")])
def test_baselines_have_one_width_for_each_layer_unless_groups_are_asked_for(
    asked: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[AllocationOptions] = []

    def make_plan(_: Any, options: AllocationOptions, *__: Any, **___: Any) -> tuple[str, None]:
        seen.append(options)
        return "plan", None

    monkeypatch.setattr(search, "make_plan", make_plan)
    own = {} if asked is None else {"granularity": asked}
    recipe = Recipe.build({"model": {"name": "tiny"}, "allocation": own})
    frontend: Any = SimpleNamespace(round=lambda plan, *_, **__: plan)
    made = search.Search(frontend, None, recipe, stages_of(recipe, target_here("auto")), NOT_KEPT, Clock(NO_PROGRESS))  # type: ignore[arg-type]
    assert made.baseline(SimpleNamespace(sensitivities=None), "lampq") == "plan"  # type: ignore[arg-type, comparison-overlap]
    assert (seen[0].metric, seen[0].granularity) == ("lampq", expected)
