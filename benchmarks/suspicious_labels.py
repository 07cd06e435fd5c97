"""How many of the labels that `WorstExamples(trends=True)` calls suspicious are wrong.

Wrong labels are planted in scikit-learn's 1,797 digits: a share of the labels becomes another
class, drawn evenly (``any``), or always the next one (``next``). A small fully connected network
and a convolutional one are trained with Adam on all of them. Told are, as means over seeds: labels
called suspicious; how many of these are planted (precision), with the lowest of any seed; how many
of the planted ones are called so (recall); the precision of the 32 that the report shows; and of as
many as were planted, in the order of the margins, and for comparison in the order of the last loss.
Seeds for which nothing is called suspicious are silent, and have no precision.

    python benchmarks/suspicious_labels.py [--seeds 5] [--first-seed 100]
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import warnings
from statistics import fmean
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_diag import WorstExamples

SHOWN = 32
SETTINGS: list[tuple[str, int, str, float]] = [
    *(("MLP", 10, "any", share) for share in (0.0, 0.02, 0.05, 0.1, 0.2)),
    *(("MLP", 30, "any", share) for share in (0.0, 0.02, 0.05, 0.1, 0.2)),
    *(("CNN", 10, "any", share) for share in (0.0, 0.02, 0.05, 0.1, 0.2)),
    *(("CNN", 30, "any", share) for share in (0.0, 0.02, 0.05, 0.1, 0.2)),
    *(("MLP", epochs, "any", share) for epochs in (3, 5, 200) for share in (0.02, 0.1)),
    *(("CNN", epochs, "any", 0.02) for epochs in (3, 5)),
    *(("MLP", 10, "next", share) for share in (0.05, 0.2, 0.4)),
    *(("CNN", 10, "next", share) for share in (0.05, 0.2, 0.4)),
]


class Digits(pl.LightningModule):
    """A network of ten classes."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.net = (
            nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
            if kind == "MLP"
            else nn.Sequential(
                nn.Unflatten(1, (1, 8, 8)),
                *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
                *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)),
            )
        )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return a cross-entropy."""
        x, y = batch
        return functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> Any:
        """Return Adam at its usual rate."""
        return torch.optim.Adam(self.parameters(), 1e-3)


class Result(NamedTuple):
    """What was found with one seed."""

    found: int
    right: int
    planted: int
    shown: float | None
    """None where nothing is suspicious."""
    by_margin: float
    by_loss: float


def planted(labels: Tensor, share: float, kind: str, seed: int) -> tuple[Tensor, set[int]]:
    """Return labels of which a share is wrong, and which."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    shift = torch.randint(1, 10, (len(chosen),), generator=generator) if kind == "any" else 1
    wrong = labels.clone()
    wrong[chosen] = (wrong[chosen] + shift) % 10
    return wrong, set(chosen.tolist())


def trained(network: str, epochs: int, kind: str, share: float, seed: int) -> Result:
    """Train once, and compare what is suspicious with what was planted."""
    digits = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32) / 16
    y, wrong = planted(torch.tensor(digits.target), share, kind, seed)
    torch.manual_seed(seed)
    monitor = WorstExamples(trends=True, pictures=False)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[monitor],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Digits(network), DataLoader(TensorDataset(x, y), 32, shuffle=True))
    assert monitor.courses is not None
    trends = monitor.courses.trends
    suspicious = trends.suspicious()
    by_margin = sorted(range(len(y)), key=lambda i: trends.course(i)["margin"])
    right = sum(i in wrong for i in suspicious)
    return Result(
        len(suspicious),
        right,
        len(wrong),
        _share(suspicious[:SHOWN], wrong) if suspicious else None,
        _share(by_margin[: len(wrong)], wrong),
        _share(trends.worst()[: len(wrong)], wrong),
    )


def _share(found: list[int], wrong: set[int]) -> float:
    return sum(i in wrong for i in found) / max(1, len(found))


def row(results: list[Result]) -> str:
    """Return the cells of a row."""
    found = f"{fmean(one.found for one in results):.0f}"
    if not results[0].planted:
        return f"0 | {found} | – | – | – | – | –"
    recall = fmean(one.right / one.planted for one in results)
    spoke = [one for one in results if one.found]
    precision = [one.right / one.found for one in spoke]
    silent = len(results) - len(spoke)
    told = f"{fmean(precision):.0%} ({min(precision):.0%})" if spoke else "–"
    shown = f"{fmean(one.shown or 0.0 for one in spoke):.0%}" if spoke else "–"
    cells = [
        f"{told}, {silent} silent" if spoke and silent else told,
        f"{recall:.0%}",
        shown,
        f"{fmean(one.by_margin for one in results):.0%}",
        f"{fmean(one.by_loss for one in results):.0%}",
    ]
    return f"{results[0].planted} | {found} | {' | '.join(cells)}"


def main() -> None:
    """Train and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="of each setting (5)")
    parser.add_argument("--first-seed", type=int, default=100, help="(100)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    print(
        "| network | epochs | wrong class | planted | suspicious | precision (lowest) | recall | "
        "of the 32 shown | by margin | by last loss |"
    )
    print("|---|--:|---|--:|--:|--:|--:|--:|--:|--:|")
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for network, epochs, kind, share in SETTINGS:
            results = [trained(network, epochs, kind, share, seed) for seed in seeds]
            print(f"| {network} | {epochs} | {kind} | {row(results)} |", flush=True)


if __name__ == "__main__":
    main()
