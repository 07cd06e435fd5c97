"""Scenarios: ranks that see different things, and ranks that fail alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from distributed.spoilers import BROKEN, BadGradient, BadLoss, BadTracker, Spoiler, Steps
from distributed.training import (
    BATCH,
    Net,
    Seat,
    attached,
    diag_warnings,
    fingerprint,
    fit,
    keeper,
    loader,
    monitors,
    records,
    samples,
    trainer,
)
from lightning_diag.measure.base import Columns
from lightning_diag.measure.tally import Tally
from lightning_diag.monitors.base import Monitor

BATCHES = 16
APART = range(3, 7)
"""Steps at which only the first rank takes the branch."""
LATE = 9
"""First step of a branch that both ranks take from then on."""


class Branches(Net):
    """Has a layer that ranks skip at some steps, and one that comes late."""

    def __init__(self) -> None:
        super().__init__()
        self.optional = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
        self.late = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        """Take the branches that are due."""
        step = self.trainer.global_step
        if self.global_rank == 0 or step not in APART:
            x = self.optional(x)
        if step >= LATE:
            x = torch.sigmoid(self.late(x))
        return super().forward(x)


def branches(seat: Seat) -> dict[str, Any]:
    """Train with branches that depend on the rank."""
    return fit(
        seat,
        Branches(),
        loader(seat, BATCHES),
        keep=keeper(every_n_steps=1),
        strategy="ddp_find_unused_parameters_true",
    )


def shapes(seat: Seat) -> dict[str, Any]:
    """Join columns of ever new shapes, one that comes back, and one that only one rank has."""
    tally = Tally(seat.ranks, torch.device("cpu"))
    steps, sizes = [], []
    for i in range(40):
        tally.add("always", ("a", "b"), Columns(torch.full((2, 1), 1.0 + seat.rank), _none(2)))
        tally.add(f"new{i}", ("x",), Columns(_none(1), torch.full((1, 1), float(seat.rank - 5))))
        if i % 3 == 0:
            tally.add("returns", ("x",), Columns(torch.ones(1, 1), _none(1)))
        if i % 2 == seat.rank:
            tally.add("alone", ("x",), Columns(torch.ones(1, 1), _none(1)))
        joined = tally.join({"i": float(i), "rank": float(seat.rank)}).wait()
        steps.append({key.measure: _listed(columns) for key, columns in joined.columns.items()})
        sizes.append(len(tally._layout))
    return {"steps": steps, "scalars": joined.scalars, "sizes": sizes}


def _none(rows: int) -> Tensor:
    return torch.zeros(rows, 0)


def _listed(columns: Columns) -> list[Any]:
    return [columns.sums.flatten().tolist(), columns.maxima.flatten().tolist()]


def broken(seat: Seat) -> dict[str, Any]:
    """Train with monitors of which each raises on the second rank alone."""
    results = {}
    spoilt: dict[str, Callable[[Spoiler], Monitor]] = {
        "call": BadTracker,
        "batch": BadLoss,
        "digest": BadGradient,
    }
    for name, make in spoilt.items():
        spoiler = Spoiler(seat.rank)
        bad = make(spoiler)
        others = [monitor for monitor in monitors() if not isinstance(bad, type(monitor))]
        results[name] = fit(
            seat,
            Net(),
            loader(seat, BATCHES),
            keep=keeper(every_n_steps=1),
            callbacks=[Steps(spoiler), bad, *others],
        )
    net = Net()
    trainer(seat, []).fit(net, loader(seat, BATCHES))
    return {"weights": fingerprint(net), **results}


def nan(seat: Seat) -> dict[str, Any]:
    """Train on a batch with one NaN, which only the second rank gets."""
    x, y = (seat.share_of(part) for part in samples(BATCHES))
    if seat.rank == 1:
        x[BROKEN * BATCH // seat.ranks, 0] = torch.nan
    data = DataLoader(TensorDataset(x, y), batch_size=BATCH // seat.ranks)
    return fit(seat, Net(), data, keep=keeper(every_n_steps=1))


class FSDPStrategy(DDPStrategy):
    """Has the name of a strategy that keeps parameters out of reach."""


class DeepSpeedStrategy(DDPStrategy):
    """Has the name of a strategy that keeps gradients out of reach."""


def unreachable(seat: Seat) -> dict[str, Any]:
    """Train under strategies that do not let anybody see gradients and weights."""
    results = {}
    for strategy in (FSDPStrategy, DeepSpeedStrategy):
        results[strategy.__name__] = fit(
            seat, Net(), loader(seat, 4), strategy=strategy(process_group_backend="gloo")
        )
    return results


def again(seat: Seat) -> dict[str, Any]:
    """Train, and train on with the same trainer and callbacks."""
    keep = keeper()
    coach = trainer(seat, [keep, *monitors()], max_epochs=1)
    net = Net()
    coach.fit(net, loader(seat, BATCHES))
    coach.fit_loop.max_epochs = 2
    coach.fit(net, loader(seat, BATCHES))
    folder = None if keep.folder is None else str(keep.folder)
    losses = keep.history.series("loss/train").steps
    return {"records": records(keep.history), "losses": losses, "folder": folder}


class Leaving(Net):
    """Fails on the second rank."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Raise in the middle of a watched forward pass."""
        if batch_idx == BROKEN and self.global_rank == 1:
            self.act(self.first(batch[0]))
            raise ValueError("a bug of the user's")
        return super().training_step(batch, batch_idx)


def crash(seat: Seat) -> dict[str, Any]:
    """Train with user code that raises on the second rank; the first loses its partner."""
    keep, net = keeper(every_n_steps=1), Leaving()
    before = attached(net, [])
    coach = trainer(seat, [keep, *monitors()])
    error = ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            coach.fit(net, loader(seat, BATCHES))
        except (ValueError, RuntimeError) as raised:
            error = f"{type(raised).__name__}: {raised}"
    return {
        "error": error,
        "before": before,
        "attached": attached(net, coach.optimizers),
        "steps": [record["step"] for record in records(keep.history)],
        "warnings": diag_warnings(caught),
    }


# `crash` leaves the ranks without each other, so it comes last
TOGETHER: list[Callable[[Seat], Any]] = [
    shapes,
    branches,
    broken,
    nan,
    unreachable,
    again,
    crash,
]
ALONE: list[Callable[[Seat], Any]] = []
