"""One rank writes, once; a run that goes on loses no step and doubles none (P6, P40)."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from distributed.compare import differences, unlike
from distributed.files import BATCHES, SAVED, WHOLE
from distributed.launch import Outcome, launch
from distributed.training import records
from lightning_diag import History

pytestmark = pytest.mark.multiprocess

RESUMED = ["resumed", "retaken"]


@pytest.fixture
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return launch("files", tmp_path_factory)


def _histories(outcome: Outcome, scenario: str) -> list[Path]:
    return list((outcome.folder / f"{scenario}-2").rglob("history*.jsonl*"))


@pytest.mark.parametrize("scenario", ["logged", "unlogged", *RESUMED, "unbroken"])
def test_there_is_one_history_file_and_the_first_rank_wrote_it(
    outcome: Outcome, scenario: str
) -> None:
    first, second = outcome.of(scenario)
    assert second["folder"] is None
    assert _histories(outcome, scenario) == [Path(first["folder"]) / "history.jsonl"]


@pytest.mark.parametrize("scenario", ["logged", "unlogged", *RESUMED, "unbroken"])
def test_the_file_holds_what_both_ranks_have_in_memory(outcome: Outcome, scenario: str) -> None:
    first, second = outcome.of(scenario)
    assert not unlike(first["records"], second["records"])
    written = records(History.open(_histories(outcome, scenario)[0]))
    # the file keeps six digits
    assert not differences(written, first["records"], rtol=1e-5)


def test_without_a_logger_the_history_goes_to_the_root_folder(outcome: Outcome) -> None:
    root = outcome.folder / "unlogged-2" / "root"
    assert _histories(outcome, "unlogged") == [root / "lightning_diag" / "history.jsonl"]


def test_a_table_of_metrics_is_written_once_with_our_columns(outcome: Outcome) -> None:
    tables = list((outcome.folder / "logged-2").rglob("metrics.csv"))
    assert len(tables) == 1
    with tables[0].open(newline="") as file:
        rows = list(csv.DictReader(file))
    norms = [row["diag/gradient/total_norm"] for row in rows]
    steps = [record["step"] for record in outcome.of("logged")[0]["records"]]
    assert [int(row["step"]) for row, norm in zip(rows, norms, strict=True) if norm] == steps


def test_there_is_one_wandb_run(outcome: Outcome) -> None:
    runs = list((outcome.folder / "logged-2" / "wandb").glob("offline-run-*"))
    assert len(runs) == 1
    assert b"Gradients/total_norm" in next(runs[0].glob("*.wandb")).read_bytes()


def test_only_the_first_rank_touches_a_logger(outcome: Outcome) -> None:
    first, second = outcome.of("logged")
    assert first["scalars"] == len(first["records"])
    assert second["scalars"] == 0
    for result in (first, second):
        assert result["opened"] == result["opened by the trainer"]


@pytest.mark.parametrize("scenario", RESUMED)
def test_a_run_that_goes_on_from_a_checkpoint_takes_every_step_once(
    outcome: Outcome, scenario: str
) -> None:
    for result in outcome.of(scenario):
        steps = [record["step"] for record in result["records"]]
        assert steps == sorted(set(steps))
        assert SAVED in steps
        assert steps[-1] == WHOLE - 1
        assert [record["optimizer_steps"] for record in result["records"]] == [
            [step + 1] for step in steps
        ]
        assert result["warnings"] == []


@pytest.mark.parametrize("scenario", RESUMED)
def test_losses_of_a_run_that_goes_on_are_those_that_were_joined(
    outcome: Outcome, scenario: str
) -> None:
    resumed, unbroken = (outcome.of(name)[0] for name in (scenario, "unbroken"))
    assert unbroken["losses"] == list(range(WHOLE))
    last_record = max(r["step"] for r in unbroken["records"] if r["step"] < SAVED)
    # those that no record held when the run broke off are absent
    between = set(range(last_record + 1, SAVED))
    assert between
    assert set(range(WHOLE)) - set(resumed["losses"]) <= between
    assert len(resumed["losses"]) == len(set(resumed["losses"]))


@pytest.mark.parametrize("scenario", RESUMED)
def test_records_before_the_checkpoint_are_those_of_the_run_that_broke_off(
    outcome: Outcome, scenario: str
) -> None:
    resumed, unbroken = (
        [record for record in outcome.of(name)[0]["records"] if record["step"] < SAVED]
        for name in (scenario, "unbroken")
    )
    assert len(unbroken) < BATCHES
    assert not differences(resumed, unbroken, rtol=1e-5)
