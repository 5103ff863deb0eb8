"""One width for each layer or groups of channels: which of them the budget allows, and what is said if neither fits."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lampq_onnx.allocation.fallback import layers_or_groups
from lampq_onnx.errors import LampqError, UsageError


def gives(value: str) -> Callable[[], str]:
    return lambda: value


def refuses(error: LampqError) -> Callable[[], str]:
    def refuse() -> str:
        raise error

    return refuse


def test_what_the_budget_allows_is_found() -> None:
    refusal = LampqError("too large")
    assert layers_or_groups(gives("l"), gives("g")) == ("l", "g")
    assert layers_or_groups(gives("l"), refuses(refusal)) == ("l",)
    assert layers_or_groups(refuses(refusal), gives("g")) == ("g",)


def test_the_refusal_of_whole_layers_is_said() -> None:
    with pytest.raises(LampqError, match="layers need 5 kB") as caught:
        layers_or_groups(refuses(LampqError("layers need 5 kB")), refuses(LampqError("groups need 9 kB")))
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "ways",
    [
        (refuses(UsageError("x")), gives("g")),
        (gives("l"), refuses(UsageError("x"))),
        (refuses(LampqError("too large")), refuses(UsageError("x"))),
    ],
)
def test_invalid_options_are_no_refusal(ways: tuple[Callable[[], str], Callable[[], str]]) -> None:
    with pytest.raises(UsageError):
        layers_or_groups(*ways)
