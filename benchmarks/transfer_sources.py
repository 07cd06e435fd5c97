"""Where transfer helps and where it hurts, on handwritten digits: a table over seeds.

A small convolutional net learns to tell the digits 5 to 9 apart from a few labelled pictures, each
at a random place of a larger frame, after it has learned something else: to tell 0 to 4 apart, to
say how far a picture is turned, to draw pictures again (an autoencoder), or noise by heart.
`compare_transfer` compares it with training from scratch; `LayerFreezing` thaws it from the top
down. Each seed has its own labelled pictures, its own test pictures and its own pretraining.

    python benchmarks/transfer_sources.py [--seeds 10] [--sources noise] [--json f] [--figure f.png]
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_diag import LayerFreezing
from lightning_diag.figures.transfer import transfer_figure
from lightning_diag.transfer.compare import TUNING_SEEDS, compare_transfer
from lightning_diag.transfer.comparison import TransferComparison
from lightning_diag.transfer.verdict import Difference, differences, signed

SHOTS = (2, 10, 50)
"""Labelled pictures of each class."""
STEPS, BATCH, LR, FACTORS = 60, 25, 3e-3, (0.3, 1.0, 3.0)
STAGES: Any = {0: "head", 15: "backbone.2", 25: "backbone.1", 35: "backbone.0"}
"""From which step on each layer trains."""
SOURCE_STEPS, SOURCE_BATCH, SOURCE_LR = 600, 64, 1e-3
HELD_OUT = 50
"""Test pictures of each class."""
FRAME = 12
"""Pixels to each side of the frame; a digit has 8."""
Step = Callable[[nn.Module, nn.Module], Tensor]


def backbone() -> nn.Sequential:
    """Two convolutions and a dense layer: 64 features."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        nn.Sequential(nn.Linear(32 * 9, 64), nn.ReLU()),
    )


class Classifier(pl.LightningModule):
    """Tells five digits apart."""

    def __init__(self, lr: float = LR) -> None:
        super().__init__()
        self.lr = lr
        self.backbone = backbone()
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return five logits a picture."""
        logits: Tensor = self.head(self.backbone(x))
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the cross-entropy."""
        return functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the share of pictures that are told right."""
        self.log("accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, over all; what is frozen gets no gradient."""
        return torch.optim.Adam(self.parameters(), self.lr)


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """Return 1,797 pictures of 8 × 8, from 0 to 1, and what they show."""
    found = load_digits()
    return torch.tensor(found.images / 16).float()[:, None], torch.tensor(found.target)


def placed(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Put each picture somewhere into a larger frame, and standardise it."""
    frames = torch.zeros(len(x), 1, FRAME, FRAME)
    room = FRAME - x.shape[-1] + 1
    places = torch.randint(room * room, (len(x),), generator=generator)
    for place in range(room * room):
        here = places == place
        row, column = divmod(place, room)
        frames[here, :, row : row + x.shape[-1], column : column + x.shape[-1]] = x[here]
    return (frames - 0.2) / 0.35


@functools.cache
def split(seed: int) -> tuple[Tensor, Tensor]:
    """Return the indices of 5 to 9 that may be learned from, and those that are held out."""
    _, y = digits()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    pools = [order[y[order] == digit] for digit in range(5, 10)]
    held = torch.cat([pool[:HELD_OUT] for pool in pools])
    return torch.cat([pool[HELD_OUT:] for pool in pools]), held


def labelled(shots: int, seed: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Return a few labelled pictures of each class, and the held-out ones."""
    x, y = digits()
    pool, held = split(seed)
    few = torch.cat([pool[y[pool] == digit][:shots] for digit in range(5, 10)])
    generator = torch.Generator().manual_seed(seed)
    train = TensorDataset(placed(x[few], generator), y[few] - 5)
    test = TensorDataset(placed(x[held], generator), y[held] - 5)
    return DataLoader(train, min(BATCH, len(few)), shuffle=True), DataLoader(test, len(held))


def drawn(x: Tensor) -> Tensor:
    """Return the indices of a batch."""
    return torch.randint(len(x), (SOURCE_BATCH,))


def unlabelled(seed: int) -> Tensor:
    """Return all pictures but those that are held out."""
    x, y = digits()
    return torch.cat([x[y < 5], x[split(seed)[0]]])


def other_digits(seed: int) -> tuple[nn.Module, Step]:
    """Tell 0 to 4 apart."""
    x, y = digits()
    x, y = x[y < 5], y[y < 5]

    def loss(net: nn.Module, head: nn.Module) -> Tensor:
        i = drawn(x)
        return functional.cross_entropy(head(net(placed(x[i]))), y[i])

    return nn.Linear(64, 5), loss


def rotations(seed: int) -> tuple[nn.Module, Step]:
    """Say by how many quarters a picture is turned: labels that cost nothing."""
    x = unlabelled(seed)
    turned = torch.cat([torch.rot90(x, k, (2, 3)) for k in range(4)])
    quarters = torch.arange(4).repeat_interleave(len(x))

    def loss(net: nn.Module, head: nn.Module) -> Tensor:
        i = drawn(turned)
        return functional.cross_entropy(head(net(placed(turned[i]))), quarters[i])

    return nn.Linear(64, 4), loss


def autoencoder(seed: int) -> tuple[nn.Module, Step]:
    """Draw pictures again from their 64 features."""
    x = unlabelled(seed)

    def loss(net: nn.Module, head: nn.Module) -> Tensor:
        frames = placed(x[drawn(x)])
        return functional.mse_loss(head(net(frames)), frames.flatten(1))

    return nn.Linear(64, FRAME * FRAME), loss


def noise(seed: int) -> tuple[nn.Module, Step]:
    """Know 300 pictures of noise by heart: a task that has nothing to do with digits."""
    x, y = 4 * torch.randn(300, 1, FRAME, FRAME), torch.randint(5, (300,))

    def loss(net: nn.Module, head: nn.Module) -> Tensor:
        i = drawn(x)
        return functional.cross_entropy(head(net(x[i])), y[i])

    return nn.Linear(64, 5), loss


SOURCES: dict[str, Callable[[int], tuple[nn.Module, Step]]] = {
    "digits 0 to 4": other_digits,
    "rotations": rotations,
    "autoencoder": autoencoder,
    "noise": noise,
}


@functools.cache
def learned(source: str, seed: int) -> dict[str, Tensor]:
    """Train a backbone on a source task; return its weights."""
    torch.manual_seed(seed)
    net = backbone()
    head, loss = SOURCES[source](seed)
    optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()], SOURCE_LR)
    for _ in range(SOURCE_STEPS):
        optimizer.zero_grad()
        loss(net, head).backward()
        optimizer.step()
    return net.state_dict()


def pretrained(source: str, seed: int) -> Classifier:
    """Return a classifier with a backbone that has learned something else, and a new head."""
    module = Classifier()
    module.backbone.load_state_dict(learned(source, seed))
    return module


def compared(source: str, shots: int, seeds: int) -> TransferComparison:
    """Compare a source with training from scratch."""
    return compare_transfer(
        functools.partial(pretrained, source),
        functools.partial(labelled, shots),
        head="head",
        metric="accuracy",
        steps=STEPS,
        seeds=seeds,
        lr_factors=FACTORS,
        accelerator="cpu",
    )


def thawed(source: str, shots: int, seed: int, factor: float) -> float:
    """Return the accuracy of a net that is thawed from the top down."""
    train, test = labelled(shots, seed)
    weights = learned(source, seed)
    torch.manual_seed(seed)
    module = Classifier(LR * factor)
    module.backbone.load_state_dict(weights)
    stages = LayerFreezing(STAGES, unit="step", verbose=False)
    options: Any = {
        "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False,
    }  # fmt: skip
    fit = pl.Trainer(max_steps=STEPS, limit_val_batches=0, callbacks=[stages], **options)
    fit.fit(module, train)
    (found,) = pl.Trainer(**options).validate(module, test, verbose=False)
    return float(found["accuracy"])


def thawed_by_seed(source: str, shots: int, seeds: int) -> list[float]:
    """Return it for each seed, at the learning rate that is best for three others."""
    others = range(seeds, seeds + TUNING_SEEDS)
    best = max(FACTORS, key=lambda f: sum(thawed(source, shots, seed, f) for seed in others))
    return [thawed(source, shots, seed, best) for seed in range(seeds)]


@dataclass(frozen=True)
class Row:
    """A source task, with so many labelled pictures."""

    source: str
    """Which."""
    shots: int
    """Labelled pictures of each class."""
    comparison: TransferComparison
    """What `compare_transfer` returned."""
    thawed: Difference
    """Of the net that is thawed from the top down."""


def measured(source: str, shots: int, seeds: int) -> Row:
    """Return a row."""
    found = compared(source, shots, seeds)
    scratch = found.arm("from-scratch").values
    stages = {"thawed": thawed_by_seed(source, shots, seeds)}
    return Row(source, shots, found, differences(stages, scratch, "max")[0])


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    columns = [
        "learned before", "pictures a class", "from scratch", "frozen", "fine-tuned", "thawed",
        "verdict", "probe of the frozen",
    ]  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", "|---|---:|---|---|---|---|---|---|"]
    for row in rows:
        scratch = row.comparison.arm("from-scratch")
        low, high = scratch.interval
        probe = row.comparison.probe
        cells = [
            row.source,
            str(row.shots),
            f"{scratch.mean:.3f} ({low:.3f} to {high:.3f})",
            *(cell(each, scratch.mean) for each in (*row.comparison.differences, row.thawed)),
            row.comparison.verdict.removeprefix("transfer "),
            "" if probe is None else f"{probe.accuracy:.2f} ({_to(probe.interval)})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _to(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:.2f} to {bounds[1]:.2f}"


def cell(difference: Difference, scratch: float) -> str:
    """Return a mean, and how it differs from that of training from scratch."""
    low, high = difference.interval
    return f"{scratch + difference.mean:.3f}: {signed(difference.mean)} ({low:+.3f} to {high:+.3f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="of each (10)")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--json", type=Path, help="where to write all numbers")
    parser.add_argument("--figure", type=Path, help="where to draw a comparison, and no more")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    for namespace in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(namespace).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    if arguments.figure is not None:
        figure = transfer_figure(compared("digits 0 to 4", 2, arguments.seeds))
        figure.savefig(arguments.figure, dpi=120, metadata={"Software": None})
        return
    rows = []
    for source in arguments.sources:
        for shots in SHOTS:
            rows.append(measured(source, shots, arguments.seeds))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
            for finding in rows[-1].comparison.findings:
                print(f"  {finding.code}: {finding.message}", flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    print(f"\n{table(rows)}")


if __name__ == "__main__":
    main()
