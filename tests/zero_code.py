"""What tests of `LIGHTNING_DIAG=1` share: a script, a module, a trainer's options."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from lightning_diag import Doctor

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "max_steps": 4,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
}
SCRIPT = """
import sys, torch
from {namespace} import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    def training_step(self, batch, batch_idx):
        x, y = batch
        return torch.nn.functional.cross_entropy(self.net(x), y)
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

if __name__ == "__main__":
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, **{options}).fit(
        Model(), DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=8))
"""


def entry_points(root: Path) -> str:
    """Return the entry points of `pyproject.toml`, as an installed package has them."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    found = re.findall(r'^\[project\.entry-points\."(.+)"\]\n(\w+) = "(.+)"$', text, re.MULTILINE)
    return "".join(f"[{group}]\n{name} = {target}\n" for group, name, target in found)


def doctors(trainer: Any) -> list[Doctor]:
    return [callback for callback in trainer.callbacks if isinstance(callback, Doctor)]


def module_of(lightning: ModuleType, **methods: Any) -> Any:
    """Return a module of one of the two Lightnings."""
    bases = (lightning.LightningModule,)

    def training_step(self: Any, batch: Any, batch_idx: int) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    own = {"training_step": training_step, "configure_optimizers": configure_optimizers}
    module = type("Module", bases, {**own, **methods})()
    module.net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    return module


def files() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


WRITTEN = ["lightning_diag/history.jsonl", "lightning_diag/report.html"]
