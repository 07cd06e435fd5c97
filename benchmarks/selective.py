"""How soon a test accuracy is reached with `SelectiveBackprop`, and without.

A small convolutional network on digits, as they are and with one label in ten changed. Every way
trains on 32 samples a step, from batches of 32 / keep. Its learning rate is chosen of three on
other seeds than those reported, by the mean time to the last target, or the accuracy in the end
where that is not reached. Times are processor time of loading, scoring and training, without the
tests in between; ``random`` chooses without scoring, and costs as much as loading more.

    python benchmarks/selective.py [--seeds 10] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from statistics import fmean, median
from time import process_time
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from intervals import interval
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_diag import SelectiveBackprop

TRAINED, TESTS_EVERY, STEPS = 32, 10, 700
RATES = (1e-3, 3e-3, 1e-2)
TUNED = range(100, 102)
TARGETS: dict[str, tuple[float, ...]] = {
    "digits": (0.95, 0.97, 0.98),
    "digits, 10 % wrong labels": (0.9, 0.93, 0.95),
}
PLAIN = "all samples"
WAYS: dict[str, tuple[float, Callable[[], list[Any]]]] = {
    PLAIN: (1.0, list),
    "all samples, batches of 64": (0.5, list),
    "random half": (0.5, lambda: [SelectiveBackprop(0.5, selection="random")]),
    "hardest half": (0.5, lambda: [SelectiveBackprop(0.5)]),
    "hardest quarter": (0.25, lambda: [SelectiveBackprop(0.25)]),
    "sampled half": (0.5, lambda: [SelectiveBackprop(0.5, selection="sampled")]),
}
"""Name to the share that is kept, and the callbacks."""


class Course(NamedTuple):
    """What became of a training."""

    seconds: list[float]
    """To each target, inf where it was not reached."""
    steps: list[float]
    best: float
    """The highest accuracy."""
    step_seconds: float


@lru_cache(maxsize=8)
def data(setting: str, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return 1,200 samples to train on, and 597 to test on."""
    found = load_digits()
    draw = torch.Generator().manual_seed(seed)
    x, y = torch.tensor(found.images).float()[:, None] / 8 - 1, torch.tensor(found.target)
    order = torch.randperm(len(y), generator=draw)
    x, y = x[order], y[order]
    train_y = y[:1200]
    if "wrong" in setting:
        is_wrong = torch.rand(1200, generator=draw) < 0.1
        other = (train_y + torch.randint(1, 10, train_y.shape, generator=draw)) % 10
        train_y = other.where(is_wrong, train_y)
    return x[:1200], train_y, x[1200:], y[1200:]


class Learner(pl.LightningModule):
    """Three convolutions."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, padding=1, stride=2), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3, padding=1, stride=2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(256, 10)),
        )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class Watch(pl.Callback):
    """Times steps, tests now and then, and stops at the last target."""

    def __init__(self, x: Tensor, y: Tensor, targets: Sequence[float]) -> None:
        self.x, self.y, self.targets = x, y, targets
        self.seconds = [math.inf] * len(targets)
        self.steps = [math.inf] * len(targets)
        self.best = self.spent = 0.0

    def on_train_start(self, *_: Any) -> None:
        """Begin."""
        self._last = process_time()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        """Add the time since the last batch."""
        self.spent += process_time() - self._last
        if trainer.global_step % TESTS_EVERY == 0:
            with torch.no_grad():
                hits = pl_module.net(self.x).argmax(1) == self.y
            accuracy = hits.double().mean().item()
            self.best = max(self.best, accuracy)
            for i, target in enumerate(self.targets):
                if accuracy >= target and self.steps[i] == math.inf:
                    self.seconds[i], self.steps[i] = self.spent, trainer.global_step
            trainer.should_stop = self.best >= self.targets[-1]
        self._last = process_time()


def fit(setting: str, way: str, lr: float, seed: int) -> Course:
    """Train once."""
    x, y, test_x, test_y = data(setting, seed)
    keep, callbacks = WAYS[way]
    torch.manual_seed(seed)
    watch = Watch(test_x, test_y, TARGETS[setting])
    loader = DataLoader(TensorDataset(x, y), round(TRAINED / keep), shuffle=True, drop_last=True)
    pl.Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        max_epochs=-1,
        callbacks=[*callbacks(), watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(Learner(lr), loader)
    done = min(STEPS, watch.steps[-1])
    return Course(watch.seconds, watch.steps, watch.best, watch.spent / done)


def choice(setting: str, way: str) -> float:
    """Return the learning rate that does best on seeds that are not reported."""

    def merit(lr: float) -> tuple[float, float]:
        courses = [fit(setting, way, lr, seed) for seed in TUNED]
        return (
            fmean(min(c.seconds[-1], 1e6) for c in courses),
            -fmean(c.best for c in courses),
        )

    return min(RATES, key=merit)


def ratio(values: Sequence[float]) -> str:
    """Return mean and 95 % interval; no number where one is not finite."""
    if not all(math.isfinite(value) for value in values):
        return "not always reached"
    mean, half = interval(values)
    return f"{mean:.2f} ± {half:.2f}"


def table(setting: str, found: dict[str, dict[str, Any]]) -> str:
    """Return one setting as Markdown: medians, and ratios on the same seed."""
    head = " | ".join(f"{100 * t:g} %: steps, time, time to {PLAIN}" for t in TARGETS[setting])
    lines = [f"| way | lr | step time | {head} |", "|---" * (3 + len(TARGETS[setting])) + "|"]
    plain = found[PLAIN]["courses"]
    for way, row in found.items():
        each = row["courses"]
        steps = [c.step_seconds / p.step_seconds for c, p in zip(each, plain, strict=True)]
        cells = [way, f"{row['lr']:g}", f"{median(steps):.2f}"]
        for i in range(len(TARGETS[setting])):
            reached = sum(math.isfinite(c.seconds[i]) for c in each)
            ratios = [c.seconds[i] / p.seconds[i] for c, p in zip(each, plain, strict=True)]
            middle = f"{median(c.steps[i] for c in each):.0f}, "
            middle += f"{median(c.seconds[i] for c in each):.2f} s"
            apart = "" if way == PLAIN else f", {ratio(ratios)}"
            cells.append(
                middle + apart + ("" if reached == len(each) else f" ({reached} of {len(each)})")
            )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and print as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--settings", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for setting in chosen.settings:
        rates = {way: choice(setting, way) for way in WAYS}
        courses: dict[str, list[Course]] = {way: [] for way in WAYS}
        for seed in range(chosen.seeds):
            for way in WAYS:  # in turns: the machine is in the same mood for all
                courses[way].append(fit(setting, way, rates[way], seed))
        found: dict[str, dict[str, Any]] = {
            way: {"lr": rates[way], "courses": courses[way]} for way in WAYS
        }
        print(f"\n### {setting}\n\n{table(setting, found)}", flush=True)
        results[setting] = {
            way: {"lr": row["lr"], "courses": [c._asdict() for c in row["courses"]]}
            for way, row in found.items()
        }
        if chosen.json:
            chosen.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
