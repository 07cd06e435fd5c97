"""Scenarios: checks before a training on two ranks, one of which checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from distributed.training import Net, Seat, fingerprint, loader, trainer
from lightning_diag import Preflight
from lightning_diag._compat import MisconfigurationException

STEPS = 6


class Partly(Net):
    """Leaves one bias to no optimizer."""

    def configure_optimizers(self) -> Any:
        """Return an optimizer of the others."""
        return torch.optim.SGD([p for n, p in self.named_parameters() if n != "last.bias"], self.lr)


class Joining(Net):
    """Joins ranks within its step, and draws."""

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Any:
        """Return a loss whose log is that of all ranks."""
        x, y = batch
        shift = torch.rand(1)
        dist.all_reduce(shift)
        self.log("shift", shift.item(), sync_dist=True)
        return (self(x) - y + 0.0 * shift).square().mean()


def _result(seat: Seat, net: Net, watcher: Preflight | None) -> dict[str, Any]:
    torch.manual_seed(seat.rank)
    trainer(seat, [watcher] if watcher else []).fit(net, loader(seat, STEPS))
    found = watcher.findings if watcher else []
    unjudged = watcher.not_observed if watcher else []
    return {
        "weights": fingerprint(net),
        "random": torch.get_rng_state().sum().item(),
        "findings": [finding.to_dict() for finding in found],
        "not_observed": {each.code: each.reason for each in unjudged},
    }


def checked(seat: Seat) -> dict[str, Any]:
    """Train with all checks and without."""
    return {
        "with": _result(seat, Net(), Preflight("full")),
        "without": _result(seat, Net(), None),
        "sick": _result(seat, Partly(), Preflight(["parameters"])),
    }


def joining(seat: Seat) -> dict[str, Any]:
    """Train a module that would wait for the other rank if it were checked with ranks."""
    return {
        "with": _result(seat, Joining(), Preflight(["initial-loss", "missing-gradient"])),
        "without": _result(seat, Joining(), None),
    }


def refused(seat: Seat) -> str:
    """End the fit before it begins, on all ranks."""
    try:
        _result(seat, Partly(), Preflight(stop_on=["bad"]))
    except MisconfigurationException as error:
        return str(error)
    return ""


TOGETHER: list[Callable[[Seat], Any]] = [checked, joining, refused]
ALONE: list[Callable[[Seat], Any]] = []
