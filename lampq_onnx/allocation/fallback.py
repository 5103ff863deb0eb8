"""Two ways to meet a budget: one width for each layer, which needs less, and groups of channels."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from lampq_onnx.errors import LampqError, UsageError

Result = TypeVar("Result")

_log = logging.getLogger(__name__)


def layers_or_groups(layers: Callable[[], Result], groups: Callable[[], Result]) -> tuple[Result, ...]:
    """Find the results that the budget allows: both in this order, or the only one.

    Args:
        layers: finds the result with one width for each layer.
        groups: finds the result with groups of channels.

    Raises:
        UsageError: an option is invalid.
        LampqError: the budget allows neither; says what one width for each layer would need, which is less.
    """
    try:
        whole = layers()
    except UsageError:
        raise
    except LampqError as refusal:
        try:
            return (groups(),)
        except UsageError:
            raise
        except LampqError:
            raise refusal from None
    try:
        return whole, groups()
    except UsageError:
        raise
    except LampqError as refusal:
        _log.debug("the budgets do not allow groups of channels: %s", refusal)
        return (whole,)
