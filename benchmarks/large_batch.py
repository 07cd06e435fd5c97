"""Goyal et al. 2017 in miniature, on digits: which large batches follow a small one.

One residual network without normalisation is trained with batches of 8, and with batches k times
as large: at the same learning rate, at k times that, and at k times that with warm-up. Prints the
validation error of each, how far its curve lies from that of batches of 8 with the same seed, and
the gradient noise scale that was measured on the way.

    python benchmarks/large_batch.py [--seeds 10] [--quick] [--figure docs/images/large-batch.png]

The network, the learning rate and the epochs were chosen with seeds below 108; those here begin
at 1000.
"""

from __future__ import annotations

import argparse
import logging
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_diag import GradientNoiseScale, LinearScalingLR, WarmupLR
from lightning_diag.figures.look import BLUE, GREY, INK, ORANGE, RED, legend_above

BATCH, LR, MOMENTUM = 8, 0.002, 0.9
SAMPLES, EPOCHS, WARMUP, FALLS = 1024, 40, 10, (20, 32)
"""`FALLS`: epochs after which the learning rate falls to a tenth."""
FIRST_SEED = 1000
FAILED = 20.0
"""Validation error, in percent, above which a training has failed: six times the usual."""
NOISE_AT = (2, 5, 10, 20)
"""Epochs after which the noise scale is looked at."""

Callbacks = Callable[[], list[Any]]


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    times: int
    """The batch, in multiples of the small one."""
    rate: str
    warmup: str
    callbacks: Callbacks
    errors: list[list[float]] = field(default_factory=list)
    """Validation error of each epoch, in percent, for each seed."""

    @property
    def title(self) -> str:
        """What to call it in a figure."""
        rate = "same rate" if self.rate == "1" else f"rate × {self.rate}"
        return f"batch {BATCH * self.times}, {rate}" + ", warm-up" * (self.warmup != "no")


def scaled() -> list[Any]:
    """Scale the learning rate at once."""
    return [LinearScalingLR(BATCH)]


def gradual() -> list[Any]:
    """Let it grow from that of the small batch, as in the paper."""
    return [LinearScalingLR(BATCH, warmup_epochs=WARMUP)]


def constant() -> list[Any]:
    """Hold that of the small batch, and scale it then, which the paper advises against."""
    return [LinearScalingLR(BATCH), WarmupLR(epochs=WARMUP, start_factor=1 / 16, shape="constant")]


def from_zero() -> list[Any]:
    """Let it grow from a hundredth of the scaled one."""
    return [LinearScalingLR(BATCH), WarmupLR(epochs=WARMUP)]


def arms(*, quick: bool) -> list[Arm]:
    """Return what is compared; the first is what the others should follow."""
    found = [Arm(1, "1", "no", list), Arm(16, "1", "no", list), Arm(16, "16", "no", scaled)]
    if quick:
        return [*found, Arm(16, "16", "gradual", gradual)]
    found += [Arm(16, "16", "constant", constant), Arm(16, "16", "from zero", from_zero)]
    for k in (16, 8, 32, 64, 128):
        known = [Arm(k, str(k), "no", scaled)] if k != 16 else []
        found += [*known, Arm(k, str(k), "gradual", gradual)]
    return found


class Block(nn.Module):
    """x + ReLU(Wx + b)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = he(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Add what it computes to what came in."""
        return x + functional.relu(self.linear(x))


def he(inputs: int, outputs: int) -> nn.Linear:
    """Return a layer with the initial weights that are usual for ReLU."""
    layer = nn.Linear(inputs, outputs)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


class Digits(pl.LightningModule):
    """A residual network without normalisation, whose loss is steep at the start."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [Block(64) for _ in range(5)]
        self.net = nn.Sequential(he(64, 64), nn.ReLU(), *blocks, nn.Linear(64, 10))
        self.errors: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Keep the error, in percent; all samples are one batch."""
        wrong = self.net(batch[0]).argmax(1) != batch[1]
        self.errors.append(100 * wrong.float().mean().item())

    def configure_optimizers(self) -> Any:
        """Return SGD at the learning rate of the small batch, and its steps down."""
        optimizer = torch.optim.SGD(self.parameters(), lr=LR, momentum=MOMENTUM)
        falls = torch.optim.lr_scheduler.MultiStepLR(optimizer, FALLS)
        return {"optimizer": optimizer, "lr_scheduler": falls}


class NoiseByEpoch(pl.Callback):
    """Keeps the noise scale at the end of some epochs."""

    def __init__(self, noise: GradientNoiseScale) -> None:
        self.noise = noise
        self.seen: dict[int, float] = {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look after the epochs that are asked for."""
        epoch = trainer.current_epoch + 1
        scale = self.noise.noise_scales.get("")
        if epoch in NOISE_AT and scale is not None and scale.samples is not None:
            self.seen[epoch] = scale.samples


def train(times: int, callbacks: Sequence[Any], seed: int) -> Digits:
    """Train one network; the same seed gives the same initial weights."""
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels).float(), torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = ((x - x.mean()) / x.std())[order], y[order]
    torch.manual_seed(seed)
    module = Digits()
    pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=EPOCHS,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    ).fit(
        module,
        DataLoader(TensorDataset(x[:SAMPLES], y[:SAMPLES]), BATCH * times, shuffle=True),
        DataLoader(TensorDataset(x[SAMPLES:], y[SAMPLES:]), len(x) - SAMPLES),
    )
    return module


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and its 95 % interval, by 10,000 resamplings of the seeds."""
    draw = random.Random(0)
    means = sorted(fmean(draw.choices(values, k=len(values))) for _ in range(10_000))
    return fmean(values), means[250], means[9749]


def shown(values: Sequence[float]) -> str:
    """Return a mean and its interval as text."""
    mean, low, high = interval(values)
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


def distances(arm: Arm, small: Arm) -> list[float]:
    """Return how far the errors after the warm-up lie from the small batch's, by seed.

    Where in the warm-up a curve is says nothing: it is to follow from its end on.
    """
    return [_distance(*pair) for pair in zip(arm.errors, small.errors, strict=True)]


def _distance(one: Sequence[float], other: Sequence[float]) -> float:
    return fmean(abs(a - b) for a, b in zip(one[WARMUP:], other[WARMUP:], strict=True))


def table(found: Sequence[Arm]) -> str:
    """Return the results as Markdown."""
    lines = [
        f"| batch | rate | warm-up | error, epoch {WARMUP} | at the end | distance | failed |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in found:
        ends = [errors[-1] for errors in arm.errors]
        cells = [
            str(BATCH * arm.times),
            f"{LR * float(arm.rate):g}",
            arm.warmup,
            shown([errors[WARMUP - 1] for errors in arm.errors]),
            shown(ends),
            shown(distances(arm, found[0])) if arm is not found[0] else "",
            f"{sum(not end <= FAILED for end in ends)} of {len(ends)}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_figure(found: Sequence[Arm], path: Path) -> None:
    """Draw the errors by epoch, and those at the end over the batch size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    chosen = [a for a in found if a.times in (1, 16) and a.warmup in ("no", "gradual")]
    for arm, colour in zip(chosen, (INK, BLUE, RED, ORANGE), strict=True):
        points = [interval(errors) for errors in zip(*arm.errors, strict=True)]
        means, lows, highs = zip(*points, strict=True)
        epochs = range(1, len(points) + 1)
        left.plot(epochs, means, color=colour, label=arm.title, linewidth=1.8)
        left.fill_between(epochs, lows, highs, color=colour, alpha=0.18, linewidth=0)
    left.axvspan(0, WARMUP, color=GREY, alpha=0.45, linewidth=0)
    left.set(ylabel="validation error, %", yscale="log", xlim=(0, EPOCHS))
    left.set_xlabel("epoch (shaded: warm-up)")
    for warmup, colour, label in (("no", RED, "no warm-up"), ("gradual", ORANGE, "warm-up")):
        line = sorted(
            (a for a in found if a.warmup == warmup and a.rate == str(a.times) and a.times > 1),
            key=lambda arm: arm.times,
        )
        points = [interval([errors[-1] for errors in arm.errors]) for arm in line]
        means, lows, highs = zip(*points, strict=True)
        sizes = [BATCH * arm.times for arm in line]
        right.plot(sizes, means, "o-", color=colour, label=label, markersize=4)
        right.fill_between(sizes, lows, highs, color=colour, alpha=0.18, linewidth=0)
    end, _, _ = interval([errors[-1] for errors in found[0].errors])
    right.axhline(end, color=INK, linestyle="--", linewidth=1.2, label=f"batch {BATCH}")
    right.set(ylabel="error at the end, %", xscale="log", yscale="log")
    right.set_xticks(sizes, [str(size) for size in sizes])
    right.minorticks_off()
    right.set_xlabel("batch size, rate in proportion")
    ticks = (3, 5, 10, 20, 50, 100)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        legend_above(axes)
        axes.set_yticks(ticks, [str(tick) for tick in ticks])
        axes.yaxis.minorticks_off()
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    """Train all, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="trainings of each kind (10)")
    parser.add_argument("--quick", action="store_true", help="two seeds, and k = 16 only")
    parser.add_argument("--figure", type=Path, help="where to draw the curves")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    found = arms(quick=options.quick)
    by_epoch: list[dict[int, float]] = []
    for seed in range(FIRST_SEED, FIRST_SEED + (2 if options.quick else options.seeds)):
        for arm in found:
            callbacks = arm.callbacks()
            if arm is found[0]:
                noise = GradientNoiseScale(4, max_overhead=1.0, startup_seconds=1e9)
                callbacks += [noise, NoiseByEpoch(noise)]
            module = train(arm.times, callbacks, seed)
            arm.errors.append(module.errors)
            if arm is found[0]:
                by_epoch.append(callbacks[-1].seen)
    print(table(found))
    others = fmean(_distance(a, b) for a, b in combinations(found[0].errors, 2))
    print(f"distance of batches of {BATCH} from such with other seeds: {others:.1f} %")
    for epoch in NOISE_AT:
        known = [seen[epoch] for seen in by_epoch if epoch in seen]
        if known:
            print(f"noise scale after epoch {epoch}: {shown(known)} samples")
    if options.figure:
        draw_figure(found, options.figure)


if __name__ == "__main__":
    main()
