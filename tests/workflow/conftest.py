"""Fixtures of other folders that these tests use as well."""

from tests.cli.conftest import digits_run

__all__ = ["digits_run"]
