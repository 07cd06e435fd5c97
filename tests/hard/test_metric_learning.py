"""The example of metric learning: what it says of hard negatives, and of semi-hard ones (H7)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import lightning_diag
from lightning_diag import Doctor

ROOT = Path(__file__).resolve().parent.parent.parent
HOME = Path(lightning_diag.__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_example_shows_the_collapse_and_its_cure(tmp_path: Path) -> None:
    pytest.importorskip("pytorch_metric_learning")
    result = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "metric_learning.py")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(HOME), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    hard, semi_hard = result.stdout.split("Negatives: ")[1:]
    assert "Findings: embedding-collapse\n" in hard
    assert "Findings: none\n" in semi_hard
    cosines, recalls = [
        [float(re.findall(pattern, part)[0]) for part in (hard, semi_hard)]
        for pattern in (r"cosine of two digits (-?[\d.]+)", r"recall ([\d.]+)%")
    ]
    assert cosines[0] > 0.99
    assert cosines[1] < 0.2
    assert recalls[0] < recalls[1] - 5


class Sphere(pl.LightningModule):
    """Puts three classes on the unit sphere, by a loss that is written out by hand."""

    def __init__(self, *, semi_hard: bool) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        self.semi_hard = semi_hard

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = functional.normalize(self.net(batch[0])), batch[1]
        distance = torch.cdist(x, x)
        is_same = y[:, None] == y
        gap = distance[:, None, :] - distance[:, :, None]  # negative less positive
        is_triplet = is_same[:, :, None] & ~is_same[:, None, :]
        chosen = is_triplet & ((gap > 0) if self.semi_hard else (gap <= 0)) & (gap < 0.2)
        return (0.2 - gap[chosen]).sum() / chosen.sum().clamp(min=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


@pytest.mark.parametrize("semi_hard", [False, True])
def test_doctor_sees_the_collapse_of_any_loss_that_normalises(semi_hard: bool) -> None:
    """Nothing of torch's own losses is called."""
    x = torch.randn(64, 8)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    doctor = Doctor(every_n_steps=1, max_overhead=1e9, startup_seconds=1e9)
    trainer = pl.Trainer(
        max_epochs=25, callbacks=[doctor], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    loader = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True)
    trainer.fit(Sphere(semi_hard=semi_hard), loader)
    found = {finding.code: finding for finding in doctor.findings}
    cosine = doctor.history.last("output/mean_cosine")["normalize#0"]
    if semi_hard:
        assert "embedding-collapse" not in found
        assert cosine < 0.5
    else:
        assert found["embedding-collapse"].places == ("normalize#0",)
        assert cosine > 0.99
