"""`Doctor` decides for all ranks at once, whatever one of them sees or suffers (P6, P7)."""

from __future__ import annotations

import pytest

from distributed.compare import unlike
from distributed.doctors import DUE, STEPS
from distributed.launch import Outcome, launch

pytestmark = pytest.mark.multiprocess


@pytest.fixture
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return launch("doctors", tmp_path_factory)


def test_a_healthy_run_ends_with_one_verdict_and_one_report(outcome: Outcome) -> None:
    first, second = outcome.of("healthy")
    assert not unlike(first["records"], second["records"])
    assert not unlike(first["findings"], second["findings"])
    assert first["records"][-1]["step"] == STEPS - 1
    assert len(list((outcome.folder / "healthy-2").rglob("report.html"))) == 1
    assert "lightning_diag: " in (outcome.folder / "0.log").read_text()
    assert "lightning_diag: " not in (outcome.folder / "1.log").read_text()


@pytest.mark.parametrize("scenario", ["poisoned", "mute", "alone"])
def test_both_ranks_stop_at_the_step_of_the_finding(outcome: Outcome, scenario: str) -> None:
    for result in outcome.of(scenario):
        assert result["records"][-1]["step"] == DUE
        assert result["batches"] == DUE + 1


def test_both_ranks_find_what_one_of_them_computes(outcome: Outcome) -> None:
    first, second = outcome.of("poisoned")
    assert "non-finite" in {finding["code"] for finding in first["findings"]}
    assert not unlike(first["findings"], second["findings"])


def test_a_terminal_that_fails_costs_one_warning_on_one_rank(outcome: Outcome) -> None:
    first, second = outcome.of("mute")
    assert len(first["warnings"]) == 1
    assert "nobody listens" in first["warnings"][0]
    assert second["warnings"] == []
