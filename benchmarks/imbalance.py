"""Which treatment of rare and of hard classes helps, on digits, and what it costs.

Each method is tried with nine choices, its learning rate times one option of its own, on five draws
of the data (seeds from 100 on); the choice of the highest mean macro accuracy is then trained on
ten other draws (seeds 0 to 9), from which alone all printed numbers are. Plain cross-entropy gets
the same, its own option being weight decay. Differences are to plain cross-entropy on the same
draw.

    python benchmarks/imbalance.py [--settings NAME ...] [--methods NAME ...] [--json FILE]
    python benchmarks/imbalance.py --time

A file that is there is completed: methods that it has are not trained again. With `--time`: the
processor time of a step, of all methods in turns.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median
from time import process_time
from typing import Any, NamedTuple

import torch
from intervals import interval
from methods import METHODS, PLAIN
from pytorch_lightning import Callback
from skewed import SETTINGS, Scores, fit, scores

RATES = (1e-3, 3e-3, 1e-2)
TUNED, REPORTED = range(100, 105), range(10)
ROUNDS, TIMED_STEPS = 15, 130


class Job(NamedTuple):
    """One training."""

    setting: str
    method: str
    lr: float
    own: float
    seed: int


def run(job: Job) -> Scores:
    """Train and score; equal jobs give equal scores."""
    torch.set_num_threads(1)
    data, method = SETTINGS[job.setting](job.seed), METHODS[job.method]
    module = fit(
        data,
        method.loss(data, job.own),
        lr=job.lr,
        decay=method.decay(job.own),
        callbacks=method.callbacks(job.own),
        seed=job.seed,
    )
    return scores(module, data)


def report(setting: str, method: str, each: Callable[..., list[Scores]]) -> dict[str, Any]:
    """Choose on some seeds, train on the others."""
    choices = list(product(RATES, METHODS[method].values))
    tuning = [Job(setting, method, lr, own, seed) for lr, own in choices for seed in TUNED]
    macro = [found.macro for found in each(run, tuning)]
    number = len(TUNED)
    means = [fmean(macro[i : i + number]) for i in range(0, len(macro), number)]
    lr, own = choices[means.index(max(means))]
    reported = each(run, [Job(setting, method, lr, own, seed) for seed in REPORTED])
    return {"lr": lr, "own": own, **{k: [s._asdict()[k] for s in reported] for k in Scores._fields}}


def cell(values: Sequence[float]) -> str:
    """Return mean and interval in percent."""
    mean, half = interval([100 * value for value in values])
    return f"{mean:.1f} ± {half:.1f}"


def difference(values: Sequence[float], plain: Sequence[float]) -> str:
    """Return the mean difference by pairs and its interval, bold where that leaves out 0."""
    each = [100 * (a - b) for a, b in zip(values, plain, strict=True)]
    mean, half = interval(each)
    text = f"{mean:+.1f} ± {half:.1f}"
    return f"**{text}**" if abs(mean) > half else text


def table(found: dict[str, Any]) -> str:
    """Return one setting as Markdown."""
    lines = [
        "| method | chosen | macro accuracy | to CE | minority recall | to CE | overall | to CE |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in METHODS:
        if name not in found:
            continue
        row = found[name]
        cells = [name, f"{row['lr']:g}, {METHODS[name].option} {row['own']:g}"]
        for field in Scores._fields:
            cells.append(cell(row[field]))
            apart = difference(row[field], found[PLAIN][field]) if name != PLAIN else ""
            cells.append(apart)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


class Clock(Callback):
    """Keeps the processor time of each batch but the first, sampling and hooks included."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._last = math.nan

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the time since the last batch ended."""
        now = process_time()
        if not math.isnan(self._last):
            self.times.append(now - self._last)
        self._last = now


def step_time(method: str, setting: str, own: float) -> float:
    """Return the mean of the faster half of the steps of a short training, in seconds."""
    data, clock = SETTINGS[setting](0), Clock()
    chosen = METHODS[method]
    fit(
        data,
        chosen.loss(data, own),
        lr=1e-3,
        decay=0.0,
        callbacks=[*chosen.callbacks(own), clock],
        steps=TIMED_STEPS,
    )
    times = sorted(clock.times)
    return fmean(times[: len(times) // 2])


def time_all(names: Sequence[str], setting: str = "long tail") -> str:
    """Train all methods in turns; return how long their steps are to those of plain CE."""
    order, ratios = random.Random(0), {name: list[float]() for name in names}
    extra = {name: list[float]() for name in names}
    for _ in range(ROUNDS):
        seconds = {
            name: step_time(name, setting, METHODS[name].values[0])
            for name in order.sample(names, len(names))
        }
        for name, value in seconds.items():
            ratios[name].append(value / seconds[PLAIN])
            extra[name].append(1e6 * (value - seconds[PLAIN]))
    lines = ["| method | time per step to CE | microseconds more |", "|---|---|---|"]
    lines += [f"| {n} | {median(ratios[n]):.2f} | {median(extra[n]):.0f} |" for n in names]
    return "\n".join(lines)


def _read(path: Path | None) -> dict[str, Any]:
    if path is None or not path.exists():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Train and print as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--time", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.time:
        print(time_all(chosen.methods))
        return
    results = _read(chosen.json)
    with get_context("spawn").Pool(chosen.processes) as pool:
        each = partial(pool.map, chunksize=1)
        for setting in chosen.settings:
            found = results.setdefault(setting, {})
            for method in sorted({PLAIN, *chosen.methods}, key=list(METHODS).index):
                if method not in found:
                    found[method] = report(setting, method, each)
                if chosen.json:
                    chosen.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
            print(f"\n### {setting}\n\n{table(found)}", flush=True)


if __name__ == "__main__":
    main()
