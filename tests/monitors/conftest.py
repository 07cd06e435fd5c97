"""Tests of monitors ask the garbage collector what is left: it should not look far."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def _little_to_collect() -> None:
    """Set aside what earlier tests have left for good."""
    gc.collect()
    gc.freeze()
