"""What W&B has after a run, read back from the file that it would send."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import wandb
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import WandbLogger

from lightning_diag import Doctor, History
from lightning_diag.loggers.names import MOST_SCALARS, SECTIONS
from lightning_diag.loggers.wandb import MAP_TABLE, STEP
from lightning_diag.report.verdict import judge
from loggers import reading
from loggers.fits import STEPS, doctor, fit

LOSS = "Overview/loss_train"


@pytest.fixture(autouse=True)
def _ended() -> Iterator[None]:
    """Leave no run and no process of W&B behind."""
    yield
    wandb.finish()
    wandb.teardown()


def logger(folder: Path, **options: Any) -> WandbLogger:
    return WandbLogger(save_dir=folder, project="p", offline=True, **options)


def written(logger: WandbLogger, folder: Path) -> Path:
    """End the run and return its file."""
    logger.experiment.finish()
    wandb.teardown()
    return reading.run_file(folder)


class Shown:
    """A run of a module that learns too fast, as W&B has it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.doctor = doctor(dirpath=str(folder))
        log = logger(folder, tags=["mine"])
        fit(self.doctor, logger=log)
        self.id = log.experiment.id
        self.path = written(log, folder)
        self.rows = reading.rows(self.path)
        self.names = {key for row in self.rows for key in row}

    def table(self, name: str) -> dict[str, Any]:
        """Return the newest table of that name."""
        newest = [row for row in self.rows if f"{name}/path" in row][-1]
        found: dict[str, Any] = json.loads(
            (self.path.parent / "files" / newest[f"{name}/path"]).read_text()
        )
        return found


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        return Shown(tmp_path_factory.mktemp("wandb"))


def test_each_watched_step_is_one_row_at_the_trainers_step(shown: Shown) -> None:
    """P11: the steps of Lightning's own metrics, whatever W&B counts by itself."""
    own = [row[STEP] for row in shown.rows if "loss" in row]
    assert [row[STEP] for row in shown.rows if LOSS in row] == own == list(range(STEPS))
    assert all(STEP in row for row in shown.rows)


def test_the_numbers_are_those_of_the_history(shown: Shown) -> None:
    norms = [row["Gradients/total_norm"] for row in shown.rows if "Gradients/total_norm" in row]
    known = shown.doctor.history.series("gradient/total_norm").values
    assert norms == pytest.approx(list(known), rel=1e-5)


def test_every_panel_has_the_trainers_step_on_its_x_axis(shown: Shown) -> None:
    axes = reading.axes(shown.path)
    assert {axes[f"{section}/*"] for section in SECTIONS} == {STEP}


def test_scalars_are_few_and_in_sections_with_one_slash(shown: Shown) -> None:
    """P36; with one slash, grouping by the first prefix and by the last is the same."""
    sections = f"({'|'.join(SECTIONS)})"
    scalars = {
        name for row in shown.rows for name, value in row.items()
        if re.fullmatch(f"{sections}/[^/]+", name) and isinstance(value, float | int)
    }  # fmt: skip
    assert 10 < len(scalars) <= MOST_SCALARS
    assert {name.partition("/")[0] for name in scalars} == set(SECTIONS) - {"Findings"}
    assert not any(name.startswith("diag/") for name in shown.names)


def test_what_was_not_observed_is_in_no_row(shown: Shown) -> None:
    values = [value for row in shown.rows for value in row.values()]
    assert not any(isinstance(value, float) and value != value for value in values)  # noqa: PLR0124


def test_histograms_are_those_of_w_and_b(shown: Shown) -> None:
    first = next(row for row in shown.rows if "Activations/histogram_first/_type" in row)
    assert first["Activations/histogram_first/_type"] == "histogram"
    counts, edges = (first[f"Activations/histogram_first/{key}"] for key in ("values", "bins"))
    assert len(edges) == len(counts) + 1
    assert sum(counts) > 0


def test_heat_maps_are_pictures_in_their_sections(shown: Shown) -> None:
    for name in ("Gradients/by_layer", "Updates/by_weight", "Dead units/by_layer"):
        (*_, row) = (row for row in shown.rows if f"{name}/_type" in row)
        assert row[f"{name}/_type"] == "image-file"
        assert row[STEP] == STEPS - 1
        assert (shown.path.parent / "files" / row[f"{name}/path"]).stat().st_size > 0


def test_the_numbers_behind_the_heat_maps_are_one_table(shown: Shown) -> None:
    table = shown.table(MAP_TABLE)
    assert table["columns"] == ["metric", "place", "step", "value"]
    assert len(table["data"]) <= 10_000
    found = {step: v for m, place, step, v in table["data"]
             if (m, place) == ("update/ratio", "net.first.weight")}  # fmt: skip
    series = shown.doctor.history.series("update/ratio", "net.first.weight")
    assert found == pytest.approx(dict(zip(series.steps, series.values, strict=True)))


def test_every_layer_and_finding_is_a_row_of_a_table(shown: Shown) -> None:
    assert "net.first.weight" in [row[0] for row in shown.table("Overview/layers")["data"]]
    codes = [row[0] for row in shown.table("Findings/findings")["data"]]
    assert codes == [f.code for f in judge(shown.doctor.findings, History()).numbered()]
    assert len(codes) > 1


def test_the_worst_examples_are_a_table(shown: Shown) -> None:
    """W13: the worst first."""
    table = shown.table("Data/worst_examples")
    losses = [row[table["columns"].index("loss")] for row in table["data"]]
    assert {"loss", "target", "prediction"} <= set(table["columns"])
    assert losses == sorted(losses, reverse=True)


def test_each_finding_alerts_once(shown: Shown) -> None:
    alerts = Counter(title.split(" since ")[0] for title, _, _ in reading.alerts(shown.path))
    assert set(alerts) >= {finding.code for finding in shown.doctor.findings}
    assert set(alerts.values()) == {1}
    assert {level for *_, level in reading.alerts(shown.path)} <= {"INFO", "WARN", "ERROR"}


def test_the_verdict_is_in_the_summary_and_among_the_tags(shown: Shown) -> None:
    verdict = judge(shown.doctor.findings, shown.doctor.history)
    assert reading.summary(shown.path)["diag/verdict"] == verdict.sentence
    causes = [f"diag: {cause.finding.code}" for cause in verdict.causes if cause.severity]
    assert set(reading.tags(shown.path)) == {"mine", *causes}


def test_the_report_is_an_artifact_and_a_panel(shown: Shown) -> None:
    (report,) = [a for a in reading.artifacts(shown.path) if a.type == "diag-report"]
    assert report.name == f"diag-report-{shown.id}"
    assert [content.path for content in report.manifest.contents] == ["report.html"]
    (row,) = [row for row in shown.rows if "Overview/report/path" in row]
    page = (shown.path.parent / "files" / row["Overview/report/path"]).read_bytes()
    assert page == (shown.folder / "lightning_diag" / "report.html").read_bytes()


def test_a_run_of_the_users_own_gets_the_same_axes(tmp_path: Path) -> None:
    """Lightning sets up only the runs that it has begun."""
    wandb.init(project="p", dir=tmp_path, mode="offline")
    with pytest.warns(UserWarning, match="already in progress"):
        fit(logger=WandbLogger(), max_epochs=1)
    wandb.finish()
    wandb.teardown()
    axes = reading.axes(reading.run_file(tmp_path))
    assert axes["Gradients/*"] == axes["Dead units/*"] == STEP


def test_a_prefix_of_the_logger_holds_for_us_too(tmp_path: Path) -> None:
    log = logger(tmp_path, prefix="student")
    fit(logger=log, max_epochs=1)
    path = written(log, tmp_path)
    names = {key for row in reading.rows(path) for key in row}
    assert f"student-{LOSS}" in names
    assert LOSS not in names
    assert reading.axes(path)["student-Gradients/*"] == STEP


def test_several_fits_in_one_process_all_reach_their_run(tmp_path: Path) -> None:
    log = logger(tmp_path)
    fit(logger=log, max_epochs=1)
    fit(logger=log, max_epochs=2)
    rows = reading.rows(written(log, tmp_path))
    steps = [row[STEP] for row in rows if LOSS in row]
    assert steps == [*range(6), *range(12)]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_resumed_run_goes_on_without_gaps_or_doubles(tmp_path: Path) -> None:
    """And what has alerted before does not alert again."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    saving = ModelCheckpoint(tmp_path / "kept", "saved")
    log = logger(first)
    fit(doctor(dirpath=str(first)), saving, logger=log, max_epochs=2, enable_checkpointing=True)
    before = written(log, first)
    again = logger(second, id=log.version, resume="allow")
    checkpoint = str(tmp_path / "kept" / "saved.ckpt")
    fit(doctor(dirpath=str(first)), logger=again, ckpt=checkpoint)
    after = written(again, second)
    steps = [row[STEP] for path in (before, after) for row in reading.rows(path) if LOSS in row]
    assert steps == list(range(STEPS))
    told = [{title.split(" since ")[0] for title, *_ in reading.alerts(p)} for p in (before, after)]
    assert told[0]
    assert not told[0] & told[1]


def test_a_run_that_fails_shows_what_it_has(tmp_path: Path) -> None:
    class Fails(pl.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 9:
                raise KeyError("the user's own")

    log = logger(tmp_path)
    with pytest.raises(KeyError, match="own"):
        fit(Fails(), logger=log)
    path = written(log, tmp_path)
    rows = reading.rows(path)
    assert [row[STEP] for row in rows if LOSS in row] == list(range(9))
    assert any("Overview/layers/path" in row for row in rows)
    assert any("Overview/report/path" in row for row in rows)
    assert "diag/verdict" in reading.summary(path)


def test_a_healthy_run_is_tagged_as_one(tmp_path: Path) -> None:
    log = logger(tmp_path)
    fit(Doctor(every_n_steps=1, rules=[]), logger=log, max_epochs=1)
    path = written(log, tmp_path)
    assert reading.tags(path) == ["diag: healthy"]
    assert reading.alerts(path) == []


def test_disabled_means_nothing_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    watched = doctor()
    fit(watched, logger=WandbLogger(save_dir=tmp_path))
    assert len(watched.history) == STEPS
    assert not list(tmp_path.rglob("*.wandb"))
    assert not list(tmp_path.rglob("media"))
