"""Scenarios: the noise scale from ranks' own gradients, and clipping that ranks decide alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from distributed.training import (
    BATCH,
    NEVER_TOO_DEAR,
    Keeper,
    Net,
    Seat,
    attached,
    fingerprint,
    keeper,
    loader,
    records,
    samples,
    trainer,
)
from lightning_diag import AdaptiveGradientClipping, AutoClip, GradientNoiseScale
from lightning_diag.measure.noise_estimate import two_batch_estimate

BATCHES = 6


class Manual(Net):
    """Steps by hand, a batch each."""

    def __init__(self) -> None:
        super().__init__(lr=0.0)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Take a step."""
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


def _observed(seat: Seat, net: Net, **options: Any) -> dict[str, Any]:
    monitor = GradientNoiseScale(1, startup_seconds=NEVER_TOO_DEAR)
    keep: Keeper = keeper(every_n_steps=1)
    coach = trainer(seat, [keep, monitor], **options)
    coach.fit(net, loader(seat, BATCHES))
    hooks = sum(len(p._backward_hooks or {}) for p in net.parameters())
    return {
        "records": records(keep.history),
        "attached": {**attached(net, coach.optimizers), "parameter hooks": hooks},
        "estimates": [list(one) for one in monitor._estimates.get("", ())],
    }


def ranks(seat: Seat) -> dict[str, Any]:
    """Compare each rank's gradient with the average."""
    return _observed(seat, Net(lr=0.0))


def both(seat: Seat) -> dict[str, Any]:
    """The same with two micro-batches to a step, of which DDP joins the second alone."""
    return _observed(seat, Net(lr=0.0), accumulate_grad_batches=2)


def by_hand(seat: Seat) -> dict[str, Any]:
    """Step by hand, where the batch is split."""
    return _observed(seat, Manual())


def bare(seat: Seat) -> dict[str, str]:
    """Train with and without the monitor."""
    prints = {}
    for name, callbacks in (("watched", [GradientNoiseScale(1, max_overhead=1e9)]), ("bare", [])):
        net = Net()
        trainer(seat, callbacks, accumulate_grad_batches=2).fit(net, loader(seat, BATCHES))
        prints[name] = fingerprint(net)
    return prints


def clipped(seat: Seat) -> dict[str, Any]:
    """Clip by percentile, and by units."""
    found: dict[str, Any] = {}
    for clip in (AutoClip(50), AdaptiveGradientClipping(0.001)):
        net = Net()
        trainer(seat, [clip]).fit(net, loader(seat, BATCHES))
        found[type(clip).__name__] = fingerprint(net)
        if isinstance(clip, AutoClip):
            found["norms"] = clip.state_dict()["norms"][0][0].tolist()
    return found


def reference(micro_batches: int, split: int = 1) -> list[tuple[float, float]]:
    """Return trace and signal of each step from the gradients of groups, in float64.

    Args:
        micro_batches: Of a step.
        split: Parts of each rank's share that are groups of their own, weights alone.
    """
    net = Net(lr=0.0).double()
    x, y = samples(BATCHES, torch.float64)
    found = []
    for at in range(0, BATCHES, micro_batches):
        groups = []
        for i in range(at, at + micro_batches):
            for rank in range(2):
                half = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
                parts = zip(x[i, half].chunk(split), y[i, half].chunk(split), strict=True)
                groups.append([_gradient(net, *part, weights_only=split > 1) for part in parts])
        size = BATCH // 2 // split
        if split == 1:
            found.append(_estimate([one for (one,) in groups], size))
            continue
        own = [_estimate(parts, size) for parts in groups]
        found.append((sum(o[0] for o in own) / len(own), sum(o[1] for o in own) / len(own)))
    return found


def _gradient(net: Net, x: Tensor, y: Tensor, *, weights_only: bool) -> Tensor:
    net.zero_grad()
    (net(x) - y).square().mean().backward()
    kept = [p for p in net.parameters() if not weights_only or p.dim() > 1]
    return torch.cat([p.grad.flatten() for p in kept if p.grad is not None])


def _estimate(groups: list[Tensor], size: int) -> tuple[float, float]:
    stacked = torch.stack(groups)
    small, big = stacked.square().sum(1).mean(), stacked.mean(0).square().sum()
    return two_batch_estimate(float(small), float(big), size, len(groups))


TOGETHER: list[Callable[[Seat], Any]] = [ranks, both, by_hand, bare, clipped]
ALONE: list[Callable[[Seat], Any]] = [clipped]
