"""What an epoch takes with cached features, and what reading them from a file does.

A frozen network and one linear layer on top are trained on samples in memory, without and with
`FeatureCache`, in turns. Times are CPU time of one thread, so that others on the machine matter
little; an epoch with validation of a quarter of the samples, the first one left out. Pictures that
have to be decoded make the difference larger.

    python benchmarks/feature_cache.py [--rounds 3] [--epochs 5] [--samples 1024]

With `--formats`, instead: random batches of 64 rows from a file of each kind, in cold (just opened)
and warm maps. `safetensors` has to be installed for that.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from workloads import ResNet, Transformer

from lightning_diag import FeatureCache

BATCH = 64


class Pooled(nn.Module):
    """A transformer's hidden values, averaged over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Transformer(width=128, heads=4, layers=4, tokens=64)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, tokens) -> (batch, width)``."""
        net = self.net
        hidden: Tensor = net.norm(net.blocks(net.embedding(x) + net.position))
        return hidden.mean(1)


def resnet() -> nn.Module:
    """Return a ResNet without its last layer."""
    net = ResNet(widths=(16, 32, 64))
    net.head = nn.Identity()  # type: ignore[assignment]
    return net


KINDS: dict[str, tuple[Callable[[], nn.Module], int, Callable[[int], Tensor]]] = {
    "ResNet, 3 × 32 × 32": (resnet, 64, lambda n: torch.randn(n, 3, 32, 32)),
    "transformer, 64 tokens": (Pooled, 128, lambda n: torch.randint(256, (n, 64))),
}


class Classifier(pl.LightningModule):
    """A frozen network and one linear layer."""

    def __init__(self, make: Callable[[], nn.Module], width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = make().requires_grad_(requires_grad=False).eval()
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return ten scores."""
        out: Tensor = self.head(self.backbone(x))
        return out

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the cross-entropy."""
        loss = functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the cross-entropy."""
        self.log("val_loss", functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Train the head."""
        return torch.optim.SGD(self.head.parameters(), 0.05, momentum=0.9)


class Clock(pl.Callback):
    """CPU seconds from the start of each epoch to that of the next one."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        """Note the time."""
        self.starts.append(time.process_time())

    def on_train_end(self, *_: Any) -> None:
        """Note the last one's end."""
        self.starts.append(time.process_time())

    @property
    def seconds(self) -> list[float]:
        """Of each epoch but the first."""
        pairs = zip(self.starts[1:], self.starts[2:], strict=False)
        return [after - before for before, after in pairs]


def train(name: str, callbacks: list[Any], samples: int, epochs: int) -> tuple[Clock, Classifier]:
    """Train once."""
    make, width, draw = KINDS[name]
    module = Classifier(make, width)
    torch.manual_seed(1)
    data = TensorDataset(draw(samples), torch.randint(10, (samples,)))
    held_out = TensorDataset(draw(samples // 4), torch.randint(10, (samples // 4,)))
    clock = Clock()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[*callbacks, clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, DataLoader(data, BATCH, shuffle=True), DataLoader(held_out, BATCH))
    return clock, module


def compare(name: str, samples: int, epochs: int, rounds: int) -> str:
    """Return a row of the table."""
    times: dict[str, list[float]] = {"live": [], "cached": [], "bfloat16": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            live, first = train(name, [], samples, epochs)
            cached, second = train(
                name, [FeatureCache(f"{folder}/32", "backbone")], samples, epochs
            )
            half, _ = train(
                name, [FeatureCache(f"{folder}/16", "backbone", dtype="bfloat16")], samples, epochs
            )
            for kind, clock in zip(times, (live, cached, half), strict=True):
                times[kind] += clock.seconds
            same = all(
                torch.equal(a, b)
                for a, b in zip(
                    first.state_dict().values(), second.state_dict().values(), strict=True
                )
            )
    seconds = {kind: median(found) for kind, found in times.items()}
    return (
        f"| {name} | {seconds['live']:.3f} s | {seconds['cached']:.3f} s | "
        f"{seconds['live'] / seconds['cached']:.1f} × | "
        f"{seconds['live'] / seconds['bfloat16']:.1f} × | {'yes' if same else 'no'} |"
    )


def formats(rows: int = 20_000, width: int = 512, batches: int = 200) -> None:
    """Print what reading random rows takes."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    values = torch.randn(rows, width)
    draw = np.random.default_rng(0)
    asked = [draw.integers(rows, size=BATCH) for _ in range(batches)]
    with tempfile.TemporaryDirectory() as folder:
        plain, safe = Path(folder) / "a.npy", Path(folder) / "a.safetensors"
        np.save(plain, values.numpy())
        save_file({"a": values}, safe)

        def mapped() -> Callable[[Any], Any]:
            array = np.load(plain, mmap_mode="r")
            return lambda indices: torch.from_numpy(array[indices])

        def sliced() -> Callable[[Any], Any]:
            file: Any = safe_open(safe, "pt")
            part = file.__enter__().get_slice("a")
            return lambda indices: torch.stack([part[int(i) : int(i) + 1][0] for i in indices])

        def loaded() -> Callable[[Any], Any]:
            tensor = load_file(safe)["a"]
            return lambda indices: tensor[torch.from_numpy(indices)]

        print("| file | opened and first batch | each batch after |\n|---|---|---|")
        for name, opened in {
            "npy, memory map of numpy": mapped,
            "safetensors, a slice for each row": sliced,
            "safetensors, loaded whole": loaded,
        }.items():
            start = time.perf_counter()
            read = opened()
            read(asked[0])
            first = time.perf_counter() - start
            start = time.perf_counter()
            for indices in asked:
                read(indices)
            each = (time.perf_counter() - start) / batches
            print(f"| {name} | {first * 1e3:.2f} ms | {each * 1e3:.3f} ms |")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--formats", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    if arguments.formats:
        formats()
        return
    print("| frozen part | epoch without | with | faster | in bfloat16 | same weights |")
    print("|---|---|---|---|---|---|")
    for name in KINDS:
        print(compare(name, arguments.samples, arguments.epochs, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
