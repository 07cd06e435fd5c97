"""Learning a few samples by heart, on a copy, and how far that has come."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_diag.checks.calm import Calm
from lightning_diag.checks.data import clone
from lightning_diag.checks.few import samples_of
from lightning_diag.checks.floor import KNOWN, best_loss, groups_of, together
from lightning_diag.checks.initial_loss import again
from lightning_diag.checks.losses import LossCatch, SeenLoss
from lightning_diag.checks.same_draws import SameDraws
from lightning_diag.checks.twin import Twin, running, said
from lightning_diag.probe.places import named_parameters, trained_modules

LOOK = 10
"""Steps between two looks at how far it has come."""
PROGRESS = 0.01
"""Share by which the loss must fall to be on its way (our choice)."""


def at_full_rate(optimizers: Sequence[Any]) -> None:
    """Set learning rates to where schedules begin or peak: a warm-up begins near zero."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.get("max_lr", group.get("initial_lr", group["lr"]))


class Limits(NamedTuple):
    """When a training ends."""

    steps: int
    patience: int
    """Steps without progress."""
    learned: float
    """Share of the way that may be left."""
    end: float
    """Of `time.monotonic`."""


class Scale(NamedTuple):
    """Between which losses a loss lies."""

    floor: float
    constant: float


@dataclass(frozen=True)
class Attempt:
    """What one optimizer has reached."""

    name: str
    rate: float
    """Of Adam; 0 for the own optimizer."""
    steps: int
    samples: int
    first: float
    last: float
    """The lowest."""
    scale: Scale | None
    still: tuple[str, ...]
    """Parameters that were not moved at all."""
    is_over: bool
    """Whether it was given all the steps that it could use, and not only all the time."""
    are_alike: bool
    """Whether no sample differs from another in its inputs."""

    @property
    def floor(self) -> float:
        """The least loss there can be."""
        return self.scale.floor if self.scale else math.nan

    @property
    def constant(self) -> float:
        """The least loss without looking at the inputs."""
        return self.scale.constant if self.scale else math.nan

    @property
    def left(self) -> float:
        """Share of the way from a constant answer to the floor that is left."""
        if self.scale is None:
            return math.nan
        return max(0.0, (self.last - self.floor) / (self.constant - self.floor))

    @property
    def own_left(self) -> float:
        """Share of the way from its first loss to the floor that is left."""
        way = self.first - self.floor
        return (self.last - self.floor) / way if way > 0 else 0.0

    @property
    def told(self) -> str:
        """With what, as a part of a sentence."""
        return f"by Adam at {self.rate:g}" if self.rate else f"by {self.name}"


class Memoriser:
    """The training of a copy on one batch."""

    def __init__(self, twin: Twin, batch: Any) -> None:
        self._twin, self._batch = twin, batch
        self._modules = trained_modules(twin.module)
        self._scale: Scale | None = None
        self._are_alike = False
        self._draws = SameDraws()

    def train(
        self, optimizers: Sequence[Any], limits: Limits, name: str, rate: float = 0.0
    ) -> Attempt:
        """Take steps until the samples are learned, or steps or time are over."""
        held = {id(p) for o in optimizers for g in o.param_groups for p in g["params"]}
        before = {
            n: p.detach().clone()
            for n, _, p in named_parameters(self._twin.module)
            if id(p) in held and p.requires_grad
        }
        first, step = self._look(), 0
        lowest, now, known, since = first, first, first, 0
        while step < limits.steps and math.isfinite(now) and time.monotonic() < limits.end:
            if self._share(lowest) <= limits.learned or step - since >= limits.patience:
                break
            self._step(optimizers)
            step += 1
            if step % LOOK == 0 or step == limits.steps:
                now = self._look()
                lowest = min(lowest, now) if math.isfinite(now) else lowest
                if lowest < known - PROGRESS * abs(known):
                    known, since = lowest, step
        is_over = step == limits.steps or step - since >= limits.patience or not math.isfinite(now)
        moved = {
            n: not torch.equal(p, before[n])
            for n, _, p in named_parameters(self._twin.module)
            if n in before
        }
        still = tuple(n for n, has_moved in moved.items() if not has_moved) if step else ()
        size = samples_of(self._batch) or 0
        return Attempt(name, rate, step, size, first, lowest, self._scale, still,
                        is_over, self._are_alike)  # fmt: skip

    def _share(self, loss: float) -> float:
        if self._scale is None:
            return math.inf
        return (loss - self._scale.floor) / (self._scale.constant - self._scale.floor)

    def _loss(self) -> Tensor:
        # Whatever is drawn is the same each time: noise of its own is nothing to learn.
        self._draws.again()
        return self._twin.loss(clone(self._batch)).mean()

    def _look(self) -> float:
        """Return how high the loss is, as a mean over samples, without what is added to it."""
        with LossCatch(self._modules) as catch, Calm():
            total = self._loss()
        seen = [each for each in catch.seen if each.trained]
        if self._scale is None:
            self._scale = self._scaled(seen)
        if self._scale is None:
            return float(total.detach())
        return sum(again(each, each.call.input) for each in seen if each.function in KNOWN)

    def _scaled(self, seen: Sequence[SeenLoss]) -> Scale | None:
        known = [each for each in seen if each.function in KNOWN]
        floor = constant = 0.0
        for each in known:
            groups = groups_of(self._batch, each.call.target)
            alike = together(groups)
            if alike is None:
                return None
            self._are_alike |= not any(bool(each.any()) for each in groups)
            floor += max((best_loss(each, g) for g in groups), key=_number)
            constant += best_loss(each, alike)
        if not known or not constant > floor + 1e-6 * abs(constant):
            return None
        return Scale(floor, constant)

    def _step(self, optimizers: Sequence[Any]) -> None:
        def closure() -> Tensor:
            for optimizer in optimizers:
                optimizer.zero_grad()
            with Calm():
                loss = self._loss()
            self._twin.module.backward(loss)
            return loss

        with running(), said("a step failed on a copy of the module"), torch.enable_grad():
            for optimizer in optimizers:
                optimizer.step(closure)


def _number(value: float) -> float:
    return value if math.isfinite(value) else -math.inf
