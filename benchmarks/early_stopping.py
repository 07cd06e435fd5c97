"""When early stopping stops, and what it costs, on simulated validation losses.

A curve falls as exp(-t / 8) to a level, and from there it stays (plateau), rises (u) or falls on
slowly (slow fall); its noise is an autoregression. Each callback sees the noisy curve; what it is
judged by is the curve without noise: the regret is how far the loss of the weights that it would
keep lies above the lowest.

    python benchmarks/early_stopping.py [--curves 100] [--draws 4000]

With `--draws`: how often the trend test calls noise rising, instead.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
from collections.abc import Callable
from functools import partial
from statistics import fmean, median
from types import SimpleNamespace
from typing import Any

import torch
from pytorch_lightning.callbacks import EarlyStopping

from lightning_diag import EarlyStoppingWindow
from lightning_diag.stopping.trend import is_rising

CHECKS, CORRELATION = 150, 0.3
RATES = (0.0, 0.3, 0.6, 0.8)
SHAPES: dict[str, Callable[[int], float]] = {
    "u": lambda t: 0.5 + 0.00024 * max(t - 40, 0) ** 1.5,
    "plateau": lambda _: 0.5,
    "slow fall": lambda t: 0.8 - 0.004 * t,
}
CALLBACKS: dict[str, Callable[[], Any]] = {
    "Lightning's, patience 3": partial(EarlyStopping, "loss", patience=3),
    "Lightning's, patience 10": partial(EarlyStopping, "loss", patience=10),
    "no trend": partial(EarlyStoppingWindow, "loss", trend_window=None),
    "trend over 20": partial(EarlyStoppingWindow, "loss", trend_window=20),
    "defaults (trend over 30)": partial(EarlyStoppingWindow, "loss"),
    "defaults, EMA": partial(EarlyStoppingWindow, "loss", average="ema"),
}


def curve(shape: str) -> list[float]:
    """Return a curve without noise."""
    return [math.exp(-t / 8) + SHAPES[shape](t) for t in range(CHECKS)]


def noisy(
    values: list[float], deviation: float, seed: int, correlation: float = CORRELATION
) -> list[float]:
    """Add noise whose neighbours are alike."""
    draw = random.Random(seed)
    shake, found = draw.gauss(0, deviation), []
    for value in values:
        found.append(value + shake)
        new = draw.gauss(0, deviation * math.sqrt(1 - correlation**2))
        shake = correlation * shake + new
    return found


def stopped(callback: Any, losses: list[float]) -> tuple[int, int]:
    """Return the checks that were made, and the one whose weights are kept."""
    best = 0
    for i, loss in enumerate(losses):
        if isinstance(callback, EarlyStoppingWindow):
            stop, _ = callback._decide(loss, SimpleNamespace(global_step=i))
            best = callback.best_step or 0
        else:
            stop, _ = callback._evaluate_stopping_criteria(torch.tensor(loss))
            best = i if callback.wait_count == 0 else best
        if stop:
            return i + 1, best
    return len(losses), best


def alarms(draws: int) -> None:
    """Print how often noise is called rising."""
    print("| values | " + " | ".join(f"correlation {r}" for r in RATES) + " |")
    print("|---" * (len(RATES) + 1) + "|")
    for count in (10, 15, 20, 30):
        cells = []
        for correlation in RATES:
            found = sum(
                is_rising(noisy([0.0] * count, 1.0, seed, correlation)) for seed in range(draws)
            )
            cells.append(f"{100 * found / draws:.1f} %")
        print(f"| {count} | {' | '.join(cells)} |")


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--curves", type=int, default=100, help="of each kind (100)")
    parser.add_argument("--draws", type=int, help="of noise, for the rates of false alarms")
    arguments = parser.parse_args()
    if arguments.draws is not None:
        alarms(arguments.draws)
        return
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    print("| curve | noise | callback | checks: 10 %, median, 90 % | mean regret |")
    print("|---|---|---|---|---|")
    for shape in SHAPES:
        true = curve(shape)
        for deviation in (0.01, 0.03):
            runs = [noisy(true, deviation, seed) for seed in range(arguments.curves)]
            for name, make in CALLBACKS.items():
                found = [stopped(make(), losses) for losses in runs]
                checks = sorted(made for made, _ in found)
                tenth = len(checks) // 10
                regret = fmean(true[best] - min(true) for _, best in found)
                print(
                    f"| {shape} | {deviation} | {name} | {checks[tenth]}, {median(checks):.0f}, "
                    f"{checks[-1 - tenth]} | {regret:.4f} |"
                )


if __name__ == "__main__":
    main()
