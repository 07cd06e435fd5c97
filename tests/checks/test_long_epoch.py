"""An epoch of days is found before it begins."""

from __future__ import annotations

from typing import Any

import pytest
from runs import trainer

from checks.sick_cost import days
from checks.subjects import HEALTHY, made
from lightning_diag import Preflight
from lightning_diag.before_training import subject
from lightning_diag.checks import run
from lightning_diag.checks.footprint import Footprint
from lightning_diag.checks.long_epoch import LongEpoch
from lightning_diag.checks.pace import Estimate


def told(estimate: Estimate, hours: float, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Judge an estimate."""
    monkeypatch.setattr("lightning_diag.checks.long_epoch.estimate_of", lambda subject: estimate)
    return run([LongEpoch(hours)], subject(*made(HEALTHY["mlp"]))).findings


def test_an_epoch_of_days_is_found_by_its_fastest_step(monkeypatch: pytest.MonkeyPatch) -> None:
    footprint = Footprint(0, 0, 0, 0)
    estimate = Estimate(9.0, 2.0, 3, 3600, footprint, "cpu")
    (found,) = told(estimate, 2.0, monkeypatch)
    assert (found.severity, found.evidence.value) == ("note", 2.0)
    assert "2 h at least: 3,600 batches of 2 s" in found.message
    assert told(estimate, 2.001, monkeypatch) == []


def test_with_a_trainer_its_limit_of_batches_counts_and_days_are_suspect() -> None:
    module, data = days()
    watcher = Preflight(["long-epoch"])
    trainer(watcher, max_steps=1).fit(module, data)
    assert [each.severity for each in watcher.findings] == ["suspect"]
    trainer(watcher, max_steps=1, limit_train_batches=3).fit(*days())
    assert watcher.findings == []


def test_the_length_of_a_stream_is_not_known() -> None:
    (unknown,) = run([LongEpoch()], subject(*made(HEALTHY["stream"]))).not_observed
    assert unknown.reason == "the training data do not know their length"
