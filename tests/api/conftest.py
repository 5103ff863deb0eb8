"""The run of the main job that the tests of the command line share."""

from __future__ import annotations

from tests.cli.conftest import digits_run

__all__ = ["digits_run"]
