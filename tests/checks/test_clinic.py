"""The clinic's healthy runs are no false alarms before they begin either (P20)."""

from __future__ import annotations

import random

import pytest
from clinic import healthy, healthy_more
from clinic.cases import HEALTHS, Health
from clinic.train import loaders, prepare, quiet

from lightning_diag.before_training import preflight_outcome

pytestmark = pytest.mark.slow
_ = healthy, healthy_more  # importing them fills the list
SEEDS = (7, 1007)


@pytest.mark.parametrize("kind", HEALTHS, ids=lambda kind: kind.name)
def test_a_healthy_run_is_no_alarm_before_it_begins(kind: Health) -> None:
    """Notes are good to know, and may be."""
    quiet()
    for seed in SEEDS:
        recipe = kind.draw(random.Random(seed))
        module, data = prepare(recipe)
        outcome = preflight_outcome(module, loaders(recipe, data), level="full")
        alarms = [f"{f.code}: {f.message}" for f in outcome.findings if f.severity != "note"]
        assert alarms == []
        assert [each for each in outcome.not_observed if "the check failed" in each.reason] == []
