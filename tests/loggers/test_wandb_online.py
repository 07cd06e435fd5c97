"""What arrives at W&B's server, here one of our own on this machine, from W&B's real client."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import warm

import lightning_diag
from lightning_diag.loggers.wandb import STEP
from loggers import reading
from loggers.fits import STEPS
from loggers.stub import Server, environment, serving

pytestmark = pytest.mark.multiprocess

LOSS = "Overview/loss_train"


def run(scenario: str, folder: Path, **variables: str) -> str:
    """Run the script in a folder, in bounded time; return what it printed."""
    package = Path(lightning_diag.__file__).resolve().parent.parent
    tests = Path(__file__).resolve().parent.parent
    own = {"PYTHONPATH": f"{package}{os.pathsep}{tests}", "OMP_NUM_THREADS": "1", **variables}
    result = warm.run_python(
        ["-m", "loggers.script", *scenario.split()], folder, {**os.environ, **own}, strict=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server at which a whole run has arrived."""
    with serving() as server:
        run("online", tmp_path_factory.mktemp("online"), **environment(server))
        yield server


def test_every_row_arrives_once_at_its_step(server: Server) -> None:
    steps = [row[STEP] for row in server.rows() if LOSS in row]
    assert steps == [row[STEP] for row in server.rows() if "loss" in row] == list(range(STEPS))


def test_the_verdict_and_the_alerts_arrive(server: Server) -> None:
    (summary,) = server.summary.values()
    assert "learning-rate-too-high" in summary["diag/verdict"]
    titles = [alert["title"] for alert in server.variables("NotifyScriptableRunAlert")]
    codes = [title.split(" since ")[0] for title in titles]
    assert "learning-rate-too-high" in codes
    assert len(codes) == len(set(codes))


def test_the_tags_arrive(server: Server) -> None:
    tags = [bucket.get("tags") or [] for bucket in server.variables("UpsertBucket")]
    assert "diag: learning-rate-too-high" in tags[-1]


def test_tables_pictures_and_the_page_arrive(server: Server) -> None:
    files = "\n".join(server.files)
    for part in (
        "artifact/report.html",
        "artifact/Findings/findings.table.json",
        "media/table/Overview/layers",
        "media/table/Data/worst_examples",
        "media/images/Gradients/by_layer",
        "media/html/Overview/report",
    ):
        assert part in files
    assert b"<html" in server.files["artifact/report.html"]


def test_nothing_was_asked_that_the_server_does_not_know(server: Server) -> None:
    """A newer client may ask more: then the stand-in has to learn it."""
    assert server.unknown == []


def test_training_ends_while_the_network_is_gone_and_all_arrives_when_it_is_back(
    tmp_path: Path,
) -> None:
    """Tables and artifacts ask the server first: they wait for it once, and then no more."""
    with serving() as server:
        told = run("vanish", tmp_path, **environment(server))
        steps = [row[STEP] for row in server.rows() if LOSS in row]
    warned = told.partition("trained\n")[2]
    assert warned.count("did not answer within 1 s") == 1
    (history,) = tmp_path.rglob("history.jsonl")
    assert len(lightning_diag.History.open(history)) == STEPS
    assert steps == list(range(STEPS))


@pytest.mark.parametrize(
    "strategy",
    [
        "ddp_fork",
        "ddp_fork touched",
        # Lightning forks for it too
        pytest.param("ddp_notebook", marks=pytest.mark.slow),
        # these processes end like those that are forked
        pytest.param("ddp_spawn", marks=pytest.mark.slow),
    ],
)
def test_processes_that_the_trainer_starts_lose_nothing(strategy: str, tmp_path: Path) -> None:
    """Forked processes end without the handlers that W&B writes its runs in; one rank logs."""
    run(strategy, tmp_path, WANDB_MODE="offline")
    rows = reading.rows(reading.run_file(tmp_path))
    steps = [row[STEP] for row in rows if LOSS in row]
    assert steps == [row[STEP] for row in rows if "loss" in row] == list(range(STEPS))
    assert any("Overview/report/path" in row for row in rows)
