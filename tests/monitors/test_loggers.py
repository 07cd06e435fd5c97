"""Numbers reach any logger, at the trainer's step, once, and few of them (P13, P36, P39, P40)."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from loggers import reading
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from runs import Classifier, Net, all_monitors, data, trainer
from torch import Tensor, nn

from lightning_diag import Doctor, History
from lightning_diag.loggers.wandb import STEP


class Logged(Classifier):
    """Logs its loss as users do."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return and log the loss."""
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss, prog_bar=True)
        return loss


def wandb_rows(folder: Path) -> list[dict[str, Any]]:
    """Read back what an offline run has logged, row by row."""
    import wandb

    wandb.teardown()  # ends the process that writes the file
    return reading.rows(reading.run_file(folder))


def test_every_logger_gets_the_scalars_at_the_trainers_step(tmp_path: Path) -> None:
    """P11, P39: the same steps as Lightning's own metrics."""
    wandb_logger = WandbLogger(save_dir=tmp_path, offline=True)
    loggers = [CSVLogger("csv", version=0), TensorBoardLogger("tb", version=0), wandb_logger]
    fit = trainer(*all_monitors(), logger=loggers, max_epochs=3, accumulate_grad_batches=2)
    fit.fit(Logged(), data())
    wandb_logger.experiment.finish()
    folder = Path("csv/lightning_logs/version_0")
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    own = {int(row["step"]): row["loss"] for row in rows if row["loss"]}
    ours = {int(row["step"]): row for row in rows if row["diag/gradient/total_norm"]}
    assert list(ours) == list(own) == list(range(9))
    norms = History.open(folder / "lightning_diag").series("gradient/total_norm").values
    assert [float(row["diag/gradient/total_norm"]) for row in ours.values()] == pytest.approx(
        list(norms), rel=1e-5
    )
    seen = {
        row[STEP]: row["Gradients/total_norm"]
        for row in wandb_rows(tmp_path)
        if "Gradients/total_norm" in row
    }
    assert list(seen) == list(range(9))
    assert list(seen.values()) == pytest.approx(list(norms), rel=1e-5)
    tables = list(tmp_path.glob("wandb/offline-run-*/files/media/table/Overview/layers_*.json"))
    table = json.loads(max(tables, key=lambda path: "by_step" not in path.name).read_text())
    assert "net.first.weight" in [row[0] for row in table["data"]]


class Deep(nn.Sequential):
    """Many layers, many parameter groups."""

    def __init__(self) -> None:
        blocks = [nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Tanh()) for _ in range(40)]
        super().__init__(*blocks, nn.Linear(8, 3))


def test_at_most_twenty_scalars_whatever_the_size() -> None:
    """P36: and none of them in the progress bar."""

    def make(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD([{"params": [parameter]} for parameter in parameters], 0.1)

    for net in (Net(), Deep()):
        logger = CSVLogger(".")
        fit = trainer(*all_monitors(), logger=logger, max_epochs=2)
        fit.fit(Logged(net, make), data())
        assert not any("diag" in key for key in fit.progress_bar_metrics)
        with (Path(logger.log_dir) / "metrics.csv").open() as file:
            columns = next(csv.reader(file))
        ours = [column for column in columns if column not in ("epoch", "step", "loss")]
        assert all(column.startswith("diag/") for column in ours)
        assert 10 < len(ours) <= 20


def test_non_finite_neither_crashes_nor_hides_in_wandb(tmp_path: Path) -> None:
    """P13: a histogram of NaN ends runs elsewhere, or leaves it out without a word."""

    class Poisoned(Logged):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            if self.trainer.global_step >= 4:
                x = x * float("nan")
            return super().training_step((x, y), batch_idx)

    logger = WandbLogger(save_dir=tmp_path, offline=True)
    fit = trainer(*all_monitors(), logger=logger, max_epochs=3)
    fit.fit(Poisoned(), data())
    logger.experiment.finish()
    rows = wandb_rows(tmp_path)
    counts = [r["Activations/nonfinite_count"] for r in rows if "Activations/nonfinite_count" in r]
    assert counts[3] == 0
    assert counts[4] > 0
    assert counts[-1] == counts[4]
    assert any("Activations/histogram_first/_type" in row for row in rows)


@pytest.mark.parametrize("logger", [False, None], ids=["no logger", "the default one"])
def test_runs_without_a_logger_of_its_own(logger: bool | None) -> None:
    """P39: the history needs no logger."""
    trainer(*all_monitors(), logger=logger, max_epochs=1).fit(Logged(), data())
    found = sorted(Path().rglob("history.jsonl"))
    assert len(found) == 1
    assert len(History.open(found[0])) == 6


def test_fast_dev_run_leaves_no_file(tmp_path: Path) -> None:
    """Lightning promises as much."""
    trainer(Doctor(), fast_dev_run=True).fit(Logged(), data())
    assert list(tmp_path.iterdir()) == []


def test_absent_number_is_declared_once_and_then_left_out() -> None:
    """P39: tables that fix their columns on the first row know them all; NaN is not a value."""
    rows: list[dict[str, float]] = []

    class Keeps(CSVLogger):
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            rows.append(dict(metrics))

    trainer(*all_monitors(), logger=Keeps("."), max_epochs=1).fit(Classifier(), data())
    ours = [row for row in rows if any(key.startswith("diag/") for key in row)]
    assert "diag/loss/noise" in ours[0]
    assert math.isnan(ours[0]["diag/loss/noise"])
    assert not any(math.isnan(value) for row in ours[1:] for value in row.values())
