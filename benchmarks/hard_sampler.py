"""What it costs to draw by losses: an epoch's draws, and collecting the losses step by step.

    python benchmarks/hard_sampler.py [--samples 10000000 ...] [--rounds 7] [--json FILE]

Draws are timed from `iter` to the first index, on one thread, against torch's sampler. Training is
timed over whole epochs of a Trainer, bare and with the callback in turns. All times are processor
time; a cell is the least of the rounds, which other programs on the machine lengthen least.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from time import process_time
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Sampler, TensorDataset, WeightedRandomSampler

from lightning_diag import OHEMSampler, OHEMSampling

SAMPLES = (100_000, 1_000_000, 10_000_000, (1 << 24) + 1)
KINDS: dict[str, dict[str, Any]] = {
    "OHEMSampler()": {},
    "OHEMSampler(by='loss')": {"by": "loss"},
    "OHEMSampler(replacement=False, size=0.5)": {"replacement": False, "size": 0.5},
    "OHEMSampler(hardest=0.25), hard epoch": {"hardest": 0.25, "mixed_epochs": 1},
}
SHUFFLE, TORCH = "OHEMSampler(), first epoch: a shuffle", "torch WeightedRandomSampler"


def losses(samples: int) -> Tensor:
    """Return losses as a model in training has them: most are low."""
    return -torch.rand(samples, generator=torch.Generator().manual_seed(0)).log()


def samplers(samples: int) -> dict[str, Callable[[], Sampler[int]]]:
    """Return what makes each sampler, with an epoch behind it."""

    def ours(options: dict[str, Any], epoch: int) -> OHEMSampler:
        sampler = OHEMSampler(samples, **options)
        sampler.losses.copy_(losses(samples))
        sampler.set_epoch(epoch)
        return sampler

    found: dict[str, Callable[[], Sampler[int]]] = {
        # epoch 2 is a hard one where there are any
        name: lambda options=options: ours(options, 2)  # type: ignore[misc]
        for name, options in KINDS.items()
    }
    found[SHUFFLE] = lambda: ours({}, 0)
    weight = losses(samples)
    found[TORCH] = lambda: WeightedRandomSampler(weight.double(), samples)  # type: ignore[arg-type]
    return found


def seconds_to_draw(make: Callable[[], Iterable[int]], rounds: int) -> float | str:
    """Return the seconds until the first index, or why there is none."""
    sampler, found = make(), []
    for _ in range(rounds + 1):
        began = process_time()
        try:
            next(iter(sampler))
        except RuntimeError as error:
            return f"fails: {str(error).splitlines()[0]}"
        found.append(process_time() - began)
    return min(found[1:])


class Net(pl.LightningModule):
    """A classifier of whatever its network takes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss."""
        out = self.network(batch[0])
        return functional.cross_entropy(out.flatten(0, -2), batch[1].flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return plain gradient descent."""
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def tasks() -> dict[str, tuple[Callable[[], nn.Module], DataLoader[Any]]]:
    """Return a network and data for vectors, for pictures and for text."""
    torch.manual_seed(0)
    x, pictures = torch.randn(12_800, 64), torch.randn(640, 3, 32, 32)
    text = torch.randint(0, 8_000, (160, 64))

    def mlp() -> nn.Module:
        layers = [nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(256, 10))

    def convolutions() -> nn.Module:
        found = nn.Sequential()
        for before, after in ((3, 32), (32, 64), (64, 64)):
            found.extend([nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()])
        return found.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)])

    def transformer() -> nn.Module:
        layer = nn.TransformerEncoderLayer(128, 4, 256, batch_first=True)
        stack = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        return nn.Sequential(nn.Embedding(8_000, 128), stack, nn.Linear(128, 8_000))

    def loader(x: Tensor, y: Tensor, batch: int) -> DataLoader[Any]:
        return DataLoader(TensorDataset(x, y), batch, shuffle=True)

    return {
        "MLP, 64 vectors": (mlp, loader(x, torch.randint(0, 10, (12_800,)), 64)),
        "CNN, 64 pictures": (convolutions, loader(pictures, torch.randint(0, 10, (640,)), 64)),
        "transformer, 8 × 64 tokens of 8,000": (transformer, loader(text, text, 8)),
    }


class Stopwatch(pl.Callback):
    """Times epochs, from one start to the next."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Take the time."""
        self.stamps.append(process_time())

    on_train_end = on_train_epoch_start

    def seconds(self) -> list[float]:
        """Return the seconds of each epoch, the first one left out."""
        return [b - a for a, b in pairwise(self.stamps)][1:]


def step_seconds(network: nn.Module, loader: DataLoader[Any], callbacks: list[Any]) -> list[float]:
    """Return the seconds of a step, epoch by epoch."""
    watch = Stopwatch()
    pl.Trainer(
        accelerator="cpu",
        max_epochs=5,
        callbacks=[watch, *callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(Net(network), loader)
    return [seconds / len(loader) for seconds in watch.seconds()]


def training(rounds: int) -> dict[str, dict[str, float]]:
    """Return, for each task, milliseconds of a bare step and the ratio with the callback."""
    found = {}
    for name, (make, loader) in tasks().items():
        times: dict[int, list[float]] = {0: [], 1: []}
        for turn in range(2 * rounds):
            is_watched = (turn + turn // 2) % 2  # the order within a round changes
            torch.manual_seed(turn // 2)
            callbacks = [OHEMSampling()] if is_watched else []
            times[is_watched] += step_seconds(make(), loader, callbacks)
        bare, watched = min(times[0]), min(times[1])
        found[name] = {"bare_ms": 1e3 * bare, "ratio": watched / bare}
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, nargs="*", default=list(SAMPLES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    result: dict[str, Any] = {"draws": {}, "training": {}}
    for samples in options.samples:
        for name, make in samplers(samples).items():
            found = seconds_to_draw(make, options.rounds)
            result["draws"].setdefault(name, {})[samples] = found
            shown = found if isinstance(found, str) else f"{found:.3f} s"
            print(f"{samples:>12,}  {name:45}{shown}", flush=True)
    result["training"] = training(options.rounds)
    for task, numbers in result["training"].items():
        print(f"{task:40}bare step {numbers['bare_ms']:.2f} ms, × {numbers['ratio']:.3f}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
